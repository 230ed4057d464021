"""Log-probabilities of a tree's targets: one forward over the tree, the head only where something is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from luthier.tree.attention import Attention, TreeAttention, attending
from luthier.tree.build import Ints, Tree
from luthier.tree.visible import tree_visibility

# Logits that are held at a time: rows of the vocabulary's width.
CHUNK_ROWS = 256


def tree_logprobs(model: Any, tree: Tree, attention: Attention | None = None) -> torch.Tensor:
    """For each target of the tree its log-probability in nats, given its ancestors. (K,), float32 at least.

    Gradients flow to all trainable weights. With activation checkpointing, run the backward pass inside
    `attending(model, attention)` with the same attention.
    """
    attention = attention or TreeAttention(tree_visibility(tree))
    hidden = tree_hidden(model, tree.ids, tree.positions, attention)  # (T, E)
    return target_logprobs(model, hidden, tree.target_nodes, tree.target_ids)


def tree_hidden(model: Any, ids: Any, positions: Any, attention: Attention) -> torch.Tensor:
    """The last hidden states of all nodes. (T, E)"""
    device = model.get_input_embeddings().weight.device
    with attending(base_of(model), attention):
        out = base_of(model).get_decoder()(
            input_ids=torch.from_numpy(ids).to(device)[None],
            position_ids=torch.from_numpy(positions).to(device)[None],
            use_cache=False,
        )
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


def target_logprobs(model: Any, hidden: torch.Tensor, nodes: Ints, ids: Ints) -> torch.Tensor:
    """The log-probability of token `ids[k]` after the hidden state of node `nodes[k]`. (K,), float32 at least.

    Logits are computed once for each node, in chunks; of several chunks none is kept for the backward pass.

    Args:
        hidden: Hidden states of all nodes. (T, E)
        nodes: Ascending. (K,)
    """
    distinct, owner = np.unique(nodes, return_inverse=True)
    at = hidden[torch.from_numpy(distinct).to(hidden.device)]  # (U, E)
    parts = []
    for begin in range(0, len(distinct), CHUNK_ROWS):
        first, last = np.searchsorted(owner, (begin, begin + CHUNK_ROWS))
        own, tokens = (torch.from_numpy(a[first:last]).to(hidden.device) for a in (owner - begin, ids))
        chunk = at[begin : begin + CHUNK_ROWS]
        if len(distinct) > CHUNK_ROWS and torch.is_grad_enabled() and hidden.requires_grad:
            parts.append(checkpoint(_logprobs, model, chunk, own, tokens, use_reentrant=False))
        else:
            parts.append(_logprobs(model, chunk, own, tokens))
    return torch.cat(parts) if parts else widened(hidden[:0, 0])


def _logprobs(model: Any, hidden: torch.Tensor, owner: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    scores = widened(logits(model, hidden))
    if len(owner) == len(hidden):  # one target for each node: torch has it in one operation
        return -torch.nn.functional.cross_entropy(scores, ids, reduction="none")
    return scores[owner, ids] - scores.logsumexp(dim=-1)[owner]


def widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The next token's logits after hidden states, scaled and capped as the family does. (K, V)"""
    base = base_of(model)
    config = base.config.get_text_config()
    out: torch.Tensor = base.get_output_embeddings()(hidden)
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        out = out * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        out = out / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
        out = torch.tanh(out / cap) * cap
    return out


def base_of(model: Any) -> Any:
    """The transformers model itself where PEFT wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
