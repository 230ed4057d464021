"""Batched greedy generation over a shared beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthier.infer.batches import by_length
from luthier.infer.prefix import PrefixCache, can_share, common_prefix
from luthier.types import Decoding


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated answer: its text without the end of the turn or the stop string, and its token count."""

    text: str
    tokens: int
    stopped: Literal["end", "stop", "length"]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    tokenizer: Any,
    end_ids: frozenset[int],
    decoding: Decoding,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """Greedy answers to tokenised prompts, in their order.

    Args:
        end_ids: Tokens that end an answer.
        advance: Called with the number of prompts answered since the last call.
    """
    shared = common_prefix(prompts) if can_share(model) else 0
    prefix = PrefixCache(model, prompts[0][:shared] if prompts else ())
    answers: dict[int, Generated] = {}
    lengths = [len(ids) - shared for ids in prompts]
    for rows in by_length(lengths, model.device.type, extra=decoding.max_new_tokens, cached=shared):
        batch = [prompts[i][shared:] for i in rows]
        for i, tokens in zip(rows, _decode(model, batch, prefix, tokenizer, end_ids, decoding), strict=True):
            answers[i] = _finished(tokens, tokenizer, end_ids, decoding)
        advance(len(rows))
    return [answers[i] for i in range(len(prompts))]


def _decode(
    model: Any,
    batch: Sequence[Sequence[int]],
    prefix: PrefixCache,
    tokenizer: Any,
    end_ids: frozenset[int],
    decoding: Decoding,
) -> list[list[int]]:
    """New token ids of each row, the ending token included."""
    import torch

    device = model.device
    start = prefix.batch(batch, tokenizer.pad_token_id, device.type)
    ids, mask, position, cache = start.ids, start.mask, start.position, start.cache
    new: list[list[int]] = [[] for _ in batch]
    running = list(range(len(batch)))
    for _ in range(decoding.max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (B, V)
        chosen = logits.argmax(dim=-1).tolist()
        keep = []
        for row, token in enumerate(chosen):
            new[running[row]].append(token)
            if token not in end_ids and not _hit_stop(new[running[row]], tokenizer, decoding.stop):
                keep.append(row)
        if not keep:
            break
        if len(keep) < len(running):
            running = [running[row] for row in keep]
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            mask, position = mask[index], position[index]
        ids = torch.tensor([[chosen[row]] for row in keep], device=device)
        mask = torch.cat([mask, mask.new_ones(len(keep), 1)], dim=1)
        position = position[:, -1:] + 1
    return new


def _hit_stop(tokens: list[int], tokenizer: Any, stop: tuple[str, ...]) -> bool:
    if not stop:
        return False
    # A stop string may straddle tokens, so a few more than its characters are decoded again.
    tail = tokenizer.decode(tokens[-(max(map(len, stop)) + 4) :], skip_special_tokens=True)
    return any(string in tail for string in stop)


def _finished(tokens: list[int], tokenizer: Any, end_ids: frozenset[int], decoding: Decoding) -> Generated:
    ended = bool(tokens) and tokens[-1] in end_ids
    text = tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
    cut = min((at for string in decoding.stop if (at := text.find(string)) >= 0), default=None)
    if cut is not None:
        return Generated(text[:cut].strip(), len(tokens), "stop")
    return Generated(text.strip(), len(tokens), "end" if ended else "length")
