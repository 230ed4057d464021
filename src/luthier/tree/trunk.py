"""The beginnings that many prompts share, as a tree of segments: what generation and choosing compute once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.tree.build import Ints, shared_length

# Below this many tokens, keeping track of a shared segment costs about what computing it again does.
WORTH_SHARING = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that several prompts share.

    Attributes:
        ids: The tokens. (N,)
        depth: Position of the first of them.
        end: One past the last segment that stands below this one; segments are in depth-first order.
    """

    ids: Ints
    depth: int
    end: int


@dataclass(frozen=True, slots=True)
class Trunk:
    """Shared segments, and where each prompt leaves them.

    Attributes:
        segments: In depth-first order.
        tips: For each prompt its last segment, -1 where it shares nothing. (P,)
        depths: For each prompt how many of its tokens the segments hold; at least one token is its own. (P,)
    """

    segments: tuple[Segment, ...]
    tips: Ints
    depths: Ints

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


def find_trunk(prompts: Sequence[Sequence[int]], least: int = WORTH_SHARING) -> Trunk:
    """The shared beginnings of at least `least` tokens, of any depth."""
    arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    shared = np.array([shared_length(arrays[a], arrays[b]) for a, b in itertools.pairwise(order)], np.int64)
    tips, depths = np.full(len(prompts), -1, np.int64), np.zeros(len(prompts), np.int64)
    found: list[tuple[Ints, int, int]] = []  # tokens, depth, segment above
    waiting = [(0, len(order), 0, -1)]  # prompts from and to, in order; depth above; segment above
    while waiting:
        first, last, depth, above = waiting.pop()
        if last - first < 2:
            continue
        common = int(shared[first : last - 1].min())
        reach = min(common, *(len(arrays[i]) - 1 for i in order[first:last]))
        if reach - depth >= least:
            members = order[first:last]
            found.append((arrays[members[0]][depth:reach], depth, above))
            depth, above = reach, len(found) - 1
            tips[members], depths[members] = above, depth
        cuts = first + 1 + np.flatnonzero(shared[first : last - 1] <= common)
        parts = list(itertools.pairwise([first, *cuts.tolist(), last]))
        waiting += [(a, b, depth, above) for a, b in reversed(parts)]  # the first is taken next: depth-first order
    ends = np.arange(1, len(found) + 1)
    for number in range(len(found) - 1, -1, -1):
        above = found[number][2]
        if above >= 0:
            ends[above] = max(ends[above], ends[number])
    segments = tuple(Segment(ids, depth, int(end)) for (ids, depth, _), end in zip(found, ends, strict=True))
    return Trunk(segments, tips, depths)
