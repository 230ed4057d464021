"""Choosing the next token from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.types import Decoding

if TYPE_CHECKING:
    import torch


def drawn(decoding: Decoding, prompt: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each token that prompt number `prompt` may get; none where decoding is greedy.

    They depend on the seed and the prompt alone, so that an answer does not depend on how prompts are batched.
    """
    if decoding.temperature == 0:
        return np.empty(0)
    return np.random.default_rng([decoding.seed, prompt]).random(decoding.max_new_tokens)


def pick(logits: torch.Tensor, decoding: Decoding, draws: Sequence[NDArray[np.float64]]) -> list[int]:
    """The next token of each row.

    Args:
        logits: (B, V)
        draws: For each row one number in [0, 1), nothing where decoding is greedy.
    """
    import torch

    if decoding.temperature == 0:
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        return chosen
    probabilities = torch.softmax(logits.double() / decoding.temperature, dim=-1)
    probabilities, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(dim=-1)
    # The likeliest tokens that together reach top_p (Holtzman et al. 2020).
    kept = (reached - probabilities < decoding.top_p).sum(dim=-1, keepdim=True)
    total = reached.gather(1, kept - 1)
    numbers = torch.tensor(np.concatenate(draws), device=logits.device)[:, None] * total
    place = torch.minimum(torch.searchsorted(reached, numbers, right=True), kept - 1)
    return [int(token) for token in tokens.gather(1, place)[:, 0].tolist()]
