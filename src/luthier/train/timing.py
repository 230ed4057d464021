"""How fast a model trains here, from a few real steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.prompt.render import TrainingSequence
from luthier.train.batches import epoch_steps, micro_batches
from luthier.train.forward import Forward
from luthier.train.loop import LoopSettings
from luthier.train.optimizer import build_optimizer
from luthier.train.pull import FREE, Anchor, Pull
from luthier.train.step import take_step

# Steps are timed until both are reached, or the last: early ones are slow, and machines are noisy.
_LEAST_STEPS, _MOST_STEPS, _ENOUGH_S = 3, 8, 10.0


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """What a computed token takes.

    Attributes:
        token_s: Seconds of an optimizer step for each token that it computes.
        on_tree: Whether what the examples of a step share is computed once.
    """

    token_s: float
    on_tree: bool


def training_speed(
    model: Any, sequences: Sequence[TrainingSequence], settings: LoopSettings, pull: Pull = FREE
) -> TrainingSpeed:
    """The median of a few steps, not compiled. The model's trainable weights are changed by it."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, _ = build_optimizer(trainable, settings.learning_rate, settings, settings.total_steps(len(sequences)))
    anchor = Anchor(trainable, pull.l2) if pull.l2 else None
    model.train()
    seconds = []
    with Forward(model, settings.precision, checkpointing=settings.checkpointing, liger=settings.liger) as forward:
        spent = 0.0
        for step in range(_MOST_STEPS + 1):
            own = _examples(sequences, settings, step)
            batches = micro_batches(own, settings.max_tokens, merge=forward.on_tree)
            started = time.perf_counter()
            take_step(
                forward, batches, trainable, optimizer, settings.max_grad_norm, "a step of the timing", pull, anchor
            )
            took = time.perf_counter() - started
            if step:  # the first warms up
                seconds.append(took / sum(batch.computed for batch in batches))
                spent += took
            if len(seconds) >= _LEAST_STEPS and spent >= _ENOUGH_S:
                break
    return TrainingSpeed(statistics.median(seconds), forward.on_tree)


def forecast_seconds(
    speed: TrainingSpeed, sequences: Sequence[TrainingSequence], settings: LoopSettings, *, sample: int = 16
) -> float:
    """Seconds of the whole training, from the tokens that a sample of its steps computes."""
    total = settings.total_steps(len(sequences))
    found = []
    for step in range(0, total, max(1, total // sample)):
        batches = micro_batches(_examples(sequences, settings, step), settings.max_tokens, merge=speed.on_tree)
        found.append(sum(batch.computed for batch in batches))
    return statistics.mean(found) * total * speed.token_s


def _examples(sequences: Sequence[TrainingSequence], settings: LoopSettings, step: int) -> list[TrainingSequence]:
    return [sequences[i] for i in epoch_steps(len(sequences), settings.batch_size, settings.seed, step)]
