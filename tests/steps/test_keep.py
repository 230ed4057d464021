"""`keep:` of a step that trains."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.errors import ModelError
from luthier.model.load import load_model
from luthier.settings import closed
from luthier.steps import SftStep
from luthier.steps.base import StepContext
from luthier.steps.keep import Keep
from luthier.types import Decoding, ModelRef, PromptedModel, Task


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


def sft(**settings: Any) -> SftStep:
    usual = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "evaluations": 1}
    return SftStep.model_validate({**usual, **settings})


def moved(predictor: PromptedModel, base: PromptedModel, context: StepContext) -> float:
    """KL(base‖trained) of the answers to the validation prompts, nats a token."""
    engine = context.engine
    sequences = engine.reference_sequences(base, context.task.validation)
    before, after = (engine.predictions(ref, sequences) for ref in (base.model, predictor.model))
    found = engine.divergences(before, after)
    return sum(own.nats for own in found) / sum(own.tokens for own in found)


def weights_of(ref: ModelRef) -> dict[str, torch.Tensor]:
    model = load_model(ref, device="cpu", precision="float32")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("adapter", [{"rank": 2}, "pissa", "none", {"kind": "prompt-tuning", "tokens": 2}])
def test_predictions_stay_nearer_whatever_is_trained(base: PromptedModel, context: StepContext, adapter: Any):
    free, held = (
        sft(adapter=adapter, epochs=1, **own).fit(base, replace(context, folder=context.folder / name)).predictor
        for name, own in (("free", {}), ("held", {"keep": {"kl": 20, "tokens": "all"}}))
    )
    assert moved(held, base, context) < 0.8 * moved(free, base, context)


def test_pissa_begins_at_no_divergence(base: PromptedModel, context: StepContext, rows: list[Mapping[str, float]]):
    sft(adapter={"kind": "pissa", "rank": 2}, keep=0.1, epochs=0.3).fit(base, context)
    assert rows[0]["train/kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("adapter", [{"rank": 2}, "biases-and-norms"])
def test_weights_go_back_to_where_they_began(base: PromptedModel, context: StepContext, adapter: Any):
    def trained(name: str, **settings: Any) -> dict[str, torch.Tensor]:
        step = sft(adapter=adapter, weight_decay=0, schedule="constant", warmup=0, **settings)
        return weights_of(step.fit(base, replace(context, folder=context.folder / name)).predictor.model)

    start = weights_of(base.model)
    far, near = (
        float(sum((own[name] - start[name]).norm() ** 2 for name in start)) for own in
        (trained("free"), trained("held", keep={"l2": 50}))
    )  # fmt: skip
    assert near < 0.7 * far


def test_an_interrupted_step_goes_on_to_the_same_adapter(base: PromptedModel, context: StepContext, tmp_path: Path):
    step = sft(adapter={"rank": 2, "dropout": 0.2}, keep={"kl": 0.3, "l2": 10}, evaluations=3)
    straight = step.fit(base, replace(context, folder=tmp_path / "straight")).predictor.model

    def stop(row: Mapping[str, float]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    broken = replace(context, folder=tmp_path / "broken", log=stop)
    with pytest.raises(KeyboardInterrupt):
        step.fit(base, broken)
    resumed = step.fit(base, replace(broken, log=context.log)).predictor.model
    one, other = (
        dict(load_model(r, device="cpu", precision="float32").named_parameters()) for r in (straight, resumed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_short_and_long_forms():
    assert sft(keep=0.1).keep == Keep(kl=0.1)
    assert sft().keep is None
    opened = sft(keep={"kl": {"choose": [0, 0.1]}, "direction": "reverse"})
    assert [step.keep.kl for step in closed(opened)] == [0.0, 0.1]  # type: ignore[attr-defined]
    resolved = opened.model_dump(mode="json")
    assert SftStep.model_validate(resolved) == opened


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ({"direction": "reverse"}, "direction says how kl is taken; give kl a weight"),
        ("strong", "keep is the weight of kl or a mapping of settings, such as {kl: 0.1}; found 'strong'"),
        (-1, "greater than or equal to 0"),
        ({"kl": 0.1, "at": "all"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_mean_nothing(keep: Any, said: str):
    with pytest.raises(ValidationError, match=re.escape(said)):
        sft(keep=keep)


def test_what_does_not_go_with_an_adapter_is_said_before_a_model_loads(tiny_task: Task):
    assert sft(keep={"kl": 1, "l2": 1}).check(tiny_task) == []
    (problem,) = sft(adapter="prompt-tuning", keep={"l2": 1}).check(tiny_task)
    assert "virtual tokens begin at nothing to be kept; use kl" in problem
    (problem,) = sft(adapter="loraplus", learning_rate=1e-3, keep={"l2": 100}).check(tiny_task)
    assert "an l2 of 100 at a learning rate of 0.016 would put weights back" in problem


def test_a_model_that_no_tree_serves_is_named_before_its_weights_load(
    save_tiny: Any, context: StepContext, monkeypatch: pytest.MonkeyPatch
):
    folder = save_tiny("mamba")
    monkeypatch.setattr("luthier.model.load._load_base", lambda *args, **others: pytest.fail("a model was loaded"))
    step = sft(adapter="none", keep=0.1)
    with pytest.raises(ModelError, match=r"keep: \{kl: …\} compares predictions on token trees"):
        step.fit(PromptedModel(ModelRef(str(folder)), Decoding("choose")), context)
