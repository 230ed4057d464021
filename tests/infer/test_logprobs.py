"""Log-probabilities of sequences against plain forwards of one sequence at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forest import FAMILIES, FOREST, calls_of, plain

from luthier.infer import budget
from luthier.infer.logprobs import LogProb, sequence_logprobs

AFTER = [(31,), (32, 33, 34), (35, 36, 37, 38, 39)]
# The forest with something counted after each prompt, so that what counts stands at many depths.
SEQUENCES = [(*prompt, *AFTER[i % 3]) for i, prompt in enumerate(FOREST)]
BEGINS = [len(prompt) for prompt in FOREST]
COUNTED = [[i >= begin for i in range(len(ids))] for ids, begin in zip(SEQUENCES, BEGINS, strict=True)]
# Merged, without the last counted token and what stands behind it: the shared 40 once, both branches of 20 once, (5, 6)
# and, in two equal prompts, 7 once, what else the prompts have, and of what counts all but the last token.
MERGED_TOKENS = 40 + 2 * 20 + 2 + 1 + (7 + 1 + 11 + 3 + 9 + 1 + 2) + 3 * (0 + 2 + 4) + 0 + 2


def scored(model: Any, sequences: Any = SEQUENCES, counted: Any = COUNTED) -> list[LogProb]:
    with torch.inference_mode():
        return sequence_logprobs(model, sequences, counted)


def expected(model: Any) -> list[float]:
    return [plain(model, ids[:begin], ids[begin:]) for ids, begin in zip(SEQUENCES, BEGINS, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_together_score_as_each_alone(varied: Callable[..., Any], family: str):
    model = varied(family)
    got = scored(model)
    assert [own.tokens for own in got] == [len(AFTER[i % 3]) for i in range(len(FOREST))]
    assert [own.nats for own in got] == pytest.approx(expected(model), abs=1e-4)


@pytest.mark.parametrize("tokens", [1, 30, 100])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "tiny_mamba"])
def test_small_batches_score_alike(
    varied: Callable[..., Any], tokens: int, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    model = request.getfixturevalue(kind) if kind.startswith("tiny") else varied(kind)
    monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", tokens)
    assert [own.nats for own in scored(model)] == pytest.approx(expected(model), abs=1e-4)


def test_what_sequences_share_is_computed_once(varied: Callable[..., Any]):
    model = varied()
    with calls_of(model) as calls:
        scored(model)
    assert calls == [(1, MERGED_TOKENS)]


@pytest.mark.parametrize("kind", ["tiny_mamba", "tiny_hybrid", "tiny_recurrent", "tiny_dynamic", "tiny_sinks"])
def test_models_that_cannot_be_run_on_a_tree_score_as_each_alone(kind: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind)
    assert [own.nats for own in scored(model)] == pytest.approx(expected(model), abs=1e-4)


def test_tokens_between_uncounted_ones_count_alone(varied: Callable[..., Any]):
    model = varied()
    ids = FOREST[0][-7:]
    (got,) = scored(model, [ids], [[False, False, True, False, True, False, False]])
    assert got.tokens == 2
    assert got.nats == pytest.approx(plain(model, ids[:2], ids[2:3]) + plain(model, ids[:4], ids[4:5]), abs=1e-4)


def test_a_sequence_without_counted_tokens_scores_nothing(varied: Callable[..., Any], tiny_mamba: Any):
    for model in (varied(), tiny_mamba):
        assert scored(model, [(5, 6)], [[False, False]]) == [LogProb(0.0, 0)]
        with_another = scored(model, [(5, 6), (7, 8)], [[False, False], [False, True]])
        assert with_another[0] == LogProb(0.0, 0)
        assert with_another[1].nats == pytest.approx(plain(model, (7,), (8,)), abs=1e-4)


def test_no_sequences_have_no_log_probabilities(varied: Callable[..., Any]):
    assert scored(varied(), [], []) == []
