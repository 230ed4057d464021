"""What holds a training near the model that it began from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import ALIKE, SEQUENCES, SETTINGS, full, lora, weights
from test_memory_plan import FULL, LORA

from luthier.errors import ModelError
from luthier.model.start import Start
from luthier.prompt.render import TrainingSequence
from luthier.train.batches import micro_batches
from luthier.train.forward import Forward
from luthier.train.loop import LoopSettings, train
from luthier.train.memory import training_bytes
from luthier.train.objective import supervised_loss
from luthier.train.pull import Anchor, Pull
from luthier.train.timing import training_speed
from separate import gradients, largest_error, separate_logprobs, with_lora


def run(
    model: Any,
    folder: Path,
    pull: Pull,
    settings: LoopSettings = SETTINGS,
    *,
    sequences: Sequence[TrainingSequence] = SEQUENCES,
    interrupt_at: int | None = None,
) -> list[dict[str, float]]:
    """Train, and give the rows that were logged."""
    rows: list[dict[str, float]] = []

    def log(row: dict[str, float]) -> None:
        if row["step"] == interrupt_at and "train/loss" in row:
            raise KeyboardInterrupt
        rows.append(row)

    train(
        model,
        sequences,
        settings,
        validate=lambda live: {"accuracy": rows[-1]["step"]},
        score_of=lambda metrics: (metrics["accuracy"],),
        log=log,
        folder=folder,
        pull=pull,
    )
    return [row for row in rows if "train/loss" in row]


def test_the_gradient_is_that_of_the_loss_and_the_weighted_divergence(make_tiny: Callable[..., Any]):
    model, start = with_lora(make_tiny(vocabulary=80)), make_tiny(vocabulary=80)
    (batch,) = micro_batches(ALIKE[:4], 1000)
    values: list[tuple[float, float]] = []

    def separately() -> None:
        loss, nats = torch.zeros(()), torch.zeros(())
        for s in ALIKE[:4]:
            on = torch.tensor(s.trained[1:], dtype=torch.float32)
            loss = loss - separate_logprobs(model, s.ids) @ on
            tokens = torch.tensor([s.ids])
            with torch.no_grad():
                before = start(input_ids=tokens).logits[0, :-1].log_softmax(-1)
            after = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
            nats = nats + (before.exp() * (before - after)).sum(-1) @ on
        (loss / 12 + 0.3 * nats / 12).backward()
        values.append((float(loss.detach()) / 12, float(nats.detach()) / 12))

    def together() -> None:
        pull = Pull(Start(model, switch_off=True), kl=0.3)
        assert pull.compared(ALIKE[:4]) == 12
        found = forward.and_backward_near(batch, supervised_loss, 1 / 12, pull, 0.3 / 12)
        values.append((found.objective, found.divergence / 0.3))

    wanted = gradients(model, separately)
    with Forward(model, "float32") as forward:
        model.train()
        found = gradients(model, together)
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[0][1] > 0.1
    assert largest_error(found, wanted)[0] < 1e-5


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.*able. is deprecated:FutureWarning")
def test_splitting_and_computing_again_change_no_step(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, epochs=1.0)
    found = []
    for name, own in {
        "together": replace(settings, max_tokens=10_000),
        "apart": replace(settings, max_tokens=1),
        "again": replace(settings, max_tokens=10_000, checkpointing=True),
    }.items():
        pull = Pull(Start(load_tiny()), kl=0.5, everywhere=True, l2=3.0)
        found.append(run(load_tiny(), tmp_path / name, pull, own, sequences=ALIKE))
    for name in ("train/loss", "train/kl", "train/grad_norm"):
        together, *others = ([row[name] for row in rows] for rows in found)
        assert len(together) == 3
        for other in others:
            assert other == pytest.approx(together, rel=1e-3, abs=1e-7), name


def test_a_divergence_is_logged_beside_the_loss_and_held_down(load_tiny: Callable[..., Any], tmp_path: Path):
    settings = replace(SETTINGS, epochs=4.0, learning_rate=1e-2)
    last = {}
    for kl in (1e-9, 10.0):
        model = load_tiny()
        rows = run(model, tmp_path / str(kl), Pull(Start(load_tiny()), kl=kl), settings)
        assert rows[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)  # nothing has moved yet
        last[kl] = rows[-1]
    assert last[10.0]["train/kl"] < 0.2 * last[1e-9]["train/kl"]
    assert last[10.0]["train/loss"] > last[1e-9]["train/loss"]
    assert "train/kl" not in run(load_tiny(), tmp_path / "free", Pull(), replace(settings, epochs=0.1))[0]


def test_a_pull_on_weights_is_adamw_s_decay_to_another_place(load_tiny: Callable[..., Any]):
    """AdamW on the distance from the start, decayed to nothing, is the same thing."""
    torch.manual_seed(0)
    start = torch.randn(4, 3)
    held, moved = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.zeros(4, 3))
    own = torch.optim.AdamW([held], lr=0.02, weight_decay=0.0)
    other = torch.optim.AdamW([moved], lr=0.02, weight_decay=5.0)
    anchor = Anchor({"held": held}, 5.0)
    for _ in range(20):
        gradient = torch.randn(4, 3)
        held.grad, moved.grad = gradient.clone(), gradient.clone()
        anchor.pull(own)
        own.step()
        other.step()
    torch.testing.assert_close(held.detach() - start, moved.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [lora, full])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    load_tiny: Callable[..., Any], tmp_path: Path, kind: Callable[[Any], Any]
):
    def go(name: str, interrupt_at: int | None = None) -> Any:
        model = kind(load_tiny())
        start = Start(model, switch_off=True) if kind is lora else Start(load_tiny())
        run(model, tmp_path / name, Pull(start, kl=0.2, reverse=True, l2=20.0), interrupt_at=interrupt_at)
        return model

    straight = go("straight")
    with pytest.raises(KeyboardInterrupt):
        go("broken", interrupt_at=4)
    resumed = go("broken")
    for name, weight in weights(straight).items():
        assert torch.equal(weight, weights(resumed)[name]), name


def test_a_model_that_no_tree_serves_is_refused_a_divergence(make_tiny: Callable[..., Any], tmp_path: Path):
    model = make_tiny("mamba", vocabulary=80)
    with pytest.raises(ModelError, match=r"keep: \{kl: …\} compares .* \(it keeps a summary of the past"):
        run(model, tmp_path, Pull(Start(make_tiny("mamba", vocabulary=80)), kl=0.1))


def test_what_is_held_takes_memory_and_time(make_tiny: Callable[..., Any]):
    model = make_tiny(vocabulary=80)
    assert training_speed(model, ALIKE, SETTINGS, Pull(Start(make_tiny(vocabulary=80)), kl=1.0, l2=1.0)).token_s > 0
    plain, compared = (
        training_bytes(shape, 1000, checkpointing=False) for shape in (LORA, replace(LORA, compared=True))
    )
    chunk = 256 * 49152 * (2 * 4 + 12)
    assert compared - plain == chunk + 1000 * 576 * 2 * 4
    copied = replace(FULL, compared=True, copied=135_000_000, anchored=True)
    more = training_bytes(copied, 1000, checkpointing=False) - training_bytes(FULL, 1000, checkpointing=False)
    assert more == chunk + 1000 * 576 * 2 * 4 + 2 * 135_000_000 * 4
