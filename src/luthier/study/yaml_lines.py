"""YAML with the line of every key, and duplicate keys refused."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from luthier.errors import StudyError

Path = tuple[str, ...]


@dataclass(slots=True)
class Lines:
    """Where each key of a document stands: path of keys and list indices (as text) → line, from 1."""

    lines: dict[Path, int]
    overrides: dict[Path, str] = field(default_factory=dict)

    def note_override(self, path: Path, text: str) -> None:
        self.overrides[path] = text

    def where(self, path: Path, file: str) -> str:
        """`study.yaml:12` of the key or its nearest parent, or the override that set it."""
        for depth in range(len(path), -1, -1):
            if path[:depth] in self.overrides:
                return f"--set {self.overrides[path[:depth]]}"
            if path[:depth] in self.lines:
                return f"{file}:{self.lines[path[:depth]]}"
        return file


def load_yaml(text: str, file: str) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML text, and where its keys stand.

    Raises:
        StudyError: The text is not YAML, not a mapping, or has a key twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise StudyError(f"{file}{line}: not YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{file}: not YAML: {error}.") from error
    if node is None or not isinstance(value, Mapping):
        found = "nothing" if node is None else f"a {type(value).__name__}"
        raise StudyError(f"{file}: expected a mapping of keys such as model, task and approaches; found {found}.")
    value = _unshared(value, file)
    lines: dict[Path, int] = {}
    _collect(node, (), lines, file)
    return dict(value), Lines(lines)


def _unshared(value: Any, file: str, above: tuple[Any, ...] = ()) -> Any:
    """The value with copies where YAML's aliases share, so that overriding one setting leaves its twins alone."""
    if any(value is own for own in above):
        raise StudyError(f"{file}: a list or mapping contains itself, by an alias. Write it out.")
    if isinstance(value, dict):
        return {key: _unshared(own, file, (*above, value)) for key, own in value.items()}
    if isinstance(value, list):
        return [_unshared(own, file, (*above, value)) for own in value]
    return value


def _collect(node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise StudyError(
                    f"{file}:{line}: the key '{key.value}' stands here again (first in line {seen[key.value]}); "
                    "YAML would silently keep the last. Remove one."
                )
            seen[key.value] = line
            lines[(*path, str(key.value))] = line
            _collect(value, (*path, str(key.value)), lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*path, str(index)), lines, file)
