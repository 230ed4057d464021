"""The engine and the library of a run, with the models that they name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.model.find import find_embedder

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.retrieve.library import Library


def library(root: Path, device: str, indexes: Path | None, *, words_only: bool = False) -> Library:
    """The library of a run.

    Args:
        root: Folder against which names of models resolve.
        indexes: Folder of the indices that are made; None for one that is deleted in the end.
        words_only: Nothing is embedded, and all is searched by words.
    """
    from luthier.model.embed import SentenceEmbedder
    from luthier.model.rerank import CrossReranker
    from luthier.retrieve.library import Library

    return Library(
        indexes,
        lambda name: SentenceEmbedder.named(name, root, device),
        lambda name: CrossReranker.named(name, root, device),
        lambda name: find_embedder(name, root),
        words_only=words_only,
    )


def engine(root: Path, device: str, precision: str, documents: Library, *, allow_code: bool) -> Engine:
    """The engine of a run, which finds shots and passages by what the run has.

    Args:
        allow_code: Whether Python functions of the user's may run.
    """
    from luthier.infer.engine import Engine
    from luthier.model.embed import SentenceEmbedder

    @cache
    def embedder(name: str) -> SentenceEmbedder:  # found once: a name may have to be looked up on the hub
        return SentenceEmbedder.named(name, root, device)

    return Engine(device, precision, embedder, documents, allow_code=allow_code)
