"""Tree attention through torch's FlexAttention, which skips blocks that nothing sees: for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from luthier.tree.visible import Visibility


def block_mask(visibility: Visibility, window: int | None, device: torch.device) -> Any:
    """The mask of a forest, as blocks of 128 rows and columns."""
    begins, ends, columns, rows = (
        torch.from_numpy(array).to(device)
        for array in (visibility.begins, visibility.ends, visibility.columns, visibility.rows)
    )

    def sees(_batch: torch.Tensor, _head: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        seen = (begins[column] <= row) & (row < ends[column])
        return seen if window is None else seen & (rows[row] - columns[column] < window)

    return create_block_mask(sees, None, None, len(visibility.rows), len(visibility.columns), device=device)


def attend_by_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, softcap: float | None
) -> torch.Tensor:
    """Attention under a block mask; shapes as for `Attention`."""
    grouped = query.shape[1] != key.shape[1]
    attend: Any = _compiled() if query.device.type == "cuda" else flex_attention
    out = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=mask,
        scale=scaling,
        enable_gqa=grouped,
    )
    transposed: torch.Tensor = out.transpose(1, 2)
    return transposed


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


@cache
def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def cap(score: torch.Tensor, *_place: torch.Tensor) -> torch.Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap
