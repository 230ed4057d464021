"""The training loop: batch, step, log; sometimes evaluate, sometimes save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.model.device import peak_bytes, reset_peak
from luthier.model.load import trim_memory
from luthier.progress import Advance
from luthier.prompt.render import TrainingSequence
from luthier.train.batches import prefetched
from luthier.train.checkpoint import Checkpoint, Score, load_checkpoint, save_checkpoint
from luthier.train.forward import Forward
from luthier.train.optimizer import Schedule, build_optimizer
from luthier.train.outcome import GivenUp, TrainingOutcome
from luthier.train.pull import FREE, Anchor, Pull
from luthier.train.step import take_step

# A checkpoint is also written between evaluations, so that a kill costs minutes at the most.
_SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop needs to know.

    Attributes:
        epochs: Passes over the training data; may be a fraction.
        batch_size: Examples an optimizer step.
        least_steps: Optimizer steps at least, however few the examples.
        evaluations: How often, evenly spread, the validation metric is taken.
        patience: Evaluations without a gain after which training stops; 0 never stops early.
        max_tokens: Tokens in flight; a step's examples are merged and split to stay below.
        checkpointing: Whether activations are computed again in the backward pass to save memory.
        compiled: Whether the model's layers are compiled.
        liger: Whether Liger's kernels are in the model.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float
    evaluations: int
    patience: int
    seed: int
    device: str
    precision: str
    max_tokens: int
    checkpointing: bool = False
    compiled: bool = False
    liger: bool = False
    least_steps: int = 1

    def total_steps(self, examples: int) -> int:
        """Optimizer steps over so many examples."""
        return max(self.least_steps, round(self.epochs * math.ceil(examples / self.batch_size)))


def train(
    model: Any,
    sequences: Sequence[TrainingSequence],
    settings: LoopSettings,
    *,
    validate: Callable[[Any], dict[str, float]],
    score_of: Callable[[dict[str, float]], Score],
    log: Callable[[dict[str, float]], None],
    folder: Path,
    rate: Callable[[str], float] = lambda name: 1.0,
    pull: Pull = FREE,
    give_up: Callable[[int, Score], bool] = lambda number, best: False,
    advance: Advance = lambda done: None,
) -> TrainingOutcome:
    """Train the trainable weights of `model` in place and leave the best of them in it.

    Args:
        validate: Gives the validation metrics of the model as it is.
        score_of: What is to be raised, from those metrics; compared from left to right.
        log: Takes a row of metrics.
        folder: Where checkpoints go; one that is there from an interrupted run is continued.
        rate: For the name of a weight, its share of the learning rate.
        pull: What holds the training near the model that it began from.
        give_up: Asked after each evaluation but the last, by its number from 1 and the best score so far.
        advance: Called with the steps done since the last call.

    Raises:
        TrainingError: The loss or its gradient is not finite; step and example ids are named.
        GivenUp: `give_up` said so.
    """
    import torch

    total = settings.total_steps(len(sequences))
    evaluate_at = {max(1, round(total * (k + 1) / settings.evaluations)) for k in range(settings.evaluations)}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, scheduler = build_optimizer(trainable, settings.learning_rate, settings, total, rate)
    anchor = Anchor(trainable, pull.l2) if pull.l2 else None  # of the weights as they began, not as they are resumed
    state = load_checkpoint(folder, trainable, optimizer, scheduler) or Checkpoint()
    advance(state.step)
    with Forward(
        model,
        settings.precision,
        checkpointing=settings.checkpointing,
        compiled=settings.compiled,
        liger=settings.liger,
    ) as forward:
        model.train()
        reset_peak(settings.device)
        saved = time.monotonic()
        started = time.perf_counter()
        for step, batches in prefetched(sequences, range(state.step + 1, total + 1), settings, merge=forward.on_tree):
            if settings.patience and state.evaluations_since_best >= settings.patience:
                break
            # Dropout and the like depend on the step alone, so that a resumed run goes on as if never interrupted.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            where = f"step {step} of {total}"
            result = take_step(forward, batches, trainable, optimizer, settings.max_grad_norm, where, pull, anchor)
            learning_rate = scheduler.get_last_lr()[0]
            scheduler.step()
            state.step = step
            state.tokens += sum(len(s.ids) for batch in batches for s in batch.sequences)
            state.computed += sum(batch.computed for batch in batches)
            state.seconds += time.perf_counter() - started
            log(
                {
                    "step": step,
                    "tokens": state.tokens,
                    "train/loss": result.loss,
                    "train/grad_norm": result.grad_norm,
                    "train/learning_rate": learning_rate,
                    **({"train/kl": result.kl} if pull.kl else {}),
                }
            )
            advance(1)
            if step in evaluate_at:
                started = time.perf_counter()
                # What a step has freed would stay with the process, and what answering takes come on top of it.
                trim_memory()
                metrics = validate(model)
                trim_memory()
                state.validation_s += time.perf_counter() - started
                log({"step": step, "tokens": state.tokens, **{f"validation/{k}": v for k, v in metrics.items()}})
                state.note(step, score_of(metrics), trainable)
                number = sum(at <= step for at in evaluate_at)
                if step < total and give_up(number, state.best_score):
                    raise GivenUp(_outcome(state, total, settings, forward.refusal), number)
            if step in evaluate_at or time.monotonic() - saved > _SAVE_EVERY_S:
                save_checkpoint(folder, state, trainable, optimizer, scheduler)
                saved = time.monotonic()
            started = time.perf_counter()
    state.restore_best(trainable)
    model.eval()
    return _outcome(state, total, settings, forward.refusal)


def _outcome(state: Checkpoint, total: int, settings: LoopSettings, refusal: str) -> TrainingOutcome:
    return TrainingOutcome(
        seconds=state.seconds,
        validation_s=state.validation_s,
        tokens=state.tokens,
        computed_tokens=state.computed,
        steps=state.step,
        best_step=state.best_step,
        best_score=state.best_score,
        stopped_early=state.step < total,
        peak_bytes=peak_bytes(settings.device),
        not_on_tree=refusal,
    )
