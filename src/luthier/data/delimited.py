"""Rows of CSV and TSV, with the true line that each record starts on."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from luthier.data.files import Row, Table, table
from luthier.errors import DataError
from luthier.types import Place


def rows_of_delimited(text: str, file: str, delimiter: str | None, columns: tuple[str, ...] | None) -> Table:
    """The records below the header (or all of them, where `columns` names them).

    Args:
        delimiter: None for comma, or for the semicolon or tab that a header without a comma has instead.

    Raises:
        DataError: A quote that does not close, a record with too many or too few cells, a header with
            the same name twice. The message names the line.
    """
    records = _records(text, file, delimiter or _delimiter(text))
    if columns is None:
        columns = _header(next(records, None), file)
    rows: list[Row] = []
    for line, cells in records:
        if not rows and [cell.strip().casefold() for cell in cells] == [name.casefold() for name in columns]:
            raise DataError(
                f"{Place(file, line)}: the first row repeats the column names ({', '.join(columns)}).\n"
                "The file has a header: leave the setting columns out, or delete the second header."
            )
        if len(cells) != len(columns):
            raise DataError(_ragged(Place(file, line), cells, columns))
        rows.append(Row(dict(zip(columns, cells, strict=True)), Place(file, line)))
    if not rows:
        raise DataError(f"{file}: a header ({', '.join(columns)}) and no rows below it.")
    return table(file, rows)


def _delimiter(text: str) -> str:
    first = text.lstrip("\r\n").partition("\n")[0]
    return next((mark for mark in (",", ";", "\t") if mark in first), ",")


def _records(text: str, file: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Pairs of the line a record starts on and its cells; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    with _long_cells():
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{Place(file, line)}: the record that starts here is no CSV ({error}; line {reader.line_num}).\n"
                    'Close every quote, and write a quote inside a quoted cell twice: "say ""hello""".'
                ) from error
            if cells:
                yield line, cells


@contextmanager
def _long_cells() -> Iterator[None]:
    # the csv module keeps this limit (128 KiB by default) for the whole process
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(record: tuple[int, list[str]] | None, file: str) -> tuple[str, ...]:
    if record is None:
        raise DataError(f"{file}: no header. Expected column names in the first line.")
    line, cells = record
    names = [cell.strip() or f"unnamed_{number}" for number, cell in enumerate(cells, 1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"{Place(file, line)}: the header has {', '.join(map(repr, twice))} more than once "
            f"(found: {', '.join(names)}).\nGive every column its own name."
        )
    return tuple(names)


def _ragged(place: Place, cells: list[str], columns: tuple[str, ...]) -> str:
    much = "too many" if len(cells) > len(columns) else "too few"
    start = ", ".join(cells)[:80]
    return (
        f"{place}: {much} cells: found {len(cells)} ({start}), expected {len(columns)} ({', '.join(columns)}).\n"
        "Put a cell that holds the delimiter in quotes, or complete the row."
    )
