"""What an approach was made with, by hash: a model that was exchanged under the same path answers otherwise than was
measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import RunError
from luthier.model.find import model_key
from luthier.record import places_of
from luthier.runner.folder import RunFolder, read_json, write_json
from luthier.types import Predictor

_NAME = "made_with.json"
# Size and time of change of each file: where they are as they were, nothing is read again.
_Stamps = tuple[tuple[str, int, int], ...]


def seal(predictor: Predictor, name: str, folder: RunFolder) -> None:
    """Write down the hashes of all folders that an approach answers with."""
    rows = [
        {"place": _written(place, folder), "key": _key(place, stamps), "files": [list(own) for own in stamps]}
        for place in places_of(predictor)
        if Path(place).is_absolute() and Path(place).is_dir()
        for stamps in (_stamps(place),)
    ]
    write_json(folder.approach(name) / _NAME, {"folders": rows})


def check_seal(name: str, folder: RunFolder) -> None:
    """See that an approach is opened with what it was made with; of runs that wrote nothing down, nothing is known.

    Raises:
        RunError: A folder holds other files than then.
    """
    file = folder.approach(name) / _NAME
    for row in read_json(file)["folders"] if file.is_file() else ():
        place = str((folder.path / row["place"]).resolve())
        now = _stamps(place) if Path(place).is_dir() else ()
        if now and [list(own) for own in now] != row["files"] and _key(place, now) != row["key"]:
            raise RunError(
                f"{place} is not what '{name}' was made with{_changed(row, now)}, so its answers would be others than "
                "those that were measured. Put back what was there, or run the study again: "
                f"luthier run {folder.study} --output {folder.path}"
            )


def _written(place: str, folder: RunFolder) -> str:
    path, run = Path(place).resolve(), folder.path.resolve()
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else str(path)


def _stamps(place: str) -> _Stamps:
    files = sorted(file for file in Path(place).rglob("*") if file.is_file())
    return tuple((file.relative_to(place).as_posix(), (at := file.stat()).st_size, at.st_mtime_ns) for file in files)


@lru_cache(maxsize=64)
def _key(place: str, stamps: _Stamps) -> str:
    """The hash of a folder as it stands, computed once while its files stay as they are."""
    return model_key(place)


def _changed(row: Mapping[str, Any], now: _Stamps) -> str:
    """The first file that differs in name or size, where one does."""
    before, after = ({own[0]: own[1] for own in files} for files in (row["files"], now))
    named = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f" ({named[0]} differs)" if named else ""
