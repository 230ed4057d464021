"""The learning curve of a training: what the model gains on validation with fewer examples."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from luthier.evaluate.statistics import wilson_interval
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.steps.training import TrainingStep
from luthier.types import PromptedModel


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training of the curve.

    Attributes:
        examples: Of each task, as many as were trained on.
        value: What validation gives of the weights that were kept; at 0 of those before training.
        seconds: That it took.
    """

    examples: int
    value: float
    seconds: float


def measure_curve(
    step: TrainingStep, parts: Mapping[int, TrainingStep], predictor: PromptedModel, context: StepContext
) -> list[CurvePoint]:
    """Train on each number of examples, from the same start; a point that is in the folder is not measured again.

    No weights are kept.

    Args:
        step: The training whose curve it is.
        parts: Number of examples → the same training on so many of them.
    """
    predictor = step.asking(predictor)
    points = [_before(step, predictor, context)]
    for examples, part in parts.items():
        folder = context.folder / "curve" / str(examples)
        file = folder / "point.json"
        if not file.is_file():
            started = time.perf_counter()
            quiet = replace(context, folder=folder, log=lambda row: None, give_up=lambda number, best: False)
            trained = part.trained_model(predictor, quiet)
            value = context.lesson.metric_of(trained.outcome.best_score)
            del trained
            context.engine.release()
            shutil.rmtree(folder)
            _keep(file, CurvePoint(examples, value, time.perf_counter() - started))
        points.append(CurvePoint(**json.loads(file.read_text(encoding="utf-8"))))
    return points


def _before(step: TrainingStep, predictor: PromptedModel, context: StepContext) -> CurvePoint:
    """The model that training begins with, which need not be the predictor's: its weights may be drawn anew."""
    file = context.folder / "curve" / "0" / "point.json"
    if not file.is_file():
        started = time.perf_counter()
        model = step.ready(step.trainable_model(predictor.model, context.engine, context.seed), context.lesson)
        score = context.lesson.score_of(context.lesson.validate(context.engine, predictor, model=model))
        del model
        context.engine.release()
        _keep(file, CurvePoint(0, context.lesson.metric_of(score), time.perf_counter() - started))
    return CurvePoint(**json.loads(file.read_text(encoding="utf-8")))


def _keep(file: Path, point: CurvePoint) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(point)), encoding="utf-8")
    new.replace(file)


def curve_result(points: Sequence[CurvePoint], lesson: Lesson) -> dict[str, Any]:
    """The curve to be drawn, with 95% intervals where the metric is a proportion of one task's examples."""
    name = lesson.metric_name
    values = [point.value for point in points]
    low: list[float | None] = [None] * len(values)
    high: list[float | None] = [None] * len(values)
    if len(lesson.tasks) == 1 and lesson.metrics[0].proportion:
        found = [wilson_interval(value * lesson.validated, lesson.validated) for value in values]
        low, high = [one.low for one in found], [one.high for one in found]
    return {
        "kind": "curve",
        "title": "Learning curve: what more examples bring",
        "x_label": "training examples",
        "y_label": f"{name.replace('_', ' ')} on {lesson.validated} validation examples",
        "x": [point.examples for point in points],
        "y": values,
        "low": low,
        "high": high,
    }
