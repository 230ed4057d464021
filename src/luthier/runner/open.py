"""Opening a finished run: its study, its recommended approach, its predictors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier.data.labels import Labels
from luthier.data.settings import TaskSettings
from luthier.errors import RunError
from luthier.infer.engine import Engine
from luthier.record import load_predictor, places_of
from luthier.runner.folder import RunFolder, read_json
from luthier.runner.machinery import engine, library
from luthier.runner.seals import check_seal
from luthier.simple.rule import Rule
from luthier.study import Study
from luthier.types import Predictor, PromptedModel


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A finished run, ready to answer with one of its approaches.

    Attributes:
        name: The approach.
        task_name: The task whose prompts are answered.
        predictor: As it is asked that task.
        routed: Whether the approach answers other tasks with other models.
        about: The contents of `run.json`.
    """

    folder: RunFolder
    study: Study
    name: str
    task_name: str
    predictor: Predictor
    routed: bool
    about: dict[str, Any]
    engine: Engine

    @property
    def task(self) -> TaskSettings:
        """The task's settings."""
        return self.study.tasks[self.task_name]

    @property
    def labels(self) -> tuple[str, ...]:
        """The task's labels."""
        labels = tuple(self.about["tasks"][self.task_name]["labels"])
        separator = self.task.label_separator
        return labels if separator is None else Labels(labels, separator)


def open_run(
    path: Path | str, approach: str | None = None, task: str | None = None, *, allow_code: bool = False
) -> OpenRun:
    """Open a run with the approach of this name, or the recommended one.

    Args:
        task: Whose prompts are to be answered; the target where none is named.
        allow_code: Whether a rule in the run folder may run, which is Python code.

    Raises:
        RunError: The run is not finished, recommends nothing, has no such approach or task, or was judged on several
            tasks and none is named.
    """
    folder = RunFolder(Path(path))
    if not folder.comparison.is_file():
        what = "is not there" if not folder.path.is_dir() else "holds no finished run (comparison.json is missing)"
        raise RunError(f"{folder.path} {what}. Run the study first: luthier run STUDY --output {folder.path}")
    comparison = read_json(folder.comparison)
    names = [row["name"] for row in comparison["approaches"]]
    name = approach or comparison["recommended"]
    if name is None:
        raise RunError(f"{folder.path} recommends no approach; name one with --approach: {', '.join(names)}")
    if name not in names:
        raise RunError(f"{folder.path} has no approach '{name}' (there are: {', '.join(names)})")
    try:
        study = Study.model_validate(read_json(folder.resolved_study))
    except ValidationError as error:
        raise RunError(
            f"{folder.resolved_study} is no study that this version of Luthier knows ({error.error_count()} faults). "
            f"Run the study again: luthier run {folder.study} --output {folder.path}"
        ) from error
    about = read_json(folder.run)
    task = task or _only_target(study, folder)
    if task not in study.tasks:
        raise RunError(f"{folder.path} has no task '{task}' (there are: {', '.join(study.tasks)})")
    predictor = load_predictor(folder.approach(name) / "predictor.json", folder.path)
    _check_places(predictor, folder)
    check_seal(name, folder)
    asked = predictor.serving(task, study.tasks[task].decoding(study.seed), study.target_name)
    if reason := asked.declines(task):
        raise RunError(f"{name} does not answer task '{task}': {reason}. Name another approach with --approach.")
    routed = isinstance(predictor, PromptedModel) and bool(predictor.routes)
    root = Path(about["root"])
    own = engine(root, about["device"], about["precision"], library(root, about["device"], None), allow_code=allow_code)
    if isinstance(asked, Rule):
        _check_rule(asked, folder)
    return OpenRun(folder, study, name, task, asked, routed, about, own)


def _only_target(study: Study, folder: RunFolder) -> str:
    if len(study.targets) > 1:
        raise RunError(
            f"{folder.path} was judged on several tasks; name the one to be answered with --task: "
            f"{', '.join(study.tasks)}"
        )
    return study.targets[0]


def _check_rule(rule: Rule, folder: RunFolder) -> None:
    """A run's rule is the copy in its own folder."""
    if not Path(rule.code).resolve().is_relative_to(folder.path.resolve()) or Path(rule.function).name != rule.function:
        raise RunError(f"the rule of this run lies outside its folder ({rule.code}, {rule.function}): it is not run.")


def _check_places(predictor: Predictor, folder: RunFolder) -> None:
    for place in places_of(predictor):
        if Path(place).is_absolute() and not Path(place).is_dir():
            raise RunError(
                f"{place} is gone, which this approach needs. Run the study again "
                f"(luthier run {folder.study} --output {folder.path}), or put what was there back."
            )
