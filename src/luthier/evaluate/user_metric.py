"""A metric that the user wrote: `file.py:function`, in the study's folder.

The function is called as `function(completion: str, references: list[str], fields: dict[str, str])` and returns a
number or a bool, higher is better, or None where it cannot judge. An answer at which it fails is unscored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer, Unscored
from luthier.evaluate.per_answer import Options, Value
from luthier.user_code import load_function

UserFunction = Callable[[str, list[str], dict[str, str]], float | bool | None]


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
    function = load_function(
        name,
        folder,
        what="metric",
        allowed=allow_code,
        otherwise="use a metric that Luthier brings",
        error=EvaluationError,
    )
    return _guarded(name, function)


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
