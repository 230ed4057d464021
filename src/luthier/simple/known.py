"""Known prompts with their answers, kept in a folder: what `nearest` copies from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import RunError
from luthier.prompt.similar import Neighbour, Reading, bm25, by_scores, by_vectors, fused, fusion_depth
from luthier.types import Example, Prompt, Tools

if TYPE_CHECKING:
    import numpy as np

_ROWS, _VECTORS, _ABOUT = "known.parquet", "vectors.safetensors", "known.json"
# Texts that are embedded at a time, so that no more of them is held twice.
_TOGETHER = 10_000


def write_known(folder: Path, examples: Sequence[Example], reading: Reading) -> None:
    """Write what is read of the examples' prompts, and their answers, into a new folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "text": [reading.text(example.prompt) for example in examples],
            "answer": [example.completion for example in examples],
        }
    )
    pq.write_table(table, folder / _ROWS)
    (folder / _ABOUT).write_text(json.dumps(asdict(reading), ensure_ascii=False), encoding="utf-8")
    (folder / _VECTORS).unlink(missing_ok=True)  # of what was there before
    known_in.cache_clear()


@dataclass(frozen=True)
class Known:
    """The folder's prompts and answers, read when they are first needed."""

    folder: Path

    @cached_property
    def reading(self) -> Reading:
        return Reading(**json.loads((self.folder / _ABOUT).read_text(encoding="utf-8")))

    @cached_property
    def texts(self) -> list[str]:
        return [str(text) for text in self._column("text")]

    @cached_property
    def answers(self) -> list[str]:
        return [str(answer) for answer in self._column("answer")]

    def _column(self, name: str) -> list[object]:
        import pyarrow.parquet as pq

        found: list[object] = pq.read_table(self.folder / _ROWS, columns=[name]).column(name).to_pylist()
        return found

    def embed(self, embedder: str, tools: Tools) -> None:
        """Keep the vectors of the known prompts beside them, where they are not there yet."""
        import numpy as np
        from safetensors.numpy import save_file

        if (self.folder / _VECTORS).is_file():
            return
        starts = range(0, len(self.texts), _TOGETHER)
        parts = [tools.embedder(embedder).embed(self.texts[start : start + _TOGETHER]) for start in starts]
        save_file({"vectors": np.concatenate(parts)}, self.folder / _VECTORS)

    def forget_vectors(self) -> None:
        """Keep them no longer."""
        (self.folder / _VECTORS).unlink(missing_ok=True)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Unit length. (N, D)"""
        from safetensors.numpy import load_file

        found: np.ndarray = load_file(self.folder / _VECTORS)["vectors"]
        return found

    @cached_property
    def _bm25(self) -> object:
        return bm25(self.texts)

    def neighbours(
        self, prompts: Sequence[Prompt], by: str, embedder: str, count: int, tools: Tools
    ) -> list[list[Neighbour]]:
        """The `count` most similar known prompts of each prompt, the most similar first.

        Args:
            by: `bm25`, `embedding`, or `both`: of these the similarity is that of the embeddings.
        """
        texts = [self.reading.text(prompt) for prompt in prompts]
        if by == "bm25":
            return self._by_words(texts, count)
        queries = tools.embedder(embedder).embed(texts)
        if by == "embedding":
            return by_vectors(queries, self.vectors, count)
        depth = fusion_depth(count)
        rankings = [self._by_words(texts, depth), by_vectors(queries, self.vectors, depth)]
        return fused(rankings, lambda query, known: float(queries[query] @ self.vectors[known]), count)

    def _by_words(self, texts: Sequence[str], count: int) -> list[list[Neighbour]]:
        return by_scores((self._bm25(text) for text in texts), count)  # type: ignore[operator]

    def stored_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())


@lru_cache(maxsize=4)
def known_in(folder: str) -> Known:
    """What a folder holds.

    Raises:
        RunError: It holds nothing of the kind.
    """
    if not (Path(folder) / _ABOUT).is_file():
        raise RunError(f"{folder} holds no known prompts ({_ABOUT} is missing).")
    return Known(Path(folder))
