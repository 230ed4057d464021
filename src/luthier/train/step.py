"""One optimizer step over the micro-batches of its examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.errors import TrainingError
from luthier.prompt.render import TrainingSequence
from luthier.train.batches import MicroBatch
from luthier.train.forward import Forward
from luthier.train.objective import supervised_loss
from luthier.train.pull import FREE, Anchor, Pull

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step took.

    Attributes:
        loss: The supervised loss per trained token.
        grad_norm: The norm of the gradient of all that is minimised, before it was clipped.
        kl: The divergence from the start per token at which it was taken, without its weight.
    """

    loss: float
    grad_norm: float
    kl: float = 0.0


def take_step(
    forward: Forward,
    batches: Sequence[MicroBatch],
    trainable: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    where: str,
    pull: Pull = FREE,
    anchor: Anchor | None = None,
) -> StepResult:
    """Forward, loss, backward, clip, step; every trained token of the step counts the same.

    Args:
        where: Which step this is, for errors.
        pull: What is minimised beside the supervised loss.
        anchor: Where weights are pulled to.

    Raises:
        TrainingError: The loss or its gradient is not finite; the examples are named, and no weight was changed.
    """
    import torch

    examples = [sequence for batch in batches for sequence in batch.sequences]
    trained_tokens = sum(sum(s.trained) for s in examples)
    pull_scale = pull.kl / pull.compared(examples) if pull.kl else 0.0
    parts = [
        forward.and_backward_near(batch, supervised_loss, 1 / trained_tokens, pull, pull_scale) for batch in batches
    ]
    loss, divergence = sum(part.objective for part in parts), sum(part.divergence for part in parts)
    _check_finite("loss", loss, where, examples)
    _check_finite("divergence from the start", divergence, where, examples)
    grad_norm = float(torch.nn.utils.clip_grad_norm_(trainable.values(), max_grad_norm))
    _check_finite("norm of the gradient", grad_norm, where, examples)
    if anchor is not None:
        anchor.pull(optimizer)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, grad_norm, divergence / pull.kl if pull.kl else 0.0)


def _check_finite(what: str, value: float, where: str, examples: Sequence[TrainingSequence]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} is {value} at {where} (examples {', '.join(s.id for s in examples)}).\n"
            "Lower the learning rate, or look at these examples with `luthier show`."
        )
