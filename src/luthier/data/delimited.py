"""Rows of CSV and TSV, with the true line that each record starts on."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from luthier.data.files import Row, Table, table
from luthier.errors import DataError
from luthier.types import Place

_MARKS = (",", ";", "\t", "|")
# A cell of so many line breaks, each line of which is a row in form, was hardly meant: its quote is one too many.
_LEAST_LINES = 3
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?[ \t]*\r?\n', re.IGNORECASE)


def rows_of_delimited(text: str, file: str, delimiter: str | None, columns: tuple[str, ...] | None) -> Table:
    """The records below the header (or all of them, where `columns` names them).

    Args:
        delimiter: None for the comma, semicolon, tab or bar that gives every record as many cells as the header has.

    Raises:
        DataError: A quote that does not close, or closes only after what look like further rows; a record with too
            many or too few cells; a header with the same name twice. The message names the line.
    """
    if named := _SEPARATOR_LINE.match(text):  # as spreadsheets write it, for themselves
        delimiter, text = named[1], "\n" + text[named.end() :]
    records = _records(text, file, *_dialect(text, file, delimiter, columns))
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """A file whose records all have as many cells.

    Attributes:
        width: How many.
        broken: The line of the record with the cell that has most lines, where one has several; else None.
        lines: Line breaks in that cell.
    """

    width: int
    broken: int | None
    lines: int


def _dialect(text: str, file: str, delimiter: str | None, columns: tuple[str, ...] | None) -> tuple[str, bool]:
    """The delimiter, and whether quote marks stand around cells or in them: what makes the whole file consistent.

    Where nothing does, the delimiter that the first line has, so that the first bad record is named.
    """
    first = text.lstrip("\r\n").partition("\n")[0]
    marks = [delimiter] if delimiter else [mark for mark in _MARKS if mark in first] or [_MARKS[0]]
    for mark in marks:
        shape = _shape(text, mark, quoted=True)
        if shape is None or (shape.width < 2 and len(marks) > 1) or (columns and shape.width != len(columns)):
            continue
        if (
            shape.broken is None
            or shape.width < 2
            or (plain := _shape(text, mark, quoted=False)) is None
            or plain.width != shape.width
        ):
            return mark, True
        if mark == "\t":
            return mark, False
        if shape.lines < _LEAST_LINES:
            return mark, True
        raise DataError(
            f"{Place(file, shape.broken)}: a quote opens in the record that starts here and closes {shape.lines} lines "
            f"below, and each of these lines has {shape.width} cells, as a row of its own would.\n"
            'Close the quote where its cell ends, or write it twice inside a quoted cell: "say ""hello"""; if the cell '
            "has these lines, give the file as JSON Lines."
        )
    literal = _shape(text, "\t", quoted=False) if "\t" in marks and not _mostly_quoted(text) else None
    return ("\t", False) if literal and literal.width > 1 else (marks[0], True)


def _mostly_quoted(text: str) -> bool:
    """Whether quote marks stand around the cells of a TSV, as a program writes them, one of which may be wrong."""
    cells = [cell for line in text.splitlines() for cell in line.split("\t")]
    around = sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
    return around > len(cells) / 10


def _shape(text: str, delimiter: str, *, quoted: bool) -> _Shape | None:
    """None where records differ in their cells, or a quote is not closed as it should be."""
    width, broken, most = None, None, 0
    try:
        for line, cells in _records(text, "", delimiter, quoted):
            if width not in (None, len(cells)):
                return None
            width = len(cells)
            if (lines := max(cell.count("\n") for cell in cells)) > most:
                broken, most = line, lines
    except DataError:
        return None
    return None if width is None else _Shape(width, broken, most)


def _records(text: str, file: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Pairs of the line a record starts on and its cells; blank lines are passed over."""
    source = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(source, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
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
    start = " ".join(", ".join(cells).split())[:80]
    lines = max(cell.count("\n") for cell in cells)
    quoted = f" A quote in it closes {lines} lines below where the record starts." if lines else ""
    return (
        f"{place}: {much} cells: found {len(cells)} ({start}), expected {len(columns)} ({', '.join(columns)})."
        f"{quoted}\nPut a cell that holds the delimiter in quotes, or complete the row."
    )
