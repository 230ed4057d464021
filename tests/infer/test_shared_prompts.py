"""What prompts share is found, computed and held once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from forest import FOREST, LEFT, OWN_TOKENS, RIGHT, SHARED, TRUNK_TOKENS, calls_of

from luthier.infer import budget
from luthier.infer.trunk import Place, SharedPrompts
from luthier.tree.build import build_tree
from luthier.tree.trunk import find_trunk

HEADS, SIZE = 2, 8  # of keys and values in the tiny models


def depths(prompts: list[tuple[int, ...]]) -> list[int]:
    return find_trunk(prompts).depths.tolist()


def shared(model: Any, prompts: list[tuple[int, ...]] = FOREST) -> SharedPrompts:
    with torch.inference_mode():
        return SharedPrompts(model, prompts)


def test_shared_beginnings_are_found_at_every_depth():
    trunk = find_trunk(FOREST)
    assert (
        [(s.depth, tuple(s.ids), s.end) for s in trunk.segments]
        == [
            (0, SHARED[:39], 3),  # one prompt ends with the fortieth token, and the last token is each prompt's own
            (39, LEFT[39:], 2),
            (39, RIGHT[39:], 3),
        ]
    )
    assert trunk.tips.tolist() == [1, 2, -1, 0, 1, 2, 1, 1, -1, 0, 2]
    assert trunk.depths.tolist() == [60, 60, 0, 39, 60, 60, 60, 60, 0, 39, 60]


def test_equal_prompts_share_all_but_their_last_token():
    assert depths([SHARED, SHARED]) == [39, 39]
    assert depths([SHARED, SHARED[:20]]) == [19, 19]
    assert depths([(*SHARED, 1), (*SHARED, 2, 3)]) == [40, 40]


def test_a_short_or_lonely_beginning_is_not_shared():
    assert depths([SHARED]) == [0]
    assert depths([(1, 2, 3), (1, 2, 4)]) == [0, 0]
    assert depths([]) == []


def test_shared_keys_and_values_are_held_once_and_each_prompt_holds_its_own(varied: Callable[..., Any]):
    prompts = shared(varied())
    assert len(prompts.trunk) == TRUNK_TOKENS
    for memory in (prompts.memory.keys, prompts.memory.values):
        assert {layer: tuple(tensor.shape) for layer, tensor in memory.items()} == dict.fromkeys(
            (0, 1), (HEADS, TRUNK_TOKENS, SIZE)
        )
    (members,) = prompts.batches()
    with torch.inference_mode():
        prefilled = prompts.prefill(members)
    for memory in (prefilled.own.keys, prefilled.own.values):
        assert {tuple(tensor.shape) for tensor in memory.values()} == {(HEADS, OWN_TOKENS, SIZE)}
    assert len(prefilled.hidden) == OWN_TOKENS
    assert prefilled.lengths.tolist() == [len(FOREST[i]) for i in members]
    assert prefilled.own_lengths.sum() == OWN_TOKENS
    assert np.diff(prefilled.starts).tolist() == prefilled.own_lengths.tolist()


def test_a_tree_below_the_prompts_is_held_once_a_prompt(varied: Callable[..., Any]):
    prompts = shared(varied())
    below = build_tree([(0, 40, 41, 42), (0, 40, 41, 43), (0, 44)])  # a root for the prompt's last token, five below
    (members,) = prompts.batches(below=5)
    with torch.inference_mode():
        prefilled = prompts.prefill(members, below)
    assert prefilled.own.keys[0].shape == (HEADS, OWN_TOKENS + 5 * len(FOREST), SIZE)
    assert np.diff(prefilled.starts).tolist() == [n + 5 for n in prefilled.own_lengths]


def test_batches_hold_every_prompt_once_with_those_that_share_side_by_side(
    varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    prompts = shared(varied())
    tips = prompts.trunk.tips
    (whole,) = prompts.batches()
    assert sorted(whole) == list(range(len(FOREST)))
    assert tips[whole].tolist() == sorted(tips.tolist())
    monkeypatch.setitem(budget.MAX_ROWS, "cpu", 3)
    parts = list(prompts.batches())
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert [i for part in parts for i in part] == whole


def test_batches_stay_within_the_tokens_computed_and_held(varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    prompts = shared(varied())
    own = np.array([len(prompt) for prompt in FOREST]) - prompts.trunk.depths
    monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", 30)
    for part in prompts.batches(below=4):
        assert len(part) == 1 or sum(own[part] + 4) <= 30
    monkeypatch.undo()
    monkeypatch.setitem(budget.CACHE_TOKENS, "cpu", 60)
    parts = list(prompts.batches(grown=10))
    assert len(parts) > 1
    for part in parts:
        assert len(part) == 1 or len(part) * (max(own[part]) + 10) <= 60
    monkeypatch.setitem(budget.CACHE_TOKENS, "cpu", 1)  # what exceeds the budget still gets its turn
    assert [len(part) for part in prompts.batches()] == [1] * len(FOREST)


def test_a_batch_knows_the_segments_that_its_rows_stand_under(varied: Callable[..., Any]):
    prompts = shared(varied())
    members = [3, 0, 4, 1]  # the shared beginning alone, two on the left, one on the right
    with torch.inference_mode():
        prefilled = prompts.prefill(members)
    assert prefilled.places == (Place(0, 4, 0, 39, 0), Place(1, 3, 39, 60, 39), Place(3, 4, 60, 81, 39))
    with torch.inference_mode():
        assert prompts.prefill([2, 8]).places == ()


def test_a_long_shared_beginning_goes_through_in_pieces_and_comes_out_the_same(
    varied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    for family in ("llama", "gemma3"):
        model = varied(family)
        whole = shared(model)
        monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", 25)
        with calls_of(model) as calls:
            pieces = shared(model)
        monkeypatch.undo()
        assert calls == [(1, 25), (1, 25), (1, 25), (1, 6)]
        for layer in (0, 1):
            torch.testing.assert_close(pieces.memory.keys[layer], whole.memory.keys[layer], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(pieces.memory.values[layer], whole.memory.values[layer], rtol=1e-4, atol=1e-4)


def test_prompts_that_share_nothing_need_no_memory(varied: Callable[..., Any]):
    model = varied()
    with calls_of(model) as calls:
        prompts = shared(model, [(5, 6, 7), (8, 9)])
    assert calls == []
    assert prompts.memory.keys == {}
