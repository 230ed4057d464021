"""Read a run folder. Everything that the report shows comes from here; nothing is computed but the reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import RunError

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApproachFolder:
    """What one approach left behind; the fields are the files of `approaches/NAME/`."""

    name: str
    approach: Record
    predictor: Record
    predictions: tuple[Record, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its steps, in order; empty for the base model as it comes."""
        return tuple(str(step["step"]) for step in self.approach["steps"])


@dataclass(frozen=True, slots=True)
class Result:
    """A named result of a step, to be drawn by its kind.

    Attributes:
        owners: The approaches that hold the step, in the comparison's order.
        step: The step's kind.
        name: Stem of the result's file.
        content: The file: `kind`, `title` and what the kind needs.
    """

    owners: tuple[str, ...]
    step: str
    name: str
    content: Record


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A finished run: its files as plain values. `approaches` are in the comparison's order, best first."""

    path: Path
    run: Record
    data: Record
    comparison: Record
    study: Record
    approaches: tuple[ApproachFolder, ...]
    results: tuple[Result, ...]

    def approach(self, name: str) -> ApproachFolder:
        """The approach of that name.

        Raises:
            RunError: There is none.
        """
        for approach in self.approaches:
            if approach.name == name:
                return approach
        names = ", ".join(approach.name for approach in self.approaches)
        raise RunError(f"{self.path}: no approach {name!r} in this run (found: {names}).")

    def row(self, name: str) -> Record:
        """The approach's row in the comparison."""
        row: Record = next(row for row in self.comparison["approaches"] if row["name"] == name)
        return row


def read_run(run_dir: Path) -> RunFolder:
    """Read a finished run.

    Raises:
        RunError: The folder is missing, not a run, not finished, or a file in it cannot be read.
    """
    again = f"Run `luthier run STUDY --output {run_dir}`"
    if not run_dir.is_dir():
        raise RunError(f"{run_dir}: no such run folder. {again} to make it.")
    if not (run_dir / "run.json").is_file():
        raise RunError(f"{run_dir}: not a run folder: run.json is missing. {again} to make one.")
    if not (run_dir / "comparison.json").is_file():
        raise RunError(
            f"{run_dir}: the run is not finished: comparison.json is missing. {again} with the same study: "
            "it goes on where it stopped."
        )
    comparison = _json(run_dir / "comparison.json", run_dir)
    approaches = tuple(_approach(run_dir, str(row["name"])) for row in comparison["approaches"])
    study = run_dir / "study.json"
    return RunFolder(
        path=run_dir,
        run=_json(run_dir / "run.json", run_dir),
        data=_json(run_dir / "data.json", run_dir),
        comparison=comparison,
        study=_json(study, run_dir) if study.is_file() else {},
        approaches=approaches,
        results=tuple(_results(run_dir, approaches)),
    )


def _approach(run_dir: Path, name: str) -> ApproachFolder:
    folder = run_dir / "approaches" / name
    return ApproachFolder(
        name=name,
        approach=_json(folder / "approach.json", run_dir),
        predictor=_json(folder / "predictor.json", run_dir),
        predictions=_jsonl(folder / "predictions.jsonl", run_dir),
    )


def _results(run_dir: Path, approaches: tuple[ApproachFolder, ...]) -> list[Result]:
    """Every named result, in the order of the approaches and their steps; a shared step comes once."""
    owners: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for approach in approaches:
        for step in approach.approach["steps"]:
            for own in (*step.get("parts", ()), step):
                owners.setdefault(str(own["hash"]), []).append(approach.name)
                kinds[str(own["hash"])] = str(own["step"])
    return [
        Result(tuple(dict.fromkeys(names)), kinds[step_hash], path.stem, _json(path, run_dir))
        for step_hash, names in owners.items()
        for path in sorted((run_dir / "steps" / step_hash / "results").glob("*.json"))
    ]


def _text(path: Path, run_dir: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(
            f"{run_dir}: {path.relative_to(run_dir)} is missing. "
            f"Run `luthier run STUDY --output {run_dir}` with the same study: only what is missing is computed again."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}.") from error


def _parse(text: str, where: str, run_dir: Path) -> Record:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); perhaps the run was stopped while writing. "
            f"Delete the file and run `luthier run STUDY --output {run_dir}` with the same study."
        ) from None
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected a JSON object, found {type(value).__name__}.")
    return value


def _json(path: Path, run_dir: Path) -> Record:
    return _parse(_text(path, run_dir), str(path), run_dir)


def _jsonl(path: Path, run_dir: Path) -> tuple[Record, ...]:
    # split at "\n" alone: str.splitlines also splits at U+2028, which JSON allows inside a string
    lines = _text(path, run_dir).split("\n")
    return tuple(
        _parse(line, f"{path}:{number}", run_dir) for number, line in enumerate(lines, start=1) if line.strip()
    )
