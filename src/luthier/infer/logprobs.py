"""The log-probability that a model gives to sequences, at the tokens that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.infer.batches import by_length, left_padded


@dataclass(frozen=True, slots=True)
class LogProb:
    """Summed log-probability in nats over `tokens` counted tokens."""

    nats: float
    tokens: int


def sequence_logprobs(
    model: Any,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]],
    *,
    pad: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[LogProb]:
    """For each sequence the log-probability of its counted tokens, each given all before it.

    The first token has nothing before it and must not be counted.
    """
    import torch

    results: dict[int, LogProb] = {}
    for rows in by_length([len(ids) for ids in sequences], model.device.type):
        ids, mask = left_padded([sequences[i] for i in rows], pad, model.device.type)
        weights, _ = left_padded([[int(c) for c in counted[i]] for i in rows], 0, model.device.type)
        position = (mask.cumsum(dim=1) - 1).clamp(min=0)
        first = int(weights.any(dim=0).nonzero().min()) if bool(weights.any()) else ids.shape[1]
        keep = ids.shape[1] - first
        logits = model(input_ids=ids, attention_mask=mask, position_ids=position, logits_to_keep=keep + 1).logits
        for row, index in enumerate(rows):
            # logits[:, k] predicts the token behind it; the last one predicts nothing that is there.
            loss = torch.nn.functional.cross_entropy(logits[row, :-1].float(), ids[row, first:], reduction="none")
            own = weights[row, first:]
            results[index] = LogProb(float(-(loss * own).sum()), int(own.sum()))
        advance(len(rows))
    return [results[i] for i in range(len(sequences))]
