"""Passages that give test answers away: those that hold a question together with its answer, or nearly a whole example.

A passage that holds the answer is what retrieval is for, and no leak. One that holds the question as well was perhaps
made from the same rows; whether it may stay is for the study to say: a FAQ is meant to hold both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.types import Example, Passage
from luthier.words import words

# A question of fewer words may stand in a passage by chance; of fewer than `_LONG` words, most of them may.
_LEAST_WORDS, _LONG = 4, 8
# Shared runs of so many words, as a share of all that question and answer have, from which a passage is a copy of them.
_RUN, _NEAR = 3, 0.8


@dataclass(frozen=True, slots=True)
class Leak:
    """A passage that gives an example away.

    Attributes:
        how: `question`: it holds the question and the answer word for word; `copy`: most words of the question, in runs
            of three, and the answer, of a longer one most words as well.
    """

    passage: Passage
    example: Example
    how: Literal["question", "copy"]


def find_leaks(examples: Sequence[Example], passages: Iterable[Passage]) -> list[Leak]:
    """Leaks by passage, each passage with the first example that it gives away."""
    asked = [_asked(example) for example in examples]
    by_run: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, questions in enumerate(asked):
        for run in set().union(*map(_runs, questions)):
            by_run[run].add(number)
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


def _asked(example: Example) -> list[list[str]]:
    """What may be the question: each of the row's columns that stand in the last turn, or the turn itself. Which column
    holds the question, and which a text that it is about, is not known."""
    turn = example.prompt.messages[-1].content
    columns = [text for text in example.prompt.fields.values() if text.strip() and text.strip() in turn]
    found = [words(text) for text in columns or [turn]]
    return [own for own in found if len(own) >= _LEAST_WORDS]


def _how(
    example: Example, questions: Sequence[list[str]], passage: list[str], runs: set[tuple[str, ...]]
) -> Literal["question", "copy"] | None:
    text = f" {' '.join(passage)} "
    answers = [words(own) for own in example.references]
    if any(own and f" {' '.join(own)} " in text for own in answers):
        if any(f" {' '.join(own)} " in text for own in questions):
            return "question"
        nearly = True
    else:
        nearly = any(len(own) >= _LONG and _share(_runs(own), runs) >= _NEAR for own in answers)
    if nearly and any(len(own) >= _LONG and _share(_runs(own), runs) >= _NEAR for own in questions):
        return "copy"
    return None


def _share(wanted: set[tuple[str, ...]], runs: set[tuple[str, ...]]) -> float:
    return len(wanted & runs) / len(wanted)


def _runs(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[at : at + _RUN]) for at in range(len(text) - _RUN + 1)}
