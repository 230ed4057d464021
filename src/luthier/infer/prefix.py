"""The beginning that all prompts of a call share, computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.infer.batches import left_padded

if TYPE_CHECKING:
    import torch

# Below this many tokens, copying the cache costs about what computing them does.
_WORTH_SHARING = 16


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    if len(prompts) < 2:
        return 0
    # Sequences between these two in order begin alike as far as these two do.
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    shared = min(shared, min(len(ids) for ids in prompts) - 1)
    return shared if shared >= _WORTH_SHARING else 0


def can_share(model: Any) -> bool:
    """Whether the model's cache holds every past token, as copying it for many branches requires."""
    if getattr(model, "_is_stateful", False):  # state-space models keep a summary of the past, not its tokens
        return False
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and not sliding


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts ready to go into the model behind a shared beginning.

    Attributes:
        ids: (B, T), the prompts' own tokens, padded in front.
        mask: (B, beginning + T), 0 for padding.
        position: (B, T).
        cache: Keys and values of the beginning, for each row.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    cache: Any


class PrefixCache:
    """Keys and values of a shared beginning, to be continued by batches of any size."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        self.length = len(ids)
        self._config = model.config
        self._cache = None
        if ids:
            cache = DynamicCache(config=model.config)
            model(
                input_ids=torch.tensor([list(ids)], device=model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self._cache = cache

    def batch(self, own: Sequence[Sequence[int]], pad: int, device: str) -> Batch:
        """A batch of prompts, each given by its tokens behind the shared beginning."""
        import torch

        ids, mask = left_padded(own, pad, device)
        return Batch(
            ids=ids,
            mask=torch.cat([mask.new_ones(len(own), self.length), mask], dim=1),
            position=self.length + (mask.cumsum(dim=1) - 1).clamp(min=0),
            cache=self._branches(len(own)),
        )

    def _branches(self, count: int) -> Any:
        """A cache of its own for `count` rows, each beginning with the shared tokens."""
        from transformers import DynamicCache

        if self._cache is None:
            return DynamicCache(config=self._config)
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(count)
        return cache
