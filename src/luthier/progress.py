"""How long work tells where it stands, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """A listener: the command line draws bars, Python callers may stay silent."""

    def track(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Begin a piece of work of `total` units; the function given takes the units done since its last call."""
        ...

    def say(self, text: str) -> None:
        """A line worth keeping."""
        ...


class Silent:
    """Listens to nothing."""

    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        yield lambda done: None

    def say(self, text: str) -> None:
        pass
