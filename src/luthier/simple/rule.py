"""A rule that the user wrote: a Python function that answers a prompt. Nothing is trained, and no language model is
asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from luthier.errors import EvaluationError, RunError
from luthier.types import FOLDER, Completion, Predictor, Prompt, Retrieval, Tools
from luthier.user_code import function_file

PASSAGES = "passages"

_SEARCH = (
    f"The column `{PASSAGES}` holds what search finds in the documents, the best first, an empty line between two. The "
    "index is no part of this folder: search yourself, or let `luthier predict` answer from the run."
)

_ARGUMENTS = (
    "The first argument is the prompt's last turn; the second holds the row's columns by name, without those that tell "
    "the answer."
)


@dataclass(frozen=True, slots=True)
class Rule(Predictor):
    """Answers what a function returns.

    Attributes:
        code: The folder of a copy of the function's file.
        function: `file.py:function`, the file in that folder.
        tasks: Those whose prompts it answers.
        otherwise: The answer where the function returns None.
        retrieval: How the passages are found that it is given as a column; None where it is given none.
    """

    kind: ClassVar[str] = "rule"
    reads_columns: ClassVar[bool] = True

    code: str = field(metadata=FOLDER)
    function: str
    tasks: tuple[str, ...]
    otherwise: str = ""
    retrieval: Retrieval | None = None

    def declines(self, task: str) -> str:
        return "" if task in self.tasks else f"the rule was written for {', '.join(self.tasks)} alone"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        function = tools.function(self.function, Path(self.code))
        found = []
        for prompt in with_their_passages(self.retrieval, prompts, tools):
            text = answer_of(function, prompt, self.function)
            if text is None:
                found.append(Completion(prompt.id, self.otherwise, prompt.messages, 0, 0, "abstained"))
            else:
                found.append(Completion(prompt.id, text, prompt.messages, 0, 0, "rule"))
            advance(1)
        return found

    def export(self, folder: Path, tools: Tools) -> Rule:
        """The function's file, which is not run for it."""
        file = function_file(self.function, Path(self.code), what=self.kind, error=RunError)
        shutil.copyfile(file, folder / file.name)
        return replace(self, code=str(folder), function=f"{file.name}:{self.function.rpartition(':')[2]}")

    def usage(self) -> str:
        file, _, function = self.function.rpartition(":")
        lines = [
            "import runpy",
            "",
            f"answer = runpy.run_path({file!r})[{function!r}]",
            'found = answer("your question", {"column": "its value"})',
            f"print({self.otherwise!r} if found is None else found)",
        ]
        program = "\n".join(lines)
        return "\n\n".join([f"```python\n{program}\n```", _ARGUMENTS, *([_SEARCH] if self.retrieval else [])])


def with_their_passages(retrieval: Retrieval | None, prompts: Sequence[Prompt], tools: Tools) -> Sequence[Prompt]:
    """The prompts, each with its passages as the column `passages`: the best first, an empty line between two."""
    if retrieval is None:
        return prompts
    found = tools.find_passages(retrieval, prompts)
    texts = ("\n\n".join(passage.text for passage in own) for own in found)
    return [replace(own, fields={**own.fields, PASSAGES: text}) for own, text in zip(prompts, texts, strict=True)]


def answer_of(function: Callable[..., Any], prompt: Prompt, name: str) -> str | None:
    """What the function answers to a prompt.

    Raises:
        EvaluationError: It fails, or returns something other than a text or None.
    """
    try:
        found = function(prompt.messages[-1].content, dict(prompt.fields))
    except (Exception, SystemExit) as error:  # the user's code may raise anything
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
