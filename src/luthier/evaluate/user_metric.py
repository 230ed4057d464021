"""A metric that the user wrote: `file.py:function`, in the study's folder.

The function is called as `function(completion: str, references: list[str], fields: dict[str, str])` and returns a
number or a bool, higher is better, or None where it cannot judge. An answer at which it fails is unscored.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from luthier.errors import CodeRefused, EvaluationError
from luthier.evaluate.answer import Answer, Unscored
from luthier.evaluate.per_answer import Options, Value

UserFunction = Callable[[str, list[str], dict[str, str]], float | bool | None]


def is_user_metric(name: str) -> bool:
    """Whether the name has the form `file.py:function`."""
    file, colon, function = name.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def load_user_metric(name: str, folder: Path, allow_code: bool) -> Callable[[Answer, Options], Value]:
    """The user's function as a metric of one answer. It runs the file, with all that the user may do.

    Args:
        name: `file.py:function`, the file relative to `folder`.
        folder: The study's folder. A file outside it, also through a link, is refused.
        allow_code: Whether the user has allowed the study to run code.

    Raises:
        CodeRefused: Code is not allowed, or the file lies outside the folder.
        EvaluationError: The file or the function is missing, or the file does not run.
    """
    file, _, function_name = name.rpartition(":")
    if not allow_code:
        raise CodeRefused(
            f"metric '{name}' is Python code, and code is not allowed. Read {file}; if you trust it, run again with "
            "--allow-code, or use a metric that Luthier brings."
        )
    path = _inside(folder, file, name)
    return _guarded(name, _function(path, function_name, name))


def _inside(folder: Path, file: str, name: str) -> Path:
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise CodeRefused(f"metric '{name}': {path} lies outside the study's folder {folder.resolve()}. Copy it there.")
    if not path.is_file():
        raise EvaluationError(f"metric '{name}': there is no file {path}. The name is relative to the study's folder.")
    return path


def _function(path: Path, function_name: str, name: str) -> UserFunction:
    module_name = f"luthier_user_metric_{sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise EvaluationError(f"metric '{name}': {path} does not run: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise EvaluationError(
            f"metric '{name}': {path} has no function '{function_name}' (found: {', '.join(found) or 'none'})."
        )
    checked: UserFunction = function
    return checked


def _guarded(name: str, function: UserFunction) -> Callable[[Answer, Options], Value]:
    def value(answer: Answer, options: Options) -> Value:
        try:
            result = function(answer.text, list(answer.references), dict(answer.fields))
        except Exception as error:
            return Unscored(f"{name} raised {type(error).__name__}: {error}")
        if result is None:
            return Unscored(f"{name} returned None")
        try:
            number = float(result)
        except (TypeError, ValueError):
            return Unscored(f"{name} returned {type(result).__name__}, not a number, a bool or None")
        return number if math.isfinite(number) else Unscored(f"{name} returned {number}")

    return value
