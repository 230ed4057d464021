"""Passages that give test answers away: those that hold a question together with its answer, or nearly a whole example.

A passage that holds the answer is what retrieval is for, and no leak. One that holds the question as well was perhaps
made from the same rows; whether it may stay is for the study to say: a FAQ is meant to hold both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.data.normalise import words
from luthier.types import Example, Passage

# A question of fewer words may stand in a passage by chance.
_LEAST_WORDS = 4
# Shared runs of so many words, as a share of the example's, from which a passage is nearly a copy of it.
_RUN, _NEAR = 3, 0.8


@dataclass(frozen=True, slots=True)
class Leak:
    """A passage that gives an example away.

    Attributes:
        how: `question`: it holds the question word for word, and the answer; `copy`: most of the example's words, in
            runs of three.
    """

    passage: Passage
    example: Example
    how: Literal["question", "copy"]


def find_leaks(examples: Sequence[Example], passages: Iterable[Passage]) -> list[Leak]:
    """Leaks by passage, each passage with the first example that it gives away."""
    asked = [_question(example) for example in examples]
    by_run: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, question in enumerate(asked):
        for run in _runs(question):
            by_run[run].append(number)
    found = []
    for passage in passages:
        own = words(passage.searched(headings=True))
        there = _runs(own)
        # Only examples that share a run of words with the passage can be given away by it.
        for number in sorted({number for run in there for number in by_run.get(run, ())}):
            how = _how(examples[number], asked[number], own, there)
            if how is not None:
                found.append(Leak(passage, examples[number], how))
                break
    return found


def _question(example: Example) -> list[str]:
    """What is asked: the longest of the row's columns that stand in the last turn, or the turn itself."""
    turn = example.prompt.messages[-1].content
    columns = [text for text in example.prompt.fields.values() if text.strip() and text.strip() in turn]
    return words(max(columns, key=len, default=turn))


def _how(
    example: Example, question: list[str], passage: list[str], runs: set[tuple[str, ...]]
) -> Literal["question", "copy"] | None:
    text = f" {' '.join(passage)} "
    answered = any(f" {' '.join(words(own))} " in text for own in example.references if words(own))
    if len(question) >= _LEAST_WORDS and answered and f" {' '.join(question)} " in text:
        return "question"
    whole = _runs(question) | _runs(words(example.completion))
    if len(question) >= 2 * _LEAST_WORDS and answered and len(whole & runs) >= _NEAR * len(whole):
        return "copy"
    return None


def _runs(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[at : at + _RUN]) for at in range(len(text) - _RUN + 1)}
