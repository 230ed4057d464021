"""Building trees, on cases drawn by hand and against a trie of dictionaries."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luthier.tree.build import Tree, build_tree, shared_length


def columns(tree: Tree) -> dict[str, list[int]]:
    names = ("ids", "positions", "parents", "ends", "target_nodes", "target_ids", "target_rows")
    return {name: getattr(tree, name).tolist() for name in names}


def paths(tree: Tree) -> list[tuple[list[int], list[float]]]:
    return [(path.targets.tolist(), path.weights.tolist()) for path in tree.paths]


def test_a_shared_beginning_is_stored_once():
    tree = build_tree([(1, 2, 5, 6), (1, 2, 3, 4, 9)], [(0, 0, 1, 1), (0, 0, 0.5, 0, 2)])
    # 1 ─ 2 ┬ 3 ─ 4 (→ 9)
    #       └ 5 (→ 6)
    assert columns(tree) == {
        "ids": [1, 2, 3, 4, 5],
        "positions": [0, 1, 2, 3, 2],
        "parents": [-1, 0, 1, 2, 1],
        "ends": [5, 5, 4, 4, 5],
        "target_nodes": [1, 1, 3, 4],
        "target_ids": [3, 5, 9, 6],
        "target_rows": [1, 0, 1, 0],
    }
    assert paths(tree) == [([1, 3], [1.0, 1.0]), ([0, 2], [0.5, 2.0])]
    assert (len(tree), tree.tokens) == (5, 9)


def test_without_shared_beginnings_sequences_stand_side_by_side():
    tree = build_tree([(7, 8, 9), (3, 4)], [(0, 1, 1), (0, 1)])
    assert columns(tree) == {
        "ids": [3, 7, 8],
        "positions": [0, 0, 1],
        "parents": [-1, -1, 1],
        "ends": [1, 3, 3],
        "target_nodes": [0, 1, 2],
        "target_ids": [4, 8, 9],
        "target_rows": [1, 0, 0],
    }
    assert paths(tree) == [([1, 2], [1.0, 1.0]), ([0], [1.0])]


def test_a_sequence_that_begins_another_ends_within_it():
    tree = build_tree([(1, 2, 3, 4), (1, 2, 3)], [(0, 1, 1, 1), (0, 0, 2)])
    assert tree.ids.tolist() == [1, 2, 3]
    assert tree.parents.tolist() == [-1, 0, 1]
    assert paths(tree) == [([0, 1, 2], [1.0, 1.0, 1.0]), ([1], [2.0])]


def test_equal_sequences_share_everything_and_keep_their_own_weights():
    tree = build_tree([(1, 2, 3)] * 3, [(0, 1, 1), (0, 0, 0.25), (0, 0, 0)])
    assert tree.ids.tolist() == [1, 2]
    assert tree.target_nodes.tolist() == [0, 1]
    assert paths(tree) == [([0, 1], [1.0, 1.0]), ([1], [0.25]), ([], [])]
    assert tree.tokens == 9


def test_what_stands_behind_the_last_weighted_token_is_not_computed():
    tree = build_tree([(1, 2, 3, 4, 5), (6, 7), (8,)], [(0, 0, -1, 0, 0), (0, 0), (0,)])
    assert tree.ids.tolist() == [1, 2]
    assert (tree.target_nodes.tolist(), tree.target_ids.tolist()) == ([1], [3])
    assert paths(tree) == [([0], [-1.0]), ([], []), ([], [])]


def test_a_token_that_is_predicted_by_one_and_read_by_another_is_both():
    tree = build_tree([(1, 2), (1, 2, 3)], [(0, 1), (0, 1, 1)])
    assert tree.ids.tolist() == [1, 2]
    assert paths(tree) == [([0], [1.0]), ([0, 1], [1.0, 1.0])]


def test_without_weights_every_token_is_computed_and_none_predicted():
    tree = build_tree([(1, 2, 3), (1, 4), (1, 2)])
    assert tree.ids.tolist() == [1, 2, 3, 4]
    assert tree.ends.tolist() == [4, 3, 3, 4]
    assert len(tree.target_nodes) == len(tree.target_ids) == len(tree.target_rows) == 0
    assert paths(tree) == [([], []), ([], []), ([], [])]


def test_nothing_gives_an_empty_tree():
    tree = build_tree([], [])
    assert (len(tree), tree.paths, tree.tokens) == (0, (), 0)


@pytest.mark.parametrize(
    ("sequences", "weights", "message"),
    [
        ([(1, 2), ()], None, "sequence 1 is empty"),
        ([(1, 2), ()], [(0, 1), ()], "sequence 1 is empty"),
        ([(1, 2, 3)], [(0, 1)], "sequence 0 has 3 tokens and 2 weights"),
        ([(1, 2), (3, 4)], [(0, 1), (0.5, 1)], "sequence 1 weighs its first token, which has nothing before it"),
    ],
)
def test_sequences_that_make_no_sense_are_refused(
    sequences: list[tuple[int, ...]], weights: list[tuple[float, ...]] | None, message: str
):
    with pytest.raises(ValueError, match=message):
        build_tree(sequences, weights)


def draw(chance: random.Random) -> tuple[list[tuple[int, ...]], list[tuple[float, ...]]]:
    """Sequences of few tokens, so that they share much."""
    sequences = [tuple(chance.randrange(3) for _ in range(chance.randint(1, 9))) for _ in range(chance.randint(1, 14))]
    weights = [(0.0, *(chance.choice((0.0, 0.0, 1.0, 0.3)) for _ in ids[1:])) for ids in sequences]
    return sequences, weights


@pytest.mark.parametrize("seed", range(40))
def test_random_trees_agree_with_a_trie_of_dictionaries(seed: int):
    sequences, weights = draw(random.Random(seed))
    tree = build_tree(sequences, weights)

    trie: dict[tuple[int, ...], set[tuple[int, ...]]] = {(): set()}  # a beginning, and those that are one longer
    predicted: set[tuple[tuple[int, ...], int]] = set()
    for ids, own in zip(sequences, weights, strict=True):
        last = max((t for t, weight in enumerate(own) if weight), default=0)
        for t in range(last):
            trie[ids[:t]].add(ids[: t + 1])
            trie.setdefault(ids[: t + 1], set())
        predicted |= {(ids[:t], ids[t]) for t, weight in enumerate(own) if weight}

    beginnings = [_beginning(tree, node) for node in range(len(tree))]
    assert set(beginnings) == set(trie) - {()}
    assert len(set(beginnings)) == len(beginnings)
    assert [len(b) - 1 for b in beginnings] == tree.positions.tolist()
    for node, own in enumerate(beginnings):
        below = [n for n, other in enumerate(beginnings) if other[: len(own)] == own]
        assert below == list(range(node, tree.ends[node]))

    targets = [(beginnings[n], t) for n, t in zip(tree.target_nodes.tolist(), tree.target_ids.tolist(), strict=True)]
    assert set(targets) == predicted
    assert len(targets) == len(predicted)
    assert tree.target_nodes.tolist() == sorted(tree.target_nodes.tolist())
    for (before, token), row in zip(targets, tree.target_rows.tolist(), strict=True):
        assert sequences[row][: len(before) + 1] == (*before, token)
        assert weights[row][len(before)]
    for ids, own, path in zip(sequences, weights, tree.paths, strict=True):
        places = [t for t, weight in enumerate(own) if weight]
        assert [targets[k] for k in path.targets] == [(ids[:t], ids[t]) for t in places]
        assert path.weights.tolist() == [own[t] for t in places]
    assert tree.tokens == sum(map(len, sequences))


def _beginning(tree: Tree, node: int) -> tuple[int, ...]:
    """The tokens from the root to a node."""
    return (*(_beginning(tree, int(tree.parents[node])) if tree.parents[node] >= 0 else ()), int(tree.ids[node]))


def test_the_order_of_sequences_changes_nothing_but_the_order_of_paths():
    sequences, weights = draw(random.Random(7))
    tree = build_tree(sequences, weights)
    assert columns(tree) == columns(build_tree(sequences, weights))
    order = random.Random(0).sample(range(len(sequences)), len(sequences))
    other = build_tree([sequences[i] for i in order], [weights[i] for i in order])
    rows = {"target_rows": None}  # where several have a target, which of them is named may change
    assert columns(other) | rows == columns(tree) | rows
    assert paths(other) == [paths(tree)[i] for i in order]


def test_the_length_that_two_sequences_share():
    def shared(a: list[int], b: list[int]) -> int:
        return shared_length(np.array(a, np.int64), np.array(b, np.int64))

    assert [shared([1, 2, 3], [1, 2, 4]), shared([1, 2], [1, 2, 3]), shared([1], [2]), shared([], [1])] == [2, 2, 0, 0]
