"""Predictors as JSON and back. Folders inside the run are written relative to it, so that a run can be moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from luthier.errors import RunError
from luthier.types import (
    Decoding,
    Example,
    Message,
    ModelRef,
    Passage,
    Place,
    Predictor,
    Prompt,
    Relevance,
    Retrieval,
    Shots,
    Wording,
)


def predictor_to_json(predictor: Predictor, run_dir: Path) -> dict[str, Any]:
    """The predictor as plain values."""
    row = asdict(predictor)
    row["model"] = _model_to_json(predictor.model, run_dir)
    row["routes"] = {task: _model_to_json(ref, run_dir) for task, ref in predictor.routes.items()}
    for name in ("retriever", "reranker"):
        row[name] = _named_to_json(row[name], run_dir)
    if row["retrieval"] is not None:
        for name in ("index", "embedder", "reranker"):
            row["retrieval"][name] = _named_to_json(row["retrieval"][name], run_dir)
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
        retrieval=None if row["retrieval"] is None else _retrieval(row["retrieval"], run_dir),
        retriever=_named_from_json(row["retriever"], run_dir),
        reranker=_named_from_json(row["reranker"], run_dir),
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


def _retrieval(row: Mapping[str, Any], run_dir: Path) -> Retrieval:
    own = Retrieval(**row)
    return replace(
        own,
        index=str(_named_from_json(own.index, run_dir)),
        embedder=str(_named_from_json(own.embedder, run_dir)),
        reranker=_named_from_json(own.reranker, run_dir),
    )


def passage_from_json(row: Mapping[str, Any]) -> Passage:
    """A passage as `asdict` gave it."""
    return Passage(**{**row, "headings": tuple(row["headings"])})


def _example(row: Mapping[str, Any]) -> Example:
    prompt, passages, relevance = row["prompt"], row["prompt"]["passages"], row["relevance"]
    own = {
        "messages": tuple(Message(**m) for m in prompt["messages"]),
        "passages": None if passages is None else tuple(passage_from_json(passage) for passage in passages),
    }
    return Example(
        prompt=Prompt(**{**prompt, **own}),
        completion=row["completion"],
        references=tuple(row["references"]),
        label=row["label"],
        place=Place(**row["place"]),
        relevance=None if relevance is None else Relevance(**{k: tuple(v) for k, v in relevance.items()}),
    )


# A folder inside the run, among names that may as well be built in or of the hub.
_INSIDE = "run:"


def _named_to_json(name: str | None, run_dir: Path) -> str | None:
    path = None if name is None else Path(name)
    if path is None or not path.is_absolute() or not path.resolve().is_relative_to(run_dir.resolve()):
        return name
    return _INSIDE + _relative(str(path), run_dir)


def _named_from_json(name: str | None, run_dir: Path) -> str | None:
    inside = name is not None and name.startswith(_INSIDE)
    return _absolute(str(name).removeprefix(_INSIDE), run_dir) if inside else name


def _relative(folder: str, run_dir: Path) -> str:
    path, top = Path(folder).resolve(), run_dir.resolve()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else str(path)


def _absolute(folder: str, run_dir: Path) -> str:
    return folder if Path(folder).is_absolute() else str((run_dir / folder).resolve())
