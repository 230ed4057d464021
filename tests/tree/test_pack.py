"""Which sequences go together."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from luthier.tree.build import build_tree
from luthier.tree.pack import pack, pack_in_order

Pack = Callable[[Sequence[Sequence[int]], int], list[list[int]]]


def draw(seed: int) -> list[tuple[int, ...]]:
    chance = random.Random(seed)
    begun = [tuple(chance.randrange(4) for _ in range(chance.randint(1, 8))) for _ in range(3)]
    return [
        (*chance.choice(begun), *(chance.randrange(4) for _ in range(chance.randint(0, 6))))
        for _ in range(chance.randint(1, 25))
    ]


@pytest.mark.parametrize("packing", [pack, pack_in_order])
@pytest.mark.parametrize("seed", range(15))
def test_groups_hold_every_sequence_once_and_keep_to_the_budget(packing: Pack, seed: int):
    sequences = draw(seed)
    for budget in (1, 6, 14, 30, 1000):
        groups = packing(sequences, budget)
        assert sorted(i for group in groups for i in group) == list(range(len(sequences)))
        sizes = [len(build_tree([sequences[i] for i in group])) for group in groups]
        assert all(size <= budget or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
        assert packing(sequences, budget) == groups
    assert len(packing(sequences, 1000)) == 1


@pytest.mark.parametrize("packing", [pack, pack_in_order])
def test_a_sequence_longer_than_the_budget_stands_alone(packing: Pack):
    groups = packing([(1,) * 9, (2, 3), (2, 4)], 4)
    assert sorted(groups) == [[0], [1, 2]]


@pytest.mark.parametrize("packing", [pack, pack_in_order])
def test_what_shares_a_beginning_goes_together(packing: Pack):
    one, other = (1,) * 10, (2,) * 10
    sequences = [(*one, 5), (*other, 5), (*one, 6), (*other, 6), (*one, 7), (*other, 7)]
    assert sorted(packing(sequences, 14)) == [[0, 2, 4], [1, 3, 5]]
    assert len(packing(sequences, 26)) == 1


def test_without_sharing_the_fullest_group_with_room_is_filled():
    sequences = [(1,) * 7, (2,) * 6, (3,) * 3, (4,) * 4]
    assert pack(sequences, 10) == [[0, 2], [1, 3]]


def test_nothing_to_pack_gives_no_groups():
    assert pack([], 10) == pack_in_order([], 10) == []
