"""Which columns (keys) each row (query) may see, and blocks of rows that see much the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.tree.build import Ints, Tree

# Rows that are multiplied at a time: enough for full matrix products, few enough to skip most of the upper triangle.
BLOCK_ROWS = 128
# Rows, and columns of a block, are rounded up to a multiple of this. A matrix product of a new shape takes about a
# millisecond more than one of a known shape and half a megabyte that is kept (oneDNN), and every step has dozens.
ROUND_ROWS = 32
# Where a new tree of the forest begins, a block ends early if it has at least so many rows.
_FEWEST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Visibility:
    """Row `r` sees column `c` when `begins[c] <= r < ends[c]` and the column is within the window, if there is one.

    Attributes:
        begins: First row that sees the column. (C,)
        ends: One past the last row that sees it. (C,)
        columns: Positions of the columns in their sequences. (C,)
        rows: Positions of the rows in their sequences. (T,)
        roots: Rows at which an unrelated part begins, ascending.
    """

    begins: Ints
    ends: Ints
    columns: Ints
    rows: Ints
    roots: Ints

    def mask(self, window: int | None, rows: slice = slice(None), columns: Ints | None = None) -> NDArray[np.bool_]:
        """True where a row sees a column. (R, C)

        Args:
            window: Positions that a row looks back, its own included; None for all.
            rows: Part of the rows.
            columns: Indices of the columns wanted; None for all.
        """
        chosen = slice(None) if columns is None else columns
        row = np.arange(len(self.rows))[rows, None]
        seen: NDArray[np.bool_] = (self.begins[chosen] <= row) & (row < self.ends[chosen])
        if window is not None:
            seen &= self.rows[rows, None] - self.columns[chosen] < window
        return seen


def tree_visibility(tree: Tree) -> Visibility:
    """Every node sees itself and its ancestors."""
    return Visibility(np.arange(len(tree)), tree.ends, tree.positions, tree.positions, np.flatnonzero(tree.parents < 0))


def rounded_up(visibility: Visibility, multiple: int = ROUND_ROWS) -> Visibility:
    """The same with rows added at the end, each with a column of its own, that nothing else sees and that see nothing
    else, so that steps of about the same size are of the same shape."""
    rows = len(visibility.rows)
    own = np.arange(rows, -(-rows // multiple) * multiple)
    first = np.zeros(len(own), np.int64)
    return Visibility(
        begins=np.concatenate([visibility.begins, own]),
        ends=np.concatenate([visibility.ends, own + 1]),
        columns=np.concatenate([visibility.columns, first]),
        rows=np.concatenate([visibility.rows, first]),
        roots=visibility.roots,
    )


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows and the columns that any of them sees, and a few others, hidden from all, so that shapes come again.

    Attributes:
        start, stop: The rows.
        columns: Intervals of columns, those that every row sees first, those that none sees last.
        clear: How many leading columns every row sees.
        hidden: For the other columns, True where a row does not see one. (stop - start, columns - clear)
    """

    start: int
    stop: int
    columns: tuple[tuple[int, int], ...]
    clear: int
    hidden: NDArray[np.bool_]

    @property
    def width(self) -> int:
        return self.clear + int(self.hidden.shape[1])


def row_blocks(visibility: Visibility, window: int | None, rows: int = BLOCK_ROWS) -> list[RowBlock]:
    """Blocks of at most `rows` rows that cover all rows in order."""
    blocks = []
    for start, stop in _cuts(len(visibility.rows), visibility.roots.tolist(), rows):
        near = np.flatnonzero((visibility.begins < stop) & (visibility.ends > start))
        seen = visibility.mask(window, slice(start, stop), near)
        everywhere, somewhere = seen.all(axis=0), seen.any(axis=0)
        partly = somewhere & ~everywhere
        columns = np.concatenate([near[everywhere], near[partly]])
        # Those that round it up stand behind, where there are any, so that they make no interval of their own.
        spare = np.setdiff1d(np.arange(len(visibility.columns)), columns)
        more = np.roll(spare, -np.searchsorted(spare, columns.max()))[: -len(columns) % ROUND_ROWS]
        hidden = np.pad(~seen[:, partly], ((0, 0), (0, len(more))), constant_values=True)
        runs = tuple(_runs(np.concatenate([columns, more])))
        blocks.append(RowBlock(start, stop, runs, int(everywhere.sum()), hidden))
    return blocks


def _cuts(total: int, roots: Sequence[int], rows: int) -> Iterator[tuple[int, int]]:
    edges, start = [], 0
    for root in (*roots, total):
        if root - start >= _FEWEST_ROWS or root == total:
            edges.append(root)
            start = root
    unit = min(ROUND_ROWS, rows)
    for start, edge in itertools.pairwise([0, *edges]):
        units = -(-(edge - start) // unit)
        parts = -(-units // (rows // unit))
        inner = [start + unit * (units * part // parts) for part in range(parts)]
        yield from itertools.pairwise([*inner, edge])


def _runs(columns: Ints) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as intervals."""
    if not len(columns):
        return
    for run in np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1):
        yield int(run[0]), int(run[-1]) + 1
