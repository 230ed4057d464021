"""Log-probabilities through a plain output layer, without keeping its logits.

The gradient of a token's log-probability with respect to the hidden state is `W[token] - p W`, with `p` the softmax. It
does not depend on what is made of the log-probability afterwards, so it is computed with the log-probability, chunk by
chunk, and no logits are kept. Where the layer itself is trained, the chunks' exponentials are kept in compute precision
as far as they fit, and computed again beyond.
"""

from __future__ import annotations

from typing import Any

import torch

# Exponentials that are kept for the gradient of the layer, in elements.
KEPT_EXPONENTIALS = 1 << 26


def head_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, owner: torch.Tensor, ids: torch.Tensor, starts: list[int], rows: int
) -> torch.Tensor:
    """The log-probability of token `ids[k]` after hidden state `hidden[owner[k]]`. (K,), float32 at least.

    Args:
        hidden: (U, E)
        weight: Of the output layer, in the hidden states' precision. (V, E)
        owner: Ascending. (K,)
        starts: For each chunk of hidden states its first target; one more than chunks.
        rows: Hidden states of a chunk: so many logits, in the vocabulary's width, are held at a time.
    """
    out: torch.Tensor = _Head.apply(hidden, weight, owner, ids, starts, rows, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return out


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        owner: torch.Tensor,
        ids: torch.Tensor,
        starts: list[int],
        rows: int,
        differentiated: bool,
    ) -> torch.Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = hidden.new_empty(len(ids), dtype=wide)
        mixtures = None  # p W for each node
        # PyTorch says that gradients are needed where they are switched off, too.
        if differentiated and ctx.needs_input_grad[0]:
            mixtures = torch.empty_like(hidden)
        keep = differentiated and ctx.needs_input_grad[1] and hidden.shape[0] * weight.shape[0] <= KEPT_EXPONENTIALS
        masses = hidden.new_empty(len(hidden), 1, dtype=wide)
        kept = []
        for number, begin in enumerate(range(0, len(hidden), rows)):
            nodes = slice(begin, begin + rows)
            own = slice(starts[number], starts[number + 1])
            wide_exponentials, top, mass, logits = _exponentials(hidden[nodes], weight)
            at = owner[own] - begin
            logprobs[own] = logits[at, ids[own]].to(wide) - (top + mass.log())[at, 0]
            masses[nodes] = mass
            if mixtures is None and not keep:
                continue
            exponentials = wide_exponentials.to(hidden.dtype)
            if mixtures is not None:
                mixtures[nodes] = (exponentials @ weight).div_(mass)
            if keep:
                kept.append(exponentials)
        ctx.rows = rows
        ctx.save_for_backward(hidden, weight, owner, ids, masses, mixtures, *kept)
        return logprobs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, owner, ids, masses, mixtures, *kept = ctx.saved_tensors
        rows = ctx.rows
        total = grad.new_zeros(len(hidden), 1).index_add_(0, owner, grad[:, None])  # (U, 1)
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[0]:
            picked = grad.new_zeros(hidden.shape).index_add_(0, owner, weight[ids].to(grad.dtype) * grad[:, None])
            grad_hidden = picked.addcmul_(mixtures.to(grad.dtype), total, value=-1).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            scaled = (hidden.to(grad.dtype) * (total / masses)).to(hidden.dtype)
            grad_weight = torch.zeros_like(weight)
            for number, begin in enumerate(range(0, len(hidden), rows)):
                nodes = slice(begin, begin + rows)
                exponentials = kept[number] if kept else _exponentials(hidden[nodes], weight)[0].to(hidden.dtype)
                grad_weight.addmm_(exponentials.t(), scaled[nodes], alpha=-1)
            grad_weight.index_add_(0, ids, (hidden[owner].to(grad.dtype) * grad[:, None]).to(weight.dtype))
        return grad_hidden, grad_weight, None, None, None, None, None


def _exponentials(
    hidden: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """exp(logits - top) in float32 at least, the rows' largest logits and masses (U, 1), and the logits."""
    logits = hidden @ weight.t()  # (U, V)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    top = logits.amax(dim=-1, keepdim=True).to(wide.dtype)
    mass = wide.sub_(top).exp_().sum(dim=-1, keepdim=True)
    return wide, top, mass, logits
