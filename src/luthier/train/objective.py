"""What is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.model.device import autocast
from luthier.prompt.render import TrainingSequence


def supervised_loss(model: Any, batch: Sequence[TrainingSequence], pad: int, device: str, precision: str) -> Any:
    """Summed negative log-likelihood of the trained tokens, in nats; a scalar tensor.

    The caller divides by the trained tokens of the whole step, so that every trained token of a step counts the
    same however the step was split. Rows are padded in front: the answers then stand together at the end, and only
    their logits are computed.
    """
    import torch

    width = max(len(s.ids) for s in batch)
    ids = torch.full((len(batch), width), pad)  # (B, T)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    trained = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, sequence in enumerate(batch):
        begin = width - len(sequence.ids)
        ids[row, begin:] = torch.tensor(sequence.ids)
        mask[row, begin:] = 1
        trained[row, begin:] = torch.tensor(sequence.trained)
    first = int(trained.any(dim=0).nonzero().min())  # the first column with a trained token
    ids, mask, trained = ids.to(device), mask.to(device), trained.to(device)
    position = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with autocast(device, precision):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            use_cache=False,
            logits_to_keep=width - first + 1,
        ).logits[:, :-1]  # (B, T - first, V)
    kept = trained[:, first:]
    return torch.nn.functional.cross_entropy(logits[kept].float(), ids[:, first:][kept], reduction="sum")
