"""Models between the start and the trained one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.errors import ModelError, TrainingError
from luthier.evaluate import forgetting
from luthier.model.load import load_model
from luthier.steps import InterpolateStep, SftStep
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.types import Decoding, ModelRef, PromptedModel

pytestmark = pytest.mark.usefixtures("few_probes")


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


def trained(adapter: Any, predictor: PromptedModel, context: StepContext, name: str = "trained") -> PromptedModel:
    step = SftStep(adapter=adapter, epochs=4, learning_rate=1e-2, batch_size=4, evaluations=1)
    return step.fit(predictor, replace(context, folder=context.folder / name)).predictor


def load(ref: ModelRef) -> Any:
    return load_model(ref, device="cpu", precision="float32")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits


def between(near: ModelRef, far: ModelRef, at: float) -> torch.Tensor:
    """The logits of the mean of two models' weights."""
    model, start = load(far), load(near)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.lerp_(start.get_parameter(name), 1 - at)
    return logits(model)


# LoRA with a module that is trained whole beside it.
WITH_NORM = {"kind": "peft", "type": "LORA", "settings": {"r": 2, "modules_to_save": ["norm"]}}


@pytest.mark.parametrize(
    ("adapter", "kept"),
    [
        ({"rank": 2}, "adapter"),
        ("none", "model"),
        ("dora", "model"),
        ({"kind": "last-layers", "count": 1}, "model"),
        (WITH_NORM, "model"),
    ],
)
def test_every_weight_is_a_mean(base: PromptedModel, context: StepContext, adapter: Any, kept: str):
    tuned = trained(adapter, base, context)
    outcome = InterpolateStep(at=0.25, points=(1.0,)).fit(tuned, context)
    ref = outcome.predictor.model
    assert Path(ref.adapters[0] if ref.adapters else ref.base) == context.folder / kept
    assert replace(outcome.predictor, model=base.model) == base
    torch.testing.assert_close(logits(load(ref)), between(base.model, tuned.model, 0.25), rtol=0, atol=2e-4)
    assert (logits(load(ref)) - logits(load(base.model))).abs().max() > 1e-2


def test_the_ends_are_the_two_models(base: PromptedModel, context: StepContext):
    tuned = trained({"rank": 2}, base, context)
    assert InterpolateStep(at=1.0).fit(tuned, context).predictor == tuned
    start = InterpolateStep(at=0.0).fit(tuned, context).predictor.model
    torch.testing.assert_close(logits(load(start)), logits(load(base.model)), rtol=0, atol=1e-5)


def test_two_adapters_go_back_together_and_what_came_before_stays(base: PromptedModel, context: StepContext):
    own = trained({"rank": 2}, base, context, "own")  # an approach's own model may be adapted already
    far = trained({"rank": 2}, trained({"rank": 4}, own, context, "first"), context, "second")
    later = replace(context, start=own.model)
    ref = InterpolateStep(at=0.5, points=(1.0,)).fit(far, later).predictor.model
    assert [Path(folder).name for folder in ref.adapters] == ["adapter", "adapter-1", "adapter-2"]
    torch.testing.assert_close(logits(load(ref)), between(own.model, far.model, 0.5), rtol=0, atol=2e-4)


def test_the_curve_is_measured_on_validation_and_the_best_point_taken(base: PromptedModel, context: StepContext):
    tuned = trained("none", base, context)
    outcome = InterpolateStep(points=(0.5, 1.0)).fit(tuned, context)
    rows = outcome.results["points"]["rows"]
    assert [row[0] for row in rows] == [0.0, 0.5, 1.0]
    assert [row[1:3] for row in rows if row[0] in (0.0, 1.0)] == [
        pytest.approx([found["accuracy"], found["loss"]], abs=1e-4)
        for found in (context.lesson.validate(context.engine, p) for p in (base, tuned))
    ]
    best = max(row[1] for row in rows)
    assert outcome.facts["at"] == next(row[0] for row in rows if row[1] == best)
    curve = outcome.results["gain-against-forgetting"]["lines"][0]
    assert curve["x"] == [row[3] for row in rows]
    assert curve["y"] == [row[1] for row in rows]
    assert rows[curve["marked"]][-1] == "taken"
    assert curve["labels"][curve["marked"]] == f"{outcome.facts['at']:g}, taken"
    assert len(set(curve["x"])) == 3


def test_what_forgets_too_much_is_not_taken(base: PromptedModel, context: StepContext, monkeypatch: pytest.MonkeyPatch):
    tuned = trained("none", base, context)
    for limit, at in ((None, 1.0), (0.1, 0.5), (0.01, 0.0)):
        losses, scores = iter([3.0, 3.2, 3.6]), iter([0.2, 0.4, 0.6])  # at the three points, in their order
        monkeypatch.setattr(forgetting, "general_loss", lambda total, losses=losses: next(losses))
        monkeypatch.setattr(
            Lesson, "validate", lambda *given, scores=scores, **more: {"accuracy": next(scores), "loss": 1.0}
        )
        outcome = InterpolateStep(points=(0.5, 1.0), forget_at_most=limit).fit(tuned, context)
        assert [row[3] for row in outcome.results["points"]["rows"]] == [3.0, 3.2, 3.6]
        assert outcome.facts["at"] == at


def test_it_goes_back_to_the_stage_before_and_remembers_its_task(base: PromptedModel, context: StepContext):
    first = trained({"rank": 4}, base, context, "first")
    far = trained({"rank": 2}, first, context, "second")
    own = context.lesson.task
    earlier = replace(own, name="earlier", validation=own.train)  # another text to be scored than the lesson's own
    later = replace(context, before=(first.model, far.model), lesson=replace(context.lesson, rehearsed=(earlier,)))
    outcome = InterpolateStep(back_to="stage", at=0.5, points=(1.0,), remember="earlier").fit(far, later)
    ref = outcome.predictor.model
    torch.testing.assert_close(logits(load(ref)), between(first.model, far.model, 0.5), rtol=0, atol=2e-4)
    table = outcome.results["points"]
    assert table["columns"][3] == "loss on earlier"
    for row, there in ((table["rows"][0], first), (table["rows"][-1], far)):
        found = context.lesson.validate(context.engine, there)
        assert row[1:3] == pytest.approx([found["accuracy"], found["loss"]], abs=1e-4)
        logprobs = context.engine.reference_logprobs(there, earlier.validation)
        assert row[3] == pytest.approx(-sum(p.nats for p in logprobs) / sum(p.tokens for p in logprobs), abs=1e-4)
    with pytest.raises(TrainingError, match="here the model is as it was before"):
        InterpolateStep(back_to="stage").fit(first, replace(context, before=(first.model, first.model)))


def test_with_one_stage_before_it_the_stage_before_is_the_start(base: PromptedModel, context: StepContext):
    tuned = trained({"rank": 2}, base, context)
    later = replace(context, before=(tuned.model,))
    found = [InterpolateStep(back_to=near, at=0.5, points=(1.0,)).fit(tuned, later) for near in ("start", "stage")]
    assert found[0].results == found[1].results


def test_there_must_be_something_between(base: PromptedModel, context: StepContext):
    with pytest.raises(TrainingError, match="interpolate comes behind a step that trains"):
        InterpolateStep().fit(base, context)
    soft = trained({"kind": "prompt-tuning", "tokens": 2}, base, context)
    with pytest.raises(ModelError, match="between these two models there is no other"):
        InterpolateStep().fit(soft, context)


@pytest.mark.parametrize(
    "settings", [{"at": 1.5}, {"at": "worst"}, {"at": 0.5, "forget_at_most": 0.1}, {"points": [2]}]
)
def test_settings_that_mean_nothing(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        InterpolateStep.model_validate(settings)


def test_points_are_in_order_of_the_way(base: PromptedModel, context: StepContext):
    outcome = InterpolateStep(points=(1.0, 0.25)).fit(trained({"rank": 2}, base, context), context)
    places = outcome.results["interpolation"]["lines"][0]["x"]
    assert all(a < b for a, b in itertools.pairwise(places))
