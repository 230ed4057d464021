"""From sequences to a token tree.

Sequences that begin alike share the nodes of their beginning (a trie). Nodes stand in depth-first order, so the subtree
of a node is an interval: node `i` is an ancestor of node `r`, or `r` itself, exactly when `i <= r < ends[i]`. A forest
without shared beginnings is ordinary packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Path:
    """One sequence's way through the tree.

    Attributes:
        targets: Indices into the tree's targets, in the order of its weighted tokens. (N,)
        weights: Their weights. (N,)
    """

    targets: Ints
    weights: Floats


@dataclass(frozen=True, slots=True)
class Tree:
    """Sequences merged at their shared beginnings.

    A token that only is predicted and never read, such as the last of a sequence, is a target but no node: it need not
    be computed.

    Attributes:
        ids: Token of each node, in depth-first order. (T,)
        positions: Depth of each node; that of a root is 0. (T,)
        parents: Index of the node before it in its sequences, -1 for roots. (T,)
        ends: One past the last node of each node's subtree. (T,)
        target_nodes: For each target the node at which it is predicted: its parent; ascending. (K,)
        target_ids: For each target the token that is predicted there. (K,)
        target_rows: For each target a sequence that has it. (K,)
        paths: One for each sequence, in the order in which they were given.
        tokens: Tokens of all sequences as they were given.
    """

    ids: Ints
    positions: Ints
    parents: Ints
    ends: Ints
    target_nodes: Ints
    target_ids: Ints
    target_rows: Ints
    paths: tuple[Path, ...]
    tokens: int

    def __len__(self) -> int:
        return len(self.ids)


def build_tree(sequences: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Tree:
    """Merge sequences into a tree; the same sequences give the same tree.

    Args:
        sequences: Token ids, none of them empty.
        weights: For each token how much its log-probability counts, given all before it; 0 where it does not. None
            asks for no log-probabilities, and every token becomes a node.

    Raises:
        ValueError: A sequence is empty, has other than one weight a token, or weighs its first token, which has
            nothing before it.
    """
    if weights is not None and len(weights) != len(sequences):
        raise ValueError(f"{len(sequences)} sequences and the weights of {len(weights)}")
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    weighted = [_weighted(i, array, weights) for i, array in enumerate(arrays)]
    read = [len(a) if weights is None else int(w[-1]) if len(w) else 0 for a, w in zip(arrays, weighted, strict=True)]
    order = sorted(range(len(arrays)), key=lambda i: tuple(sequences[i][: read[i]]))

    total = sum(read)
    ids, positions = np.empty(total, np.int64), np.empty(total, np.int64)
    parents, ends = np.empty(total, np.int64), np.empty(total, np.int64)
    size = 0
    above = np.empty(0, np.int64)  # nodes of the sequence before, by depth
    before = np.empty(0, np.int64)  # its tokens
    targets: dict[tuple[int, int], int] = {}
    rows: list[int] = []
    paths: list[Path | None] = [None] * len(arrays)
    for i in order:
        tokens = arrays[i][: read[i]]
        shared = shared_length(before, tokens)
        fresh = len(tokens) - shared
        ends[above[shared:]] = size
        new = np.arange(size, size + fresh)
        ids[new] = tokens[shared:]
        positions[new] = np.arange(shared, len(tokens))
        parents[new] = new - 1
        if fresh:
            parents[size] = above[shared - 1] if shared else -1
        size += fresh
        above, before = np.concatenate([above[:shared], new]), tokens
        keys = [(int(above[t - 1]), int(arrays[i][t])) for t in weighted[i]]
        rows += [i for key in keys if key not in targets]
        paths[i] = Path(
            targets=np.array([targets.setdefault(key, len(targets)) for key in keys], np.int64),
            weights=np.array([weights[i][t] for t in weighted[i]] if weights is not None else [], np.float64),
        )
    ends[above] = size
    found = sorted(targets)
    place = np.empty(len(found), np.int64)
    place[[targets[key] for key in found]] = np.arange(len(found))
    return Tree(
        ids=ids[:size],
        positions=positions[:size],
        parents=parents[:size],
        ends=ends[:size],
        target_nodes=np.array([node for node, _ in found], np.int64),
        target_ids=np.array([token for _, token in found], np.int64),
        target_rows=np.array([rows[targets[key]] for key in found], np.int64),
        paths=tuple(replace(path, targets=place[path.targets]) for path in paths if path is not None),
        tokens=sum(map(len, arrays)),
    )


def read_length(counted: Sequence[float]) -> int:
    """How many tokens of a sequence have to be computed: those before the last one that counts."""
    return max((t for t, weight in enumerate(counted) if weight), default=0)


def shared_length(a: Ints, b: Ints) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else length


def _weighted(index: int, ids: Ints, weights: Sequence[Sequence[float]] | None) -> Ints:
    """Positions of the tokens that count."""
    if not len(ids):
        raise ValueError(f"sequence {index} is empty")
    if weights is None:
        return np.empty(0, np.int64)
    own = np.asarray(weights[index], dtype=np.float64)
    if len(own) != len(ids):
        raise ValueError(f"sequence {index} has {len(ids)} tokens and {len(own)} weights")
    found = np.flatnonzero(own)
    if len(found) and found[0] == 0:
        raise ValueError(f"sequence {index} weighs its first token, which has nothing before it")
    return found
