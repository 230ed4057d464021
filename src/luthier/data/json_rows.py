"""Rows of JSON and JSON Lines, and the dotted path to rows that are nested."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from luthier.data.files import Row, Table, table
from luthier.errors import DataError
from luthier.types import Place

Parent = tuple[str, dict[str, object]]
"""The name under which an object above a row stands, and its plain values."""


def parse_json(text: str, place: Place) -> object:
    """The value of a JSON text (RFC 8259).

    Raises:
        DataError: A syntax error with its line and column, a key that an object has twice, NaN or Infinity, half a
            surrogate pair, or nesting too deep to read.
    """

    def refuse(constant: str) -> NoReturn:
        raise DataError(f"{place}: {constant} is not JSON. Write null, or leave the field out.")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
            raise DataError(
                f"{place}: an object has the key {twice!r} more than once, of which only the last value would be read "
                f"(its keys: {', '.join(key for key, _ in pairs[:12])}). Give every key once."
            )
        return found

    try:
        value: object = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line = error.lineno + (place.line or 1) - 1
        near = repr(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        raise DataError(
            f"{Place(place.file, line)}: not JSON at column {error.colno}: {error.msg}, found {near}.\n"
            f"Correct the file{' (each line must be one JSON value)' if place.line else ''}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{place}: the JSON is nested too deeply to read.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{place}: a number cannot be read ({error}). Write it as text.") from error
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{place}: \\u escapes hold half of a surrogate pair, which is no character. Write both halves, or the "
                "character itself."
            ) from error
    return value


def rows_of_jsonl(text: str, file: str, columns: tuple[str, ...] | None) -> Table:
    """One row a line; blank lines are passed over."""
    rows = []
    # not splitlines: U+2028 and others are allowed inside JSON strings
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = Place(file, number)
            rows.append(_row(parse_json(line, place), place, columns, []))
    return table(file, rows)


def rows_of_json(text: str, file: str, path: str | None, columns: tuple[str, ...] | None) -> Table:
    """The rows at `path` (default: the whole value); their line is the number of the row.

    A row is an object, or a list, whose columns are `columns` or "0", "1"…, or a plain value, whose column
    is "value". Where an object stands in place of a list, its keys become the column "key". Plain fields of
    the objects on the way become columns too (with the parent's name in front, where the row has one of the same
    name).

    Raises:
        DataError: No JSON, nothing at `path`, or an object that holds rows somewhere below.
    """
    value = parse_json(text, Place(file))
    keys = path.split(".") if path else []
    rows: list[Row] = []
    for found, parents in _at(value, keys, [], file, path or ""):
        for key, item in _items(found, file, path):
            row = _row(item, Place(file, len(rows) + 1), columns, parents)
            rows.append(row if key is None else Row({"key": key, **row.values}, row.place))
    return table(file, rows)


def is_jsonl(text: str) -> bool:
    """Whether a text that is no JSON as a whole has a JSON value alone on its first line."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg == "Extra data" and error.colno == 1 and error.lineno > 1
    except (ValueError, RecursionError):
        return False
    return False


def row_paths(value: object) -> list[str]:
    """The keys of an object under which rows may stand."""
    if not isinstance(value, dict):
        return []
    return [key for key, below in value.items() if _is_rows(below) and "." not in key]


def is_records(value: object) -> bool:
    """Whether an object holds one row a key: all values are objects, and share a field."""
    if not isinstance(value, dict) or not value or not all(isinstance(below, dict) for below in value.values()):
        return False
    return len(value) > 1 and bool(set.intersection(*(set(below) for below in value.values())))


def is_conversation(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), list) for key in ("messages", "conversations"))


def _is_rows(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict | list) for item in value)
    return is_records(value)


def _at(
    value: object, keys: list[str], parents: list[Parent], file: str, path: str
) -> Iterator[tuple[object, list[Parent]]]:
    """Every value that the keys lead to, through lists, with the plain fields met on the way (nearest last)."""
    if not keys:
        yield value, parents
    elif isinstance(value, dict) and keys[0] in value:
        plain = {k: v for k, v in value.items() if not isinstance(v, dict | list)}
        above = path.split(".")[-len(keys) - 1] if len(keys) < len(path.split(".")) else "file"
        yield from _at(value[keys[0]], keys[1:], [*parents, (above, plain)], file, path)
    elif isinstance(value, list):
        for item in value:
            yield from _at(item, keys, parents, file, path)
    else:
        found = ", ".join(list(value)[:12]) if isinstance(value, dict) else f"{json.dumps(value)[:40]}"
        raise DataError(
            f"{file}: rows: {path!r} leads nowhere: no {keys[0]!r} (found: {found}).\n"
            "Set rows to the keys that lead to the rows, with dots between them."
        )


def _items(value: object, file: str, path: str | None) -> Iterator[tuple[str | None, object]]:
    """Pairs of a key (None in a list) and what makes a row."""
    if isinstance(value, list):
        yield from ((None, item) for item in value)
    elif isinstance(value, dict) and is_conversation(value):
        yield None, value
    elif isinstance(value, dict) and (path is not None or is_records(value)):
        yield from value.items()
    elif isinstance(value, dict):
        inside = row_paths(value)
        advice = f"Set rows to one of: {', '.join(inside)}" if inside else "Set rows to the path of the list of rows"
        raise DataError(
            f"{file}: a JSON object, not a list of rows (found the keys: {', '.join(list(value)[:12])}).\n{advice}."
        )
    else:
        where = f" at rows: {path!r}" if path else ""
        raise DataError(f"{file}: found {json.dumps(value)[:40]}{where}, expected a list of rows.")


def _row(value: object, place: Place, columns: tuple[str, ...] | None, parents: list[Parent]) -> Row:
    if isinstance(value, dict):
        if columns is not None:
            raise DataError(
                f"{place}: found an object with names of its own ({', '.join(value)}), expected a list.\n"
                "Leave the setting columns out."
            )
        row = dict(value)
    elif isinstance(value, list):
        names = columns or tuple(str(number) for number in range(len(value)))
        if len(names) != len(value):
            raise DataError(
                f"{place}: found a list of {len(value)}, expected {len(names)} (columns: {', '.join(names)}).\n"
                "Correct the row, or the setting columns."
            )
        row = dict(zip(names, value, strict=True))
    elif value is None:
        raise DataError(f"{place}: found null, expected a row: an object, or a list.")
    else:
        row = {"value": value}
    for name, plain in reversed(parents):
        for key, above in plain.items():
            row.setdefault(key if key not in row else f"{name}_{key}", above)
    return Row(row, place)
