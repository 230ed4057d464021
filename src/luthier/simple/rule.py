"""A rule that the user wrote: a Python function that answers a prompt. Nothing is trained, and no language model is
asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from luthier.errors import EvaluationError
from luthier.types import FOLDER, Completion, Predictor, Prompt, Tools


@dataclass(frozen=True, slots=True)
class Rule(Predictor):
    """Answers what a function returns.

    Attributes:
        code: The folder of a copy of the function's file.
        function: `file.py:function`, the file in that folder.
        otherwise: The answer where the function returns None.
    """

    kind: ClassVar[str] = "rule"
    reads_columns: ClassVar[bool] = True

    code: str = field(metadata=FOLDER)
    function: str
    otherwise: str = ""

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        function = tools.function(self.function, Path(self.code))
        found = []
        for prompt in prompts:
            text = answer_of(function, prompt, self.function)
            if text is None:
                found.append(Completion(prompt.id, self.otherwise, prompt.messages, 0, 0, "abstained"))
            else:
                found.append(Completion(prompt.id, text, prompt.messages, 0, 0, "rule"))
            advance(1)
        return found

    def export(self, folder: Path, tools: Tools) -> Rule:
        """The function's file."""
        name = self.function.rpartition(":")[0]
        shutil.copy2(Path(self.code) / name, folder / name)
        return replace(self, code=str(folder))

    def usage(self) -> str:
        file, _, function = self.function.rpartition(":")
        program = f'from {file.removesuffix(".py")} import {function}\n\nprint({function}("your question", {{}}))'
        return f"```python\n{program}\n```\n\nThe second argument holds the row's columns."


def answer_of(function: Callable[..., Any], prompt: Prompt, name: str) -> str | None:
    """What the function answers to a prompt.

    Raises:
        EvaluationError: It fails, or returns something other than a text or None.
    """
    try:
        found = function(prompt.messages[-1].content, dict(prompt.fields))
    except Exception as error:  # the user's code may raise anything
        raise EvaluationError(
            f"rule {name} fails on prompt {prompt.id} of task {prompt.task}: {type(error).__name__}: {error}. "
            f"The prompt is {prompt.messages[-1].content[:200]!r}. Correct the rule."
        ) from error
    if found is not None and not isinstance(found, str):
        raise EvaluationError(
            f"rule {name} returns {type(found).__name__} for prompt {prompt.id} of task {prompt.task}; expected a "
            "text, or None where it has no answer."
        )
    return found
