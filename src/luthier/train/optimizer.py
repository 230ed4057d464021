"""AdamW with warm-up and decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

Schedule = Literal["cosine", "linear", "constant"]


class _OptimizerSettings(Protocol):
    @property
    def warmup(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def weight_decay(self) -> float: ...


def build_optimizer(
    trainable: Mapping[str, Any],
    learning_rate: float,
    settings: _OptimizerSettings,
    total_steps: int,
    rate: Callable[[str], float] = lambda name: 1.0,
) -> tuple[Any, Any]:
    """AdamW over float32 weights and its learning-rate schedule.

    Weight decay spares vectors (norms and biases), as is customary since GPT-3 (Brown et al. 2020).

    Args:
        rate: For the name of a weight, its share of the learning rate.
    """
    import torch

    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in trainable.items():
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((learning_rate * rate(name), decay), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": own, "lr": lr, "weight_decay": decay} for (lr, decay), own in groups.items()],
        lr=learning_rate,
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total_steps, settings.warmup, settings.schedule)
    )
    return optimizer, scheduler


def learning_rate_factor(step: int, total_steps: int, warmup: float, schedule: Schedule) -> float:
    """The share of the learning rate in force at `step` (from 0).

    It rises linearly over the first `warmup` share of the steps, then falls to 0 along a cosine or a line,
    or stays.
    """
    warmup_steps = math.ceil(total_steps * warmup)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
