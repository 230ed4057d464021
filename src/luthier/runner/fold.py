"""Folding an approach: from the base predictor through its steps, open settings tried."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from luthier.runner.apply import CandidateGivenUp, Workshop, apply_step, short
from luthier.runner.fitted import Fitted, Spent
from luthier.runner.folder import read_json, read_jsonl, write_json
from luthier.runner.pruning import MedianRule, track_of
from luthier.settings import closed
from luthier.steps.base import Step
from luthier.steps.lesson import Lesson
from luthier.steps.training import TrainingStep
from luthier.train.checkpoint import Score
from luthier.types import ModelRef


def fold(steps: Iterable[Step], base: Fitted, shop: Workshop, name: str) -> Fitted:
    """Apply steps to the base, one after the other."""
    fitted, start = base, None if base.language_model is None else base.language_model.model
    for step in steps:
        candidates = [candidate for candidate in closed(step) if isinstance(candidate, Step)]
        if len(candidates) == 1:
            fitted = apply_step(candidates[0], fitted, start, shop, name)
        else:
            fitted = _search(candidates, fitted, start, shop, name)
    return fitted


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate of a step, what it gave, how it did on validation, and what trying it took, comparing included.

    Attributes:
        after: None where it was given up.
        value: The metric that choices are made by; of one given up the best that it had come to.
        given_up_at: The number of the evaluation, from 1.
    """

    step: Step
    after: Fitted | None
    value: float
    score: Score
    spent: Mapping[str, Spent]
    seconds: float
    given_up_at: int | None = None


def _search(candidates: list[Step], before: Fitted, start: ModelRef | None, shop: Workshop, name: str) -> Fitted:
    """Apply each candidate, compare them on validation, go on with the best (the first of equals)."""
    tried: list[_Tried] = []
    tracks: list[tuple[Score, ...]] = []
    for candidate in candidates:
        lesson = shop.lesson(candidate)
        rule, tested = None, candidate
        if isinstance(candidate, TrainingStep) and not candidate.whole:
            tested = candidate.on_trial()
        elif shop.prune and isinstance(candidate, TrainingStep):
            rule = MedianRule(tuple(tracks), candidate.evaluations)
        try:
            after = apply_step(tested, before, start, replace(shop, draw=False), name, rule)
        except CandidateGivenUp as given_up:
            own = {**before.spent, given_up.key: given_up.spent}
            value = lesson.metric_of(given_up.best)
            seconds = given_up.spent.train_s
            tried.append(_Tried(candidate, None, value, given_up.best, own, seconds, given_up.evaluation))
            continue
        metrics, seconds = validated(after, lesson, shop, f"{name}: trying {short(tested)}")
        own = {**after.spent, f"{after.key}/validation": Spent(seconds)}
        seconds += after.train_s - before.train_s
        value = metrics[lesson.metric_name]
        tried.append(_Tried(candidate, after, value, lesson.score_of(metrics), own, seconds))
        if rule is not None:
            tracks.append(track_of(read_jsonl(shop.folder.step(after.key) / "metrics.jsonl"), lesson))
    best = max((one for one in tried if one.after is not None), key=lambda one: one.score)  # the first of equals
    taken = apply_step(best.step, before, start, shop, name)  # unless it was on trial it is done, and is drawn now
    metric = shop.lesson(best.step).metric_name
    choice = {
        "step": best.step.model_dump()["step"],
        "tried": [
            {
                "settings": one.step.model_dump(mode="json", exclude_unset=True),
                "metric": metric,
                "score": one.value,
                "seconds": one.seconds,
                "taken": one is best,
                "given_up_at": one.given_up_at,
            }
            for one in tried
        ],
    }
    spent: dict[str, Spent] = {}
    for one in tried:
        spent |= one.spent
    return replace(taken, spent={**spent, **taken.spent}, choices=(*taken.choices, choice))


def validated(
    fitted: Fitted, lesson: Lesson, shop: Workshop, description: str, name: str = "validation"
) -> tuple[dict[str, float], float]:
    """Validation metrics of a predictor and the seconds they took, from the folder where they are there already.

    Args:
        name: Of the file without its ending; one for each thing that may be validated.
    """
    file = shop.folder.step(fitted.key) / f"{name}.json"
    if not file.is_file():
        started = time.perf_counter()
        with shop.progress.track(description, lesson.validated) as advance:
            metrics = lesson.validate(shop.engine, fitted.predictor, advance=advance)
        write_json(file, {"metrics": metrics, "seconds": time.perf_counter() - started})
    row = read_json(file)
    return row["metrics"], row["seconds"]
