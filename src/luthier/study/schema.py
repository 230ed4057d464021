"""The study file: what is to be compared, typed and checked whole before anything loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from luthier.data.settings import TaskSettings
from luthier.errors import EvaluationError, StudyError
from luthier.evaluate.metrics import check_metric_names, validate_metric
from luthier.evaluate.over_tasks import MEAN
from luthier.settings import Settings
from luthier.steps import AnyStep, InterpolateStep, PretrainStep, RouteStep
from luthier.study.explain import explain
from luthier.study.yaml_lines import Lines, load_yaml
from luthier.types import TRAININGS, Task, Training

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]*")


class Approach(Settings):
    """A list of steps, folded over the base model from left to right."""

    steps: tuple[AnyStep, ...] = ()
    """The steps; none is the base model as it is."""
    model: str | None = None
    """A base model of its own. Default: the study's."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """An approach may be the bare list of its steps, and a step its bare name."""
        if isinstance(value, list | tuple):
            value = {"steps": value}
        if not isinstance(value, dict | Approach):
            raise ValueError(f"an approach is a list of steps ([] is the base model as it is); found {value!r}")
        if isinstance(value, dict) and isinstance(value.get("steps"), list | tuple):
            steps = tuple({"step": step} if isinstance(step, str) else step for step in value["steps"])
            value = {**value, "steps": steps}
        return value

    @model_validator(mode="after")
    def _nothing_trains_what_is_routed(self) -> Approach:
        routed = next((number for number, step in enumerate(self.steps) if isinstance(step, RouteStep)), None)
        if routed is not None and any(step.trains for step in self.steps[routed + 1 :]):
            raise ValueError(
                "behind route stand several models, and no step can change their weights; put such steps before it"
            )
        return self

    @model_validator(mode="after")
    def _nothing_stands_before_what_asks_no_model(self) -> Approach:
        """Steps on a language model would be done, and charged, for nothing."""
        if len(self.steps) > 1 and self.steps[-1].answers and not self.steps[-1].needs_model:
            kind, before = (own.model_dump()["step"] for own in (self.steps[-1], self.steps[-2]))
            raise ValueError(
                f"{kind} asks no language model, so {before} before it changes nothing; leave {before} out, or give it "
                "an approach of its own"
            )
        return self

    @model_validator(mode="after")
    def _nothing_stands_behind_what_answers(self) -> Approach:
        for number, step in enumerate(self.steps[:-1]):
            if not step.gives_model:
                kind, behind = (own.model_dump()["step"] for own in (step, self.steps[number + 1]))
                what = (
                    "answers in the language model's place" if step.answers else "leaves a model that only classifies"
                )
                raise ValueError(
                    f"{kind} {what}, so {behind} has nothing to work on behind it; put {kind} last, or give {behind} "
                    "an approach of its own"
                )
        return self

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of the approaches whose results its steps need."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.uses))

    @property
    def trains(self) -> bool:
        """Whether a step changes the language model's weights."""
        return any(step.trains for step in self.steps)

    @property
    def training(self) -> Training:
        """What its steps train; the largest of it."""
        return max((step.training for step in self.steps), key=TRAININGS.index, default="none")

    @property
    def needs_model(self) -> bool:
        """Whether it works with a language model."""
        return not self.steps or any(step.needs_model for step in self.steps)

    @property
    def answers_without(self) -> bool:
        """Whether its last step answers in the language model's place."""
        return bool(self.steps) and self.steps[-1].answers

    @property
    def gives_model(self) -> bool:
        """Whether it gives a language model that writes, on which others can work."""
        return all(step.gives_model for step in self.steps)


class ForgettingSettings(Settings):
    """What is measured of what a model could do before."""

    probe: bool = True
    """Measure the loss on general text, and how often grammatical sentences and true answers are preferred, before and
    after training, and how far the model's predictions moved on general text and on the tasks' examples (which has no
    limit)."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness that every model is asked before and after as well: names of tasks or groups, or
    YAML files of your own in its format. Needs the extra `luthier[lm-eval]`; their data come from the Hugging Face Hub,
    or from local files that a task names."""
    lm_eval_limit: int = Field(default=200, ge=2)
    """Examples of each such task, the first ones."""
    limit: float | None = Field(default=None, gt=0)
    """An approach that got worse by more than this on any probe, or in the loss of a task that is no target, is not
    recommended: a fraction, of points for accuracy (0.02 is two points) and relative for loss (0.02 is two per cent).
    The measured change counts, not its interval."""

    @model_validator(mode="after")
    def _a_limit_needs_probes(self) -> ForgettingSettings:
        if self.limit is not None and not self.probe:
            raise ValueError("limit is given, but probe is false, so nothing would be measured; leave one of them out")
        if self.lm_eval and not self.probe:
            raise ValueError("lm_eval names tasks, but probe is false, so nothing would be measured; leave one out")
        return self


class RevisionSettings(Settings):
    """Documents that change when all is trained, and questions on what has changed: which approaches answer by the new
    version without being trained again?"""

    documents: str | None = None
    """Folder of the new versions, of those documents alone that change, under the names that they have."""
    removed: tuple[str, ...] = ()
    """Names of documents that are taken out."""
    questions: str
    """File of the questions, with the columns that the task's prompt names."""
    now: str = "answer"
    """Its column of what the documents say then; empty for what they do not say any more."""
    before: str = "before"
    """Its column of what they said before."""

    @model_validator(mode="after")
    def _something_changes(self) -> RevisionSettings:
        if self.documents is None and not self.removed:
            raise ValueError("nothing changes; give documents, removed, or both")
        return self


def _metrics_exist(task: TaskSettings) -> TaskSettings:
    try:
        check_metric_names(task.all_metrics())
        # The labels themselves are known only when the data are read.
        labels = () if task.labels is None else ("some", "labels")
        for metric in task.all_metrics():
            validate_metric(metric, labels, task.metric_options.get(metric, {}))
    except EvaluationError as error:
        raise ValueError(str(error)) from error
    return task


class Study(Settings):
    """One or more tasks, a base model, and the approaches that are compared."""

    name: str = "study"
    """Names the run."""
    model: str | None = None
    """A local folder or .gguf file, a built-in name (smollm2-135m-instruct), or a Hugging Face id. Needed unless no
    approach works with a language model."""
    tasks: dict[str, Annotated[TaskSettings, AfterValidator(_metrics_exist)]] = Field(min_length=1)
    """The tasks by name; `task:` gives the only one."""
    target: str | tuple[str, ...] | None = None
    """The task that the verdict concerns; of several (`[a, b]`, or `mean` for all) it is the mean over them, in which
    every task weighs the same. Default: the only one."""
    approaches: dict[str, Approach] = Field(min_length=1)
    """What is compared, by name."""
    requests: int = Field(default=100_000, ge=0)
    """Requests that the cost of an approach is reckoned for."""
    hour_price: float | None = Field(default=None, gt=0)
    """What an hour of this machine costs, in a currency of yours: costs are then shown in it, beside seconds."""
    margin: float = Field(default=0.02, ge=0)
    """How much worse than the best an approach may be, in the metric's own unit (0.02 is two points of accuracy)."""
    forgetting: ForgettingSettings = ForgettingSettings()
    """What is measured of what a model could do before."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides splits, shots, order and initialisation."""
    seeds: int = Field(default=3, ge=1, le=100)
    """How often the finalists are trained, at the settings that were taken: with `seed` and with the numbers behind it.
    Whether training helps is then asked of the mean over the trainings; handed over, and shown in the ranking, is the
    one that does best on validation, and the test scores of all, and their spread, stand beside it. The further
    trainings are not charged to the approach. With 1 the verdict speaks of one model, and not of the way of
    training."""
    finalists: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """How many of the approaches that train the language model are trained again: those that do best on validation, and
    beside them the best that fits a small model. Or `all`, of either kind."""
    prune: bool = True
    """Of the values of a setting left open, give one up whose training half way or later does worse on validation than
    the median of those before it, of which there must be three (Golovin et al. 2017, "Google Vizier")."""
    diagnose: bool = True
    """For approaches that retrieve: answer the validation questions also without passages, with the right passage alone
    and with it among wrong ones, to see whether search or the answering holds the score back."""
    revision: RevisionSettings | None = None
    """Documents of the target that change when all is trained, and what is asked then. Default: nothing."""
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda|mps)$")
    """auto, cpu, cuda or mps."""
    precision: str = Field(default="auto", pattern="^(auto|bfloat16|float32)$")
    """auto (bfloat16 where the hardware has it), bfloat16 or float32. Trained weights are float32 in any case."""
    stage_answers: int = Field(default=100, ge=0)
    """Where there are several tasks and an approach trains in several steps: test examples of each task that the model
    after each step answers, drawn by the seed with every label in proportion, and scored by the first of the task's
    metrics that judges answers. The loss of the references is taken on all of them."""
    latency_requests: int = Field(default=20, ge=1)
    """Requests that are asked one by one to measure the latency."""

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, value: Any) -> Any:
        if isinstance(value, dict) and "task" in value:
            if "tasks" in value:
                raise ValueError("both task and tasks are given; move the task into tasks, under a name")
            value = {**value, "tasks": {"task": value["task"]}}
            del value["task"]
        return value

    @model_validator(mode="after")
    def _finalists_are_trained_again(self) -> Study:
        if self.finalists != 1 and self.seeds == 1:
            raise ValueError("finalists says what is trained with further seeds; give seeds: 3, or leave it out")
        return self

    @field_validator("approaches")
    @classmethod
    def _names_make_folders(cls, approaches: dict[str, Approach]) -> dict[str, Approach]:
        for name in approaches:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a folder; use letters, digits, '+', '-' and '_'")
        lower = [name.lower() for name in approaches]
        if twice := sorted({name for name in lower if lower.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice if upper and lower case are not told apart")
        return approaches

    @field_validator("approaches")
    @classmethod
    def _steps_know_the_tasks(cls, approaches: dict[str, Approach], info: ValidationInfo) -> dict[str, Approach]:
        tasks = tuple(info.data.get("tasks", ()))
        return {
            name: approach.model_copy(update={"steps": tuple(step.for_tasks(tasks) for step in approach.steps)})
            for name, approach in approaches.items()
        }

    @field_validator("target")
    @classmethod
    def _targets_are_tasks(
        cls, target: str | tuple[str, ...] | None, info: ValidationInfo
    ) -> str | tuple[str, ...] | None:
        tasks = info.data.get("tasks")
        if target is None or tasks is None or (target == MEAN and MEAN not in tasks):
            return target
        names = (target,) if isinstance(target, str) else target
        for name in names:
            if name not in tasks:
                raise ValueError(f"{name!r} is no task of this study (there are: {', '.join(tasks)})")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"found [{', '.join(names)}]; name at least one task, and each once")
        return target

    @model_validator(mode="after")
    def _several_tasks_have_a_target(self) -> Study:
        if self.target is None and len(self.tasks) > 1:
            raise ValueError(
                f"with several tasks, target names the one that decides ({', '.join(self.tasks)}), or `mean` for all"
            )
        return self

    @model_validator(mode="after")
    def _approaches_form_a_graph(self) -> Study:
        """What steps use must exist, begin at the same model, and be made without them."""
        for name, approach in self.approaches.items():
            for number, step in enumerate(approach.steps):
                at = f"approaches.{name}.{number}"
                for used in step.uses:
                    if used not in self.approaches:
                        raise ValueError(
                            f"{at}: {used!r} is no approach of this study (there are: {', '.join(self.approaches)})"
                        )
                    other = self.approaches[used]
                    if not other.gives_model:
                        kind = other.steps[-1].model_dump()["step"]
                        raise ValueError(f"{at}: '{used}' ends with {kind} and gives no language model to work on")
                    if (other.model or self.model) != (approach.model or self.model):
                        raise ValueError(
                            f"{at}: '{used}' begins at another model ({other.model or self.model}) than '{name}' "
                            f"({approach.model or self.model}); give both the same"
                        )
        try:
            self._sorter().prepare()
        except CycleError as error:
            ring = error.args[1][::-1]
            needs = " needs ".join(map(repr, ring))
            raise ValueError(f"approaches.{ring[0]}: {needs}; an approach cannot be made of itself") from None
        for name, approach in self.approaches.items():
            for number, step in enumerate(approach.steps):
                others = {used: self.approaches[used].steps for used in step.uses}
                before = approach.steps[:number]
                for problem in step.check_graph(before, others, tuple(self.tasks), self.target_name):
                    raise ValueError(f"approaches.{name}.{number}.{problem}")
        return self

    @model_validator(mode="after")
    def _there_is_a_model_where_one_is_needed(self) -> Study:
        needing = [name for name, own in self.approaches.items() if own.needs_model and own.model is None]
        if self.model is None and needing:
            raise ValueError(
                f"model is missing, and {', '.join(needing)} {'needs' if len(needing) == 1 else 'need'} a language "
                "model; name one, such as model: smollm2-135m-instruct"
            )
        return self

    @model_validator(mode="after")
    def _steps_learn_from_tasks(self) -> Study:
        for name, approach in self.approaches.items():
            for number, step in enumerate(approach.steps):
                named = [("data", task) for task in step.learns_from]
                if isinstance(step, PretrainStep) and step.text.task is not None:
                    named.append(("text.task", step.text.task))
                setting = "remember" if isinstance(step, InterpolateStep) else "replay.task"
                named += [(setting, task) for task in step.rehearses]
                for key, task in named:
                    if task not in self.tasks:
                        raise ValueError(
                            f"approaches.{name}.{number}.{key}: {task!r} is no task of this study (there are: "
                            f"{', '.join(self.tasks)})"
                        )
        return self

    @property
    def fold_order(self) -> tuple[str, ...]:
        """The approaches by name, each behind those that it uses."""
        return tuple(self._sorter().static_order())

    def _sorter(self) -> TopologicalSorter[str]:
        return TopologicalSorter({name: approach.uses for name, approach in self.approaches.items()})

    @property
    def learned_tasks(self) -> tuple[str, ...]:
        """Names of the tasks whose prompts some step trains on."""
        steps = (
            own
            for approach in self.approaches.values()
            for step in approach.steps
            for own in (step, *step.parts(self.target_name).values())
            if own.trains and own.learns
        )
        learned = ((*(step.learns_from or self.targets), *step.rehearses) for step in steps)
        return tuple(dict.fromkeys(task for own in learned for task in own))

    def for_data(self, tasks: Mapping[str, Task]) -> Study:
        """The study with what its steps fill in when they know the tasks that they learn from."""
        approaches = {
            name: approach.model_copy(
                update={
                    "steps": tuple(
                        step.for_data([tasks[own] for own in step.learns_from or self.targets])
                        for step in approach.steps
                    )
                }
            )
            for name, approach in self.approaches.items()
        }
        return self.model_copy(update={"approaches": approaches})

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the tasks that the verdict concerns."""
        if self.target is None or (self.target == MEAN and MEAN not in self.tasks):
            return tuple(self.tasks)
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def target_name(self) -> str:
        """What predictors are made for: the target, or `mean` where there are several; then for no task alone."""
        return self.targets[0] if len(self.targets) == 1 else MEAN


def load_study(path: Path | str, overrides: tuple[str, ...] = ()) -> Study:
    """Read a study file.

    Args:
        overrides: `key=value` texts such as `approaches.lora.0.adapter.rank=16`; the value is YAML.

    Raises:
        StudyError: The file or an override is wrong; all faults are named, with their lines.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.y*ml"))[:8]) if path.parent.is_dir() else ""
        raise StudyError(
            f"{path} does not exist" + (f" (in that folder: {near})." if near else ".") + "\n"
            "Write one with `luthier init DATA_FILE`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}.") from error
    raw, lines = load_yaml(text, path.name)
    raw.setdefault("name", path.stem)
    for override in overrides:
        _override(raw, override, lines)
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise StudyError(explain(error, Study, raw, lines, path.name)) from None


def build_study(**settings: Any) -> Study:
    """A study built in Python, from the same keys as the file.

    Raises:
        StudyError: A setting is wrong.
    """
    try:
        return Study.model_validate(settings)
    except ValidationError as error:
        raise StudyError(explain(error, Study, settings, Lines({}), "study")) from None


def study_as_json(study: BaseModel) -> dict[str, Any]:
    """The study resolved, every default filled in."""
    return study.model_dump(mode="json")


def _override(raw: dict[str, Any], override: str, lines: Lines) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise StudyError(f"--set {override}: expected key=value, such as approaches.lora.0.adapter.rank=16.")
    try:
        # To YAML a Jinja template begins a mapping; nobody means that.
        value = text if text.lstrip().startswith(("{{", "{%")) else yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise StudyError(f"--set {override}: the value is not YAML: {problem}.") from error
    at: Any = raw
    parts = key.split(".")
    path: list[str] = []  # the parts, with the `steps` that may be left out
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the study"
        last = depth == len(parts) - 1
        if isinstance(at, dict) and "steps" in at and part.isdigit():
            at = at["steps"]
            path.append("steps")
        path.append(part)
        if isinstance(at, list):
            if not part.isdigit() or int(part) >= len(at):
                raise StudyError(f"--set {override}: {here} is a list of {len(at)} and has no '{part}'.")
            index: Any = int(part)
            if not last and isinstance(at[index], str):
                at[index] = {"step": at[index]}
        elif isinstance(at, dict):
            index = part
            if not last and part == "adapter" and isinstance(at.get(part), str):
                at[part] = {"kind": at[part]}
            if not last and part not in at:
                if parts[0] == "approaches" and part != "adapter":
                    have = ", ".join(map(str, at)) or "nothing"
                    raise StudyError(f"--set {override}: {here} has no '{part}' (it has: {have}).")
                at[part] = {}  # a group of settings that the file left at their defaults
                lines.note_override(tuple(path), override)
        else:
            raise StudyError(f"--set {override}: {here} is the value {at!r} and has no '{part}'.")
        if last:
            at[index] = value
            lines.note_override(tuple(path), override)
        else:
            at = at[index]
