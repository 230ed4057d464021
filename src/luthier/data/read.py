"""From a source that the study names to rows with their places: one table a source."""

from __future__ import annotations

import re
from pathlib import Path

from luthier.data.code import rows_of_reader
from luthier.data.delimited import rows_of_delimited
from luthier.data.files import FORMAT_OF_SUFFIX, Table, locate, read_text
from luthier.data.json_rows import is_jsonl, rows_of_json, rows_of_jsonl
from luthier.data.settings import SplitNames, TaskSettings
from luthier.data.tables import hub_splits, rows_of_hub, rows_of_parquet
from luthier.errors import DataError
from luthier.types import Split

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_splits(settings: TaskSettings, root: Path, allow_code: bool) -> dict[Split, tuple[Table, ...]]:
    """The tables of every split that is given.

    Args:
        root: The folder against which relative paths resolve.

    Raises:
        DataError: A source cannot be read; the message names the place.
        CodeRefused: The settings name a reader, and code is not allowed.
    """
    if isinstance(settings.data, str) and settings.hub_split is None and on_hub(settings.data, settings, root):
        name = _hub_name(settings.data, root)
        given = hub_splits(name, settings.hub_config)
        return {ours: (rows_of_hub(name, settings.hub_config, theirs),) for ours, theirs in given.items()}
    return {
        split: tuple(_read(name, settings, split, root, allow_code) for name in names)
        for split, names in settings.sources().items()
    }


def on_hub(name: str, settings: TaskSettings, root: Path) -> bool:
    """Whether a source is meant as a Hub id: said so, or of the form `owner/name` without such a file."""
    if settings.format == "hub" or settings.hub_config or settings.hub_split:
        return True
    is_file_format = settings.format not in ("auto", "chat", "alpaca") or settings.reader or settings.rows
    if is_file_format or (root / name).exists() or Path(name).suffix.lower() in FORMAT_OF_SUFFIX:
        return False
    return _HUB_ID.fullmatch(name) is not None and not (root / name).parent.is_dir()


def _hub_name(name: str, root: Path) -> str:
    # a folder in the form of a Hub data set is read like one
    return str(root / name) if (root / name).is_dir() else name


def _read(name: str, settings: TaskSettings, split: Split, root: Path, allow_code: bool) -> Table:
    if on_hub(name, settings, root):
        return rows_of_hub(_hub_name(name, root), settings.hub_config, settings.hub_split_of(split) or split)
    path = locate(name, root)
    if settings.reader is not None:
        return rows_of_reader(settings.reader, path, name, root, allow_code)
    form = file_format(path, name, settings.format)
    rows = settings.rows_of(split)
    # row 7 of train and row 7 of test, in one file, are two places
    shown = f"{name}[{rows}]" if isinstance(settings.rows, SplitNames) else name
    return read_file(path, shown, form, settings.encoding, rows, settings.columns)


def file_format(path: Path, name: str, given: str = "auto") -> str:
    """csv, tsv, json, jsonl or parquet: as given, or by the ending."""
    if given not in ("auto", "chat", "alpaca", "hub"):
        return given
    suffix = path.suffix.lower()
    if suffix in (".xlsx", ".xls", ".xlsm", ".ods"):
        raise DataError(f"{name}: this is a spreadsheet. Export the sheet as CSV (UTF-8), and name that file.")
    if suffix not in FORMAT_OF_SUFFIX:
        raise DataError(
            f"{name}: the ending {suffix or '(none)'!r} names no format (known: {', '.join(FORMAT_OF_SUFFIX)}).\n"
            "Set format, or reader to a function that reads the file."
        )
    return FORMAT_OF_SUFFIX[suffix]


def read_file(
    path: Path,
    name: str,
    form: str,
    encoding: str = "utf-8",
    rows: str | None = None,
    columns: tuple[str, ...] | None = None,
) -> Table:
    """The rows of one local file of a known format.

    Args:
        name: What to call the file in places and messages.
        rows: Dotted path of the rows in JSON.
        columns: Column names where the file has none.
    """
    if form == "parquet":
        return rows_of_parquet(path, name)
    text = read_text(path, name, encoding)
    if form in ("csv", "tsv"):
        return rows_of_delimited(text, name, "\t" if form == "tsv" else None, columns)
    # many a file of JSON Lines is called .json
    if form == "jsonl" or (rows is None and is_jsonl(text)):
        return rows_of_jsonl(text, name, columns)
    return rows_of_json(text, name, rows, columns)
