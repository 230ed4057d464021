"""Putting pydantic's findings in the user's terms: the line, the key, what was found, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from luthier.settings import Choose
from luthier.study.yaml_lines import Lines, Path


def explain(error: ValidationError, root: type[BaseModel], raw: Mapping[str, Any], lines: Lines, file: str) -> str:
    """One line for each fault, in the order of the file."""
    found: dict[Path, Any] = {}
    faults: dict[Path, list[dict[str, Any]]] = {}
    errors = error.errors()
    for fault in errors:
        if _no_choice_was_meant(fault["loc"], errors, raw):
            continue
        path, leaf = _user_path(fault["loc"], raw, missing=fault["type"] == "missing")
        found[path] = leaf
        faults.setdefault(path, []).append(dict(fault))
    meant = {(*path[:-1], near) for path, group in faults.items() if (near := _nearest(group[0], root))}
    said = []
    for path, group in faults.items():
        # Where a setting has several forms, each has failed; the form that was meant is the one that failed deepest.
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in faults)
        # A misspelt key is missing too.
        misspelt = path in meant and group[0]["type"] == "missing"
        if not deeper and not misspelt:
            said.append(f"{lines.where(path, file)}: {_sentence(group, path, found[path], root)}")
    return "\n".join(said)


def _no_choice_was_meant(loc: Sequence[int | str], errors: Sequence[Any], raw: Any) -> bool:
    """Whether a fault only says that a mapping of settings is no {choose: ...}."""
    at = next((i for i, part in enumerate(loc) if str(part).startswith("Choose")), None)
    if at is None:
        return False
    _, value = _user_path(loc[:at], raw, missing=False)
    if not isinstance(value, Mapping) or "choose" in value:
        return False
    others = (own for own in errors if own["loc"][:at] == loc[:at] and not _in_choose(own["loc"]))
    return any(len(own["loc"]) > at + 1 or own["type"] == "union_tag_invalid" for own in others)


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


def _sentence(group: Sequence[dict[str, Any]], path: Path, found: Any, root: type[BaseModel]) -> str:
    """What is wrong at one place, where perhaps several forms of a setting have failed."""
    key = ".".join(path) or "the study"
    fault = group[0]
    kind = fault["type"]
    if kind == "extra_forbidden":
        near = _nearest(fault, root)
        hint = f"did you mean '{near}'? " if near else ""
        return f"{key}: unknown key; {hint}(known here: {', '.join(sorted(_fields_at(root, fault['loc'])))})."
    if kind == "missing":
        return f"{key}: missing; give it."
    if kind == "union_tag_invalid":
        tag = fault["ctx"]["discriminator"].strip("'")
        what = {"step": "step", "kind": "adapter"}[tag]
        return f"{key}: unknown {what} {fault['input'].get(tag)!r}; the {what}s are {fault['ctx']['expected_tags']}."
    if kind == "union_tag_not_found":
        return f"{key}: a step is a mapping with the key 'step', such as {{step: sft, adapter: lora}}; found {found!r}."
    # That a value is no {choose: ...} either says nothing, unless it is meant to be one.
    plain = [own for own in group if not _in_choose(own["loc"])] or group
    message = ", or ".join(dict.fromkeys(_in_yaml_s_words(own["msg"]) for own in plain))
    shown = "" if kind in ("value_error", "assertion_error") else f"; found {fault['input']!r}"
    return f"{key}: {message}{shown}."


def _in_yaml_s_words(message: str) -> str:
    message = message.removeprefix("Value error, ").removesuffix(".")
    message = re.sub(r"a valid dictionary or instance of [\w\[\]]+", "a mapping", message)
    message = re.sub(r"^Tuple should have at least (\d+) items? after validation.*", r"give at least \1", message)
    message = message.replace("a valid tuple", "a list")
    return message[:1].lower() + message[1:]


def _in_choose(loc: Sequence[int | str]) -> bool:
    return any(str(part).startswith("Choose") for part in loc)


def _nearest(fault: Mapping[str, Any], root: type[BaseModel]) -> str | None:
    """The known key that an unknown one was probably meant to be."""
    if fault["type"] != "extra_forbidden":
        return None
    near = difflib.get_close_matches(str(fault["loc"][-1]), sorted(_fields_at(root, fault["loc"])), n=1)
    return near[0] if near else None


def _fields_at(root: type[BaseModel], loc: Sequence[int | str]) -> set[str]:
    """Names of the fields that would have been known where an unknown key was found."""
    if _in_choose(loc[-2:]):
        return set(Choose.model_fields)
    candidates: list[type[BaseModel]] = [root]
    for part in loc[:-1]:
        named = [c for c in candidates if isinstance(part, str) and part in c.model_fields]
        tagged = [c for c in candidates if part in _tags(c)]
        if named:
            candidates = [model for c in named for model in _models_in(c.model_fields[str(part)].annotation)]
        elif tagged:
            candidates = tagged
    return {name for c in candidates for name in c.model_fields}


def _tags(model: type[BaseModel]) -> set[Any]:
    """What tells a class from others that may stand in its place."""
    return {model.model_fields[name].default for name in ("step", "kind") if name in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, Choose) else [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
