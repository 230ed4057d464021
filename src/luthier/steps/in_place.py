"""What the steps have in common that answer in the language model's place: choosing on validation, notes, forecasts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from luthier.errors import DataError
from luthier.prompt.similar import Reading, whole_prompts
from luthier.steps.base import Step
from luthier.steps.lesson import Lesson
from luthier.steps.validate import value_of
from luthier.types import Example, Task, TextEmbedder

if TYPE_CHECKING:
    pass

# Above this share of words without a token an embedder is taken not to know the language.
UNKNOWN = 0.2
# Texts that embedding is timed on.
_TIMED = 24


class AnsweringStep(Step):
    """A step that answers in the language model's place."""

    answers: ClassVar[bool] = True

    threshold: float | None = None
    """Below this confidence it gives no answer but `otherwise`, which counts as wrong unless it is right. The report
    draws the accuracy against the share answered. Default: it always answers."""
    otherwise: str = ""
    """What stands in place of an answer that is not given."""
    embedder: str = "minilm-l6"
    """What embeds: a folder, a built-in name (minilm-l6), or the Hugging Face id of a sentence embedder."""


def judged(lesson: Lesson, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What `Lesson.validate` gives, from answers to the validation examples of each task."""
    return lesson.of_tasks(
        {
            task.name: {metric.name: value_of(texts[task.name], task.validation, task, metric)}
            for task, metric in zip(lesson.tasks, lesson.metrics, strict=True)
        }
    )


def reading_of(task: Task) -> Reading:
    """What is read of a task's prompts.

    Raises:
        DataError: Nothing is left of them.
    """
    reading = whole_prompts([example.prompt for example in task.train])
    if not any(reading.text(example.prompt).strip() for example in task.train):
        raise DataError(f"task {task.name}: the prompts of the training examples are empty, so none resembles another.")
    return reading


def embedding_notes(embedder: TextEmbedder, name: str, texts: Sequence[str]) -> tuple[list[str], bool]:
    """What an embedder does not see of texts, a sentence each, and whether it knows their language."""
    notes, unknown = [], embedder.unknown_share(texts)
    if unknown > UNKNOWN:
        notes.append(
            f"{name} has no token for {100 * unknown:.0f}% of the words, so it does not know the language. Words alone "
            "are compared where the step leaves that open; name an embedder that knows the language with embedder."
        )
        return notes, False
    if too_long := embedder.too_long(texts):
        notes.append(
            f"{too_long} of {len(texts)} training prompts are longer than {name} reads; it sees their beginning"
        )
    return notes, True


def seconds_a_text(embedder: TextEmbedder, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds that embedding takes: a text among many, and one alone."""
    embedder.embed(texts[:1])  # the first call loads the model
    started = time.perf_counter()
    embedder.embed(texts[:1])
    alone = time.perf_counter() - started
    sample = texts[:: max(1, len(texts) // _TIMED)][:_TIMED]
    started = time.perf_counter()
    embedder.embed(sample)
    return (time.perf_counter() - started) / len(sample), alone


def sampled(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples."""
    return list(examples[:count])
