"""`rule`: a Python function of the user's answers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.errors import StudyError
from luthier.retrieve.passages import ChunkSettings
from luthier.simple.rule import PASSAGES, Rule, answer_of, with_their_passages
from luthier.steps.base import ShownText, Step, StepContext, StepForecast, StepOutcome
from luthier.steps.rag import search_problems
from luthier.types import Predictor, Retrieval, Task
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
    passages: Annotated[int, Field(ge=0)] = 0
    """Passages of the task's documents that search finds for the prompt's last turn, by words and by embedding, and
    that the function is given as `fields["passages"]`: the best first, an empty line between two."""
    embedder: str = "minilm-l6"
    """With `passages`: a folder, a built-in name (minilm-l6), or the Hugging Face id of a sentence embedder."""

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
    def serves_one_task(self) -> bool:
        return self.passages > 0

    @property
    def embedders(self) -> tuple[str, ...]:
        return (self.embedder,) if self.passages else ()

    @property
    def code(self) -> tuple[str, ...]:
        return (self.function,)

    def check(self, task: Task) -> list[str]:
        """With passages it needs documents, and no column of their name."""
        if not self.passages:
            return []
        problems = search_problems(self.step, None, task)
        if PASSAGES in task.train[0].prompt.fields:
            problems.append(
                f"{self.step} gives its function the passages as the column {PASSAGES!r}, and task '{task.name}' has a "
                "column of that name; rename it in the data."
            )
        return problems

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The function, its file copied."""
        folder = context.folder / "rule"
        folder.mkdir(parents=True, exist_ok=True)
        file = function_file(self.function, context.root, what=self.step, error=StudyError)
        shutil.copyfile(file, folder / file.name)
        name = f"{file.name}:{self.function.rpartition(':')[2]}"
        function = context.engine.function(name, folder)
        tasks = context.lesson.tasks
        retrieval, made = self._searched(context)
        prompts = [example.prompt for task in tasks for example in (*task.train[:_TRIED], *task.validation)]
        for prompt in with_their_passages(retrieval, prompts, context.engine):
            answer_of(function, prompt, name)  # what fails is to fail before the test is opened
        names = tuple(task.name for task in tasks)
        return StepOutcome(Rule(str(folder), name, names, self.otherwise, retrieval), indexes=made)

    def _searched(self, context: StepContext) -> tuple[Retrieval | None, Mapping[str, float]]:
        """How passages are found, and the index that is searched with the seconds of making it."""
        if not self.passages:
            return None, {}
        index, made = context.index(self.embedder, ChunkSettings())
        return Retrieval(index=str(index.folder), embedder=self.embedder, k=self.passages), made

    def forecast(self, context: StepContext) -> StepForecast:
        function = context.engine.function(self.function, context.root)
        prompts = [example.prompt for task in context.lesson.tasks for example in task.train[:_TIMED]]
        retrieval, made = self._searched(context)
        started = time.perf_counter()
        for prompt in with_their_passages(retrieval, prompts, context.engine):
            answer_of(function, prompt, self.function)
        each = (time.perf_counter() - started) / max(1, len(prompts))
        return StepForecast(fit_s=sum(made.values()), request_s=each, alone_s=each)

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        function = context.engine.function(self.function, context.root)
        examples = [example for task in context.lesson.tasks for example in task.train][:count]
        prompts = with_their_passages(self._searched(context)[0], [own.prompt for own in examples], context.engine)
        return [
            ShownText(str(example.place), ((prompt.messages[-1].content, False), (f"\n→ {text}", False)))
            for example, prompt in zip(examples, prompts, strict=True)
            for found in [answer_of(function, prompt, self.function)]
            for text in [self.otherwise if found is None else found]
        ]
