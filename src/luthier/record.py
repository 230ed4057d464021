"""Predictors as JSON and back. Folders inside the run are written relative to it, so that a run can be moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.errors import RunError
from luthier.types import Decoding, Example, Message, ModelRef, Place, Predictor, Prompt, Shots, Wording


def predictor_to_json(predictor: Predictor, run_dir: Path) -> dict[str, Any]:
    """The predictor as plain values."""
    row = asdict(predictor)
    row["model"] = _model_to_json(predictor.model, run_dir)
    row["routes"] = {task: _model_to_json(ref, run_dir) for task, ref in predictor.routes.items()}
    return row


def predictor_from_json(row: Mapping[str, Any], run_dir: Path) -> Predictor:
    """The predictor that `predictor_to_json` wrote."""
    decoding = row["decoding"]
    return Predictor(
        model=_model_from_json(row["model"], run_dir),
        decoding=Decoding(**{**decoding, "stop": tuple(decoding["stop"])}),
        wording=Wording(**row["wording"]),
        shots=None if row["shots"] is None else _shots(row["shots"]),
        task_shots={task: _shots(own) for task, own in row["task_shots"].items()},
        routes={task: _model_from_json(ref, run_dir) for task, ref in row["routes"].items()},
    )


def load_predictor(file: Path, run_dir: Path) -> Predictor:
    """Read `predictor.json`.

    Raises:
        RunError: It is not there.
    """
    if not file.is_file():
        raise RunError(f"{file} is missing: this approach has not been fitted yet. Run the study again to go on.")
    return predictor_from_json(json.loads(file.read_text(encoding="utf-8")), run_dir)


def _model_to_json(ref: ModelRef, run_dir: Path) -> dict[str, Any]:
    return {"base": _relative(ref.base, run_dir), "adapters": [_relative(folder, run_dir) for folder in ref.adapters]}


def _model_from_json(row: Mapping[str, Any], run_dir: Path) -> ModelRef:
    return ModelRef(_absolute(row["base"], run_dir), tuple(_absolute(folder, run_dir) for folder in row["adapters"]))


def _shots(row: Mapping[str, Any]) -> Shots:
    return Shots(tuple(_example(e) for e in row["pool"]), row["count"], row["by"], row["embedder"])


def _example(row: Mapping[str, Any]) -> Example:
    prompt = row["prompt"]
    return Example(
        prompt=Prompt(**{**prompt, "messages": tuple(Message(**m) for m in prompt["messages"])}),
        completion=row["completion"],
        references=tuple(row["references"]),
        label=row["label"],
        place=Place(**row["place"]),
    )


def _relative(folder: str, run_dir: Path) -> str:
    path, top = Path(folder).resolve(), run_dir.resolve()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else str(path)


def _absolute(folder: str, run_dir: Path) -> str:
    return folder if Path(folder).is_absolute() else str((run_dir / folder).resolve())
