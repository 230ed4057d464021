"""The log-probability of each label as the answer.

The labels are merged into a tree, which stands below every prompt: each beginning that labels share is computed once a
prompt, what prompts share once for all, and many prompts go through the model together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.infer.logprobs import sequence_logprobs


def label_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """For each prompt the summed log-probability in nats of every label's tokens after it.

    Args:
        prompts: Token ids of the prompts.
        labels: Token ids of each label as an answer, the end of the turn included: without it, a label
            that begins another would always win over it.

    Returns:
        A list of len(labels) values for each prompt.
    """
    from luthier.infer.trunk import SharedPrompts
    from luthier.tree.build import build_tree
    from luthier.tree.logprobs import target_logprobs
    from luthier.tree.support import refusal

    if not prompts:
        return []
    if refusal(model):
        return _one_by_one(model, prompts, labels, advance)
    # A root of any token in front stands for the prompt's last one.
    below = build_tree([(0, *label) for label in labels], [[0.0] + [1.0] * len(label) for label in labels])
    shared = SharedPrompts(model, prompts)
    sums: dict[int, list[float]] = {}
    for members in shared.batches(below=len(below) - 1):
        prefilled = shared.prefill(members, below)
        ends = prefilled.starts[:-1] + prefilled.own_lengths - 1  # the prompts' last tokens
        nodes = (ends[:, None] + below.target_nodes).ravel()
        ids = np.tile(below.target_ids, len(members))
        found = target_logprobs(model, prefilled.hidden, nodes, ids).view(len(members), -1).double().cpu().numpy()
        for i, row in zip(members, found, strict=True):
            sums[i] = [float(row[path.targets].sum()) for path in below.paths]
        advance(len(members))
    return [sums[i] for i in range(len(prompts))]


def _one_by_one(
    model: Any, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], advance: Callable[[int], None]
) -> list[list[float]]:
    """Every label after every prompt as a sequence of its own, for models that cannot be run on a tree."""
    sums = []
    for prompt in prompts:
        found = sequence_logprobs(
            model,
            [(*prompt, *label) for label in labels],
            [[False] * len(prompt) + [True] * len(label) for label in labels],
        )
        sums.append([own.nats for own in found])
        advance(1)
    return sums
