"""Which examples a step sees, and how they are split to fit in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from luthier.prompt.render import TrainingSequence


def epoch_steps(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the examples of optimizer step `step` (from 0).

    Every epoch goes through all examples once, in an order drawn by the seed and the epoch, so a step's
    examples follow from its number alone. An epoch's last batch may be smaller.
    """
    steps = -(-examples // batch_size)
    epoch, within = divmod(step, steps)
    order = list(range(examples))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order[within * batch_size : (within + 1) * batch_size]


def micro_batch_tokens(device: str, longest: int) -> int:
    """Padded tokens to have in flight: enough for full matrix products, and room for the longest sequence."""
    return max({"cpu": 2048, "cuda": 16384, "mps": 8192}[device], longest)


def micro_batches(sequences: Sequence[TrainingSequence], max_tokens: int) -> Iterator[list[TrainingSequence]]:
    """The sequences in groups of similar length whose padded size stays within `max_tokens`."""
    group: list[TrainingSequence] = []
    for sequence in sorted(sequences, key=lambda s: (len(s.ids), s.id)):
        if group and len(sequence.ids) * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group
