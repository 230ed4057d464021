"""The attention function that transformers' models call, and what answers the call.

Every decoder of transformers that uses its attention interface can be run on a token tree: `attending` hands the tree's
layout to the attention function for the time of a forward (and, with activation checkpointing, a backward) pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import torch

from luthier.model.virtual import Prefix, virtual_tokens_of
from luthier.tree.products import Block, attend_by_products, to_device
from luthier.tree.visible import Visibility, row_blocks

NAME = "luthier_tree"

Backend = Literal["products", "flex", "dense"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer turns queries and keys into scores.

    Attributes:
        scaling: Factor of the products.
        window: Positions that a row looks back, its own included; None for all.
        softcap: Scores are squashed to this magnitude by a tanh; None leaves them.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None


class Attention(Protocol):
    """Answers the attention calls of a model's layers."""

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """From query (B, H, T, D), key (B, K, T, D) and value (B, K, T, D') to (B, T, H, D')."""
        ...


# Not a context variable: on CUDA the backward pass runs in a thread of its own, and recomputes activations there.
_current: Attention | None = None
# The trained keys and values of the model that is run, if it has any; see luthier.model.virtual.
_prefix: Prefix | None = None

# Arguments of the interface that change the result and are not served.
_REFUSED = ("s_aux", "position_bias", "cache", "sinks", "head_mask")


class UnservedAttention(RuntimeError):
    """A model asks its attention function for something that a tree does not serve."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # what it does differs from tree to tree
def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    if _current is None:
        raise UnservedAttention("the model was called outside of `attending`")
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if dropout:
        refused.append("dropout")
    if others.get("is_causal") is False:
        refused.append("attention to what follows")
    if not isinstance(getattr(module, "layer_idx", None), int):
        refused.append("layers without numbers")
    if refused:
        raise UnservedAttention(f"its {type(module).__name__} asks for {', '.join(refused)}")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        if _prefix is not None:
            key, value = _prefix.placed(int(module.layer_idx), key, value)  # type: ignore[arg-type]
        out = _current(
            int(module.layer_idx),  # type: ignore[arg-type]
            query,
            key,
            value,
            Scoring(query.shape[-1] ** -0.5 if scaling is None else float(scaling), sliding_window, softcap),
        )
    return out, None


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)


@contextlib.contextmanager
def attending(model: Any, attention: Attention) -> Iterator[None]:
    """Let `attention` answer the attention calls of `model`, which is to be called with batches of one tree."""
    global _current, _prefix
    _register()
    config, tokens = model.config, virtual_tokens_of(model)
    before, _current = (_current, _prefix), attention
    _prefix = tokens if isinstance(tokens, Prefix) else None
    implementation = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = implementation
        _current, _prefix = before


class TreeAttention:
    """Attention within a forest: every node sees itself and its ancestors.

    Args:
        visibility: Which columns each row sees.
        backend: `products` (matrix products over row blocks), `flex` (torch's FlexAttention, for GPUs), or `dense` (the
            whole matrix, for comparison). None takes flex on CUDA and products elsewhere.
    """

    def __init__(self, visibility: Visibility, backend: Backend | None = None) -> None:
        self.visibility = visibility
        self.backend = backend
        self.windows: dict[int, int | None] = {}
        self._layouts: dict[tuple[str, int | None], Any] = {}

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        window, scaling, softcap = scoring.window, scoring.scaling, scoring.softcap
        self.windows[layer] = window
        backend = self.backend or ("flex" if query.device.type == "cuda" else "products")
        if backend == "products":
            blocks: list[Block] = self._layout(backend, window, query.device)
            return attend_by_products(query[0], key[0], value[0], blocks, scaling, softcap)[None]
        if backend == "flex":
            from luthier.tree.flex import attend_by_flex

            mask = self._layout(backend, window, query.device)
            return attend_by_flex(query, key, value, mask, scaling, softcap)
        seen: torch.Tensor = self._layout(backend, window, query.device)
        return _dense(query, key, value, seen, scaling, softcap)

    def _layout(self, backend: Backend, window: int | None, device: torch.device) -> Any:
        """The mask in the backend's form, made once for all layers with the same window."""
        if window is not None and window > int(self.visibility.rows.max()):
            window = None  # nothing is that far back
        if (backend, window) not in self._layouts:
            if backend == "products":
                made: Any = to_device(row_blocks(self.visibility, window), device)
            elif backend == "flex":
                from luthier.tree.flex import block_mask

                made = block_mask(self.visibility, window, device)
            else:
                made = torch.from_numpy(self.visibility.mask(window)).to(device)
            self._layouts[backend, window] = made
        return self._layouts[backend, window]


def _dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling  # (1, H, T, C)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, -torch.inf)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)
