"""Greedy generation against `model.generate` one prompt at a time, token for token, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from forest import FAMILIES, FOREST, OWN_TOKENS, SHARED, TRUNK_TOKENS, Spelled, calls_of, reference

from luthier.infer import budget
from luthier.infer.decode import DecodingAttention
from luthier.infer.generate import Generated, generate
from luthier.infer.timing import AnswerSpeed, median_speed
from luthier.tree.padded import by_length
from luthier.tree.support import refusal
from luthier.tree.work import Work, counted
from luthier.types import Decoding

RAGGED = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15,), (16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)]
# Rows of the forest, and after how many tokens they are to end.
ENDINGS = [(1, 1), (10, 1), (0, 2), (4, 3), (9, 5), (2, 6)]


def answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    tokenizer: Any = None,
    length: int = 12,
    end_ids: frozenset[int] = frozenset(),
    stop: tuple[str, ...] = (),
) -> list[Generated]:
    with torch.inference_mode():
        return generate(
            model,
            prompts,
            tokenizer=tokenizer or Spelled(),
            end_ids=end_ids,
            decoding=Decoding("generate", length, stop),
        )


def ended(ids: list[int], ends: frozenset[int]) -> Generated:
    """What is to come of an answer that would go on as `ids`."""
    cut = next((i for i, token in enumerate(ids) if token in ends), None)
    if cut is None:
        return Generated(Spelled().decode(ids), len(ids), "length")
    return Generated(Spelled().decode(ids[:cut]), cut + 1, "end")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [RAGGED, FOREST], ids=["nothing shared", "a forest"])
def test_batched_answers_are_those_of_each_prompt_alone(
    varied: Callable[..., Any], family: str, prompts: list[tuple[int, ...]]
):
    model = varied(family)
    expected = [ended(reference(model, prompt, 12), frozenset()) for prompt in prompts]
    assert len({answer.text for answer in expected}) >= len(set(prompts)) - 1  # else the comparison would mean little
    assert answers(model, prompts) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_early_leave_the_others_undisturbed(
    varied: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
):
    model = varied(family)
    full = [reference(model, prompt, 12) for prompt in FOREST]
    # One row after another, in no order of theirs, so that what is kept of the others is moved several times.
    ends = frozenset(full[row][step] for row, step in ENDINGS)
    expected = [ended(ids, ends) for ids in full]
    assert len({answer.tokens for answer in expected}) >= 4
    kept: list[int] = []
    keep = DecodingAttention.keep
    monkeypatch.setattr(DecodingAttention, "keep", lambda self, rows: (kept.append(len(rows)), keep(self, rows))[1])
    assert answers(model, FOREST, end_ids=ends) == expected
    assert len(kept) >= 2


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_small_batches_give_the_same_answers(
    varied: Callable[..., Any], family: str, rows: int, monkeypatch: pytest.MonkeyPatch
):
    model = varied(family)
    together = answers(model, FOREST, length=6)
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", rows)
    with calls_of(model) as calls:
        assert answers(model, FOREST, length=6) == together
    assert max(height for height, width in calls if width == 1) == rows


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_beginnings_computed_in_pieces_give_the_same_answers(
    varied: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
):
    model = varied(family)
    together = answers(model, FOREST, length=6)
    monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", 13)  # 81 shared tokens: six pieces of 13 and one of 3
    with calls_of(model) as calls:
        assert answers(model, FOREST, length=6) == together
    assert calls[:7] == [(1, 13)] * 6 + [(1, 3)]


def test_a_shared_beginning_goes_through_the_model_once_for_all_batches(
    varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    model = varied()
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", 2)
    with calls_of(model) as calls:
        answers(model, FOREST, length=1)
    assert calls[0] == (1, TRUNK_TOKENS)
    assert len(calls) == 1 + 6  # eleven prompts, two at a time
    assert sum(width for _, width in calls[1:]) == OWN_TOKENS


def test_each_further_token_of_an_answer_is_one_token_a_row(varied: Callable[..., Any]):
    model = varied()
    with calls_of(model) as calls:
        answers(model, FOREST, length=5)
    assert calls == [(1, TRUNK_TOKENS), (1, OWN_TOKENS), *[(len(FOREST), 1)] * 4]


def test_rows_that_have_ended_are_no_longer_computed(varied: Callable[..., Any]):
    model = varied()
    prompts = [(*SHARED, *own) for own in RAGGED]
    full = [reference(model, prompt, 8) for prompt in prompts]
    ends = frozenset({full[0][1], full[1][2]})
    with calls_of(model) as calls:
        got = answers(model, prompts, length=8, end_ids=ends)
    heights = [height for height, width in calls[2:]]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 4
    assert heights[-1] <= 2
    assert got == [ended(ids, ends) for ids in full]


@pytest.mark.parametrize("prompt", [RAGGED[1], (*SHARED, 5, 6)], ids=["short", "long"])
def test_an_answer_is_cut_at_the_stop_string_and_generation_ends_there(
    load_tiny: Callable[..., Any], tokenizer: Any, prompt: tuple[int, ...]
):
    model = load_tiny()
    text = tokenizer.decode(reference(model, prompt, 12), skip_special_tokens=True)
    stop = text[10:14]
    (answer,) = answers(model, [prompt], tokenizer=tokenizer, stop=("never in it", stop))
    assert answer.text == text[: text.index(stop)].strip()
    assert answer.stopped == "stop"
    assert answer.tokens < 12


def test_rows_stop_at_their_own_stop_strings_and_the_others_go_on(load_tiny: Callable[..., Any], tokenizer: Any):
    model = load_tiny()
    texts = [tokenizer.decode(reference(model, prompt, 12), skip_special_tokens=True) for prompt in FOREST]
    stop = (texts[0][6:10], texts[5][12:16])
    expected = [min((text.find(s) for s in stop if s in text), default=len(text)) for text in texts]
    assert 0 < sum(cut < len(text) for cut, text in zip(expected, texts, strict=True)) < len(texts)
    got = answers(model, FOREST, tokenizer=tokenizer, stop=stop)
    assert [a.text for a in got] == [text[:cut].strip() for text, cut in zip(texts, expected, strict=True)]


def test_the_ending_token_may_come_first(varied: Callable[..., Any]):
    model = varied()
    firsts = frozenset(reference(model, prompt, 1)[0] for prompt in RAGGED)
    assert answers(model, RAGGED, end_ids=firsts) == [Generated("", 1, "end")] * len(RAGGED)


def test_no_prompts_give_no_answers(varied: Callable[..., Any], tiny_mamba: Any):
    assert answers(varied(), []) == []
    assert answers(tiny_mamba, []) == []


def test_answers_are_counted_as_their_batches_are_done(varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", 4)
    done: list[int] = []
    with torch.inference_mode():
        generate(
            varied(),
            FOREST,
            tokenizer=Spelled(),
            end_ids=frozenset(),
            decoding=Decoding("generate", 2),
            advance=done.append,
        )
    assert done == [4, 4, 3]


def test_all_families_are_run_on_a_tree_but_those_that_cannot_be(
    varied: Callable[..., Any], tiny_mamba: Any, tiny_dynamic: Any, tiny_sinks: Any
):
    assert [refusal(varied(family)) for family in FAMILIES] == [""] * len(FAMILIES)
    assert refusal(tiny_mamba) == "it keeps a summary of the past instead of its tokens"
    assert refusal(tiny_dynamic) == "its rotary embedding depends on the longest sequence"
    assert refusal(tiny_sinks) == "its GptOssAttention asks for s_aux"


@pytest.mark.parametrize(
    "kind",
    [
        *("tiny_mamba", "tiny_hybrid", "tiny_dynamic", "tiny_sinks"),
        *("tiny_recurrent", "tiny_rwkv", "tiny_first_gpt"),  # these compute everything again for each token
    ],
)
@pytest.mark.parametrize("rows", [64, 2, 1])
def test_models_that_cannot_be_run_on_a_tree_answer_as_each_prompt_alone(
    kind: str, rows: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    model = request.getfixturevalue(kind)
    full = [reference(model, prompt, 12) for prompt in FOREST]
    assert len(set(map(tuple, full))) > 4
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", rows)
    assert answers(model, FOREST) == [ended(ids, frozenset()) for ids in full]
    ends = frozenset(full[row][step] for row, step in ENDINGS)
    assert answers(model, FOREST, end_ids=ends) == [ended(ids, ends) for ids in full]


def test_padded_batches_hold_every_sequence_once_longest_first():
    assert list(by_length([1003, 1009, 1009, 5000, 1001], 4096)) == [[3], [1, 2, 0, 4]]
    assert [len(batch) for batch in by_length([10] * 40, 4096, 32)] == [32, 8]
    assert list(by_length([100_000], 4096)) == [[0]]  # what exceeds the budget still gets its turn


def test_decoding_steps_are_counted_with_their_rows(varied: Callable[..., Any], tiny_recurrent: Any):
    model = varied()
    refusal(model)
    with counted() as work:
        answers(model, FOREST, length=5)
    assert work == Work(TRUNK_TOKENS + OWN_TOKENS, len(FOREST), steps=4, rows=4 * len(FOREST))
    with counted() as work:
        answers(model, FOREST[:1], length=1)
    assert (work.predicted, work.steps, work.rows) == (1, 0, 0)
    refusal(tiny_recurrent)
    with counted() as work:
        answers(tiny_recurrent, RAGGED[:1], length=3)
    assert work.tokens + work.rows > 3


def test_work_takes_the_time_of_its_parts():
    speed = AnswerSpeed(token_s=0.001, head_s=0.01, alone_s=0.1, batch_s=0.163, rows=64)
    assert speed.seconds(Work(tokens=100, predicted=10)) == pytest.approx(0.2)
    assert speed.seconds(Work(steps=1, rows=1)) == pytest.approx(0.1)
    assert speed.seconds(Work(steps=2, rows=128)) == pytest.approx(2 * 0.163)
    assert speed.seconds(Work(steps=1, rows=11, beside_s=1.0)) == pytest.approx(0.11 + 1)
    slow = AnswerSpeed(0.004, 0.02, 0.5, 0.9, 64)
    assert median_speed([speed, slow, speed]) == speed
