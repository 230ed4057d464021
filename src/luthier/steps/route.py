"""`route`: a model of its own for each task, chosen by the task's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.steps.sft import SftStep
from luthier.types import Predictor, Task, Training, prompted


class RouteStep(Step):
    """Answer each task with a model of its own: one adapter a task, chosen by the task's name.

    What is asked outside these tasks, the general probes among it, the model of `otherwise` answers.
    """

    trains: ClassVar[bool] = True
    training: ClassVar[Training] = "language model"
    learns: ClassVar[bool] = False

    step: Literal["route"] = "route"
    by: Literal["task"] = "task"
    """What the model is chosen by: the name of the task that a prompt belongs to."""
    of: dict[str, str] | None = Field(default=None, min_length=1)
    """Task → the approach whose model answers it. Wording, shots and decoding are those of this approach."""
    each: SftStep | None = None
    """In place of `of`: a step that is trained once on each task, from the model that this step is given. A setting of
    it that is left open is chosen once for all, by the mean over the tasks."""
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    """For `each`: the tasks, by name. Default: all of the study."""
    otherwise: str | None = None
    """The approach whose model answers all other tasks. Default: the model as the steps before left it."""

    @field_validator("each", mode="before")
    @classmethod
    def _a_bare_name_is_a_step(cls, value: Any) -> Any:
        return {"step": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_two_forms(self) -> RouteStep:
        if (self.of is None) == (self.each is None):
            raise ValueError(
                "give of (task → approach), or each (a step that is trained on each task), and not both, such as "
                "{step: route, each: {step: sft}}"
            )
        if self.tasks is not None and self.each is None:
            raise ValueError("tasks goes with each; of names its tasks itself, so leave tasks out")
        if self.each is not None and (self.each.trial != 1 or not self.each.gives_model):
            raise ValueError("each is trained whole and must write, so leave trial and head: classify out of it")
        if self.each is not None and self.each.data is not None:
            raise ValueError("each is trained on every task in turn, so leave data out of it; tasks says on which")
        return self

    @property
    def learns_from(self) -> tuple[str, ...]:
        """For `each` its tasks, on which open settings are tried."""
        return self.tasks or ()

    @property
    def uses(self) -> tuple[str, ...]:
        """The approaches that it routes to."""
        return tuple(dict.fromkeys([*(self.of or {}).values(), *filter(None, [self.otherwise])]))

    @property
    def routed(self) -> tuple[str, ...]:
        """Names of the tasks that have a model of their own."""
        return tuple(self.of) if self.of is not None else self.tasks or ()

    @property
    def unmergeable(self) -> str:
        """What makes `each` unfit."""
        return "" if self.each is None else self.each.unmergeable

    def parts(self, target: str) -> Mapping[str, Step]:
        """The trainings, one a task."""
        if self.each is None:
            return {}
        # The target's is the step as it stands, which an approach of its own may have trained already.
        data = {task: None if task == target else task for task in self.routed}
        return {_part(task): self.each.model_copy(update={"data": data[task]}) for task in self.routed}

    def for_tasks(self, tasks: Sequence[str]) -> Step:
        """With all tasks, where `each` names none."""
        if self.each is None or self.tasks is not None:
            return self
        return self.model_copy(update={"tasks": tuple(tasks)})

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """Tasks must exist, and the target's model must have learned the prompts that it will be asked."""
        setting = "of" if self.each is None else "tasks"
        problems = [
            f"{setting}: {task!r} is no task of this study (there are: {', '.join(tasks)})"
            for task in self.routed
            if task not in tasks
        ]
        if self.each is not None:
            problems += [f"each.{problem}" for problem in self.each.check_graph(before, others, tasks, target)]
        answering = (self.of or {}).get(target, None if target in self.routed else self.otherwise)
        if answering and _prompting(others[answering]) != _prompting(before):
            problems.append(
                f"{setting if target in self.routed else 'otherwise'}: '{answering}' words the target's prompts in "
                "steps of its own; put the same steps before route, whose approach they are asked by"
            )
        return problems

    def check(self, task: Task) -> list[str]:
        """What is wrong with `each`."""
        return [] if self.each is None else self.each.check(task)

    def described(self) -> dict[str, Any]:
        """The settings, those of `each` as they take effect."""
        own = super().described()
        return own if self.each is None else own | {"each": self.each.described()}

    def disk_bytes(self, model_bytes: int) -> int:
        """It keeps nothing of its own."""
        return 0

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with a model for each task; nothing is computed."""
        predictor = prompted(predictor)
        named = {task: _part(task) for task in self.routed} if self.of is None else self.of
        routes = {task: prompted(context.others[name]).routed(task).model for task, name in named.items()}
        if self.otherwise is None:
            return StepOutcome(replace(predictor, routes=routes))
        other = prompted(context.others[self.otherwise])
        return StepOutcome(replace(predictor, model=other.model, routes={**other.routes, **routes}))


def _part(task: str) -> str:
    return f"for {task}"


def _prompting(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if not step.trains]
