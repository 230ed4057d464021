"""What rows see, against the definition: themselves and their ancestors, within the window."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from luthier.tree.attention import Scoring, TreeAttention
from luthier.tree.build import Tree, build_tree
from luthier.tree.products import attend_by_products, to_device
from luthier.tree.visible import ROUND_ROWS, RowBlock, Visibility, rounded_up, row_blocks, tree_visibility
from separate import draw_forest


def random_tree(seed: int) -> Tree:
    chance = random.Random(seed)
    tokens = chance.choice((2, 3, 50))
    return build_tree(
        [
            tuple(chance.randrange(tokens) for _ in range(chance.randint(1, 20)))
            for _ in range(chance.choice((1, 4, 30)))
        ]
    )


def ancestors(tree: Tree, window: int | None) -> np.ndarray:
    """True where a row sees a column. (T, T)"""
    seen = np.zeros((len(tree), len(tree)), bool)
    for row in range(len(tree)):
        node, distance = row, 0
        while node >= 0 and (window is None or distance < window):
            seen[row, node] = True
            node, distance = int(tree.parents[node]), distance + 1
    return seen


def mask_of(blocks: list[RowBlock], rows: int, columns: int) -> np.ndarray:
    """The blocks written out as a mask. (T, C)"""
    seen = np.zeros((rows, columns), bool)
    for block in blocks:
        order = np.concatenate([np.arange(a, b) for a, b in block.columns])
        assert len(order) == len(set(order)) == block.width
        for row in range(block.start, block.stop):
            seen[row, order[: block.clear]] = True
            seen[row, order[block.clear :]] = ~block.hidden[row - block.start]
    return seen


@pytest.mark.parametrize("window", [None, 1, 3, 7])
@pytest.mark.parametrize("seed", range(10))
def test_rows_see_their_ancestors_and_nothing_else(seed: int, window: int | None):
    tree = random_tree(seed)
    visibility = tree_visibility(tree)
    seen = ancestors(tree, window)
    assert np.array_equal(visibility.mask(window), seen)
    for rows in (1, 2, 5, 16, 128):
        blocks = row_blocks(visibility, window, rows)
        assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
        assert blocks[-1].stop == len(tree)
        assert all(0 < block.stop - block.start <= rows for block in blocks)
        assert np.array_equal(mask_of(blocks, *seen.shape), seen)


def test_blocks_skip_columns_that_no_row_sees():
    tree = build_tree([(first, *range(10, 60)) for first in range(4)])  # four trees of 51 nodes
    blocks = row_blocks(tree_visibility(tree), None, 128)
    assert [(block.start, block.stop) for block in blocks] == [(51 * k, 51 * (k + 1)) for k in range(4)]
    # Each is rounded up to 64 columns, by those that follow, or by the first where none do.
    assert [block.columns for block in blocks] == [((0, 64),), ((51, 115),), ((102, 166),), ((153, 204), (0, 13))]
    assert all(block.hidden[:, -13:].all() for block in blocks)


def test_what_every_row_sees_needs_no_mask():
    tree = build_tree([(*range(40), 50 + k) for k in range(30)])
    block = row_blocks(tree_visibility(tree), None, 10)[-1]
    assert block.clear == 40
    assert block.columns[0] == (0, 40)
    assert block.hidden.shape == (10, 10 + 14)  # with what rounds 50 columns up to 64
    assert block.hidden[:, 10:].all()


def test_part_of_a_mask_is_that_part_of_the_whole():
    tree = random_tree(1)
    visibility = tree_visibility(tree)
    columns = np.array([0, 2, 5])
    part = visibility.mask(3, slice(2, 6), columns)
    assert np.array_equal(part, visibility.mask(3)[2:6][:, columns])


def test_rows_that_are_not_columns_see_what_is_said():
    # Two new rows behind the leaves of a kept tree, 0 ─ 1 and 2: they see the columns before them only.
    visibility = Visibility(
        begins=np.array([0, 0, 1]),
        ends=np.array([1, 1, 2]),
        columns=np.array([0, 1, 0]),
        rows=np.array([2, 1]),
        roots=np.array([0, 1]),
    )
    assert visibility.mask(None).tolist() == [[True, True, False], [False, False, True]]
    assert visibility.mask(2).tolist() == [[False, True, False], [False, False, True]]
    assert np.array_equal(mask_of(row_blocks(visibility, 2, 1), 2, 3), visibility.mask(2))


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("rows", [1, 7, 128])
def test_products_have_the_values_and_gradients_of_the_whole_matrix(
    rows: int, window: int | None, softcap: float | None
):
    tree = build_tree(draw_forest(3)[0])
    visibility = tree_visibility(tree)
    torch.manual_seed(0)
    shapes = ((6, len(tree), 4), (2, len(tree), 4), (2, len(tree), 3))  # values may be of another size
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    blocks = to_device(row_blocks(visibility, window, rows), torch.device("cpu"))
    found = attend_by_products(query, key, value, blocks, 0.3, softcap)
    dense = TreeAttention(visibility, "dense")
    wanted = dense(0, query[None], key[None], value[None], Scoring(0.3, window, softcap))[0]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(found)
    for own, other in zip(
        torch.autograd.grad(found, (query, key, value), grad),
        torch.autograd.grad(wanted, (query, key, value), grad),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [None, 6])
def test_blocks_of_rounded_trees_are_of_rounded_shapes(window: int | None):
    for depth in range(1, 5):
        tree = build_tree(draw_forest(depth)[0])
        visibility = rounded_up(tree_visibility(tree))
        blocks = row_blocks(visibility, window)
        assert all(block.width % ROUND_ROWS == 0 for block in blocks)
        assert np.array_equal(mask_of(blocks, len(visibility.rows), len(visibility.columns)), visibility.mask(window))


def test_rows_that_are_added_see_themselves_alone_and_nothing_sees_them():
    tree = build_tree(draw_forest(5)[0])
    plain, rounded = tree_visibility(tree), rounded_up(tree_visibility(tree), 16)
    size = len(tree)
    assert len(rounded.rows) == len(rounded.columns) == -(-size // 16) * 16 > size
    mask = rounded.mask(None)
    assert np.array_equal(mask[:size, :size], plain.mask(None))
    assert np.array_equal(mask[size:], np.eye(len(mask), dtype=bool)[size:])
    assert not mask[:size, size:].any()
    assert rounded_up(rounded, 16).rows.tolist() == rounded.rows.tolist()
