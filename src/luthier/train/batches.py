"""Which examples a step sees, and how they are merged and split to fit in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from luthier.prompt.render import TrainingSequence
from luthier.tree.build import Tree, build_tree, read_length, shared_length
from luthier.tree.pack import pack
from luthier.tree.padded import by_length


class _BatchSettings(Protocol):
    @property
    def batch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Examples that go through the model together.

    Attributes:
        tree: The examples merged, their trained tokens as targets of weight 1.
        computed: Tokens that the model computes for it: the tree's nodes (without what rounds their number up), or
            padded rows.
    """

    sequences: tuple[TrainingSequence, ...]
    tree: Tree
    computed: int


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


def micro_batches(sequences: Sequence[TrainingSequence], max_tokens: int, *, merge: bool = True) -> list[MicroBatch]:
    """The sequences of a step in groups of at most `max_tokens` tokens; one longer than that stands alone.

    Args:
        merge: Count what sequences share once. Otherwise groups are of similar length and padding counts, for models
            that cannot be run on a tree.
    """
    weights = [[float(trained) for trained in s.trained] for s in sequences]
    if merge:
        # What stands behind the last trained token, and that token itself, need not be computed.
        read = [s.ids[: read_length(s.trained)] for s in sequences]
        groups = pack(read, max_tokens)
    else:
        groups = list(by_length([len(s.ids) for s in sequences], max_tokens))
    batches = []
    for group in groups:
        own = tuple(sequences[i] for i in group)
        tree = build_tree([s.ids for s in own], [weights[i] for i in group])
        batches.append(MicroBatch(own, tree, len(tree) if merge else len(own) * max(len(s.ids) for s in own)))
    return batches


def merged_tokens(sequences: Sequence[TrainingSequence], batch_size: int) -> int:
    """Most tokens of a step of so many sequences: the longest ones, what all sequences share counted once."""
    low, high = min(s.ids for s in sequences), max(s.ids for s in sequences)
    shared = shared_length(np.array(low), np.array(high))  # what the first and the last in order share, all share
    longest = sorted((len(s.ids) for s in sequences), reverse=True)[:batch_size]
    return shared + sum(length - shared for length in longest)


def prefetched(
    sequences: Sequence[TrainingSequence], steps: range, settings: _BatchSettings, *, merge: bool
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """The steps' numbers (from 1) and micro-batches, the next step's made while one is computed."""

    def make(step: int) -> list[MicroBatch]:
        batch = epoch_steps(len(sequences), settings.batch_size, settings.seed, step - 1)
        return micro_batches([sequences[i] for i in batch], settings.max_tokens, merge=merge)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = pool.submit(make, steps[0]) if steps else None
        for step in steps:
            assert ahead is not None
            ready, ahead = ahead.result(), pool.submit(make, step + 1) if step + 1 in steps else None
            yield step, ready
