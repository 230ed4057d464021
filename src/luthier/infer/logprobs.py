"""The log-probability that a model gives to sequences, at the tokens that count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.infer.budget import BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class LogProb:
    """Summed log-probability in nats over `tokens` counted tokens."""

    nats: float
    tokens: int


def sequence_logprobs(
    model: Any,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> list[LogProb]:
    """For each sequence the log-probability of its counted tokens, each given all before it.

    The first token has nothing before it and must not be counted.
    """
    from luthier.tree.build import build_tree
    from luthier.tree.logprobs import tree_logprobs
    from luthier.tree.padded import padded_logprobs
    from luthier.tree.support import refusal

    results: dict[int, LogProb] = {}
    padded = bool(refusal(model))
    budget = BATCH_TOKENS[model.get_input_embeddings().weight.device.type]
    for members in groups(sequences, counted, budget, padded=padded):
        own = [sequences[i] for i in members]
        tree = build_tree(own, [[float(c) for c in counted[i]] for i in members])
        if len(tree):
            logprobs = padded_logprobs(model, own, tree) if padded else tree_logprobs(model, tree)
            values = logprobs.double().cpu().numpy()
        else:  # nothing counts, so nothing is computed
            values = np.empty(0)
        for i, path in zip(members, tree.paths, strict=True):
            results[i] = LogProb(float(values[path.targets].sum()), len(path.targets))
        advance(len(members))
    return [results[i] for i in range(len(sequences))]


def groups(
    sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[bool]], budget: int, *, padded: bool
) -> Iterator[list[int]]:
    """Sequences that go through the model together: neighbours in order, which share most, or those of a length."""
    from luthier.tree.padded import by_length

    if padded:
        yield from by_length([len(ids) for ids in sequences], budget)
        return
    from luthier.tree.build import read_length
    from luthier.tree.pack import pack_in_order

    yield from pack_in_order([ids[: read_length(own)] for ids, own in zip(sequences, counted, strict=True)], budget)
