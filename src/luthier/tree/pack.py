"""Which sequences share a tree, so that each stays within a budget of tokens and as much as can be is shared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from luthier.tree.build import shared_length


def pack(sequences: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Indices of the sequences in groups whose merged trees hold at most `budget` tokens.

    Best fit decreasing: the longest sequence first, each into the group to which it adds the fewest tokens, and among
    equals into the fullest. A sequence longer than the budget stands alone. The same sequences give the same groups.
    """
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    shared = _shared_lengths(arrays, sequences)
    groups: list[list[int]] = []
    sizes: list[int] = []
    for i in sorted(range(len(arrays)), key=lambda i: (-len(arrays[i]), tuple(sequences[i]), i)):
        added = [len(arrays[i]) - int(shared[i, group].max()) for group in groups]
        fitting = [g for g, more in enumerate(added) if sizes[g] + more <= budget]
        if fitting:
            best = min(fitting, key=lambda g: (added[g], -sizes[g]))
            groups[best].append(i)
            sizes[best] += added[best]
        else:
            groups.append([i])
            sizes.append(len(arrays[i]))
    return [sorted(group) for group in groups]


def pack_in_order(sequences: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """The same for any number of sequences in little time: groups of neighbours in sorted order, which share most."""
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    groups: list[list[int]] = []
    size = 0
    for i in sorted(range(len(arrays)), key=lambda i: (tuple(sequences[i]), i)):
        shared = shared_length(arrays[groups[-1][-1]], arrays[i]) if groups else 0
        if groups and size + len(arrays[i]) - shared <= budget:
            groups[-1].append(i)
            size += len(arrays[i]) - shared
        else:
            groups.append([i])
            size = len(arrays[i])
    return groups


def _shared_lengths(arrays: Sequence[np.ndarray], sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """For each pair of sequences how many tokens they share at the beginning. (N, N)"""
    order = sorted(range(len(arrays)), key=lambda i: tuple(sequences[i]))
    shared = np.zeros((len(arrays), len(arrays)), np.int64)
    neighbours = [shared_length(arrays[a], arrays[b]) for a, b in itertools.pairwise(order)]
    for rank, i in enumerate(order):
        shared[i, i] = len(arrays[i])
        # Two sequences share what all neighbours between them in sorted order share.
        along = np.minimum.accumulate(np.array(neighbours[rank:], np.int64))
        for j, length in zip(order[rank + 1 :], along, strict=True):
            shared[i, j] = shared[j, i] = length
    return shared
