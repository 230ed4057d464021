"""The log-probability of each label as the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.infer.batches import by_length, left_padded, right_padded
from luthier.infer.prefix import PrefixCache, can_share, common_prefix


def label_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    pad: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """For each prompt the summed log-probability in nats of every label's tokens after it.

    Args:
        prompts: Token ids of the prompts.
        labels: Token ids of each label as an answer, the end of the turn included: without it, a label
            that begins another would always win over it.

    Returns:
        A list of len(labels) values for each prompt.
    """
    shared = common_prefix(prompts) if can_share(model) else 0
    prefix = PrefixCache(model, prompts[0][:shared] if prompts else ())
    sums: dict[int, list[float]] = {}
    lengths = [len(ids) - shared for ids in prompts]
    for rows in by_length(lengths, model.device.type, extra=sum(map(len, labels))):
        batch = [prompts[i][shared:] for i in rows]
        for i, values in zip(rows, _batch_logprobs(model, batch, prefix, labels, pad), strict=True):
            sums[i] = values
        advance(len(rows))
    return [sums[i] for i in range(len(prompts))]


def _batch_logprobs(
    model: Any, batch: Sequence[Sequence[int]], prefix: PrefixCache, labels: Sequence[Sequence[int]], pad: int
) -> list[list[float]]:
    import torch

    device = model.device
    ids, own_mask = left_padded(batch, pad, device.type)
    mask = torch.cat([own_mask.new_ones(len(batch), prefix.length), own_mask], dim=1)  # (B, prefix + T)
    position = prefix.length + (own_mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = prefix.branches(len(batch))
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # (B, V)
    first_logprobs = first.float().log_softmax(dim=-1)

    label_ids, label_mask = right_padded(labels, pad, device.type)  # (L, W)
    count, width = label_ids.shape
    logprobs = first_logprobs[:, label_ids[:, 0]]  # (B, L)
    if width > 1:
        cache.batch_repeat_interleave(count)
        ids = label_ids[:, :-1].repeat(len(batch), 1)  # (B * L, W - 1)
        positions = position[:, -1:].repeat_interleave(count, dim=0) + 1 + torch.arange(width - 1, device=device)
        branch_mask = torch.cat([mask.repeat_interleave(count, dim=0), label_mask[:, :-1].repeat(len(batch), 1)], dim=1)
        logits = model(
            input_ids=ids,
            attention_mask=branch_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits  # (B * L, W - 1, V)
        target = label_ids[:, 1:].repeat(len(batch), 1)
        token_logprobs = _gather_logprobs(logits, target) * label_mask[:, 1:].repeat(len(batch), 1)
        logprobs = logprobs + token_logprobs.sum(dim=-1).view(len(batch), count)
    return [[float(value) for value in row] for row in logprobs.tolist()]


def _gather_logprobs(logits: Any, target: Any) -> Any:
    """Log-probabilities of `target` (B, T) under `logits` (B, T, V), row by row to bound memory."""
    import torch

    rows = [
        -torch.nn.functional.cross_entropy(row.float(), wanted, reduction="none")
        for row, wanted in zip(logits, target, strict=True)
    ]
    return torch.stack(rows)
