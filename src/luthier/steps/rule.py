"""`rule`: a Python function of the user's answers."""

from __future__ import annotations

import shutil
import time
from typing import ClassVar, Literal

from pydantic import field_validator

from luthier.errors import StudyError
from luthier.simple.rule import Rule, answer_of
from luthier.steps.base import ShownText, Step, StepContext, StepForecast, StepOutcome
from luthier.types import Predictor
from luthier.user_code import function_file, names_function

# Prompts that it is timed on, and training prompts of each task that it is tried on beside those of validation.
_TIMED, _TRIED = 20, 1000


class RuleStep(Step):
    """Answer by a Python function of your own: what could be written down without any learning. Nothing is trained, and
    no language model is asked. It is your code, so it runs with `--allow-code` only."""

    answers: ClassVar[bool] = True

    step: Literal["rule"] = "rule"
    function: str
    """`file.py:function`, in the study's folder. It is called as `function(prompt: str, fields: dict[str, str])` with
    the last turn and the row's columns, those that hold the answer left out, and returns a text, or None where it has
    no answer; of several targets for the prompts of each. The file is copied into the run alone, so it imports none of
    its neighbours."""
    otherwise: str = ""
    """What stands in place of an answer that it does not have."""

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, function: str) -> str:
        if not names_function(function):
            raise ValueError(f"found {function!r}; expected 'file.py:function'")
        return function

    @property
    def needs_model(self) -> bool:
        return False

    @property
    def code(self) -> tuple[str, ...]:
        return (self.function,)

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The function, its file copied."""
        folder = context.folder / "rule"
        folder.mkdir(parents=True, exist_ok=True)
        file = function_file(self.function, context.root, what=self.step, error=StudyError)
        shutil.copyfile(file, folder / file.name)
        name = f"{file.name}:{self.function.rpartition(':')[2]}"
        function = context.engine.function(name, folder)
        tasks = context.lesson.tasks
        for example in (example for task in tasks for example in (*task.train[:_TRIED], *task.validation)):
            answer_of(function, example.prompt, name)  # what fails is to fail before the test is opened
        return StepOutcome(Rule(str(folder), name, tuple(task.name for task in tasks), self.otherwise))

    def forecast(self, context: StepContext) -> StepForecast:
        function = context.engine.function(self.function, context.root)
        prompts = [example.prompt for task in context.lesson.tasks for example in task.train[:_TIMED]]
        started = time.perf_counter()
        for prompt in prompts:
            answer_of(function, prompt, self.function)
        each = (time.perf_counter() - started) / max(1, len(prompts))
        return StepForecast(fit_s=0.0, request_s=each, alone_s=each)

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        function = context.engine.function(self.function, context.root)
        examples = [example for task in context.lesson.tasks for example in task.train][:count]
        return [
            ShownText(str(example.place), ((example.prompt.messages[-1].content, False), (f"\n→ {text}", False)))
            for example in examples
            for found in [answer_of(function, example.prompt, self.function)]
            for text in [self.otherwise if found is None else found]
        ]
