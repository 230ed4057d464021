"""The loop: going on after an interruption, keeping the best, stopping early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.errors import TrainingError
from luthier.model.adapter import add_lora
from luthier.prompt.render import TrainingSequence
from luthier.train.checkpoint import load_checkpoint
from luthier.train.loop import LoopSettings, train
from luthier.train.outcome import GivenUp, TrainingOutcome

SETTINGS = LoopSettings(
    epochs=2.0,
    batch_size=4,
    learning_rate=1e-3,
    warmup=0.1,
    schedule="cosine",
    weight_decay=0.01,
    max_grad_norm=1.0,
    evaluations=3,
    patience=0,
    seed=0,
    device="cpu",
    precision="float32",
    max_tokens=40,
)
SEQUENCES = [
    TrainingSequence(f"s{n}", (*range(10 + n, 16 + n + n % 3), 2), (False,) * 4 + (True,) * (3 + n % 3))
    for n in range(12)
]
# Six tokens that all have, then three of each one's own.
ALIKE = [TrainingSequence(f"a{n}", (*range(30, 36), 40 + n, 60 + n, 2), (False,) * 6 + (True,) * 3) for n in range(12)]


def lora(model: Any) -> Any:
    return add_lora(model, rank=2, alpha=4, dropout=0.5, targets="all-linear", seed=0)


def full(model: Any) -> Any:
    return model


def run(
    model: Any,
    folder: Path,
    settings: LoopSettings = SETTINGS,
    *,
    scores: dict[int, float] | None = None,
    interrupt_at: int | None = None,
    rows: list[dict[str, float]] | None = None,
    sequences: list[TrainingSequence] = SEQUENCES,
    give_up: Callable[[int, tuple[float, ...]], bool] = lambda number, best: False,
) -> TrainingOutcome:
    """Train with the validation scores given by step (rising where none are), perhaps interrupted in `log`."""
    seen = [] if rows is None else rows

    def log(row: dict[str, float]) -> None:
        if row["step"] == interrupt_at and "train/loss" in row:
            raise KeyboardInterrupt
        seen.append(row)

    def validate(live: Any) -> dict[str, float]:
        step = int(seen[-1]["step"])
        return {"accuracy": float(step) if scores is None else scores[step]}

    return train(
        model,
        sequences,
        settings,
        validate=validate,
        score_of=lambda metrics: (metrics["accuracy"],),
        log=log,
        folder=folder,
        give_up=give_up,
    )


def test_a_training_that_is_given_up_says_where_and_what_it_took(load_tiny: Callable[..., Any], tmp_path: Path):
    asked: list[tuple[int, tuple[float, ...]]] = []

    def give_up(number: int, best: tuple[float, ...]) -> bool:
        asked.append((number, best))
        return number == 2

    with pytest.raises(GivenUp) as given_up:
        run(load_tiny(), tmp_path, scores={2: 0.5, 4: 0.25, 6: 0.75}, give_up=give_up)
    assert asked == [(1, (0.5,)), (2, (0.5,))]
    assert given_up.value.evaluation == 2
    outcome = given_up.value.outcome
    assert (outcome.steps, outcome.best_step, outcome.best_score, outcome.stopped_early) == (4, 2, (0.5,), True)
    assert outcome.seconds > 0


def test_after_the_last_evaluation_nothing_is_given_up(load_tiny: Callable[..., Any], tmp_path: Path):
    asked: list[int] = []
    run(load_tiny(), tmp_path, give_up=lambda number, best: asked.append(number) is not None)
    assert asked == [1, 2]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_a_step_s_row_holds_loss_rate_and_tokens(load_tiny: Callable[..., Any], tmp_path: Path):
    rows: list[dict[str, float]] = []
    outcome = run(load_tiny(), tmp_path, rows=rows)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [2, 4, 6]
    assert rows[0]["train/learning_rate"] == pytest.approx(1e-3)  # one step of warm-up, which gives the whole rate
    tokens = sum(len(s.ids) for s in SEQUENCES)
    assert outcome.tokens == rows[-1]["tokens"] == 2 * tokens
    assert (outcome.steps, outcome.best_step, outcome.stopped_early) == (6, 6, False)
    assert outcome.not_on_tree == ""


def test_shared_beginnings_are_counted_as_tokens_and_computed_once(load_tiny: Callable[..., Any], tmp_path: Path):
    outcome = run(load_tiny(), tmp_path, replace(SETTINGS, epochs=1.0, max_tokens=10_000), sequences=ALIKE)
    assert outcome.tokens == 12 * 9
    assert outcome.computed_tokens == 3 * 6 + 12 * 2  # each step the beginning once; the last token is only predicted


def test_the_loss_falls(load_tiny: Callable[..., Any], tmp_path: Path):
    rows: list[dict[str, float]] = []
    run(load_tiny(), tmp_path, replace(SETTINGS, epochs=6.0, learning_rate=1e-2), rows=rows)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 2


def test_training_does_not_depend_on_the_micro_batches(load_tiny: Callable[..., Any], tmp_path: Path):
    small, large = load_tiny(), load_tiny()
    settings = replace(SETTINGS, epochs=1.0, schedule="constant", learning_rate=1e-4)
    run(small, tmp_path / "small", replace(settings, max_tokens=1))
    run(large, tmp_path / "large", replace(settings, max_tokens=10_000))
    for name, weight in weights(large).items():
        # Adam divides a gradient by its own size, so that rounding shows where a gradient is nearly nothing.
        different = ((weight - weights(small)[name]).abs() > 1e-6).float().mean()
        assert different < 0.01, name


def test_sharing_changes_no_step(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, epochs=1.0)
    alone: list[dict[str, float]] = []
    shared: list[dict[str, float]] = []
    run(load_tiny(), tmp_path / "alone", replace(settings, max_tokens=1), rows=alone, sequences=ALIKE)
    run(load_tiny(), tmp_path / "shared", replace(settings, max_tokens=10_000), rows=shared, sequences=ALIKE)
    assert_alike(shared, alone)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.*able. is deprecated:FutureWarning")
def test_computing_activations_again_changes_no_step(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, epochs=1.0)
    kept: list[dict[str, float]] = []
    again: list[dict[str, float]] = []
    run(lora(load_tiny()), tmp_path / "kept", settings, rows=kept)
    run(lora(load_tiny()), tmp_path / "again", replace(settings, checkpointing=True), rows=again)
    assert_alike(again, kept)


def assert_alike(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    for name in ("train/loss", "train/grad_norm"):
        found, wanted = ([row[name] for row in own if name in row] for own in (rows, others))
        assert len(found) == 3
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", [lora, full])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    load_tiny: Callable[..., Any], tmp_path: Path, kind: Callable[[Any], Any]
):
    straight = kind(load_tiny())
    expected = run(straight, tmp_path / "straight")

    with pytest.raises(KeyboardInterrupt):
        run(kind(load_tiny()), tmp_path / "broken", interrupt_at=4)
    resumed = kind(load_tiny())
    rows: list[dict[str, float]] = []
    outcome = run(resumed, tmp_path / "broken", rows=rows)
    assert rows[0]["step"] == 3  # after the evaluation at step 2
    for name, weight in weights(straight).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    assert (outcome.tokens, outcome.steps, outcome.best_step) == (expected.tokens, expected.steps, expected.best_step)


def test_a_run_resumed_after_its_last_step_gives_the_best_weights(load_tiny: Callable[..., Any], tmp_path: Path):
    scores = {2: 1.0, 4: 3.0, 6: 2.0}
    first = load_tiny()
    run(first, tmp_path, scores=scores)
    again = load_tiny()
    outcome = run(again, tmp_path, scores={})
    assert (outcome.best_step, outcome.best_score) == (4, (3.0,))
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(first).items())


def test_a_run_whose_last_checkpoint_is_torn_goes_on_from_the_one_before(load_tiny: Callable[..., Any], tmp_path: Path):
    straight = load_tiny()
    run(straight, tmp_path)
    weights_file = tmp_path / "checkpoints" / "step-00000006" / "weights.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    resumed = load_tiny()
    rows: list[dict[str, float]] = []
    assert run(resumed, tmp_path, rows=rows).steps == 6
    assert [row["step"] for row in rows if "train/loss" in row] == [5, 6]
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(straight).items())


def test_the_best_weights_are_put_back(load_tiny: Callable[..., Any], tmp_path: Path):
    model, stopped = load_tiny(), load_tiny()
    outcome = run(model, tmp_path / "a", scores={2: 0.5, 4: 0.9, 6: 0.1})
    assert (outcome.best_step, outcome.best_score, outcome.steps) == (4, (0.9,), 6)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path / "b", interrupt_at=5)
    kept = load_tiny()
    trainable = dict(kept.named_parameters())
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3)
    state = load_checkpoint(
        tmp_path / "b", trainable, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    )
    assert state is not None
    assert state.step == 4
    assert all(torch.equal(weight, weights(kept)[name]) for name, weight in weights(model).items())
    assert not model.training


def test_between_equal_scores_the_first_is_kept(load_tiny: Callable[..., Any], tmp_path: Path):
    assert run(load_tiny(), tmp_path, scores={2: 0.5, 4: 0.5, 6: 0.5}).best_step == 2


def test_training_stops_when_patience_runs_out(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, evaluations=6, patience=2)
    rows: list[dict[str, float]] = []
    scores = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.7}
    outcome = run(load_tiny(), tmp_path, settings, scores=scores, rows=rows)
    assert (outcome.steps, outcome.best_step, outcome.stopped_early) == (4, 2, True)
    assert rows[-1] == {"step": 4, "tokens": outcome.tokens, "validation/accuracy": 0.7}


def test_a_run_whose_patience_ran_out_does_not_go_on_when_resumed(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, evaluations=6, patience=2)
    scores = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.7}
    run(load_tiny(), tmp_path, settings, scores=scores)  # interrupted before its result was written
    outcome = run(load_tiny(), tmp_path, settings, scores=scores)
    assert (outcome.steps, outcome.best_step, outcome.stopped_early) == (4, 2, True)


def test_a_fraction_of_an_epoch_is_trained(load_tiny: Callable[..., Any], tmp_path: Path):
    outcome = run(load_tiny(), tmp_path, replace(SETTINGS, epochs=0.4, evaluations=3))
    assert (outcome.steps, outcome.best_step) == (1, 1)
    assert SETTINGS.total_steps(12) == 6
    assert SETTINGS.total_steps(13) == 8


def test_a_loss_that_is_not_finite_names_the_step_and_the_examples(load_tiny: Callable[..., Any], tmp_path: Path):
    model = load_tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 of 6 \(examples (s\d+, ){3}s\d+\)"):
        run(model, tmp_path)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(
    load_tiny: Callable[..., Any], tmp_path: Path
):
    model = load_tiny()
    before = weights(model)
    model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"gradient is (nan|inf) at step 1 of 6 \(examples s"):
        run(model, tmp_path)
    assert all(torch.equal(weight, weights(model)[name]) for name, weight in before.items())


def test_a_model_that_no_tree_serves_is_trained_on_padded_batches(
    make_tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = make_tiny("mamba")
    rows: list[dict[str, float]] = []
    with caplog.at_level("WARNING"):
        outcome = run(model, tmp_path, replace(SETTINGS, epochs=6.0, learning_rate=1e-2), rows=rows)
    assert "it keeps a summary of the past" in outcome.not_on_tree
    assert "padded batches are used instead" in caplog.text
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 2


def test_padding_costs_what_it_computes(make_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, epochs=1.0, max_tokens=10_000)
    outcome = run(make_tiny("mamba", vocabulary=80), tmp_path, settings, sequences=ALIKE)
    assert outcome.computed_tokens >= outcome.tokens  # nothing is shared
