"""One store of passages at a time: built, then asked in a process of its own. Run by retrieval_latency.py."""

from __future__ import annotations

import importlib
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 384  # of MiniLM's vectors
_WORDS = Path(__file__).parents[1] / "src" / "luthier" / "evaluate" / "probes" / "general_text.txt"


class SyntheticEmbedder:
    """Vectors drawn by a seed, in the order in which texts come; counts words for tokens."""

    name, key, dimension, window = "synthetic", "synthetic-1", DIMENSION, 256

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return unit_vectors(self._draw, len(texts))

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def unit_vectors(draw: np.random.Generator, count: int) -> np.ndarray:
    """(N, D)"""
    found = draw.standard_normal((count, DIMENSION), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def texts(count: int, words: int = 100) -> list[str]:
    """Passages of so many words, drawn from general English text."""
    known = re.findall(r"\w+", _WORDS.read_text(encoding="utf-8"))
    draw = random.Random(0)
    return [" ".join(draw.choices(known, k=words)) for _ in range(count)]


def luthier_built(what: Mapping[str, Any]) -> dict[str, Any]:
    """An index in the folder of `what`, on its `store`, of so many `passages`."""
    from luthier.retrieve.documents import Document
    from luthier.retrieve.index import create
    from luthier.retrieve.passages import ChunkSettings

    folder = Path(what["folder"])
    documents = [Document(f"d{n:06d}", f"d{n:06d}", text) for n, text in enumerate(texts(what["passages"]))]
    index = create(folder, SyntheticEmbedder(0), ChunkSettings(headings=False), what["store"])
    return {"build_s": timed(index.add, documents), "bytes": size_of(folder)}


def luthier_asked(what: Mapping[str, Any]) -> dict[str, Any]:
    """The index asked: `what` holds its `folder`, `store`, `queries` and `k`."""
    from luthier.retrieve.index import open_index

    if what["store"] == "lancedb":
        importlib.import_module("lancedb")  # or the first search would load it, and that of the plain side does not
    opened = open_index(Path(what["folder"]), lambda name: SyntheticEmbedder(1))
    asked = [" ".join(text.split()[:8]) for text in texts(what["queries"] + 1)]
    first_s = timed(opened.search, asked[0], what["k"], "dense")
    opened.search(asked[0], what["k"], "lexical")
    found = {
        kind: [timed(opened.search, query, what["k"], kind) for query in asked[1:]]
        for kind in ("dense", "lexical", "hybrid")
    }
    return {"memory": resident_bytes(), "first_s": first_s, "seconds": found}


def lancedb_built(what: Mapping[str, Any]) -> dict[str, Any]:
    """LanceDB by itself: the same vectors and texts in one table."""
    import lancedb

    folder = Path(what["folder"])
    build_s = timed(lancedb.connect(folder).create_table, "passages", _rows(what["passages"]))
    return {"build_s": build_s, "bytes": size_of(folder)}


def lancedb_asked(what: Mapping[str, Any]) -> dict[str, Any]:
    """Its table asked for ids and texts."""
    import lancedb

    table = lancedb.connect(Path(what["folder"])).open_table("passages")
    queries = unit_vectors(np.random.default_rng(1), what["queries"] + 1)

    def ask(query: np.ndarray) -> None:
        table.search(query).distance_type("cosine").limit(what["k"]).select(["id", "text", "_distance"]).to_list()

    first_s = timed(ask, queries[0])
    seconds = {"dense": [timed(ask, query) for query in queries[1:]]}
    return {"memory": resident_bytes(), "first_s": first_s, "seconds": seconds}


def _rows(count: int) -> Any:
    import pyarrow as pa

    vectors = unit_vectors(np.random.default_rng(0), count)
    return pa.table(
        {
            "id": [f"d{n:06d}#1" for n in range(count)],
            "text": texts(count),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION),
        }
    )


def timed(work: Callable[..., object], *given: object) -> float:
    started = time.perf_counter()
    work(*given)
    return time.perf_counter() - started


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
