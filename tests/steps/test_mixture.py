"""Mixtures: how many examples of each task, and that a step learns them all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from colours import make_task
from luthier.evaluate.metrics import METRICS
from luthier.settings import closed
from luthier.steps import FewShotStep, SftStep
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.steps.mixture import Mixture, drawn
from luthier.types import Decoding, ModelRef, PromptedModel, Task, Wording

SIZES = {"a": 100, "b": 400, "c": 1600, "d": 7}


def counts(**settings: Any) -> dict[str, int]:
    return Mixture(tasks=("a", "b", "c"), **settings).counts(SIZES)


def test_shares_of_the_tasks():
    assert counts() == {"a": 100, "b": 400, "c": 1600}
    assert counts(cap=400) == {"a": 100, "b": 400, "c": 400}
    assert counts(examples=210) == {"a": 10, "b": 40, "c": 160}
    assert counts(by="equal", examples=300) == {"a": 100, "b": 100, "c": 100}
    # Roots 10, 20 and 40 of the sizes: a seventh, two and four.
    assert counts(by="temperature", examples=700) == {"a": 100, "b": 200, "c": 400}
    assert counts(by="temperature", temperature=1, examples=210) == counts(examples=210)
    assert counts(by="weights", weights={"a": 1, "b": 1, "c": 2}, examples=8) == {"a": 2, "b": 2, "c": 4}


def test_what_does_not_divide_goes_to_the_largest_rests():
    assert counts(by="equal", examples=10) == {"a": 4, "b": 3, "c": 3}
    assert sum(counts(by="temperature", examples=997).values()) == 997
    assert counts(examples=5) == {"a": 1, "b": 1, "c": 4}  # every task one at least


def test_examples_come_as_often_as_each_other():
    assert drawn([1, 2, 3], 3, "x") == [1, 2, 3]
    found = Counter(drawn([1, 2, 3], 8, "x"))
    assert sorted(found.values()) == [2, 3, 3]
    assert drawn(range(100), 10, "x") == drawn(range(100), 10, "x") != drawn(range(100), 10, "y")
    assert len(set(drawn(range(100), 10, "x"))) == 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["a"]}, "at least 2"),
        ({"tasks": ["a", "a"]}, "names one twice"),
        ({"by": "weights"}, "go together"),
        ({"weights": {"a": 1, "b": 1}}, "go together"),
        ({"by": "weights", "weights": {"a": 1}}, "expected all of a, b"),
        ({"by": "equal", "cap": 3}, "cap has no meaning with by: equal"),
        ({"temperature": 3}, "temperature has no meaning with by: size"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        Mixture.model_validate({"tasks": ["a", "b"], **settings})


@pytest.fixture
def lesson(without_test: Task) -> Lesson:
    """The tiny task with labels, and one of free answers."""
    other = replace(make_task(labelled=False), name="free", test=(), decoding=Decoding("generate", max_new_tokens=3))
    return Lesson((without_test, other), (METRICS["accuracy"], METRICS["loss"]), without_test.name)


def test_a_step_learns_all_tasks_each_as_it_is_asked(
    lesson: Lesson, context: StepContext, rows: list[Any], tiny_model_folder: Path
):
    base = PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"), Wording("Name the colour.", None))
    shown = FewShotStep(shots=1, by="random").fit(base, context).predictor
    mixed = replace(context, lesson=lesson)
    step = SftStep(data={"tasks": ["colours", "free"], "by": "equal", "examples": 20}, epochs=1, evaluations=1)
    sequences = step.sequences(shown, lesson, context.engine, 0)
    texts = [context.engine.renderer(base.model).tokenizer.decode(list(s.ids)) for s in sequences]
    assert [text.count("<|im_start|>assistant") for text in texts] == [2] * 10 + [1] * 10  # shots for the target alone
    assert ["Name the colour." in text for text in texts] == [True] * 10 + [False] * 10
    outcome = step.fit(shown, mixed)
    assert replace(outcome.predictor, model=base.model) == shown
    assert outcome.facts["examples_of_tasks"] == {"colours": 10, "free": 10}
    validated = rows[-1]
    assert validated["validation/mean"] == pytest.approx(
        (validated["validation/colours/accuracy"] - validated["validation/free/loss"]) / 2
    )
    again = lesson.validate(context.engine, outcome.predictor)
    assert again["mean"] == pytest.approx(validated["validation/mean"], abs=2e-3)
    assert lesson.score_of(again) == (again["mean"], -again["loss"])


def test_without_names_it_is_all_that_are_there():
    assert Mixture(by="equal").counts({"a": 10, "b": 30}) == {"a": 20, "b": 20}
    with pytest.raises(ValidationError, match="the tasks, which are to be named too"):
        Mixture(by="weights", weights={"a": 1.0, "b": 2.0})


def test_weights_may_be_left_open():
    weights = [{"a": 1, "b": 1}, {"a": 1, "b": 3}]
    data = {"tasks": ["a", "b"], "by": "weights", "weights": {"choose": weights}}
    step = SftStep.model_validate({"data": data, "learning_rate": {"choose": [1e-3, 1e-4]}})
    sizes = {"a": 20, "b": 20}
    found = [(one.data.counts(sizes), one.learning_rate) for one in closed(step)]
    assert found == [({"a": a, "b": b}, rate) for a, b in ((20, 20), (10, 30)) for rate in (1e-3, 1e-4)]
    with pytest.raises(ValidationError, match="weights names a; expected all of a, b"):
        Mixture.model_validate({**data, "weights": {"choose": [weights[0], {"a": 2}]}})
