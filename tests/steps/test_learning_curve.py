"""Fewer examples, a random start, and the learning curve that they make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.model.load import load_model
from luthier.report.curve import Curve, curves
from luthier.report.svg import looks
from luthier.steps import SftStep
from luthier.steps.base import StepContext
from luthier.steps.learning_curve import measure_curve
from luthier.types import Decoding, ModelRef, PromptedModel, Task

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 4, "evaluations": 1}


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


def test_fewer_examples_are_among_the_more_and_hold_every_label(context: StepContext):
    def taught(count: int | None) -> list[str]:
        return [example.id for _, example in SftStep(examples=count).taught(context.lesson, 3)]

    assert taught(None) == [example.id for example in context.task.train]
    assert set(taught(3)) < set(taught(6)) < set(taught(None))
    labels = {example.id: example.label for example in context.task.train}
    assert len({labels[one] for one in taught(3)}) == 3


def test_more_examples_than_there_are_are_refused(tiny_task: Task):
    assert SftStep(learning_curve=(4, 12)).check(tiny_task) == []
    (problem,) = SftStep(learning_curve=(4, 13)).check(tiny_task)
    assert problem == "13 training examples are asked for; task 'colours' has 12."
    with pytest.raises(ValidationError, match="a mixture has examples of its own"):
        SftStep(data={"by": "equal"}, examples=3)  # type: ignore[arg-type]


def test_few_examples_are_passed_over_until_the_least_steps_are_done(base: PromptedModel, context: StepContext):
    outcome = SftStep(adapter={"rank": 2}, examples=4, least_steps=5, **SHORT).fit(base, context)  # type: ignore[arg-type]
    assert outcome.facts["steps"] == 5
    assert outcome.facts["examples"] == 4


def test_a_random_start_forgets_all_and_is_drawn_by_the_seed(base: PromptedModel, context: StepContext):
    step = SftStep(adapter={"kind": "none", "start": "random"}, **SHORT)  # type: ignore[arg-type]
    one, same, other = (step.trainable_model(base.model, context.engine, seed) for seed in (1, 1, 2))
    own = load_model(base.model, device="cpu", precision="float32")
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [model.get_parameter(name) for model in (one, same, other, own)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert all(parameter.requires_grad for parameter in one.parameters())
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight  # still tied
    # The spread of a fresh layer is that of its family.
    assert float(weights[0].detach().std()) == pytest.approx(own.config.initializer_range, rel=0.05)


def test_the_curve_is_measured_on_validation_and_resumed(base: PromptedModel, context: StepContext):
    step = SftStep(adapter={"rank": 2}, learning_curve=(4, 8), **SHORT)  # type: ignore[arg-type]
    outcome = step.fit(base, context)
    curve = step.more_results(base, context, outcome.facts)["learning-curve"]
    assert curve["x"] == [0, 4, 8, 12]
    assert curve["y_label"] == "accuracy on 6 validation examples"
    score = outcome.facts["best_score"][0]
    assert curve["y"][-1] == score
    assert all(low <= y <= high for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True))
    # A part of the curve is the training on that part, no more and no less.
    part = SftStep(adapter={"rank": 2}, examples=8, **SHORT)  # type: ignore[arg-type]
    alone = part.fit(base, replace(context, folder=context.folder / "alone"))
    assert curve["y"][2] == alone.facts["best_score"][0]
    # What is there is not measured again, and no weights of the curve are kept.
    assert sorted(file.name for file in (context.folder / "curve").rglob("*") if file.is_file()) == ["point.json"] * 3
    file = context.folder / "curve/4/point.json"
    file.write_text(json.dumps({"examples": 4, "value": 0.125, "seconds": 1.0}))
    again = step.more_results(base, context, outcome.facts)["learning-curve"]
    assert again["y"] == [curve["y"][0], 0.125, *curve["y"][2:]]


def test_the_curve_of_a_random_start_begins_without_pre_training(
    base: PromptedModel, context: StepContext, monkeypatch: pytest.MonkeyPatch
):
    context = replace(context, seed=7)
    step = SftStep(adapter={"kind": "none", "start": "random"}, learning_curve=(4,), **SHORT)  # type: ignore[arg-type]
    fresh = step.trainable_model(base.model, context.engine, context.seed)
    wanted = context.lesson.validate(context.engine, base, model=fresh)
    assert wanted["loss"] != context.lesson.validate(context.engine, base)["loss"]
    seen: list[float] = []

    def noted(lesson: Any, score: Any) -> float:
        seen.append(-score[1])
        return float(score[0])

    monkeypatch.setattr(type(context.lesson), "metric_of", noted)
    measure_curve(step, {4: step.smaller[0]}, base, context)
    assert seen[0] == pytest.approx(wanted["loss"])


def test_curves_of_all_approaches_stand_in_one_picture():
    content = {"kind": "curve", "title": "t", "x_label": "examples", "y_label": "accuracy", "x": [0, 16, 64, 1024]}
    content |= {"y": [0.1, 0.2, 0.5, 0.9], "low": [0.0, 0.1, 0.4, 0.8], "high": [0.2, 0.3, 0.6, 1.0]}
    known = looks(["one", "other"])
    bare = {**content, "y": [0.3] * 4, "low": [None] * 4, "high": [None] * 4}
    page = str(curves([Curve(known["one"], "one", content), Curve(known["other"], "other", bare)]))
    assert page.count("one: 50.0% at 64") == 2  # for wide and for narrow screens
    assert page.count(">1,024<") == 2
    assert page.count(">other</text>") == 2
