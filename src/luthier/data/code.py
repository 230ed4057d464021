"""A reader that the study brings along as Python code, run only where the user allows it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

from luthier.data.files import Row, Table, table
from luthier.errors import CodeRefused, DataError
from luthier.types import Place


def rows_of_reader(reader: str, path: Path, file: str, root: Path, allow_code: bool) -> Table:
    """The rows that the function `file.py:function` yields for `path`; their line is the number of the row.

    Raises:
        CodeRefused: Code is not allowed.
        DataError: There is no such function, it fails, or it yields something other than dicts.
    """
    if not allow_code:
        raise CodeRefused(
            f"{file}: reader {reader!r} is Python code, which is not run unless you allow it.\n"
            "Read it, then allow code (--allow-code), or convert the file to CSV or JSONL and leave reader out."
        )
    function = _function(reader, root)
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


def _function(reader: str, root: Path) -> Callable[[Path], Iterable[object]]:
    name, _, function_name = reader.rpartition(":")
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise CodeRefused(f"reader {reader!r}: {path} lies outside the study's folder {root.resolve()}. Copy it there.")
    if not path.is_file():
        raise DataError(f"{reader}: no such file {path}. Name it relative to the study file.")
    spec = importlib.util.spec_from_file_location(f"luthier_reader_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"{reader}: the file fails when loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"{reader}: {name} has no function {function_name!r}. Define it, or correct the name.")
    return function  # type: ignore[no-any-return]
