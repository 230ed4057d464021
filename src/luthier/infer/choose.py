"""The log-probability of each label as the answer.

The prompt is computed once; all labels follow it side by side in one forward pass, each seeing the prompt and itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.infer.batches import by_length
from luthier.infer.logprobs import sequence_logprobs
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
    if not can_share(model):
        return _one_by_one(model, prompts, labels, pad, advance)
    shared = common_prefix(prompts)
    prefix = PrefixCache(model, prompts[0][:shared] if prompts else ())
    sums: dict[int, list[float]] = {}
    lengths = [len(ids) - shared for ids in prompts]
    for rows in by_length(lengths, model.device.type, extra=sum(map(len, labels)), cached=shared):
        batch = [prompts[i][shared:] for i in rows]
        for i, values in zip(rows, _batch_logprobs(model, batch, prefix, labels, pad), strict=True):
            sums[i] = values
        advance(len(rows))
    return [sums[i] for i in range(len(prompts))]


def _one_by_one(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    pad: int,
    advance: Callable[[int], None],
) -> list[list[float]]:
    """Every label after every prompt as a sequence of its own, for models whose cache forgets."""
    sums = []
    for prompt in prompts:
        found = sequence_logprobs(
            model,
            [(*prompt, *label) for label in labels],
            [[False] * len(prompt) + [True] * len(label) for label in labels],
            pad=pad,
        )
        sums.append([own.nats for own in found])
        advance(1)
    return sums


def _batch_logprobs(
    model: Any, batch: Sequence[Sequence[int]], prefix: PrefixCache, labels: Sequence[Sequence[int]], pad: int
) -> list[list[float]]:
    import torch

    device = model.device
    start = prefix.batch(batch, pad, device.type)
    first = model(
        input_ids=start.ids,
        attention_mask=start.mask,
        position_ids=start.position,
        past_key_values=start.cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # (B, V)
    first_logprobs = first.float().log_softmax(dim=-1)
    logprobs = first_logprobs[:, [label[0] for label in labels]]  # (B, L)

    # A label's last token is predicted and never read, so it need not go in: W tokens of all labels side by side.
    inner = [(number, depth) for number, label in enumerate(labels) for depth in range(len(label) - 1)]
    if not inner:
        return [[float(value) for value in row] for row in logprobs.tolist()]
    owner = torch.tensor([number for number, _ in inner], device=device)  # (W,)
    depth = torch.tensor([d for _, d in inner], device=device)
    tokens = torch.tensor([labels[number][d] for number, d in inner], device=device)
    target = torch.tensor([labels[number][d + 1] for number, d in inner], device=device)
    sees_itself = (owner[:, None] == owner[None, :]) & (depth[:, None] >= depth[None, :])  # (W, W)
    width = len(inner)
    visible = torch.cat(
        [
            start.mask.bool()[:, None, None, :].expand(-1, 1, width, -1),
            sees_itself[None, None].expand(len(batch), 1, -1, -1),
        ],
        dim=-1,
    )  # (B, 1, W, prefix + T + W)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else model.dtype
    bias = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
    logits = model(
        input_ids=tokens.expand(len(batch), -1),
        attention_mask=bias,
        position_ids=start.position[:, -1:] + 1 + depth,
        past_key_values=start.cache,
        use_cache=True,
    ).logits  # (B, W, V)
    for row in range(len(batch)):  # row by row: the log-probabilities of a whole batch would not fit
        found = -torch.nn.functional.cross_entropy(logits[row].float(), target, reduction="none")  # (W,)
        logprobs[row].index_add_(0, owner, found)
    return [[float(value) for value in row] for row in logprobs.tolist()]
