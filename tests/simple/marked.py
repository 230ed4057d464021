"""Tasks whose labels a word gives away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from colours import make_example, make_task
from luthier.infer.engine import Engine
from luthier.steps.base import StepOutcome
from luthier.types import Task

Fit = Callable[..., tuple[StepOutcome, Engine]]
MARKS = {"fruit": ("apple", "pear", "plum"), "tool": ("hammer", "saw", "drill"), "animal": ("cat", "dog", "horse")}
FILL = ("the", "a", "my", "old", "new", "big", "small", "is", "was", "here")


def sentences(count: int, seed: int, labels: Sequence[str] = tuple(MARKS)) -> list[tuple[str, str]]:
    """Texts of words of which one gives the label away."""
    draw = Random(seed)
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = [*draw.choices(FILL, k=4), draw.choice(MARKS[label])]
        draw.shuffle(words)
        found.append((" ".join(words), label))
    return found


def task_of(train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]]) -> Task:
    examples = [make_example(n, text, label, label=label) for n, (text, label) in enumerate([*train, *validation])]
    labels = tuple(dict.fromkeys(label for _, label in train))
    cut = len(train)
    return replace(make_task(), train=tuple(examples[:cut]), validation=tuple(examples[cut:]), test=(), labels=labels)
