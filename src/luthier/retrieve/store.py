"""What a store of passages and their vectors does; the kinds of stores stand in modules of their own.

A store changes in steps that are there whole or not at all, wherever the process stops: a document's old passages go
and its new ones come in one of them. Any number of processes may read while one writes; each search sees the store as
some step left it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from luthier.types import Passage

if TYPE_CHECKING:
    import numpy as np


class View(Protocol):
    """A store as one step left it, whatever comes after."""

    @property
    def version(self) -> int:
        """Differs between any two states of the store."""
        ...

    def passages(self) -> list[Passage]:
        """All of them, by document and place in it."""
        ...

    def nearest(self, vector: np.ndarray, k: int, documents: Collection[str] | None) -> list[tuple[str, float]]:
        """Ids and cosine similarities of the `k` passages nearest to a vector of unit length, nearest first.

        Of equal ones the smaller id comes first.

        Args:
            documents: Only passages of these; None for all.
        """
        ...


class Store(Protocol):
    """Passages with their vectors, of unit length, all of one dimension."""

    def replace(self, documents: Collection[str], passages: Sequence[Passage], vectors: np.ndarray) -> None:
        """Take out all passages of these documents, and put these in, in one step.

        Args:
            passages: Each of one of the documents.
            vectors: One row for each passage, float32. (P, D)
        """
        ...

    def view(self) -> View:
        """The store as it is now; the same object as before where nothing has changed."""
        ...

    def copy(self, folder: Path) -> None:
        """Put all that it holds now into a store of its kind in another folder, where there is none yet."""
        ...
