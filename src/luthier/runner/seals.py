"""What an approach was made with, by hash: a model that was exchanged under the same path answers otherwise than was
measured."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import RunError
from luthier.record import places_of
from luthier.runner.folder import RunFolder, read_json, write_json
from luthier.types import Predictor

_NAME = "made_with.json"
# Files that nothing reads: what others lay beside a model makes it no other one.
_BESIDE = (".md", ".lock", ".bin", ".pt", ".h5", ".msgpack")


def seal(predictor: Predictor, name: str, folder: RunFolder) -> None:
    """Write down the hash of each file that an approach answers with, its size and the time of its last change."""
    rows = [
        {
            "place": _written(place, folder),
            "files": {str(file.relative_to(place)): _state(file) for file in _files(place)},
        }
        for place in places_of(predictor)
        if Path(place).is_absolute() and Path(place).is_dir()
    ]
    write_json(folder.approach(name) / _NAME, {"folders": rows})


def check_seal(name: str, folder: RunFolder) -> None:
    """See that an approach is opened with what it was made with; of runs that wrote nothing down, nothing is known.

    Where files were written anew and are the same, their new times are kept, so that they are not read again.

    Raises:
        RunError: A file is gone, or another one stands in its place.
    """
    kept = folder.approach(name) / _NAME
    if not kept.is_file():
        return
    content, renewed = read_json(kept), False
    for row in content["folders"]:
        place = folder.path / row["place"]
        for file, before in row["files"].items():
            now = _stamp(place / file)
            if now == (before["size"], before["mtime_ns"]):
                continue
            if now is None or _hash(str(place / file), now) != before["sha256"]:
                how = "is gone" if now is None else "differs"
                raise RunError(
                    f"{place.resolve()} is not what '{name}' was made with ({file} {how}), so its "
                    "answers would be others than those that were measured. Put back what was there, or run "
                    f"the study again: luthier run {folder.study} --output {folder.path}"
                )
            before["mtime_ns"], renewed = now[1], True
    if renewed:
        with contextlib.suppress(OSError):  # a run that can only be read is hashed each time
            write_json(kept, content)


def _written(place: str, folder: RunFolder) -> str:
    path, run = Path(place).resolve(), folder.path.resolve()
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else str(path)


def _files(place: str) -> Iterator[Path]:
    for file in sorted(Path(place).rglob("*")):
        if file.is_file() and not file.name.startswith(".") and file.suffix not in _BESIDE:
            yield file


def _state(file: Path) -> dict[str, Any]:
    stamp = _stamp(file)
    assert stamp is not None, "it was there a moment ago"
    return {"size": stamp[0], "mtime_ns": stamp[1], "sha256": _hash(str(file), stamp)}


def _stamp(file: Path) -> tuple[int, int] | None:
    """Size and time of change; None where it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1024)
def _hash(file: str, stamp: tuple[int, int]) -> str:
    """The hash of a file as it stands, computed once while it stays as it is."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
