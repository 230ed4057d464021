"""Whether passages support an answer, by measures that need no model: words that stand there, and what is cited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.evaluate.forms import normalised
from luthier.words import words

_RUN = 3  # words


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer beside the passages that were shown with it.

    Attributes:
        passages: Their texts, in the order of their numbers.
        right: For each whether it holds the answer that is wanted; None where that is not known.
        cited: The numbers that the answer named, from 1; None where it was not told to name any.
        absent: The answer that says that the documents do not hold it; empty where there is none.
    """

    text: str
    passages: Sequence[str]
    right: Sequence[bool | None]
    cited: Sequence[int] | None
    absent: str = ""

    @property
    def abstained(self) -> bool:
        """Whether it says that the documents do not hold the answer."""
        return bool(self.absent) and _stands_in(_words(self.absent), " ".join(_words(self.text)))


def support_values(shown: Shown) -> dict[str, float]:
    """Measure → value from 0 to 1, as far as they have a meaning for this answer.

    `abstained`: whether it says that the documents do not hold it. Of other answers: `string_support`, whether the
    whole answer stands in a passage, case, punctuation and articles aside; `ngram_support`, the share of its words
    that lie in a run of three, or of all that it has, that stands in a passage; where it was told to, `cited`,
    whether it names a passage. Of those that do: `citation_exists`, the share of numbers that belong to a passage,
    `citation_supports`, whether the answer stands in a passage that it names, and, where it is known,
    `citation_right`, whether one that it names is right.
    """
    found = {"abstained": float(shown.abstained)}
    if shown.abstained:
        return found
    answer, texts = _words(shown.text), [" ".join(_words(text)) for text in shown.passages]
    found["string_support"] = float(any(_stands_in(answer, text) for text in texts))
    found["ngram_support"] = _ngram_support(answer, texts)
    if shown.cited is not None:
        found["cited"] = float(bool(shown.cited))
    if shown.cited:
        real = [number for number in shown.cited if 1 <= number <= len(texts)]
        found["citation_exists"] = len(real) / len(shown.cited)
        found["citation_supports"] = float(any(_stands_in(answer, texts[number - 1]) for number in real))
        if any(right is not None for right in shown.right):
            found["citation_right"] = float(any(shown.right[number - 1] for number in real))
    return found


def _words(text: str) -> list[str]:
    return words(normalised(text))


def _stands_in(part: Sequence[str], text: str) -> bool:
    return bool(part) and f" {' '.join(part)} " in f" {text} "


def _ngram_support(answer: Sequence[str], texts: Sequence[str]) -> float:
    size = min(_RUN, len(answer))
    if size == 0:
        return 0.0
    held: set[int] = set()
    for at in range(len(answer) - size + 1):
        if any(_stands_in(answer[at : at + size], text) for text in texts):
            held |= set(range(at, at + size))
    return len(held) / len(answer)
