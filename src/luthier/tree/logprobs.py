"""Log-probabilities of a tree's targets: one forward over the tree, the head only where something is predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from luthier.model.device import compute_dtype
from luthier.tree.attention import TreeAttention, attending
from luthier.tree.build import Ints, Tree
from luthier.tree.head import head_logprobs
from luthier.tree.visible import tree_visibility
from luthier.tree.work import count_predicted, count_tokens

# Nodes whose logits, in the vocabulary's width, are held at a time.
CHUNK_ROWS = 256
# Their number is rounded up, so that shapes come again; see ROUND_ROWS.
_ROUND_HEAD = 8


def tree_logprobs(model: Any, tree: Tree, attention: TreeAttention | None = None) -> torch.Tensor:
    """For each target of the tree its log-probability in nats, given its ancestors. (K,), float32 at least.

    Gradients flow to all trainable weights. With activation checkpointing, run the backward pass inside
    `attending(model, attention)` with the same attention.
    """
    attention = attention or TreeAttention(tree_visibility(tree))
    hidden = tree_hidden(model, tree.ids, tree.positions, attention)  # (T, E)
    return target_logprobs(model, hidden, tree.target_nodes, tree.target_ids)


def tree_hidden(model: Any, ids: Ints, positions: Ints, attention: TreeAttention) -> torch.Tensor:
    """The last hidden states of all nodes. (T, E)

    Args:
        attention: May have more rows than there are nodes; they are computed and left out of the result.
    """
    count_tokens(len(ids))
    more = len(attention.visibility.rows) - len(ids)
    ids, positions = np.pad(ids, (0, more)), np.pad(positions, (0, more))
    device = model.get_input_embeddings().weight.device
    with attending(base_of(model), attention):
        out = base_of(model).get_decoder()(
            input_ids=torch.from_numpy(ids).to(device)[None],
            position_ids=torch.from_numpy(positions).to(device)[None],
            use_cache=False,
        )
    return out.last_hidden_state[0, : len(ids) - more]  # type: ignore[no-any-return]


def target_logprobs(model: Any, hidden: torch.Tensor, nodes: Ints, ids: Ints) -> torch.Tensor:
    """The log-probability of token `ids[k]` after the hidden state of node `nodes[k]`. (K,), float32 at least.

    Logits are computed once for each node, in chunks; of several chunks none is kept for the backward pass.

    Args:
        hidden: Hidden states of all nodes. (T, E)
        nodes: Ascending. (K,)
    """
    if not len(nodes):
        return widened(hidden[:0, 0])
    distinct, owner = np.unique(nodes, return_inverse=True)
    count_predicted(len(distinct))
    distinct = np.pad(distinct, (0, -len(distinct) % _ROUND_HEAD), mode="edge")
    starts = np.searchsorted(owner, range(0, len(distinct) + CHUNK_ROWS, CHUNK_ROWS)).tolist()
    at = hidden[torch.from_numpy(distinct).to(hidden.device)]  # (U, E)
    own, tokens = torch.from_numpy(owner).to(hidden.device), torch.from_numpy(ids).to(hidden.device)
    weight = plain_head(model)
    if weight is not None:
        dtype = compute_dtype(hidden.device, weight.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return head_logprobs(at.to(dtype), weight.to(dtype), own, tokens, starts, CHUNK_ROWS)
    parts = []
    for number, begin in enumerate(range(0, len(distinct), CHUNK_ROWS)):
        chunk, mine = at[begin : begin + CHUNK_ROWS], slice(starts[number], starts[number + 1])
        inputs = (model, chunk, own[mine] - begin, tokens[mine])
        again = len(distinct) > CHUNK_ROWS and torch.is_grad_enabled()
        parts.append(checkpoint(_logprobs, *inputs, use_reentrant=False) if again else _logprobs(*inputs))
    return torch.cat(parts)


def _logprobs(model: Any, hidden: torch.Tensor, owner: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    scores = widened(logits(model, hidden))
    return scores[owner, ids] - scores.logsumexp(dim=-1)[owner]


def widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def plain_head(model: Any) -> torch.Tensor | None:
    """The weight of the output layer where logits are its products with hidden states and no more. (V, E)"""
    layer = base_of(model).get_output_embeddings()
    plain = type(layer) is torch.nn.Linear and getattr(layer, "bias", None) is None
    return layer.weight if plain and not _reshaped(model) else None


def logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The next token's logits after hidden states, scaled and capped as the family does. (K, V)"""
    return reading_head(model)(hidden)


def reading_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """From hidden states to logits; it holds the output layer and nothing else of the model."""
    layer, reshaping = base_of(model).get_output_embeddings(), _reshaped(model)

    def read(hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = layer(hidden)
        if "logit_scale" in reshaping:
            out = out * reshaping["logit_scale"]
        if "logits_scaling" in reshaping:
            out = out / reshaping["logits_scaling"]
        if "final_logit_softcapping" in reshaping:
            cap = reshaping["final_logit_softcapping"]
            out = torch.tanh(out / cap) * cap
        return out

    return read


def _reshaped(model: Any) -> dict[str, float]:
    """What the family does to its logits: scaled in Cohere, divided in Granite, capped in Gemma."""
    config = base_of(model).config.get_text_config()
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}


def base_of(model: Any) -> Any:
    """The transformers model itself where PEFT wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
