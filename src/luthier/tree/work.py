"""What a language model computes, counted where it is computed.

A count does not depend on what else a machine does, as a time does; one timing of the model turns it into seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Work:
    """What was computed while it counted.

    Attributes:
        tokens: That went through the model together with many others, in prompts and in trees of labels.
        predicted: Places at which the next token was predicted, those of decoding steps left out.
        steps: Decoding steps, of one batch each.
        rows: Their rows: answers that grew by a token.
        beside_s: Seconds of what was done for it beside the model: choosing shots, searching, rendering.
    """

    tokens: int = 0
    predicted: int = 0
    steps: int = 0
    rows: int = 0
    beside_s: float = 0.0


def total_work(works: Sequence[Work]) -> Work:
    """Of several countings together."""
    return Work(
        sum(own.tokens for own in works),
        sum(own.predicted for own in works),
        sum(own.steps for own in works),
        sum(own.rows for own in works),
        sum(own.beside_s for own in works),
    )


_counting: ContextVar[Work | None] = ContextVar("counting", default=None)


@contextmanager
def counted() -> Iterator[Work]:
    """Count what language models compute meanwhile."""
    work = Work()
    before = _counting.set(work)
    try:
        yield work
    finally:
        _counting.reset(before)


def count_tokens(number: int) -> None:
    """Tokens went through a model."""
    if (work := _counting.get()) is not None:
        work.tokens += number


def count_predicted(number: int) -> None:
    """So many next tokens were predicted."""
    if (work := _counting.get()) is not None:
        work.predicted += number


@contextmanager
def timed_beside() -> Iterator[None]:
    """Time what is done beside the model."""
    started = time.perf_counter()
    yield
    if (work := _counting.get()) is not None:
        work.beside_s += time.perf_counter() - started


def count_step(rows: int) -> None:
    """Answers of a batch grew by a token."""
    if (work := _counting.get()) is not None:
        work.steps += 1
        work.rows += rows
