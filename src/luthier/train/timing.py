"""How fast a model trains here, from a few real steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from luthier.prompt.render import TrainingSequence
from luthier.train.batches import epoch_steps, micro_batches
from luthier.train.forward import Forward
from luthier.train.loop import LoopSettings
from luthier.train.objective import supervised_loss
from luthier.train.optimizer import build_optimizer

_STEPS = 2


def seconds_per_token(model: Any, sequences: Sequence[TrainingSequence], settings: LoopSettings) -> float:
    """Median seconds of an optimizer step for each computed token. The model's trainable weights are changed by it."""
    import torch

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, _ = build_optimizer(trainable, settings.learning_rate, settings, settings.total_steps(len(sequences)))
    model.train()
    seconds = []
    with Forward(model, settings.precision, checkpointing=settings.checkpointing) as forward:
        for step in range(_STEPS + 1):
            own = [sequences[i] for i in epoch_steps(len(sequences), settings.batch_size, settings.seed, step)]
            own = own[: 1 if step == 0 else None]  # the first warms up
            batches = micro_batches(own, settings.max_tokens, merge=forward.on_tree)
            started = time.perf_counter()
            for batch in batches:
                forward.and_backward(batch, supervised_loss, 1.0)
            torch.nn.utils.clip_grad_norm_(trainable.values(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step:
                seconds.append((time.perf_counter() - started) / sum(batch.computed for batch in batches))
    return statistics.median(seconds)


def computed_tokens(sequences: Sequence[TrainingSequence], settings: LoopSettings, *, sample: int = 16) -> float:
    """Tokens that the whole training computes, what a step's examples share counted once; from a sample of steps."""
    total = settings.total_steps(len(sequences))
    steps = range(0, total, max(1, total // sample))
    found = []
    for step in steps:
        own = [sequences[i] for i in epoch_steps(len(sequences), settings.batch_size, settings.seed, step)]
        found.append(sum(len(batch.tree) for batch in micro_batches(own, settings.max_tokens)))
    return statistics.mean(found) * total
