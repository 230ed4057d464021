"""What is in a study's data and what its test can show: known at once, without timing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.compare.power import describe_power
from luthier.model.load import count_parameters, empty_model
from luthier.runner.describe import data_report, example_counts, seen_elsewhere, text_warnings
from luthier.runner.prepare import Prepared, prepare
from luthier.study import Study
from luthier.types import Task


@dataclass(frozen=True, slots=True)
class Survey:
    """A study that was read and checked.

    Attributes:
        tasks: Task name → sizes, labels, metric.
        reports: Task name → the contents of `data.json`.
        power: A sentence on the smallest difference that the test can show.
        parameters: Of the base model; None where no approach needs it.
    """

    prepared: Prepared
    tasks: Mapping[str, Any]
    reports: Mapping[str, dict[str, Any]]
    power: str
    parameters: int | None
    warnings: tuple[str, ...]


def survey(study: Study, root: Path, *, allow_code: bool = False) -> Survey:
    """Read and check a study."""
    prepared = prepare(study, root, allow_code=allow_code)
    base = prepared.language_model
    reports = {name: data_report(task, prepared.engine, base) for name, task in prepared.tasks.items()}
    warnings = [f"{name}: {warning}" for name, report in reports.items() for warning in report["warnings"]]
    warnings += seen_elsewhere(prepared.tasks, prepared.study.learned_tasks)
    warnings += text_warnings(prepared.texts.values(), prepared.tasks)
    return Survey(
        prepared=prepared,
        tasks=example_counts(prepared.tasks),
        reports=reports,
        power=_power(prepared.targets),
        parameters=None if base is None else count_parameters(empty_model(base.model)),
        warnings=tuple(warnings),
    )


def _power(targets: Sequence[Task]) -> str:
    """What the test can show; of several targets that is not known before."""
    if len(targets) == 1:
        return describe_power(len(targets[0].test), targets[0].metric)
    examples = sum(len(task.test) for task in targets)
    return (
        f"The verdict is on the mean over {len(targets)} tasks with {examples:,} test examples together; what "
        "difference they can show depends on how alike the tasks come out."
    )
