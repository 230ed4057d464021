"""Greedy generation against `model.generate` one prompt at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from luthier.infer import batches
from luthier.infer.generate import Generated, generate
from luthier.infer.prefix import can_share, common_prefix
from luthier.types import Decoding

SHARED = tuple(range(300, 325))
RAGGED = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15,), (16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)]
FAMILIES = ["llama", "qwen3", "mistral", "gemma3"]


def reference(model: Any, prompt: Sequence[int], length: int) -> list[int]:
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=-1,
            pad_token_id=2,
        )
    return ids[0, len(prompt) :].tolist()


def answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
    *,
    length: int = 12,
    end_ids: frozenset[int] = frozenset(),
    stop: tuple[str, ...] = (),
) -> list[Generated]:
    with torch.inference_mode():
        decoding = Decoding("generate", length, stop)
        return generate(model, prompts, tokenizer=tokenizer, end_ids=end_ids, decoding=decoding)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared beginning"])
def test_batched_answers_are_those_of_each_prompt_alone(
    load_tiny: Callable[..., Any], tokenizer: Any, family: str, shared: tuple[int, ...]
):
    model = load_tiny(family)
    prompts = [(*shared, *own) for own in RAGGED]
    texts = [tokenizer.decode(reference(model, prompt, 12), skip_special_tokens=True).strip() for prompt in prompts]
    assert len(set(texts)) > 1  # the comparison would mean little if all answers were alike
    got = answers(model, prompts, tokenizer)
    assert [answer.text for answer in got] == texts
    assert all((answer.tokens, answer.stopped) == (12, "length") for answer in got)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_that_end_early_leave_the_others_undisturbed(load_tiny: Callable[..., Any], tokenizer: Any, family: str):
    model = load_tiny(family)
    prompts = [(*SHARED, *own) for own in RAGGED]
    full = [reference(model, prompt, 12) for prompt in prompts]
    end = full[0][2]
    expected = []
    for ids in full:
        cut = ids.index(end) + 1 if end in ids else len(ids)
        text = tokenizer.decode(ids[: cut - 1] if end in ids else ids, skip_special_tokens=True).strip()
        expected.append(Generated(text, cut, "end" if end in ids else "length"))
    assert len({answer.stopped for answer in expected}) == 2
    assert answers(model, prompts, tokenizer, end_ids=frozenset({end})) == expected


def test_small_batches_give_the_same_answers(
    load_tiny: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    model = load_tiny()
    prompts = [(*SHARED, *own) for own in RAGGED]
    together = answers(model, prompts, tokenizer)
    monkeypatch.setitem(batches.MAX_ROWS, "cpu", 1)
    assert answers(model, prompts, tokenizer) == together


def test_an_answer_is_cut_at_the_stop_string_and_generation_ends_there(load_tiny: Callable[..., Any], tokenizer: Any):
    model = load_tiny()
    prompt = RAGGED[1]
    text = tokenizer.decode(reference(model, prompt, 12), skip_special_tokens=True)
    stop = text[10:14]
    (answer,) = answers(model, [prompt], tokenizer, stop=("never in it", stop))
    assert answer.text == text[: text.index(stop)].strip()
    assert answer.stopped == "stop"
    assert answer.tokens < 12


def test_no_prompts_give_no_answers(load_tiny: Callable[..., Any], tokenizer: Any):
    assert answers(load_tiny(), [], tokenizer) == []


def test_equal_prompts_share_all_but_their_last_token():
    assert common_prefix([SHARED, SHARED]) == 24
    assert common_prefix([SHARED, SHARED[:20]]) == 19
    assert common_prefix([(*SHARED, 1), (*SHARED, 2, 3)]) == 25


def test_a_short_or_lonely_beginning_is_not_shared():
    assert common_prefix([SHARED]) == 0
    assert common_prefix([(1, 2, 3), (1, 2, 4)]) == 0
    assert common_prefix([]) == 0


def test_only_models_that_keep_every_past_token_share(load_tiny: Callable[..., Any]):
    assert {family: can_share(load_tiny(family)) for family in FAMILIES} == {
        "llama": True,
        "qwen3": True,
        "mistral": False,
        "gemma3": False,
    }


def test_batches_hold_every_sequence_once_longest_first():
    rows = list(batches.by_length([3, 9, 9, 4000, 1], "cpu", extra=1000))
    assert rows == [[3], [1, 2, 0, 4]]
    rows = list(batches.by_length([10] * 40, "cpu"))
    assert [len(batch) for batch in rows] == [32, 8]
    assert list(batches.by_length([100_000], "cpu")) == [[0]]  # what exceeds the budget still gets its turn
