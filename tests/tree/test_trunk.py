"""The beginnings that prompts share, against brute force."""

from __future__ import annotations

import random

import pytest

from luthier.tree.trunk import Trunk, find_trunk


def above(trunk: Trunk, segment: int) -> list[int]:
    """A segment and those above it, from the root."""
    return [s for s in range(segment + 1) if segment < trunk.segments[s].end]


def beginnings(prompts: list[tuple[int, ...]], trunk: Trunk) -> list[tuple[int, ...]]:
    """For each prompt what its segments hold."""
    return [
        tuple(int(t) for s in above(trunk, int(tip)) for t in trunk.segments[s].ids) if tip >= 0 else ()
        for tip in trunk.tips
    ]


def test_a_beginning_that_all_share():
    trunk = find_trunk([(1, 2, 3, 4), (1, 2, 3, 5, 6)], least=2)
    assert [(s.ids.tolist(), s.depth, s.end) for s in trunk.segments] == [([1, 2, 3], 0, 1)]
    assert (trunk.tips.tolist(), trunk.depths.tolist(), len(trunk)) == ([0, 0], [3, 3], 3)


def test_beginnings_within_beginnings():
    prompts = [(1, 2, 9), (1, 2, 3, 4, 5), (7, 7, 7), (1, 2, 3, 4, 6), (7, 7, 8)]
    trunk = find_trunk(prompts, least=2)
    assert [(s.ids.tolist(), s.depth, s.end) for s in trunk.segments] == [
        ([1, 2], 0, 2),
        ([3, 4], 2, 2),
        ([7, 7], 0, 3),
    ]
    assert trunk.tips.tolist() == [0, 1, 2, 1, 2]
    assert trunk.depths.tolist() == [2, 4, 2, 4, 2]


def test_a_prompt_keeps_a_token_of_its_own():
    trunk = find_trunk([(1, 2, 3)] * 3, least=1)
    assert [s.ids.tolist() for s in trunk.segments] == [[1, 2]]
    assert trunk.depths.tolist() == [2, 2, 2]


def test_a_prompt_that_begins_another_does_not_keep_others_from_sharing_more():
    trunk = find_trunk([(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7), (1, 2, 3)], least=2)
    assert trunk.depths.tolist() == [5, 5, 2]


def test_short_beginnings_are_not_worth_it():
    trunk = find_trunk([(1, 2, 3), (1, 2, 4)], least=3)
    assert (trunk.segments, trunk.tips.tolist(), trunk.depths.tolist()) == ((), [-1, -1], [0, 0])


def test_no_prompts_and_one_prompt_share_nothing():
    assert find_trunk([], least=1).segments == ()
    alone = find_trunk([(1, 2, 3)], least=1)
    assert (alone.segments, alone.tips.tolist(), alone.depths.tolist()) == ((), [-1], [0])


@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("seed", range(30))
def test_random_prompts_agree_with_brute_force(seed: int, least: int):
    chance = random.Random(seed)
    tokens = chance.choice((2, 3))
    prompts = [
        tuple(chance.randrange(tokens) for _ in range(chance.randint(1, 10))) for _ in range(chance.randint(1, 16))
    ]
    trunk = find_trunk(prompts, least)

    for prompt, held, depth in zip(prompts, beginnings(prompts, trunk), trunk.depths.tolist(), strict=True):
        assert held == prompt[:depth]
        assert depth < len(prompt)
    for number, segment in enumerate(trunk.segments):
        assert len(segment.ids) >= least
        assert segment.depth == sum(len(trunk.segments[s].ids) for s in above(trunk, number)[:-1])
        assert sum(number < trunk.segments[int(tip)].end and number <= tip for tip in trunk.tips) >= 2
    whole = [tuple(int(t) for s in above(trunk, n) for t in trunk.segments[s].ids) for n in range(len(trunk.segments))]
    assert len(set(whole)) == len(whole)

    for prompt, depth in zip(prompts, trunk.depths.tolist(), strict=True):
        # The most that another prompt has as well, while both have a token of their own behind it.
        most = max(
            d for d in range(len(prompt)) if sum(len(p) > d and p[:d] == prompt[:d] for p in prompts) > 1 or not d
        )
        assert most - least <= depth <= most
