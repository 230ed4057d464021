"""A reader that the study brings along as Python code, run only where the user allows it."""

from __future__ import annotations

from pathlib import Path

from luthier.data.files import Row, Table, table
from luthier.errors import DataError
from luthier.types import Place
from luthier.user_code import load_function


def rows_of_reader(reader: str, path: Path, file: str, root: Path, allow_code: bool) -> Table:
    """The rows that the function `file.py:function` yields for `path`; their line is the number of the row.

    Raises:
        CodeRefused: Code is not allowed.
        DataError: There is no such function, it fails, or it yields something other than dicts.
    """
    function = load_function(
        reader,
        root,
        what="reader",
        allowed=allow_code,
        otherwise=f"convert {file} to CSV or JSONL and leave reader out",
        error=DataError,
    )
    rows = []
    try:
        for number, values in enumerate(function(path), 1):
            if not isinstance(values, dict):
                raise DataError(f"{reader}: row {number} of {file} is {type(values).__name__}, expected a dict.")
            rows.append(Row({str(key): value for key, value in values.items()}, Place(file, number)))
    except DataError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DataError(
            f"{reader}: it fails on {file} after {len(rows)} rows: {type(error).__name__}: {error}\nCorrect the reader."
        ) from error
    return table(file, rows)
