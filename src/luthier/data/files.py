"""Finding a data file and reading its text; what is wrong with a file as a whole is said here."""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import DataError
from luthier.types import Place

FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

# UTF-32 before UTF-16: its little-endian mark begins with the other's
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SHEET = "a spreadsheet, or another zip archive", "Export the sheet as CSV (UTF-8), or unpack the archive"
_BINARY = {
    b"PK\x03\x04": _SHEET,
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", "Export the sheet as CSV (UTF-8)"),
    b"PAR1": ("a Parquet file", "Set format: parquet"),
    b"\x1f\x8b": ("a gzip archive", "Unpack it first (gunzip)"),
    b"%PDF": ("a PDF", "Give rows as CSV, TSV, JSON, JSONL or Parquet"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its columns, and where it stands."""

    values: dict[str, object]
    place: Place


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Attributes:
        file: The file's name, as the study gives it.
        columns: Every column that any row has, in the order of first sight.
    """

    file: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]


def table(file: str, rows: list[Row]) -> Table:
    """The rows as a table; a DataError where there are none."""
    if not rows:
        raise DataError(f"{file}: no rows. Expected at least one example a row.")
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row.values))
    return Table(file, tuple(rows), tuple(columns))


def locate(name: str, root: Path) -> Path:
    """The path of a data file that is there; relative names are below `root`.

    Raises:
        DataError: There is no such file, or it is a folder.
    """
    path = root / Path(name).expanduser()
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in FORMAT_OF_SUFFIX)
        inside = f"files in it: {_some(files)}" if files else "no data file is in it"
        raise DataError(f"{name}: this is a folder ({inside}). Name a file, or a list of files.")
    if path.is_file():
        return path
    if path.exists():
        raise DataError(f"{name}: not a regular file. Name a data file.")
    raise DataError(f"{name}: no such file. {_similar(path)}")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either. Paths are relative to the study file."
    names = [p.name for p in path.parent.iterdir() if p.is_file()]
    lowered = {name.lower(): name for name in names}
    if close := difflib.get_close_matches(path.name.lower(), lowered, n=3, cutoff=0.5):
        return f"In the folder {path.parent} there is {', '.join(lowered[name] for name in close)}."
    data = sorted(name for name in names if Path(name).suffix.lower() in FORMAT_OF_SUFFIX)
    return f"In the folder {path.parent} there is {_some(data) if data else 'no data file'}."


def _some(names: list[str], at_most: int = 8) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def read_bytes(path: Path, name: str) -> bytes:
    """The bytes of a file that is not empty."""
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise DataError(
            f"{name}: reading it is not permitted. Give yourself the right (chmod u+r), or copy it."
        ) from error
    except OSError as error:
        raise DataError(f"{name}: it cannot be read ({error.strerror}).") from error
    if not data:
        raise DataError(f"{name}: the file is empty. Expected one example a row.")
    return data


def read_text(
    path: Path,
    name: str,
    encoding: str,
    advice: str = "Save the file as UTF-8, or set encoding to what it is in (often cp1252 or latin-1).",
) -> str:
    """The text of a file. A byte order mark decides before `encoding`; line ends stay as they are.

    Args:
        advice: What to do where it is not in this encoding.

    Raises:
        DataError: It is binary, or not in this encoding; the message names the line.
    """
    data = read_bytes(path, name)
    for start, (kind, remedy) in _BINARY.items():
        if data.startswith(start):
            raise DataError(f"{name}: this is {kind}, not text. {remedy}.")
    encoding = next((marked for mark, marked in _MARKS if data.startswith(mark)), encoding)
    if b"\0" in data[:8192] and re.match("utf.?(16|32)", encoding.lower()) is None:
        raise DataError(
            f"{name}: binary, or UTF-16 without a byte order mark (zero byte at byte {data.index(0) + 1}).\n"
            "Give text as CSV, TSV, JSON or JSONL; for UTF-16 set encoding: utf-16-le or utf-16-be."
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{Place(name, line)}: byte 0x{data[error.start]:02x} is not {encoding} ({error.reason}).\n{advice}"
        ) from error
    if not text.strip():
        raise DataError(f"{name}: the file holds nothing but white space. Expected one example a row.")
    return text
