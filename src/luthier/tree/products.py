"""Attention over row blocks by plain matrix products, forward and backward.

On CPU this is faster than torch's fused attention, whose backward is slow there. Grouped query heads are folded into
the rows, so that keys and values are read as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.tree.visible import RowBlock

# Attention probabilities of one layer that are kept for the backward pass, in elements; more are computed again.
KEPT_PROBABILITIES = 1 << 24


@dataclass(frozen=True, slots=True)
class Block:
    """A row block with its mask on the device."""

    start: int
    stop: int
    columns: tuple[tuple[int, int], ...]
    clear: int
    width: int
    hidden: torch.Tensor | None


def to_device(blocks: Sequence[RowBlock], device: torch.device) -> list[Block]:
    return [
        Block(
            block.start,
            block.stop,
            block.columns,
            block.clear,
            block.width,
            torch.from_numpy(block.hidden).to(device) if block.width > block.clear else None,
        )
        for block in blocks
    ]


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of T rows over C columns.

    Args:
        query: (H, T, D)
        key: (K, C, D), H a multiple of K.
        value: (K, C, D')
        softcap: Scores are squashed to this magnitude by a tanh; None leaves them.

    Returns:
        (T, H, D')
    """
    heads, rows, size = query.shape
    groups = heads // key.shape[0]
    # (K, T·G, D): the heads that share keys stand together, row by row
    folded = query.view(-1, groups, rows, size).transpose(1, 2).reshape(-1, rows * groups, size) * scaling
    out: torch.Tensor = _Products.apply(folded, key.contiguous(), value.contiguous(), blocks, groups, softcap)  # type: ignore[no-untyped-call]
    return out.view(-1, rows, groups, value.shape[-1]).transpose(0, 1).reshape(rows, heads, value.shape[-1])


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: Sequence[Block],
        groups: int,
        softcap: float | None,
    ) -> torch.Tensor:
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        kept = []
        elements = sum((b.stop - b.start) * b.width for b in blocks) * groups * key.shape[0]
        keep = any(ctx.needs_input_grad) and elements <= KEPT_PROBABILITIES and softcap is None
        for block in blocks:
            rows = slice(block.start * groups, block.stop * groups)
            _, probabilities = _probabilities(query[:, rows], _columns(key, block), block, groups, softcap)
            out[:, rows] = probabilities @ _columns(value, block)
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.groups, ctx.softcap = blocks, groups, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        # Many blocks add to a shared beginning's keys: summed in float32 at least.
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_key, grad_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        for number, block in enumerate(ctx.blocks):
            rows = slice(block.start * ctx.groups, block.stop * ctx.groups)
            q, k, v, g = query[:, rows], _columns(key, block), _columns(value, block), grad[:, rows]
            scores = None
            if kept:
                probabilities = kept[number]
            else:
                scores, probabilities = _probabilities(q, k, block, ctx.groups, ctx.softcap)
            grad_scores = torch._softmax_backward_data(g @ v.transpose(1, 2), probabilities, -1, probabilities.dtype)
            if ctx.softcap is not None:
                assert scores is not None
                grad_scores = grad_scores * (1 - (scores / ctx.softcap).square())
            grad_query[:, rows] = grad_scores @ k
            _add_columns(grad_key, grad_scores.transpose(1, 2) @ q, block)
            _add_columns(grad_value, probabilities.transpose(1, 2) @ g, block)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, block: Block, groups: int, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Capped scores before masking (only where there is a cap) and attention probabilities, both (K, R·G, C)."""
    scores = query @ key.transpose(1, 2)
    capped = scores
    if softcap is not None:
        capped = torch.tanh(scores / softcap) * softcap
        scores = capped.clone()
    if block.hidden is not None:
        rows = block.stop - block.start
        partly = scores.view(len(key), rows, groups, block.width)[..., block.clear :]
        partly.masked_fill_(block.hidden[:, None, :], -torch.inf)
    return capped, torch.softmax(scores, dim=-1)


def _columns(tensor: torch.Tensor, block: Block) -> torch.Tensor:
    if len(block.columns) == 1:
        start, stop = block.columns[0]
        return tensor[:, start:stop]
    return torch.cat([tensor[:, start:stop] for start, stop in block.columns], dim=1)


def _add_columns(total: torch.Tensor, part: torch.Tensor, block: Block) -> None:
    at = 0
    for start, stop in block.columns:
        total[:, start:stop] += part[:, at : at + stop - start]
        at += stop - start
