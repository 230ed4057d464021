"""`prompt`: how the question is worded and how the answer is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.errors import StudyError
from luthier.prompt.wording import check_template
from luthier.settings import Choose, Open
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.types import Predictor, Task, Wording, prompted


class PromptStep(Step):
    """Put the question in other words, or take the answer in another way."""

    for_one_task: ClassVar[bool] = True

    step: Literal["prompt"] = "prompt"
    system: Open[str] | None = None
    """System text. Default: the task's own; an empty text leaves it out."""
    template: Open[str] | None = None
    """Jinja template of the last user turn over the row's columns and `prompt`, the task's own wording."""
    answer: Open[Literal["generate", "choose", "choose-normalised"]] | None = None
    """Free text, or the most likely label (plain, or per token). Default: the task's."""
    max_new_tokens: Open[Annotated[int, Field(gt=0)]] | None = None
    """Most tokens of a generated answer. Default: the task's."""

    @model_validator(mode="after")
    def _no_length_where_nothing_is_written(self) -> PromptStep:
        answers = _values(self.answer)
        if answers and "generate" not in answers and self.max_new_tokens is not None:
            ways = " and ".join(answers)
            raise ValueError(f"answer: {ways} writes no text, so max_new_tokens has no meaning; leave one of them out")
        return self

    def check(self, task: Task) -> list[str]:
        """Templates must name fields that the prompts have; choosing needs labels."""
        problems = []
        fields = tuple(task.train[0].prompt.fields) if task.train else ()
        for template in _values(self.template):
            try:
                check_template(template, fields)
            except StudyError as error:
                problems.append(str(error))
        choosing = [answer for answer in _values(self.answer) if answer != "generate"]
        if choosing and not task.labels:
            problems.append(f"answer: {choosing[0]} needs labels, and task '{task.name}' has none; use generate.")
        if choosing and task.label_separator:
            problems.append(f"answer: {choosing[0]} chooses one label, and answers of '{task.name}' may have several.")
        return problems

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with this wording and decoding."""
        predictor = prompted(predictor)
        given = self.model_dump(include={"answer", "max_new_tokens"}, exclude_none=True)
        wording = Wording(
            system=predictor.wording.system if self.system is None else str(self.system),
            template=predictor.wording.template if self.template is None else str(self.template),
        )
        return StepOutcome(replace(predictor, wording=wording, decoding=replace(predictor.decoding, **given)))


def _values(setting: object) -> tuple[str, ...]:
    if setting is None:
        return ()
    return tuple(setting.choose) if isinstance(setting, Choose) else (str(setting),)
