"""Prompts whose shared beginnings have several levels, and how the tests of the engine look at models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

FAMILIES = ["llama", "qwen3", "mistral", "gemma2", "gemma3"]

SHARED = tuple(range(300, 340))  # 40 tokens, well beyond the tiny models' sliding window of 8
LEFT, RIGHT = (*SHARED, *range(400, 420)), (*SHARED, *range(430, 450))
# Out of order on purpose: what stands together must not depend on how prompts are given.
FOREST = [
    (*LEFT, 8, 9, 10, 11, 12, 13, 14),
    (*RIGHT, 15),
    (60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70),  # alone
    (*SHARED, 16, 17, 18),
    (*LEFT, 5, 6, 7),
    (*RIGHT, 19, 20, 21, 22, 23, 24, 25, 26, 27),
    (*LEFT, 5, 6, 7),  # equal to another
    (*LEFT, 5, 6),  # the beginning of another
    (28,),  # a single token
    SHARED,  # nothing but what is shared
    (*RIGHT, 29, 30),
]
# Kept once: the beginning of nine prompts but for its last token, as one prompt ends with it, and the two branches of
# twenty with that token in front. (5, 6) is shared too and too short to be worth keeping.
TRUNK_TOKENS = 39 + 21 + 21
OWN_TOKENS = 7 + 1 + 11 + 4 + 3 + 9 + 3 + 2 + 1 + 1 + 2


class Spelled:
    """A tokenizer whose text is the token ids, so that answers are compared token for token."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


def reference(model: Any, prompt: Sequence[int], length: int) -> list[int]:
    """What transformers generates after one prompt alone."""
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=10**6,  # none
            pad_token_id=2,
        )
    return ids[0, len(prompt) :].tolist()


def plain(model: Any, before: Sequence[int], after: Sequence[int]) -> float:
    """Summed log-probability of `after`, from one forward over both without mask, cache or padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*before, *after]]), use_cache=False).logits[0]
    logprobs = logits.double().log_softmax(dim=-1)
    return sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(after))


@contextmanager
def calls_of(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens a row of each pass through the model's layers, refusals settled before."""
    from luthier.tree.support import refusal

    refusal(model)  # tries the model once
    calls: list[tuple[int, int]] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()
