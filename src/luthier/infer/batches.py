"""Grouping sequences into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Tokens in flight: large enough for full matrix products, small enough for the caches of a small machine.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536, "mps": 16384}
MAX_ROWS = {"cpu": 32, "cuda": 256, "mps": 64}
# Tokens whose keys and values are held at a time, a shared beginning counted for each row.
CACHE_TOKENS = {"cpu": 32768, "cuda": 524288, "mps": 65536}


def by_length(lengths: Sequence[int], device: str, extra: int = 0, cached: int = 0) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each within the device's token budgets.

    Args:
        lengths: Tokens of each sequence.
        extra: Tokens that each will grow by.
        cached: Tokens already computed that each begins with.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]] + extra)
        rows = min(MAX_ROWS[device], BATCH_TOKENS[device] // longest, CACHE_TOKENS[device] // (longest + cached))
        yield order[start : start + max(1, rows)]
        start += max(1, rows)


def left_padded(sequences: Sequence[Sequence[int]], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both (B, T), with the padding in front so that all rows end together."""
    import torch

    width = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)
