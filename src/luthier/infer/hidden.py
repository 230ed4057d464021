"""What the layers of a language model hold of prompts, pooled over their tokens: features for a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.infer.budget import BATCH_TOKENS, MAX_ROWS

POOLINGS = ("mean", "last")


def pooled_states(
    model: Any,
    sequences: Sequence[Sequence[int]],
    begins: Sequence[int],
    layers: Sequence[int],
    advance: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Hidden states behind each of `layers`, float32: their mean over the tokens of a sequence from its `begin` on,
    and that of its last token. (N, layers, 2, H)

    Args:
        begins: What all prompts share at their beginning says nothing of one of them, and is left out of the mean.
        layers: From 1 for the first; the last one's states are those that the head reads.
    """
    import torch

    from luthier.tree.padded import by_length, left_padded

    weight = model.get_input_embeddings().weight
    kind = weight.device.type
    found: np.ndarray | None = None
    for batch in by_length([len(ids) for ids in sequences], BATCH_TOKENS[kind], MAX_ROWS[kind]):
        rows = [sequences[i] for i in batch]
        ids, mask = (tensor.flip(1) for tensor in left_padded([own[::-1] for own in rows], 0, weight.device))
        states = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        ).hidden_states
        lengths = torch.tensor([len(own) for own in rows], device=ids.device)
        starts = torch.tensor([min(begins[i], len(sequences[i]) - 1) for i in batch], device=ids.device)
        place = torch.arange(ids.shape[1], device=ids.device)
        counted = ((place >= starts[:, None]) & (place < lengths[:, None])).float()  # (B, T)
        for number, layer in enumerate(layers):
            own = states[layer].float()
            mean = (own * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
            last = own[torch.arange(len(rows), device=ids.device), lengths - 1]
            pooled = torch.stack([mean, last], 1).cpu().numpy()  # (B, 2, H)
            if found is None:
                found = np.zeros((len(sequences), len(layers), len(POOLINGS), pooled.shape[-1]), np.float32)
            found[batch, number] = pooled
        advance(len(batch))
    assert found is not None, "there is at least one sequence and one layer"
    return found
