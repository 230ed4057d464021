"""Padded batches, for models that cannot be run on a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from luthier.tree.build import Ints, Tree
from luthier.tree.logprobs import widened
from luthier.tree.work import count_predicted, count_tokens


def padded_logprobs(
    model: Any, sequences: Sequence[Sequence[int]], tree: Tree, *, together: int | None = None
) -> torch.Tensor:
    """For each target of the tree its log-probability in nats, from the sequences as padded rows. (K,)

    Args:
        sequences: Those that the tree was built from, in the same order.
        together: Rows in a forward pass; all where None.
    """
    parts, places = [], []
    for begin in range(0, len(sequences), together or len(sequences)):
        rows = np.arange(begin, min(len(sequences), begin + (together or len(sequences))))
        wanted = np.flatnonzero(np.isin(tree.target_rows, rows))
        if len(wanted):
            own = [sequences[int(i)] for i in rows]
            parts.append(_batch(model, own, tree, wanted, tree.target_rows[wanted] - begin))
            places.append(wanted)
    back = torch.from_numpy(np.argsort(np.concatenate(places))) if places else torch.empty(0, dtype=torch.long)
    return torch.cat(parts)[back.to(parts[0].device)] if parts else torch.empty(0)


def _batch(model: Any, sequences: Sequence[Sequence[int]], tree: Tree, wanted: Any, rows: Any) -> torch.Tensor:
    picked = padded_logits(model, sequences, rows, tree.positions[tree.target_nodes[wanted]])
    targets = torch.from_numpy(tree.target_ids[wanted]).to(picked.device)
    return -torch.nn.functional.cross_entropy(widened(picked), targets, reduction="none")


def padded_logits(model: Any, sequences: Sequence[Sequence[int]], rows: Ints, columns: Ints) -> torch.Tensor:
    """The logits after token `columns[k]` of sequence `rows[k]`, the sequences as padded rows. (K, V)"""
    # Padded behind, where it changes nothing before it: in front, a summary of the past would take it in.
    device = model.get_input_embeddings().weight.device
    ids, mask = (tensor.flip(1) for tensor in left_padded([ids[::-1] for ids in sequences], 0, device))
    width = ids.shape[1]
    count_tokens(ids.numel())
    count_predicted(len(rows))
    first = int(columns.min())
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=torch.arange(width, device=device).expand_as(ids),
        use_cache=False,
        logits_to_keep=width - first,
    ).logits[:, first - width :]  # some keep all
    picked: torch.Tensor = logits[torch.from_numpy(rows).to(device), torch.from_numpy(columns - first).to(device)]
    return picked


def left_padded(sequences: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both (B, T), with the padding in front so that all rows end together."""
    width = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


def by_length(
    lengths: Sequence[int], budget: int, most: int | None = None, *, equal: bool = False
) -> Iterator[list[int]]:
    """Indices in batches of similar (or equal) length, longest first.

    Each holds at most `budget` padded tokens and `most` rows.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        rows = rows if most is None else min(rows, most)
        if equal:
            rows = min(rows, sum(lengths[i] == lengths[order[start]] for i in order[start:]))
        yield order[start : start + rows]
        start += rows
