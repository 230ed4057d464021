"""Cross-encoders: models that read a query and a passage together and tell how well the one answers the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.model.find import find_embedder

if TYPE_CHECKING:
    import numpy as np

_BATCH = 32


class CrossReranker:
    """A cross-encoder of sentence-transformers."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device

    @classmethod
    def named(cls, name: str, root: Path, device: str) -> CrossReranker:
        """The cross-encoder of a folder or a Hugging Face id.

        Raises:
            ModelError: There is none.
        """
        return cls(find_embedder(name, root), device)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One number for each pair of a query and a passage, higher is better, float32. (N,)"""
        return pair_scores(_load(str(self._folder), self._device), pairs)


def pair_scores(model: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """What a CrossEncoder makes of pairs of a query and a passage, higher is better, float32. (N,)"""
    import numpy as np

    found = model.predict(list(pairs), batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(found, np.float32).reshape(len(pairs))


@lru_cache(maxsize=2)
def _load(folder: str, device: str) -> Any:
    from sentence_transformers import CrossEncoder

    try:
        return CrossEncoder(folder, num_labels=1, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as a cross-encoder: {error}") from error
