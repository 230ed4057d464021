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

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class StepResult:
    """The loss per trained token, and the norm of its gradient before it was clipped."""

    loss: float
    grad_norm: float


def take_step(
    forward: Forward,
    batches: Sequence[MicroBatch],
    trainable: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    where: str,
) -> StepResult:
    """Forward, loss, backward, clip, step; every trained token of the step counts the same.

    Args:
        where: Which step this is, for errors.

    Raises:
        TrainingError: The loss or its gradient is not finite; the examples are named, and no weight was changed.
    """
    import torch

    examples = [sequence for batch in batches for sequence in batch.sequences]
    trained_tokens = sum(sum(s.trained) for s in examples)
    loss = sum(forward.and_backward(batch, supervised_loss, 1 / trained_tokens) for batch in batches)
    _check_finite("loss", loss, where, examples)
    grad_norm = float(torch.nn.utils.clip_grad_norm_(trainable.values(), max_grad_norm))
    _check_finite("norm of the gradient", grad_norm, where, examples)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, grad_norm)


def _check_finite(what: str, value: float, where: str, examples: Sequence[TrainingSequence]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} is {value} at {where} (examples {', '.join(s.id for s in examples)}).\n"
            "Lower the learning rate, or look at these examples with `luthier show`."
        )
