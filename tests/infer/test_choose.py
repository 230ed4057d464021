"""Labels below prompts against plain forwards of one sequence at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from forest import FAMILIES, FOREST, OWN_TOKENS, TRUNK_TOKENS, calls_of, plain

from luthier.infer import budget
from luthier.infer.choose import label_logprobs
from luthier.tree.support import refusal
from luthier.tree.work import Work, counted

RAGGED = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15,), (16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)]
# (40, 41) begins (40, 41, 42) until the end of the turn, 2; the third is a single token.
LABELS = [(40, 41, 2), (40, 41, 42, 2), (43,), (44, 45, 46, 47, 48, 49, 50, 51, 52, 2)]
# Merged, and without the last tokens, which are only predicted: 40 41 42 and 44 … 52.
LABEL_TOKENS = 3 + 9


def chosen(model: Any, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] = LABELS) -> torch.Tensor:
    with torch.inference_mode():
        return torch.tensor(label_logprobs(model, prompts, labels), dtype=torch.float64)


def apart(model: Any, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] = LABELS) -> torch.Tensor:
    """Each label after each prompt as a sequence of its own."""
    return torch.tensor([[plain(model, prompt, label) for label in labels] for prompt in prompts], dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [RAGGED, FOREST], ids=["nothing shared", "a forest"])
def test_labels_below_all_prompts_score_as_each_alone(
    varied: Callable[..., Any], family: str, prompts: list[tuple[int, ...]]
):
    model = varied(family)
    torch.testing.assert_close(chosen(model, prompts), apart(model, prompts), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_that_a_model_was_loaded_with_makes_no_difference(load_tiny: Callable[..., Any], attention: str):
    model = load_tiny("llama", attention)
    torch.testing.assert_close(chosen(model, FOREST), apart(model, FOREST), rtol=0, atol=1e-4)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("tokens", "rows"), [(4096, 2), (13, 64), (40, 3)])
def test_small_batches_score_labels_alike(
    varied: Callable[..., Any], family: str, tokens: int, rows: int, monkeypatch: pytest.MonkeyPatch
):
    model = varied(family)
    together = chosen(model, FOREST)
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", rows)
    monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", tokens)
    torch.testing.assert_close(chosen(model, FOREST), together, rtol=0, atol=1e-4)


def test_labels_of_one_token_cost_no_token(varied: Callable[..., Any]):
    model = varied()
    labels = [(40,), (41,), (40,)]
    with calls_of(model) as calls:
        got = chosen(model, FOREST, labels)
    torch.testing.assert_close(got, apart(model, FOREST, labels), rtol=0, atol=1e-4)
    assert calls == [(1, TRUNK_TOKENS), (1, OWN_TOKENS)]


def test_what_labels_share_is_computed_once_a_prompt_and_what_prompts_share_once(
    varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    model = varied()
    with calls_of(model) as calls:
        chosen(model, FOREST)
    assert calls == [(1, TRUNK_TOKENS), (1, OWN_TOKENS + LABEL_TOKENS * len(FOREST))]
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", 3)
    with calls_of(model) as calls:
        chosen(model, FOREST)
    assert calls[0] == (1, TRUNK_TOKENS)
    assert sum(width for _, width in calls[1:]) == OWN_TOKENS + LABEL_TOKENS * len(FOREST)


def test_what_is_computed_is_counted_however_many_go_together(
    varied: Callable[..., Any], tiny_mamba: Any, monkeypatch: pytest.MonkeyPatch
):
    model = varied()
    refusal(model), refusal(tiny_mamba)  # which try a model once
    predicted = len(FOREST) * (1 + LABEL_TOKENS)  # behind every prompt and every token of the labels
    for rows in (64, 3):
        monkeypatch.setitem(budget.MAX_ROWS, "cpu", rows)
        with counted() as work:
            chosen(model, FOREST)
        assert work == Work(TRUNK_TOKENS + OWN_TOKENS + LABEL_TOKENS * len(FOREST), predicted)
    with counted() as work:
        chosen(tiny_mamba, [(5, 6, 7)])
    assert (work.tokens, work.predicted) == (4 * (3 + 10), 16)  # four padded rows; 40, 41 is two labels' beginning
    chosen(model, FOREST)
    assert work.tokens == 4 * (3 + 10)  # outside of it nothing is counted


def test_prompts_are_counted_as_their_batches_are_done(
    varied: Callable[..., Any], tiny_mamba: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", 4)
    for model, wanted in ((varied(), [4, 4, 3]), (tiny_mamba, [1] * 11)):
        done: list[int] = []
        with torch.inference_mode():
            label_logprobs(model, FOREST, LABELS, advance=done.append)
        assert done == wanted


def test_no_prompts_have_no_log_probabilities(varied: Callable[..., Any]):
    assert label_logprobs(varied(), [], LABELS) == []


@pytest.mark.parametrize("kind", ["tiny_mamba", "tiny_hybrid", "tiny_recurrent", "tiny_dynamic", "tiny_sinks"])
def test_models_that_cannot_be_run_on_a_tree_score_each_label_alone(kind: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind)
    assert refusal(model)
    torch.testing.assert_close(chosen(model, FOREST), apart(model, FOREST), rtol=0, atol=1e-4)
