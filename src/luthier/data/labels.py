"""Several labels in one answer ("billing; refund"): a label set that knows what stands between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Self

from luthier.words import folded


class Labels(tuple[str, ...]):
    """A closed label set in its order, of which an answer may have several.

    It is a tuple, so that it goes wherever the labels of a task go, the metrics among them: they read from it how an
    answer is split. A copy by `tuple(labels)` is one of labels that stand alone.

    Attributes:
        separator: What stands between the labels of an answer.
    """

    separator: str

    def __new__(cls, labels: Iterable[str], separator: str) -> Self:
        made = super().__new__(cls, labels)
        made.separator = separator
        return made

    def __getnewargs__(self) -> tuple[tuple[str, ...], str]:
        return tuple(self), self.separator


def separator_of(labels: Sequence[str]) -> str:
    """What stands between the labels of an answer; empty where an answer has one."""
    return labels.separator if isinstance(labels, Labels) else ""


def split_labels(text: str, separator: str) -> tuple[str, ...]:
    """The labels in a text, each once, in their order there; without a separator the text is one.

    White space around a separator makes no difference, as in "billing;refund" for "; ". Where the separator begins
    with white space (" and ", " - ") some must stand there, so that words are not split.
    """
    parts = _between(separator).split(text) if separator else [text]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def join_labels(found: Collection[str], labels: Sequence[str], separator: str) -> str:
    """The text of a set of labels, in the order of `labels`, so that equal sets are equal texts."""
    return separator.join(label for label in labels if label in found)


def spelling_key(label: str) -> str:
    """Equal for labels that differ in case, white space (or underscores), Unicode form or what is not seen alone."""
    return " ".join(folded(label).replace("_", " ").split())


def alike_labels(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Groups of labels with one `spelling_key`, in each the most frequent first.

    Args:
        counts: Label → examples.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[spelling_key(label)].append(label)
    return [tuple(sorted(own, key=lambda label: (-counts[label], label))) for own in groups.values() if len(own) > 1]


def cannot_be_split(labels: Iterable[str], separator: str) -> str | None:
    """The first label that would not come out of an answer as it went in; None where all do."""
    for label in labels:
        if split_labels(f"{label}{separator}{label}", separator) != (label,):
            return label
    return None


@lru_cache(maxsize=64)
def _between(separator: str) -> re.Pattern[str]:
    core = separator.strip()
    if not core:
        return re.compile(re.escape(separator))
    if not separator[0].isspace():
        return re.compile(re.escape(core))
    return re.compile(rf"\s+{re.escape(core)}" + (r"\s+" if separator[-1].isspace() else ""))
