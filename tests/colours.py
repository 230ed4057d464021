"""A tiny task, and examples made by hand."""

from __future__ import annotations

from luthier.types import Decoding, Example, Message, Place, Prompt, Task

COLOURS = {"red": ("apple", "cherry", "brick"), "green": ("leaf", "moss", "lime"), "blue": ("sky", "sea", "ink")}
SPLIT_SIZES = {"train": 12, "validation": 6, "test": 6}


def make_example(
    number: int, question: str, answer: str, *, label: str | None = None, group: str | None = None
) -> Example:
    """An example with one user turn, its only column `text`; equal questions are duplicates."""
    prompt = Prompt(f"e{number}", "colours", (Message("user", question),), {"text": question}, f"f-{question}", group)
    return Example(prompt, answer, (answer,), label, Place("colours.csv", number + 1))


def make_task(*, labelled: bool = True) -> Task:
    """What colour is a thing? Twelve examples to train on, six to validate, six to test."""
    things = [(names[k], colour) for k in range(3) for colour, names in COLOURS.items()]
    examples = []
    for number in range(sum(SPLIT_SIZES.values())):
        thing, colour = things[number % len(things)]
        question = f"What colour is the {thing} of house {number}?"
        examples.append(make_example(number, question, colour, label=colour if labelled else None))
    return Task(
        name="colours",
        train=tuple(examples[:12]),
        validation=tuple(examples[12:18]),
        test=tuple(examples[18:]),
        labels=tuple(COLOURS) if labelled else (),
        metric="accuracy" if labelled else "exact_match",
        metrics=("accuracy",) if labelled else ("exact_match",),
        metric_options={},
        decoding=Decoding("choose") if labelled else Decoding("generate", max_new_tokens=4),
        report={},
    )
