"""Each step with the tiny model and the tiny task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from colours import make_example
from luthier.evaluate.metrics import METRICS
from luthier.model.load import load_model
from luthier.settings import closed
from luthier.steps import FewShotStep, PromptStep, SftStep
from luthier.steps.base import StepContext
from luthier.steps.validate import score_of, validation_metrics
from luthier.types import Decoding, ModelRef, PromptedModel, Shots, Task, Wording


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


def logits(ref: ModelRef) -> torch.Tensor:
    with torch.no_grad():
        return load_model(ref, device="cpu", precision="float32")(torch.tensor([[5, 6, 7, 8]])).logits


def test_prompt_changes_wording_and_decoding_and_nothing_else(base: PromptedModel, context: StepContext):
    step = PromptStep(system="Name the colour.", template="{{ text }}!", answer="generate", max_new_tokens=7)
    outcome = step.fit(base, context)
    assert outcome.predictor == replace(
        base,
        wording=Wording("Name the colour.", "{{ text }}!"),
        decoding=Decoding("generate", max_new_tokens=7),
    )
    assert (outcome.train_s, outcome.trainable_parameters) == (0.0, 0)


def test_prompt_keeps_what_it_is_not_told(base: PromptedModel, context: StepContext):
    before = replace(base, wording=Wording("System.", "{{ prompt }}?"), decoding=Decoding("generate", 9, ("\n",)))
    assert PromptStep().fit(before, context).predictor == before
    assert PromptStep(system="").fit(before, context).predictor.wording == Wording("", "{{ prompt }}?")


def test_prompt_is_checked_against_the_task(tiny_task: Task, open_task: Task):
    assert PromptStep(template="{{ text }} {{ prompt }}", answer="choose").check(tiny_task) == []
    (problem,) = PromptStep(template="{{ colour }}").check(tiny_task)
    assert "names colour, which the task's prompts do not have (there are: prompt, text)" in problem
    templates = {"choose": ["{{ text }}", "{{ text", "{{ colour }}"]}
    assert len(PromptStep(template=templates).check(tiny_task)) == 2  # type: ignore[arg-type]
    (problem,) = PromptStep(answer="choose").check(open_task)
    assert problem == "answer: choose needs labels, and task 'colours' has none; use generate."
    (problem,) = PromptStep(answer={"choose": ["generate", "choose-normalised"]}).check(open_task)  # type: ignore[arg-type]
    assert problem == "answer: choose-normalised needs labels, and task 'colours' has none; use generate."


def test_an_answer_has_at_least_one_token():
    with pytest.raises(ValidationError, match="greater than 0"):
        PromptStep(max_new_tokens=0)


def test_choosing_takes_no_length():
    with pytest.raises(ValidationError, match="writes no text, so max_new_tokens has no meaning"):
        PromptStep(answer="choose", max_new_tokens=5)


def test_few_shot_draws_its_pool_from_training_examples(base: PromptedModel, context: StepContext):
    outcome = FewShotStep(shots=3, by="spread").fit(base, context)
    shots = outcome.predictor.shots
    assert shots is not None
    assert (shots.count, shots.by) == (3, "spread")
    assert {example.id for example in shots.pool} <= {example.id for example in context.task.train}
    assert {example.label for example in shots.pool[:3]} == {"red", "green", "blue"}
    assert outcome.facts["shots_selected"] == {3: 6}
    assert replace(outcome.predictor, shots=None) == base


def test_few_shot_keeps_enough_in_its_pool_to_pass_over_a_whole_group(base: PromptedModel, context: StepContext):
    grouped = tuple(make_example(n, f"visit {n}", "red", label="red", group="p" if n < 40 else None) for n in range(60))
    own = replace(
        context,
        lesson=replace(context.lesson, tasks=(replace(context.task, train=grouped, validation=grouped[:1]),)),
    )
    outcome = FewShotStep(shots=8, by="random").fit(base, own)
    assert outcome.facts["shots_selected"] == {8: 1}


def test_no_shots_is_the_predictor_without_any(base: PromptedModel, context: StepContext):
    shown = replace(base, shots=Shots(context.task.train, 2, "random"))
    assert FewShotStep(shots=0).fit(shown, context).predictor == base


def test_few_shot_is_checked_against_the_task(tiny_task: Task, open_task: Task):
    assert FewShotStep(shots=11, by="spread").check(tiny_task) == []
    assert FewShotStep(shots=12).check(tiny_task) == ["12 shots need more than 12 training examples."]
    open_choice = FewShotStep(shots={"choose": [1, 20]}, by={"choose": ["bm25", "spread"]})  # type: ignore[arg-type]
    assert open_choice.check(open_task) == [
        "by: spread needs labels, and task 'colours' has none; use random, bm25 or embedding.",
        "20 shots need more than 12 training examples.",
    ]


def test_lora_returns_the_model_with_an_adapter_that_learned(
    base: PromptedModel, context: StepContext, rows: list[Mapping[str, float]]
):
    step = SftStep(adapter={"kind": "lora", "rank": 2}, epochs=8, learning_rate=1e-2, batch_size=4, evaluations=2)
    outcome = step.fit(base, context)
    ref = outcome.predictor.model
    assert ref == ModelRef(base.model.base, (str(context.folder / "adapter"),))
    assert replace(outcome.predictor, model=base.model) == base
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [12, 24]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] - 1
    validated = context.lesson.validate(context.engine, outcome.predictor)
    best = next(r for r in rows if r["step"] == outcome.facts["best_step"] and "validation/loss" in r)
    assert validated["accuracy"] == best["validation/accuracy"]
    assert validated["loss"] == pytest.approx(best["validation/loss"], abs=1e-3)
    assert outcome.trainable_parameters == 2 * 2 * (2 * 64 + 2 * 48 + 3 * 80)
    assert 0 < outcome.trainable_share < 0.01
    assert all(value > 0 for row in outcome.results["movement"]["values"] for value in row)
    assert outcome.trained_tokens == rows[-1]["tokens"]
    assert 0 < outcome.loop_s <= outcome.train_s


def test_full_fine_tuning_returns_a_whole_new_model(base: PromptedModel, context: StepContext):
    outcome = SftStep(adapter="none", epochs=1, learning_rate=1e-3, batch_size=4, evaluations=1).fit(base, context)
    assert outcome.predictor == replace(base, model=ModelRef(str(context.folder / "model")))
    assert outcome.trainable_share == 1.0
    movement = outcome.results["movement"]
    assert movement["rows"] == ["0", "1", "embed_tokens"]
    assert all(value > 0 for row in movement["values"] for value in row if value is not None)
    assert not torch.equal(logits(outcome.predictor.model), logits(base.model))


def test_the_same_seed_trains_the_same_weights(base: PromptedModel, context: StepContext, tmp_path: Path):
    step = SftStep(adapter={"kind": "lora", "rank": 2, "dropout": 0.2}, epochs=1, evaluations=1)
    first = step.fit(base, replace(context, folder=tmp_path / "a")).predictor.model
    second = step.fit(base, replace(context, folder=tmp_path / "b")).predictor.model
    third = step.fit(base, replace(context, folder=tmp_path / "c", seed=1)).predictor.model
    assert torch.equal(logits(first), logits(second))
    assert not torch.equal(logits(first), logits(third))


def test_an_interrupted_step_goes_on_to_the_same_adapter(base: PromptedModel, context: StepContext, tmp_path: Path):
    step = SftStep(adapter={"kind": "lora", "rank": 2, "dropout": 0.2}, epochs=2, batch_size=4, evaluations=2)
    straight = step.fit(base, replace(context, folder=tmp_path / "straight")).predictor.model

    def stop(row: Mapping[str, float]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    broken = replace(context, folder=tmp_path / "broken", log=stop)
    with pytest.raises(KeyboardInterrupt):
        step.fit(base, broken)
    resumed = step.fit(base, replace(broken, log=context.log)).predictor.model
    assert torch.equal(logits(straight), logits(resumed))


def test_stacked_adapters_are_kept_one_after_the_other(base: PromptedModel, context: StepContext, tmp_path: Path):
    step = SftStep(adapter={"kind": "lora", "rank": 2}, epochs=1, evaluations=1)
    first = step.fit(base, replace(context, folder=tmp_path / "a")).predictor
    second = step.fit(first, replace(context, folder=tmp_path / "b")).predictor
    assert second.model.adapters == (str(tmp_path / "a" / "adapter"), str(tmp_path / "b" / "adapter"))
    whole = SftStep(adapter="none", epochs=1, evaluations=1).fit(second, replace(context, folder=tmp_path / "c"))
    assert whole.predictor.model == ModelRef(str(tmp_path / "c" / "model"))


def test_sft_trains_on_prompts_that_carry_shots_but_never_the_example_itself(
    base: PromptedModel, context: StepContext, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []
    import luthier.train.loop

    real = luthier.train.loop.train

    def spy(model: Any, sequences: Any, *args: Any, **settings: Any) -> Any:
        tokenizer = context.engine.renderer(base.model).tokenizer
        seen.extend(tokenizer.decode(list(s.ids)) for s in sequences)
        return real(model, sequences, *args, **settings)

    monkeypatch.setattr(luthier.train.loop, "train", spy)
    shown = FewShotStep(shots=2, by="random").fit(base, context).predictor
    outcome = SftStep(adapter={"kind": "lora", "rank": 2}, epochs=0.3, evaluations=1).fit(shown, context)
    assert outcome.predictor.shots == shown.shots
    assert len(seen) == len(context.task.train)
    for text, example in zip(seen, context.task.train, strict=True):
        assert text.count("<|im_start|>assistant") == 3
        assert text.count(example.prompt.messages[-1].content) == 1
        assert text.endswith(f"{example.prompt.messages[-1].content}<|im_end|>\n<|im_start|>assistant\n"
                             f"{example.completion}<|im_end|>")  # fmt: skip


def test_validation_loss_of_choices_is_that_of_the_references(base: PromptedModel, context: StepContext):
    task, engine = context.task, context.engine
    chosen = validation_metrics(engine, base, task, METRICS["accuracy"])
    asked = validation_metrics(engine, base, task, METRICS["loss"])
    assert chosen["loss"] == pytest.approx(asked["loss"], abs=1e-4)
    answers = engine.answer(base, [e.prompt for e in task.validation], task.labels)
    right = sum(a.text == e.label for a, e in zip(answers, task.validation, strict=True))
    assert chosen["accuracy"] == right / 6


def test_generated_answers_are_validated_too(
    base: PromptedModel, context: StepContext, open_task: Task, load_tiny: Callable[..., Any]
):
    greedy = replace(base, decoding=open_task.decoding)
    own = validation_metrics(context.engine, greedy, open_task, METRICS["exact_match"])
    live = validation_metrics(context.engine, greedy, open_task, METRICS["exact_match"], model=load_tiny())
    assert own["exact_match"] == live["exact_match"] == 0.0
    assert own["loss"] == pytest.approx(live["loss"], abs=1e-4)


def test_the_metric_decides_and_the_loss_between_equals():
    accuracy, loss = METRICS["accuracy"], METRICS["loss"]
    assert score_of({"accuracy": 0.9, "loss": 2.0}, accuracy) > score_of({"accuracy": 0.8, "loss": 1.0}, accuracy)
    assert score_of({"accuracy": 0.9, "loss": 1.0}, accuracy) > score_of({"accuracy": 0.9, "loss": 2.0}, accuracy)
    assert score_of({"loss": 1.0}, loss) > score_of({"loss": 2.0}, loss)


@pytest.mark.parametrize(
    ("adapter", "settings", "said"),
    [
        ("none", {"rank": 8}, "rank is a setting of the adapter; write adapter: {kind: lora, rank: 8}"),
        ("dora", {"rank": 8, "alpha": 4}, "rank and alpha are settings of the adapter; write adapter: {kind: dora, "),
        ({"choose": ["lora", "none"]}, {"dropout": 0.1}, "write adapter: {kind: lora, dropout: 0.1}"),
    ],
)
def test_an_adapter_s_settings_stand_in_it(adapter: Any, settings: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=re.escape(said)):
        SftStep.model_validate({"adapter": adapter, **settings})


def test_settings_given_at_their_default_contradict_nothing():
    resolved = SftStep(adapter="none").model_dump(mode="json")
    assert SftStep.model_validate(resolved) == SftStep(adapter="none")


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": {"kind": "lora", "rank": 0}},
        {"epochs": 0},
        {"adapter": {"kind": "lora", "dropout": 1.0}},
        {"learning_rate": -1e-3},
        {"warmup": 1.0},
        {"batch_size": 1.5},
        {"adapter": {"kind": "lora", "rank": {"choose": [8, 0]}}},
        {"learning_rate": float("nan")},
        {"epochs": float("inf")},
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        SftStep.model_validate(settings)


def test_values_of_an_open_setting_are_checked_like_given_ones():
    with pytest.raises(ValidationError, match="greater than 0"):
        SftStep.model_validate({"adapter": {"kind": "lora", "rank": {"choose": [8, 0]}}})
    with pytest.raises(ValidationError, match="valid number"):
        SftStep.model_validate({"learning_rate": {"choose": [1e-3, "fast"]}})
    with pytest.raises(ValidationError, match="random"):
        FewShotStep.model_validate({"by": {"choose": ["bm25", "bm52"]}})


def test_open_settings_give_every_combination_once():
    rank, rate = {"choose": [4, 8]}, {"choose": [1e-3, 1e-4]}
    step = SftStep.model_validate({"adapter": {"rank": rank}, "learning_rate": rate, "epochs": 1})
    given = [(s.adapter.rank, s.learning_rate, s.epochs) for s in closed(step)]  # type: ignore[attr-defined]
    assert given == [(4, 1e-3, 1.0), (4, 1e-4, 1.0), (8, 1e-3, 1.0), (8, 1e-4, 1.0)]
    assert list(closed(FewShotStep())) == [FewShotStep()]
