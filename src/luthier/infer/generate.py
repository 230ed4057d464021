"""Answers, token by token, for many prompts at a time: greedy, or drawn with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luthier.infer.sample import drawn, pick
from luthier.progress import Advance
from luthier.tree.work import count_predicted, count_step, count_tokens
from luthier.types import Decoding

if TYPE_CHECKING:
    import torch


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
    advance: Advance = lambda done: None,
) -> list[Generated]:
    """Answers to tokenised prompts, in their order.

    What prompts share is computed and kept once. An answer does not depend on the prompts beside it, rounding aside.

    Args:
        end_ids: Tokens that end an answer.
        advance: Called with the number of prompts answered since the last call.
    """
    from luthier.tree.support import refusal

    answers: dict[int, Generated] = {}
    decode = _decode_padded if refusal(model) else _decode_on_trunk
    ends = _Ends(tokenizer, end_ids, decoding)
    for members, tokens in decode(model, prompts, ends):
        for i, own in zip(members, tokens, strict=True):
            answers[i] = ends.finished(own)
        advance(len(members))
    return [answers[i] for i in range(len(prompts))]


class _Ends:
    """Takes each row's next token and says which rows go on."""

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], decoding: Decoding) -> None:
        self.tokenizer, self.end_ids, self.decoding = tokenizer, end_ids, decoding

    def ended(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.end_ids or self._hit_stop(tokens)

    def _hit_stop(self, tokens: list[int]) -> bool:
        stop = self.decoding.stop
        if not stop:
            return False
        # A stop string may straddle tokens, so a few more than its characters are decoded again.
        tail = self.tokenizer.decode(tokens[-(max(map(len, stop)) + 4) :], skip_special_tokens=True)
        return any(string in tail for string in stop)

    def finished(self, tokens: list[int]) -> Generated:
        ended = bool(tokens) and tokens[-1] in self.end_ids
        text = self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        cut = min((at for string in self.decoding.stop if (at := text.find(string)) >= 0), default=None)
        if cut is not None:
            return Generated(text[:cut].strip(), len(tokens), "stop")
        return Generated(text.strip(), len(tokens), "end" if ended else "length")


class _Rows:
    """The rows of a batch and what they have said so far."""

    def __init__(self, members: Sequence[int], ends: _Ends) -> None:
        self.said: list[list[int]] = [[] for _ in members]
        self._ends = ends
        self._draws = [drawn(ends.decoding, member) for member in members]
        self.running = list(range(len(members)))  # rows that are computed
        self._open = set(self.running)  # those of them that have not ended

    def take(self, logits: torch.Tensor) -> list[int] | None:
        """The next token of each running row from logits (B, V); None when all have ended."""
        step = max(len(self.said[row]) for row in self._open)
        tokens = pick(logits, self._ends.decoding, [self._draws[row][step : step + 1] for row in self.running])
        for row, token in zip(self.running, tokens, strict=True):
            if row in self._open:
                self.said[row].append(token)
                if self._ends.ended(self.said[row]):
                    self._open.discard(row)
        return tokens if self._open else None

    def to_keep(self) -> list[int] | None:
        """Places of the rows to go on with, when enough have ended to be worth moving what is kept of the others."""
        if len(self._open) > 0.75 * len(self.running):
            return None
        places = [place for place, row in enumerate(self.running) if row in self._open]
        self.running = [self.running[place] for place in places]
        return places


def _decode_on_trunk(model: Any, prompts: Sequence[Sequence[int]], ends: _Ends) -> Any:
    """Batches of prompts with their new token ids, the ending token included."""
    import torch

    from luthier.infer.decode import DecodingAttention
    from luthier.infer.trunk import SharedPrompts
    from luthier.tree.attention import attending
    from luthier.tree.logprobs import base_of, logits

    if not prompts:
        return
    shared = SharedPrompts(model, prompts)
    steps = ends.decoding.max_new_tokens
    base = base_of(model)
    for members in shared.batches(grown=steps):
        prefilled = shared.prefill(members)
        rows = _Rows(members, ends)
        count_predicted(len(members))
        tokens = rows.take(logits(model, prefilled.hidden[torch.from_numpy(prefilled.starts[1:] - 1)]))
        attention = DecodingAttention(shared.memory, prefilled, steps) if tokens is not None and steps > 1 else None
        del prefilled
        for _ in range(1, steps):
            if tokens is None or attention is None:
                break
            if (places := rows.to_keep()) is not None:
                attention.keep(places)
                tokens = [tokens[place] for place in places]
            count_step(len(tokens))
            with attending(base, attention):
                hidden = base.get_decoder()(
                    input_ids=torch.tensor(tokens, device=shared.device)[:, None],
                    position_ids=attention.positions[:, None],
                    use_cache=False,
                ).last_hidden_state[:, 0]
            attention.advance()
            tokens = rows.take(logits(model, hidden))
        yield members, rows.said


def _count(ids: torch.Tensor) -> None:
    """One pass over padded rows: a decoding step where each has a single token."""
    if ids.shape[1] == 1:
        count_step(len(ids))
    else:
        count_tokens(ids.numel())
        count_predicted(len(ids))


def _decode_padded(model: Any, prompts: Sequence[Sequence[int]], ends: _Ends) -> Any:
    """The same with transformers' own cache and nothing shared, for models that cannot be run on a tree.

    A model that keeps something else than a cache (RecurrentGemma, RWKV) computes a row anew for each token.
    """
    import torch
    from transformers import Cache

    from luthier.infer.budget import BATCH_TOKENS, MAX_ROWS
    from luthier.tree.logprobs import base_of
    from luthier.tree.padded import by_length, left_padded

    base = base_of(model)
    device = model.get_input_embeddings().weight.device
    lengths = [len(ids) + ends.decoding.max_new_tokens for ids in prompts]
    # To a summary of the past, padding in front is a past: such models get prompts of equal length together.
    equal = bool(getattr(base, "_is_stateful", False))
    for members in by_length(lengths, BATCH_TOKENS[device.type], MAX_ROWS[device.type], equal=equal):
        ids, mask = left_padded([prompts[i] for i in members], 0, device)
        kept: dict[str, Any] = {
            "attention_mask": mask,
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
            "use_cache": True,
        }
        rows = _Rows(members, ends)
        for step in range(ends.decoding.max_new_tokens):
            # Families differ in what they keep and how it is handed on; transformers' own generation knows.
            inputs = base.prepare_inputs_for_generation(ids, **kept, is_first_iteration=step == 0)
            _count(ids)
            out = model(**inputs, logits_to_keep=1)
            tokens = rows.take(out.logits[:, -1])
            if tokens is None:
                break
            kept = base._update_model_kwargs_for_generation(out, kept)
            cache = kept.get("past_key_values", kept.get("cache_params"))
            if not isinstance(cache, Cache):  # not ours to carry on: everything is computed again
                kept = {name: kept[name] for name in ("attention_mask", "position_ids")} | {"use_cache": False}
            if (places := rows.to_keep()) is not None:
                index = torch.tensor(places, device=device)
                tokens, ids = [tokens[place] for place in places], ids[index]
                kept |= {name: kept[name][index] for name in ("attention_mask", "position_ids")}
                if isinstance(cache, Cache):
                    cache.reorder_cache(index)  # every kind of layer has it, and it may leave rows out
            newest = torch.tensor(tokens, device=device)[:, None]
            ids = newest if isinstance(cache, Cache) else torch.cat([ids, newest], dim=1)
        yield members, rows.said
