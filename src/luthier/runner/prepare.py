"""A study made ready: its data read and checked, its models found, nothing fitted yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.task import load_task
from luthier.data.text import Text, TextSource, load_text
from luthier.errors import StudyError
from luthier.evaluate.metrics import Metric, load_metric, metric_traits
from luthier.evaluate.over_tasks import have_common_scale
from luthier.model.device import resolve_device, resolve_precision
from luthier.model.embed import DEFAULT_EMBEDDER
from luthier.model.find import find_embedder, find_model, model_key
from luthier.prompt.wording import check_template
from luthier.runner.documents import with_documents
from luthier.runner.fitted import Fitted
from luthier.runner.keys import key_of, source_key, training_key, versions
from luthier.runner.machinery import engine, library
from luthier.runner.revision import Revision, load_revision
from luthier.settings import closed
from luthier.steps import PretrainStep, RagStep
from luthier.steps.base import Step
from luthier.steps.lesson import Lesson
from luthier.steps.training import TrainingStep
from luthier.study import Study
from luthier.types import ModelRef, Nothing, PromptedModel, Task
from luthier.user_code import function_file, names_function

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.retrieve.library import Library


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study with its data read and its models found, nothing fitted yet.

    Attributes:
        revision: What changes in the target's documents when all is done, and is asked then.
        texts: Raw text that steps learn from, by where it comes from.
        metric_code: The text of the user's own metrics, which scores depend on, by name.
        step_code: Hashes of the files of functions that steps name, by name.
        model_keys: Hashes of the models that approaches start from, by folder.
        embedder_keys: Hashes of the embedders and cross-encoders that steps begin with, by name.
    """

    study: Study
    root: Path
    tasks: Mapping[str, Task]
    texts: Mapping[TextSource, Text]
    metrics: Mapping[str, tuple[Metric, ...]]
    models: Mapping[str, Path]
    device: str
    precision: str
    metric_code: Mapping[str, str]
    step_code: Mapping[str, str]
    model_keys: Mapping[str, str]
    embedder_keys: Mapping[str, str]
    engine: Engine
    library: Library
    revision: Revision | None

    @property
    def targets(self) -> tuple[Task, ...]:
        """The tasks that the verdict concerns."""
        return tuple(self.tasks[name] for name in self.study.targets)

    def lesson(self, step: Step) -> Lesson:
        """What a step learns from."""
        if isinstance(step, PretrainStep):
            return step.lesson(self.texts[step.text], self.study.target_name, self.study.seed)
        return self._lesson(step.learns_from or self.study.targets, step.rehearses)

    @property
    def target_lesson(self) -> Lesson:
        """The target, or the mean over several, as a step that names no task learns it."""
        return self._lesson(self.study.targets)

    def _lesson(self, names: Sequence[str], rehearses: Sequence[str] = ()) -> Lesson:
        tasks, rehearsed = (tuple(replace(self.tasks[name], test=()) for name in own) for own in (names, rehearses))
        return Lesson(
            tasks, tuple(self.metrics[name][0] for name in names), self.study.target_name, rehearsed=rehearsed
        )

    @property
    def language_model(self) -> PromptedModel | None:
        """The study's base model, as it is asked the target; None where no approach needs it."""
        folder = self.models.get(self.study.model or "")
        return None if folder is None else PromptedModel(ModelRef(str(folder)), self.targets[0].decoding)

    def base(self, name: str) -> Fitted:
        """What an approach begins from: its base model, or nothing where it needs none."""
        approach = self.study.approaches[name]
        # Of several targets each step holds the data that it learns from.
        task = training_key(self.targets[0]) if len(self.targets) == 1 else ""
        if not approach.needs_model:
            return Fitted(Nothing(), key_of(model=None, task=task, environment=self.environment))
        folder = str(self.models[approach.model or self.study.model or ""])
        key = key_of(model=self.model_keys[folder], task=task, environment=self.environment)
        return Fitted(PromptedModel(ModelRef(folder), self.targets[0].decoding), key)

    @property
    def environment(self) -> dict[str, str]:
        """What besides data, model and settings determines a number."""
        return {
            **versions(),
            "source": source_key(),
            "metric": key_of(code={name: self.metric_code.get(task.metric) for name, task in self.tasks.items()}),
            "device": self.device,
            "precision": self.precision,
        }


def prepare(study: Study, root: Path, *, allow_code: bool = False, indexes: Path | None = None) -> Prepared:
    """Read and check the data of a study, check its steps against them, and find its models.

    Args:
        root: Folder against which the study's paths resolve.
        allow_code: Whether Python files that the study names may run.
        indexes: Folder of the indices that the run makes; None to look ahead, where documents are searched by words.
    """
    device = resolve_device(study.device)  # type: ignore[arg-type]
    precision = resolve_precision(study.precision, device)  # type: ignore[arg-type]
    documents = library(root, device, indexes, words_only=indexes is None)
    tasks = {name: load_task(name, task, root, allow_code, study.seed) for name, task in study.tasks.items()}
    rows = [file for task in study.tasks.values() for given in task.sources().values() for file in given]
    tasks = {name: with_documents(task, study.tasks[name], root, documents, rows) for name, task in tasks.items()}
    study = study.for_data(tasks)
    judged = tasks[study.targets[0]]
    problems = [
        f"approaches.{name}: {problem}"
        for name, approach in study.approaches.items()
        for step in approach.steps
        for task in step.learns_from or study.targets
        for problem in step.check(tasks[task])
    ]
    problems += _problems_of_losses(study, tasks)
    problems += _problems_of_phrasings(tasks)
    problems += _problems_of_shared_documents(study, tasks)
    problems += _problems_of_lm_eval(study)
    problems += _problems_of_several_targets(study, tasks)
    problems += _problems_of_lessons(study, tasks)
    if problems:
        raise StudyError("\n".join(problems))
    texts = {
        source: load_text(source, () if source.task is None else tasks[source.task].train, root)
        for source in dict.fromkeys(
            step.text
            for approach in study.approaches.values()
            for step in approach.steps
            if isinstance(step, PretrainStep)
        )
    }
    metrics = {
        name: tuple(load_metric(metric, root, allow_code) for metric in task.metrics) for name, task in tasks.items()
    }
    names = {a.model or study.model for a in study.approaches.values() if a.needs_model}
    models = {name: find_model(name, root) for name in sorted(name for name in names if name is not None)}
    code = {
        metric: (root / metric.rpartition(":")[0]).read_text(encoding="utf-8")
        for task in tasks.values()
        for metric in task.metrics
        if names_function(metric)
    }
    embedders = {
        name: model_key(str(find_embedder(name, root)))
        for approach in study.approaches.values()
        for step in approach.steps
        for name in step.embedders
    }
    if len(study.targets) == 1 and judged.documents is not None:
        find_embedder(documents_embedder(study), root)  # the floor of documents searches with it
    keys = {str(folder): model_key(str(folder)) for folder in models.values()}
    answering = engine(root, device, precision, documents, allow_code=allow_code)
    return Prepared(
        study=study,
        root=root.resolve(),
        tasks=tasks,
        texts=texts,
        metrics=metrics,
        models=models,
        device=device,
        precision=precision,
        metric_code=code,
        step_code=_step_code(study, root, answering),
        model_keys=keys,
        embedder_keys=embedders,
        engine=answering,
        library=documents,
        revision=load_revision(study.revision, judged, study.tasks[judged.name], root, documents),
    )


def _step_code(study: Study, root: Path, engine: Engine) -> dict[str, str]:
    """Hashes of the files of functions that steps name, each loaded once to see that it can be."""
    names = {name for approach in study.approaches.values() for step in approach.steps for name in step.code}
    for name in sorted(names):
        engine.function(name, root)
    files = {name: function_file(name, root, what="rule", error=StudyError) for name in sorted(names)}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def documents_embedder(study: Study) -> str:
    """What the documents' floor is searched by: the embedder that the first step names which reads documents."""
    steps = (step for approach in study.approaches.values() for step in approach.steps)
    return next((step.embedder for step in steps if isinstance(step, RagStep)), DEFAULT_EMBEDDER)


def _problems_of_losses(study: Study, tasks: Mapping[str, Task]) -> list[str]:
    """Approaches that give no log-probabilities, where those decide."""
    by_loss = [name for name in study.targets if metric_traits(tasks[name].metric).needs_logprobs]
    return [
        f"approaches.{name}: {approach.steps[-1].model_dump()['step']} gives no log-probability of the right answer, "
        f"which {tasks[by_loss[0]].metric} of task '{by_loss[0]}' is made of; put a metric of answers first, such as "
        "accuracy, token_f1 or rouge_l."
        for name, approach in study.approaches.items()
        if by_loss and approach.answers_without
    ] + [
        f"approaches.{name}: head: classify gives the log-probability of a label, and {tasks[by_loss[0]].metric} of "
        f"task '{by_loss[0]}' that of an answer's tokens, so they cannot be compared; put accuracy first."
        for name, approach in study.approaches.items()
        if by_loss and not approach.gives_model and not approach.answers_without
    ]


def _problems_of_phrasings(tasks: Mapping[str, Task]) -> list[str]:
    """Phrasings that name what the prompts do not have."""
    problems = []
    for name, task in tasks.items():
        for template in task.phrasings:
            try:
                check_template(template, tuple(task.train[0].prompt.fields))
            except StudyError as error:
                problems.append(f"tasks.{name}.phrasings: {error}")
    return problems


def _problems_of_shared_documents(study: Study, tasks: Mapping[str, Task]) -> list[str]:
    """Tasks that leave passages out of documents that another task reads as well."""
    folders = [task.documents.folder for task in tasks.values() if task.documents is not None]
    return [
        f"tasks.{name}.document_leaks: another task has the same documents, and drop would change them for both; give "
        "each a folder of its own, or keep."
        for name, task in tasks.items()
        if task.documents is not None
        and study.tasks[name].document_leaks == "drop"
        and folders.count(task.documents.folder) > 1
    ]


def _problems_of_lm_eval(study: Study) -> list[str]:
    """Models that lm-evaluation-harness cannot ask."""
    virtual = [
        name
        for name, approach in study.approaches.items()
        for step in approach.steps
        for one in closed(step)
        if isinstance(one, TrainingStep) and one.trained.virtual_tokens
    ]
    if not virtual or not study.forgetting.lm_eval:
        return []
    return [
        "forgetting.lm_eval: lm-evaluation-harness cannot put the virtual tokens of "
        f"{', '.join(dict.fromkeys(virtual))} before its prompts; leave out either."
    ]


def _problems_of_several_targets(study: Study, tasks: Mapping[str, Task]) -> list[str]:
    """What stands against a verdict on the mean over several tasks."""
    if len(study.targets) == 1:
        return []
    problems = [
        f"approaches.{name}: {step.model_dump()['step']} serves one task, and this study's verdict is on several "
        f"({', '.join(study.targets)}); word each task's prompt under tasks instead."
        for name, approach in study.approaches.items()
        for step in approach.steps
        if step.serves_one_task
    ]
    metrics = [metric_traits(tasks[name].metric) for name in study.targets]
    if not have_common_scale(metrics):
        named = ", ".join(f"{name}: {tasks[name].metric}" for name in study.targets)
        problems.append(
            f"target: a mean over these metrics says nothing ({named}). Give the tasks metrics from 0 to 1, or all the "
            "same, or name one task as the target."
        )
    return problems


def _problems_of_lessons(study: Study, tasks: Mapping[str, Task]) -> list[str]:
    """Steps that would choose by the mean over metrics of which a mean says nothing."""
    problems = []
    for name, approach in study.approaches.items():
        for step in approach.steps:
            learned = step.learns_from
            chooses = isinstance(step, TrainingStep) or len(list(closed(step))) > 1
            if not chooses or have_common_scale([metric_traits(tasks[task].metric) for task in learned]):
                continue
            named = ", ".join(f"{task}: {tasks[task].metric}" for task in learned)
            problems.append(
                f"approaches.{name}: {step.model_dump()['step']} would keep what has the best mean over the tasks that "
                f"it learns from, and a mean over these metrics says nothing ({named}). Put metrics from 0 to 1 first "
                "in each of these tasks, or the same one, such as loss."
            )
    return problems
