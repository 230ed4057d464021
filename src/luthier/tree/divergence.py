"""The Kullback-Leibler divergence between what two models predict, over the whole vocabulary, in chunks of rows.

Both models are read through their hidden states, so that no more than a chunk of logits is held at a time. Through
plain output layers the gradient with respect to the trained model's hidden states is computed with the value, as in
`luthier.tree.head`: with q its prediction and p the start's, the gradient of KL(p‖q) with respect to the logits is
q - p, and that of KL(q‖p) is q (log q - log p - KL(q‖p)).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from luthier.model.device import compute_dtype
from luthier.model.start import Start
from luthier.model.virtual import FIRST_VIRTUAL
from luthier.tree.attention import TreeAttention
from luthier.tree.build import Floats, Ints, Tree
from luthier.tree.logprobs import CHUNK_ROWS, logits, plain_head, tree_hidden, widened
from luthier.tree.visible import rounded_up, tree_visibility


def divergence_of_logits(start: torch.Tensor, own: torch.Tensor, *, reverse: bool = False) -> torch.Tensor:
    """KL(start‖own) of each row in nats, or KL(own‖start) where `reverse`. (U,), float32 at least.

    Args:
        start: Logits of the start. (U, V)
        own: Logits of the model, through which gradients flow. (U, V)
    """
    p, q = (widened(scores).log_softmax(dim=-1) for scores in (start, own))
    return (q.exp() * (q - p)).sum(dim=-1) if reverse else (p.exp() * (p - q)).sum(dim=-1)


def head_divergence(
    start_hidden: torch.Tensor,
    start_weight: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    rows: int,
    *,
    reverse: bool = False,
) -> torch.Tensor:
    """The same from hidden states through plain output layers. (U,), float32 at least.

    Args:
        start_hidden, hidden: (U, E) each; no gradients flow to the start's.
        start_weight, weight: Of the output layers, in the hidden states' precision. (V, E) each
        rows: Hidden states of a chunk: so many logits of each model are held at a time.
    """
    inputs = (hidden, weight, start_hidden, start_weight, rows, reverse, torch.is_grad_enabled())
    out: torch.Tensor = _Divergence.apply(*inputs)  # type: ignore[no-untyped-call]
    return out


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        start_hidden: torch.Tensor,
        start_weight: torch.Tensor,
        rows: int,
        reverse: bool,
        differentiated: bool,
    ) -> torch.Tensor:
        values = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        # PyTorch says that gradients are needed where they are switched off, too.
        slopes = torch.empty_like(hidden) if differentiated and ctx.needs_input_grad[0] else None
        for begin in range(0, len(hidden), rows):
            at = slice(begin, begin + rows)
            values[at], slope = _value_and_slope(
                start_hidden[at] @ start_weight.t(), hidden[at] @ weight.t(), reverse, sloped=slopes is not None
            )
            if slopes is not None:
                slopes[at] = slope.to(hidden.dtype) @ weight
        ctx.rows, ctx.reverse = rows, reverse
        ctx.save_for_backward(hidden, weight, start_hidden, start_weight, slopes)
        return values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, start_hidden, start_weight, slopes = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (slopes.to(grad.dtype) * grad[:, None]).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for begin in range(0, len(hidden), ctx.rows):
                at = slice(begin, begin + ctx.rows)
                _, slope = _value_and_slope(
                    start_hidden[at] @ start_weight.t(), hidden[at] @ weight.t(), ctx.reverse, sloped=True
                )
                grad_weight.addmm_(slope.mul_(grad[at, None]).to(weight.dtype).t(), hidden[at])
        return grad_hidden, grad_weight, None, None, None, None, None


def _value_and_slope(
    start: torch.Tensor, own: torch.Tensor, reverse: bool, *, sloped: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence of each row, (U,), and, where it is wanted, its gradient with respect to the logits, (U, V)."""
    p, q = (widened(scores).log_softmax(dim=-1) for scores in (start, own))
    if reverse:
        apart, q = q - p, q.exp_()
        value = torch.linalg.vecdot(q, apart)
        return value, apart.sub_(value[:, None]).mul_(q) if sloped else apart
    apart, p = p - q, p.exp_()
    value = torch.linalg.vecdot(p, apart)
    return value, q.exp_().sub_(p) if sloped else apart


def counted_nodes(tree: Tree, *, everywhere: bool = False) -> tuple[Ints, Floats]:
    """The nodes at which predictions are compared, ascending, and how much each counts. (U,), (U,)

    Args:
        everywhere: Compare the prediction of every token but the virtual ones, and not only of the weighted ones. A
            node counts once for each sequence that goes through it.
    """
    if not everywhere:
        at = np.concatenate([tree.target_nodes[path.targets] for path in tree.paths])
        counts = np.bincount(at, np.concatenate([path.weights for path in tree.paths]), minlength=len(tree))
    else:
        last = [tree.target_nodes[path.targets[-1]] for path in tree.paths if len(path.targets)]
        ended = np.concatenate([[0], np.bincount(last, minlength=len(tree)).cumsum()])
        through = ended[tree.ends] - ended[:-1]  # sequences whose last node stands in the subtree
        counts = np.where(tree.ids < FIRST_VIRTUAL, through, 0)
    nodes = np.flatnonzero(counts)
    return nodes.astype(np.int64), counts[nodes].astype(np.float64)


def without_beginning(tree: Tree, count: int) -> Tree:
    """The tree without the first `count` tokens of its sequences, which all of them share; targets are left out."""
    if not count:
        return tree
    nothing = np.empty(0, np.int64)
    return replace(
        tree,
        ids=tree.ids[count:],
        positions=tree.positions[count:] - count,
        parents=np.maximum(tree.parents[count:] - count, -1),
        ends=tree.ends[count:] - count,
        target_nodes=nothing,
        target_ids=nothing,
        target_rows=nothing,
        paths=(),
    )


class StartOfTree:
    """What the start of a training predicts on a tree: computed before the model in training is run.

    Args:
        tree: As the model in training takes it.
        attention: That of the tree.
    """

    def __init__(self, start: Start, tree: Tree, attention: TreeAttention) -> None:
        self._start, self._shift = start, start.virtual
        own = without_beginning(tree, self._shift)
        attention = TreeAttention(rounded_up(tree_visibility(own))) if self._shift else attention
        with start.running() as model:
            self._hidden = tree_hidden(model, own.ids, own.positions, attention)

    def divergence(self, model: Any, hidden: torch.Tensor, nodes: Ints, *, reverse: bool = False) -> torch.Tensor:
        """The divergence of the model's predictions at the nodes from the start's, in nats. (U,), float32 at least.

        Args:
            model: The model in training.
            hidden: Its hidden states of all nodes. (T, E)
            nodes: None of them virtual tokens that the start does not have. (U,)
        """
        index = torch.from_numpy(nodes).to(hidden.device)
        at, before = hidden[index], self._hidden[index - self._shift]
        weight, start_weight = plain_head(model), plain_head(self._start.model)
        if weight is not None and start_weight is not None:
            dtype = compute_dtype(hidden.device, weight.dtype)
            with torch.autocast(hidden.device.type, enabled=False):
                return head_divergence(
                    before.to(dtype), start_weight.to(dtype), at.to(dtype), weight.to(dtype), CHUNK_ROWS,
                    reverse=reverse,
                )  # fmt: skip
        parts = [
            checkpoint(self._chunk, model, at[begin : begin + CHUNK_ROWS], before[begin : begin + CHUNK_ROWS], reverse,
                       use_reentrant=False)
            for begin in range(0, len(nodes), CHUNK_ROWS)
        ]  # fmt: skip
        return torch.cat(parts) if parts else widened(hidden[:0, 0])

    def _chunk(self, model: Any, hidden: torch.Tensor, before: torch.Tensor, reverse: bool) -> torch.Tensor:
        with self._start.running() as start:
            wanted = logits(start, before)
        return divergence_of_logits(wanted, logits(model, hidden), reverse=reverse)
