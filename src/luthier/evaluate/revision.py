"""After documents were revised or removed: which approaches answer by what they say now, untrained since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.evaluate.forms import normalised
from luthier.evaluate.statistics import wilson_interval


@dataclass(frozen=True, slots=True)
class RevisedAnswer:
    """An answer to a question on what has changed.

    Attributes:
        new: What the documents say now; empty where they say nothing any more.
        old: What they said before.
        abstained: Whether the answer says that the documents do not hold it.
    """

    text: str
    new: str
    old: str
    abstained: bool


def revision_rates(answers: Sequence[RevisedAnswer]) -> dict[str, Any]:
    """Shares with Wilson intervals: of questions on revised documents those that say what is written there now and what
    was before; of questions on removed ones those that still say it, and those that say that it is not there.

    An answer says something where that stands in it, case, punctuation and articles aside, and the other does not.
    """
    revised, removed = [a for a in answers if a.new], [a for a in answers if not a.new]
    return {
        "revised": {
            "n": len(revised),
            "new": _share(revised, lambda a: _says_only(a.text, a.new, a.old)),
            "old": _share(revised, lambda a: _says_only(a.text, a.old, a.new)),
        },
        "removed": {
            "n": len(removed),
            "old": _share(removed, lambda a: _says(a.text, a.old)),
            "absent": _share(removed, lambda a: a.abstained),
        },
    }


def _share(answers: Sequence[RevisedAnswer], is_so: Callable[[RevisedAnswer], bool]) -> dict[str, float] | None:
    if not answers:
        return None
    found = wilson_interval(sum(map(is_so, answers)), len(answers))
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _says_only(text: str, wanted: str, other: str) -> bool:
    """Whether a text says one thing and not another that is no part of it."""
    return _says(text, wanted) and (_says(wanted, other) or not _says(text, other))


def _says(text: str, wanted: str) -> bool:
    return f" {normalised(wanted)} " in f" {normalised(text)} "
