"""What a metric sees: an answer beside what was wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from luthier.types import Example


class SummedLogProb(Protocol):
    """What is read of a log-probability, whoever computed it."""

    @property
    def nats(self) -> float: ...

    @property
    def tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LogProb:
    """Summed log-probability of a text in nats (0 or less), and over how many tokens it was summed."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Unscored:
    """A metric cannot judge this answer; why not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with what was wanted; all of it stands in a line of `predictions.jsonl`, save `fields`.

    Attributes:
        references: All right answers, at least one.
        label: The right label, None for open-ended tasks; `labels` is the task's closed set. Where an answer may have
            several, `labels` are `luthier.data.labels.Labels`, and `label` is all right ones with their separator.
        fields: The row's columns, for the user's own metric.
        logprob: Of the wanted completion under the model, for `loss` and `perplexity`.
    """

    text: str
    references: tuple[str, ...]
    label: str | None = None
    labels: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    logprob: SummedLogProb | None = None


def answer_to(
    example: Example, text: str, labels: tuple[str, ...] = (), logprob: SummedLogProb | None = None
) -> Answer:
    """`text` as the answer to `example`."""
    return Answer(text, example.references, example.label, labels, example.prompt.fields, logprob)
