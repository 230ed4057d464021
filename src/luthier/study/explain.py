"""Putting pydantic's findings in the user's terms: the line, the key, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from luthier.settings import Choose
from luthier.study.yaml_lines import Lines, Path


def explain(error: ValidationError, root: type[BaseModel], raw: Mapping[str, Any], lines: Lines, file: str) -> str:
    """One line for each fault, in the order of the file."""
    faults: dict[Path, list[str]] = {}
    for fault in error.errors():
        path, leaf = _user_path(fault["loc"], raw, missing=fault["type"] == "missing")
        faults.setdefault(path, []).append(_sentence(dict(fault), path, leaf, root))
    said = []
    for path, sentences in faults.items():
        # A setting that may be left open fails twice, as a value and as {choose: …}; the first says what matters.
        sentence = min(sentences, key=lambda s: ("Choose" in s, sentences.index(s)))
        said.append(f"{lines.where(path, file)}: {sentence}")
    return "\n".join(said)


def _user_path(loc: Sequence[int | str], raw: Any, *, missing: bool) -> tuple[Path, Any]:
    """The part of pydantic's location that the user wrote: its names of unions and of short forms left out."""
    path: list[str] = []
    at = raw
    for depth, part in enumerate(loc):
        if part == "tasks" and isinstance(at, Mapping) and "task" in at:
            part = "task"
        elif part == "task" and path == ["task"]:
            continue  # the name that the only task was given
        is_key = isinstance(at, Mapping) and part in at
        is_index = isinstance(at, list | tuple) and isinstance(part, int) and part < len(at)
        if is_key or is_index:
            at = at[part]
        elif depth == len(loc) - 1 and missing:
            at = None
        else:
            continue
        path.append(str(part))
    return tuple(path), at


def _sentence(fault: dict[str, Any], path: Path, found: Any, root: type[BaseModel]) -> str:
    key = ".".join(path) or "the study"
    kind, message = fault["type"], fault["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = sorted(_fields_at(root, fault["loc"]))
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{key}: unknown key; {hint}(known here: {', '.join(known)})."
    if kind == "missing":
        return f"{key}: missing; give it."
    if kind == "union_tag_invalid":
        return f"{key}: unknown step {fault['input'].get('step')!r}; the steps are {fault['ctx']['expected_tags']}."
    if kind == "union_tag_not_found":
        return f"{key}: a step is a mapping with the key 'step', such as {{step: sft, adapter: lora}}; found {found!r}."
    choose = " (Choose)" if any("Choose" in str(part) for part in fault["loc"]) and not _chooses(fault) else ""
    shown = "" if kind in ("value_error", "assertion_error") else f"; found {fault['input']!r}"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}.{choose}"


def _chooses(fault: dict[str, Any]) -> bool:
    return isinstance(fault["input"], Mapping) and "choose" in fault["input"]


def _fields_at(root: type[BaseModel], loc: Sequence[int | str]) -> set[str]:
    """Names of the fields that would have been known where an unknown key was found."""
    candidates: list[type[BaseModel]] = [root]
    for part in loc[:-1]:
        named = [c for c in candidates if isinstance(part, str) and part in c.model_fields]
        tagged = [c for c in candidates if "step" in c.model_fields and c.model_fields["step"].default == part]
        if named:
            candidates = [model for c in named for model in _models_in(c.model_fields[str(part)].annotation)]
        elif tagged:
            candidates = tagged
    return {name for c in candidates for name in c.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, Choose) else [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
