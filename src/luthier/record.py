"""Predictors as JSON and back, whatever their kind. Folders inside the run are written relative to it, so that a run
can be moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from luthier.errors import RunError
from luthier.types import FOLDER, NAMED, ModelRef, Passage, Predictor


def predictor_to_json(predictor: Predictor, run_dir: Path) -> dict[str, Any]:
    """The predictor as plain values, its kind first."""
    written = {FOLDER["place"]: _relative, NAMED["place"]: _named}
    placed = _with_places(predictor, lambda place, how: written[how](place, run_dir))
    return {"kind": predictor.kind, **asdict(placed)}


def predictor_from_json(row: Mapping[str, Any], run_dir: Path) -> Predictor:
    """The predictor that `predictor_to_json` wrote.

    Raises:
        RunError: It is of a kind that is not known, or a field of it is missing, unknown or of another type: another
            version of Luthier wrote it.
    """
    kind = Predictor.kinds.get(row.get("kind", ""))
    values = {name: value for name, value in row.items() if name != "kind"}
    if kind is None or values.keys() != {own.name for own in fields(kind)}:  # type: ignore[arg-type]
        raise RunError(_OTHER_VERSION)
    try:
        predictor: Predictor = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise RunError(_OTHER_VERSION) from error
    read = {FOLDER["place"]: _absolute, NAMED["place"]: _found}
    placed: Predictor = _with_places(predictor, lambda place, how: read[how](place, run_dir))
    return placed


def load_predictor(file: Path, run_dir: Path) -> Predictor:
    """Read `predictor.json`.

    Raises:
        RunError: It is not there, or was written by another version of Luthier.
    """
    if not file.is_file():
        raise RunError(f"{file} is missing: this approach has not been fitted yet. Run the study again to go on.")
    return predictor_from_json(json.loads(file.read_text(encoding="utf-8")), run_dir)


def places_of(predictor: Predictor) -> tuple[str, ...]:
    """The folders that it answers with, and the names of models that may be folders."""
    found: list[str] = []

    def kept(place: str, how: str) -> str:
        found.append(place)
        return place

    _with_places(predictor, kept)
    return tuple(dict.fromkeys(found))


def with_models(value: Any, change: Callable[[ModelRef], ModelRef]) -> Any:
    """A record with every model that it, or a record in it, names changed."""
    if isinstance(value, ModelRef):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_models(one, change) for key, one in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{own.name: with_models(getattr(value, own.name), change) for own in fields(value)})


def passage_from_json(row: Mapping[str, Any]) -> Passage:
    """A passage as `asdict` gave it."""
    return Passage(**{**row, "headings": tuple(row["headings"])})


_OTHER_VERSION = (
    "a predictor in this run folder was written by another version of Luthier. Run the study again, with the same "
    "--output: what still holds is kept."
)


def _with_places(value: Any, change: Callable[[str, str], str]) -> Any:
    """A record, with the records and mappings of records that it holds, and its folders changed.

    Args:
        change: Takes a folder or name and how it is marked.
    """
    if is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for own in fields(value):
            old = getattr(value, own.name)
            how = own.metadata.get("place")
            new = _with_places(old, change) if how is None else _placed(old, how, change)
            if new is not old:
                changed[own.name] = new
        return replace(value, **changed) if changed else value
    if isinstance(value, Mapping) and any(map(is_dataclass, value.values())):
        return {key: _with_places(one, change) for key, one in value.items()}
    return value  # no kind has folders in a list: pools of examples, which may be long, are left alone


def _placed(value: Any, how: str, change: Callable[[str, str], str]) -> Any:
    if isinstance(value, tuple):
        return tuple(change(one, how) for one in value)
    if isinstance(value, Mapping):
        return {key: change(one, how) for key, one in value.items()}
    return None if value is None else change(value, how)


# A folder inside the run, among names that may as well be built in or of the hub.
_INSIDE = "run:"


def _named(name: str, run_dir: Path) -> str:
    path = Path(name)
    if not path.is_absolute() or not path.resolve().is_relative_to(run_dir.resolve()):
        return name
    return _INSIDE + _relative(name, run_dir)


def _found(name: str, run_dir: Path) -> str:
    return _absolute(name.removeprefix(_INSIDE), run_dir) if name.startswith(_INSIDE) else name


def _relative(folder: str, run_dir: Path) -> str:
    path, top = Path(folder).resolve(), run_dir.resolve()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else str(path)


def _absolute(folder: str, run_dir: Path) -> str:
    return folder if Path(folder).is_absolute() else str((run_dir / folder).resolve())
