"""Sentence embeddings, for choosing similar shots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import ModelError

if TYPE_CHECKING:
    import numpy as np


def embed_texts(texts: Sequence[str], folder: Path, device: str) -> np.ndarray:
    """Unit-length embeddings of `texts`, shape (len(texts), dimension), float32.

    Raises:
        ModelError: The folder holds no sentence-transformers model.
    """
    import numpy as np

    embedder = _load(str(folder), device)
    vectors = embedder.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float32)


@lru_cache(maxsize=1)
def _load(folder: str, device: str):  # type: ignore[no-untyped-def]
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(folder, device=device)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded as a sentence-embedding model: {error}") from error
