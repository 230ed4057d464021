"""Approaches side by side: `compare` gives the content of `comparison.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from luthier.compare.contrasts import Contrast, Trained, contrasts, mean_over_trainings
from luthier.compare.decision import FIRST, AgainstFloor, Asked, Question, Standing, Table, computes_less, decide, elect
from luthier.compare.power import DISCORDANCE, minimum_detectable_difference, smoothed_discordance
from luthier.compare.quantities import change_text, listed
from luthier.compare.verdict import evidence, headline, reasons
from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
from luthier.evaluate.columns import Column, column_of, interval_of, settled, values_of
from luthier.evaluate.cost import break_even_requests, total_s
from luthier.evaluate.forgetting import worsening
from luthier.evaluate.metrics import Metric, metric_traits
from luthier.evaluate.over_tasks import mean_over, task_differences
from luthier.evaluate.statistics import Floats, Interval
from luthier.types import Cost, Score, Training


@dataclass(frozen=True, slots=True)
class ApproachResult:
    """What one approach scored and cost.

    Attributes:
        training: What was trained for it.
        scores: Task → metric → scores, in the same order of examples for every approach.
        deciding: Task → the metric that decides.
        answers: Task → answers in the order of the scores; only tasks with a metric that is not the mean of its
            values (macro_f1, bleu, chrf, perplexity) need them.
        forgotten: What `compare_probes` gave of general probes, empty where no weight of the model changed.
        other_tasks: What it gave of the tasks that are no targets, with `since`.
        changes_model: Whether weights of the model that answers general text changed, and not only of those for single
            tasks or of what searches for it.
        validation: What it scored on validation, turned so that more is better; None where it was not asked.
        trainings: What the same scored, trained again with further seeds.
    """

    name: str
    training: Training
    scores: Mapping[str, Mapping[str, Sequence[Score]]]
    deciding: Mapping[str, str]
    cost: Cost
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    forgotten: Sequence[Mapping[str, object]] = ()
    other_tasks: Sequence[Mapping[str, object]] = ()
    changes_model: bool = True
    kind: str = "prompted model"
    validation: float | None = None
    trainings: tuple[ApproachResult, ...] = ()


@dataclass(frozen=True, slots=True)
class FloorResult:
    """What a rule scored that an approach must beat to be of use.

    Attributes:
        kind: What answers; an approach of the same kind need not beat it.
        words: What it does, to stand behind "better than".
        result: Its scores and answers, as of an approach.
    """

    kind: str
    words: str
    result: ApproachResult


def compare(
    approaches: Sequence[ApproachResult],
    *,
    targets: Sequence[str],
    requests: int,
    margin: float,
    forgetting_limit: float | None,
    seed: int,
    alpha: float = 0.05,
    floors: Sequence[FloorResult] = (),
    hour_price: float | None = None,
) -> dict[str, object]:
    """Rank the approaches, compare every two in pairs, and recommend one.

    Args:
        targets: The tasks that the recommendation concerns; of several their mean.
        requests: How many requests the cost is counted for.
        margin: How much worse than the best still counts as good enough, in the metric's unit.
        forgetting_limit: How much worse a general probe may get, as a fraction (`forgetting.worsening`); None: any.
        alpha: Of tasks one by one, a difference is found where p after Holm is below it.
        floors: Rules that an approach must be shown to beat to be of use.
        hour_price: What an hour of the machine costs; None where nobody said.

    Returns:
        The content of `comparison.json`. An interval's end is null where a single example gives none.

    Raises:
        EvaluationError: Approaches were not scored on the same examples, or one of them has no score at all.
    """
    _check(approaches, targets)
    metrics, by_task = _by_target(approaches, targets)
    metric, judged = _of_all(metrics, by_task)
    columns = {approach.name: column for approach, column in zip(approaches, judged, strict=True)}
    measured = _measured_floors(floors, approaches, targets, seed)
    scored = _Scored.of(approaches, measured, targets)
    standings = _ranked(approaches, columns, scored, requests, forgetting_limit, seed)
    _, asked = elect(standings)
    against, leads = _asked_of(asked, approaches, measured, scored)
    standings = [replace(standing, floor=against.get(standing.name)) for standing in standings]
    named = {standing.name: standing for standing in standings}
    questions = [
        Question(own.about, named[own.of], named[own.over], lead) for own, lead in zip(asked, leads, strict=True)
    ]
    pairs = _pairs([standing.name for standing in standings], questions, scored)
    table = Table(metric, standings, questions, requests, margin, forgetting_limit, hour_price)
    decision = decide(table)
    by_name = {approach.name: approach for approach in approaches}
    break_even = _break_even(standings)
    return {
        "target": targets[0] if len(targets) == 1 else f"{len(targets)} tasks",
        "targets": list(targets),
        "metric": metric.name,
        "n": len(next(iter(columns.values())).scored),
        "requests": requests,
        "hour_price": hour_price,
        "margin": margin,
        "forgetting_limit": forgetting_limit,
        "minimum_detectable": _minimum_detectable(metric, standings, columns, pairs),
        "approaches": [
            _entry(by_name[standing.name], standing, columns[standing.name], metric, targets, approaches, seed)
            for standing in standings
        ],
        "floors": [floor.entry for floor in measured],
        "pairs": pairs,
        "by_task": _by_task(approaches, standings, by_task, metrics, seed, alpha) if len(targets) > 1 else [],
        "break_even": break_even,
        "decision": decision.content(table),
        "recommended": decision.chosen.name if decision.chosen else None,
        "headline": headline(table, decision),
        "verdict": evidence(table, decision),
        "reasons": reasons(table, decision, break_even) + _notes(by_name, standings, metrics),
    }


def judged_columns(approaches: Sequence[ApproachResult], targets: Sequence[str]) -> tuple[Metric, list[Column]]:
    """The metric that decides and each approach's column of it; of several targets the mean over them."""
    return _of_all(*_by_target(approaches, targets))


def _by_target(
    approaches: Sequence[ApproachResult], targets: Sequence[str]
) -> tuple[dict[str, Metric], dict[str, list[Column]]]:
    """Target → its deciding metric, and target → the approaches' columns of it."""
    deciding = approaches[0].deciding
    metrics = {task: _settled(metric_traits(deciding[task]), approaches, task) for task in targets}
    return metrics, {task: [_column(approach, task, own) for approach in approaches] for task, own in metrics.items()}


def _of_all(metrics: Mapping[str, Metric], by_task: Mapping[str, Sequence[Column]]) -> tuple[Metric, list[Column]]:
    if len(metrics) > 1:
        return mean_over(by_task, metrics)
    (metric,), (columns,) = metrics.values(), by_task.values()
    return metric, list(columns)


def _check(approaches: Sequence[ApproachResult], targets: Sequence[str]) -> None:
    if not approaches:
        raise EvaluationError("There is no approach to compare.")
    names = [approach.name for approach in approaches]
    if len(set(names)) < len(names):
        raise EvaluationError(f"Two approaches have the same name: {', '.join(names)}.")
    first = approaches[0]
    for target in targets:
        if target not in first.scores:
            raise EvaluationError(f"The target '{target}' was not scored (found: {', '.join(first.scores)}).")
    for approach in approaches:
        if {t: set(m) for t, m in approach.scores.items()} != {t: set(m) for t, m in first.scores.items()}:
            raise EvaluationError(f"'{approach.name}' was scored by other tasks or metrics than '{first.name}'.")
        if dict(approach.deciding) != dict(first.deciding):
            raise EvaluationError(f"'{approach.name}' is decided by other metrics than '{first.name}'.")
        for task, metrics in first.scores.items():
            for metric, scores in metrics.items():
                if [score.id for score in scores] != [score.id for score in approach.scores[task][metric]]:
                    raise EvaluationError(
                        f"'{approach.name}' and '{first.name}' were not scored on the same examples of '{task}' by "
                        f"'{metric}', or not in the same order. Score both again on the same split."
                    )


def _settled(metric: Metric, approaches: Sequence[ApproachResult], task: str) -> Metric:
    return settled(metric, (approach.scores[task][metric.name] for approach in approaches))


def _column(approach: ApproachResult, task: str, metric: Metric) -> Column:
    scores, answers = approach.scores[task][metric.name], approach.answers.get(task, ())
    return column_of(scores, answers, metric, f"'{approach.name}' on '{task}'")


def _ranked(
    approaches: Sequence[ApproachResult],
    columns: Mapping[str, Column],
    scored: _Scored,
    requests: int,
    forgetting_limit: float | None,
    seed: int,
) -> list[Standing]:
    metric, standings = scored.metric, []
    for place, approach in enumerate(approaches):
        column = columns[approach.name]
        if not column.scored.any():
            raise EvaluationError(
                f"'{approach.name}' has no example that {metric.name} could score: an empty set has no mean. The "
                "reasons stand under 'unscored' in its predictions.jsonl."
            )
        own = interval_of(column, metric, seed)
        standings.append(
            Standing(
                approach.name,
                approach.training,
                scored.mean(approach.name) if approach.trainings else own,
                approach.cost,
                total_s(approach.cost, requests),
                _forgot(approach, forgetting_limit),
                _changed(approach),
                validation=approach.validation,
                place=place,
                handed_over=own if approach.trainings else None,
            )
        )
    direction = -1 if metric.higher_is_better else 1
    return sorted(standings, key=lambda standing: (direction * standing.interval.mean, standing.total_s))


def _forgot(approach: ApproachResult, limit: float | None) -> str | None:
    changes = [*approach.forgotten, *approach.other_tasks]
    beyond = [change for change in changes if limit is not None and worsening(change) > limit]
    return "; ".join(map(change_text, beyond)) or None


def _changed(approach: ApproachResult) -> str | None:
    """The general probe that got worst."""
    return change_text(max(approach.forgotten, key=worsening)) if approach.forgotten else None


@dataclass(frozen=True, slots=True)
class _Scored:
    """What approaches and floors score on each test example, for differences between them.

    Attributes:
        by_name: Approaches, with all their trainings.
        floors: Floors.
        tasks: How many examples each target has, where there are several.
    """

    by_name: Mapping[str, Trained]
    floors: Mapping[str, Trained]
    metric: Metric
    tasks: Sequence[int]

    @classmethod
    def of(
        cls, approaches: Sequence[ApproachResult], floors: Sequence[_MeasuredFloor], targets: Sequence[str]
    ) -> _Scored:
        rows = [(own.name, one) for own in approaches for one in (own, *own.trainings)]
        rows += [(floor.floor.result.name, floor.floor.result) for floor in floors]
        metrics, by_task = _by_target([one for _, one in rows], targets)
        metric, _ = _of_all(metrics, by_task)
        parts = [[values_of(column, metrics[task]) for column in columns] for task, columns in by_task.items()]
        tasks = [len(own[0]) for own in parts]
        values = [np.concatenate(own) for own in zip(*parts, strict=True)]
        count = len(rows) - len(floors)

        def gathered(start: int, end: int) -> dict[str, Trained]:
            found: dict[str, list[Floats]] = {}
            for (name, _), own in zip(rows[start:end], values[start:end], strict=True):
                found.setdefault(name, []).append(own)
            return {name: Trained(name, np.stack(own)) for name, own in found.items()}

        return cls(gathered(0, count), gathered(count, len(rows)), metric, tasks if len(tasks) > 1 else ())

    def differences(
        self, pairs: Sequence[tuple[Trained, Trained]], *, stepwise: bool, weights: Sequence[float] = ()
    ) -> list[Contrast]:
        bounded, tasks = self.metric.bounded, self.tasks
        return contrasts(pairs, bounded=bounded, tasks=tasks, stepwise=stepwise, weights=weights)

    def mean(self, name: str) -> Interval:
        """Over all trainings."""
        return mean_over_trainings(self.by_name[name], bounded=self.metric.bounded, tasks=self.tasks)

    def turned(self, found: Contrast) -> Contrast:
        """With positive as better."""
        return found if self.metric.higher_is_better else found.turned


def _asked_of(
    asked: Sequence[Asked], approaches: Sequence[ApproachResult], floors: Sequence[_MeasuredFloor], scored: _Scored
) -> tuple[dict[str, AgainstFloor], list[Contrast]]:
    """What was asked beforehand, and how each approach stands beside the best floor that does something else than it.

    The intervals of the questions, and of the floors of the approaches in them, hold together; those of the floors of
    all others hold together by themselves.
    """
    met = {
        own.name: floor
        for own in approaches
        if (floor := next((one for one in floors if one.floor.kind != own.kind), None)) is not None
    }
    inside = [name for name in met if not asked or any(name in (own.of, own.over) for own in asked)]
    outside = [name for name in met if name not in inside]

    def beside(names: Sequence[str]) -> list[tuple[Trained, Trained]]:
        return [(scored.by_name[name], scored.floors[met[name].floor.result.name]) for name in names]

    pairs = [(scored.by_name[own.of], scored.by_name[own.over]) for own in asked]
    weights = [*(FIRST if own is asked[0] else 1.0 for own in asked), *(1.0 for _ in inside)]
    together = scored.differences(pairs + beside(inside), stepwise=True, weights=weights)
    found = [*together[len(pairs) :], *scored.differences(beside(outside), stepwise=True)]
    against = {
        name: AgainstFloor(
            met[name].floor.result.name, met[name].floor.words, met[name].interval.mean, scored.turned(lead)
        )
        for name, lead in zip([*inside, *outside], found, strict=True)
    }
    return against, [scored.turned(lead) for lead in together[: len(pairs)]]


def _pairs(names: Sequence[str], questions: Sequence[Question], scored: _Scored) -> list[dict[str, object]]:
    """Every two approaches, the better ranked first, with intervals that hold together; those that were asked about
    beforehand as they were asked."""
    couples = list(combinations(names, 2))
    found = scored.differences([(scored.by_name[a], scored.by_name[b]) for a, b in couples], stepwise=False)
    leads = {(own.of.name, own.over.name): scored.turned(own.lead) for own in questions}
    entries = []
    for (a, b), every in zip(couples, found, strict=True):
        asked = leads.get((a, b)) or (leads[b, a].turned if (b, a) in leads else None)
        entries.append(_pair_entry(a, b, asked or every, asked=asked is not None))
    return entries


@dataclass(frozen=True, slots=True)
class _MeasuredFloor:
    """A floor that the deciding metric could score."""

    floor: FloorResult
    metric: Metric
    column: Column
    interval: Interval

    @property
    def entry(self) -> dict[str, object]:
        """As `comparison.json` has it."""
        result, found = self.floor.result, self.interval
        return {
            "name": result.name,
            "kind": self.floor.kind,
            "words": self.floor.words,
            "n": found.n,
            "mean": found.mean,
            "low": _finite(found.low),
            "high": _finite(found.high),
            "total_s": result.cost.seconds_per_request,
        }


def _measured_floors(
    floors: Sequence[FloorResult], approaches: Sequence[ApproachResult], targets: Sequence[str], seed: int
) -> list[_MeasuredFloor]:
    """The floors, best first; one that writes no log-probabilities has no score where those decide."""
    found = []
    for floor in floors:
        metric, columns = judged_columns([*approaches, floor.result], targets)
        column = columns[-1]
        if column.scored.any():
            found.append(_MeasuredFloor(floor, metric, column, interval_of(column, metric, seed)))
    metric, _ = judged_columns(approaches, targets)
    direction = -1 if metric.higher_is_better else 1
    return sorted(found, key=lambda one: direction * one.interval.mean)


def _minimum_detectable(
    metric: Metric, standings: Sequence[Standing], columns: Mapping[str, Column], pairs: Sequence[Mapping[str, Any]]
) -> float | None:
    """By the spread seen between the two best; by the usual discordance where there is but one. None: unknown."""
    if not pairs:
        n = standings[0].interval.n
        return minimum_detectable_difference(n, discordance=DISCORDANCE) if metric.proportion else None
    best, n = pairs[0], int(pairs[0]["n"])
    if metric.proportion:
        one, other = (columns[best[side]] for side in ("a", "b"))
        both = one.scored & other.scored
        share = smoothed_discordance(float((one.values[both] != other.values[both]).mean()), n)
        return minimum_detectable_difference(n, discordance=share)
    spread = best["spread"]
    return minimum_detectable_difference(n, sd=spread) if spread else None


def _entry(
    approach: ApproachResult,
    standing: Standing,
    column: Column,
    metric: Metric,
    targets: Sequence[str],
    approaches: Sequence[ApproachResult],
    seed: int,
) -> dict[str, object]:
    handed = standing.handed_over or standing.interval
    known = {targets[0]: handed} if len(targets) == 1 else {}
    entry: dict[str, object] = {
        "name": approach.name,
        "n": standing.interval.n,
        "metric": metric.name,
        "mean": standing.interval.mean,
        "low": _finite(standing.interval.low),
        "high": _finite(standing.interval.high),
        "interval": standing.interval.method,
        "trainings": 1 + len(approach.trainings),
        "handed_over": {"mean": handed.mean, "low": _finite(handed.low), "high": _finite(handed.high)},
        "scores": {task: _task_scores(approach, task, approaches, seed, known.get(task)) for task in approach.scores},
        "unscored": int((~column.scored).sum()),
        "cost": asdict(approach.cost),
        "total_s": standing.total_s,
        "training": approach.training,
        "floor": None if standing.floor is None else _floor_entry(standing.floor),
    }
    if approach.training != "none":
        entry["forgotten"] = [dict(change) for change in approach.forgotten]
        entry["other_tasks"] = [dict(change) for change in approach.other_tasks]
    return entry


def _task_scores(
    approach: ApproachResult, task: str, approaches: Sequence[ApproachResult], seed: int, known: Interval | None
) -> list[dict[str, object]]:
    """All metrics of a task, the deciding one first; its interval may be `known` already."""
    deciding = approach.deciding[task]
    entries = [] if known is None else [_interval_entry(deciding, known)]
    rest = [name for name in approach.scores[task] if name != deciding]
    for name in rest if known else [deciding, *rest]:
        metric = _settled(metric_traits(name), approaches, task)
        entries.append(_score_entry(_column(approach, task, metric), metric, seed))
    return entries


def _score_entry(column: Column, metric: Metric, seed: int) -> dict[str, object]:
    if not column.scored.any():
        return {"metric": metric.name, "n": 0, "mean": None, "low": None, "high": None}
    return _interval_entry(metric.name, interval_of(column, metric, seed))


def _interval_entry(name: str, found: Interval) -> dict[str, object]:
    low, high = _finite(found.low), _finite(found.high)
    return {"metric": name, "n": found.n, "mean": found.mean, "low": low, "high": high}


def _floor_entry(own: AgainstFloor) -> dict[str, object]:
    lead = own.lead
    return {
        "name": own.name,
        "difference": lead.difference,
        "low": _finite(lead.low),
        "high": _finite(lead.high),
        "p": lead.p,
        "above": own.above,
    }


def _pair_entry(a: str, b: str, found: Contrast, *, asked: bool) -> dict[str, object]:
    return {
        "a": a,
        "b": b,
        "difference": found.difference,
        "low": _finite(found.low),
        "high": _finite(found.high),
        "p": found.p,
        "asked": asked,
        "trainings": found.trainings,
        "n": found.n,
        "spread": _finite(found.spread),
    }


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None


def _break_even(standings: Sequence[Standing]) -> list[dict[str, object]]:
    return [
        {"trained": trained.name, "untrained": untrained.name, "requests": _paid_after(trained, untrained)}
        for trained in standings
        if trained.trains
        for untrained in standings
        if not untrained.trains
    ]


def _paid_after(trained: Standing, untrained: Standing) -> int | None:
    """Requests until the time saved on each has paid for the training; where as much is computed, times differ by
    chance."""
    if not computes_less(trained, untrained):
        return None
    one, other = trained.cost, untrained.cost
    return break_even_requests(one.train_s, one.seconds_per_request, other.seconds_per_request)


def _by_task(
    approaches: Sequence[ApproachResult],
    standings: Sequence[Standing],
    columns: Mapping[str, Sequence[Column]],
    metrics: Mapping[str, Metric],
    seed: int,
    alpha: float,
) -> list[dict[str, object]]:
    """Every two approaches on each task, the better ranked first."""
    index = {approach.name: number for number, approach in enumerate(approaches)}
    own = {name: {task: every[index[name]] for task, every in columns.items()} for name in (s.name for s in standings)}
    return [{"a": a, "b": b, **task_differences(own[a], own[b], metrics, seed, alpha)} for a, b in combinations(own, 2)]


def _is_unprobed(approach: ApproachResult) -> bool:
    return approach.training == "language model" and approach.changes_model and not approach.forgotten


def _notes(
    by_name: Mapping[str, ApproachResult], standings: Sequence[Standing], metrics: Mapping[str, Metric]
) -> list[str]:
    """What is missing: models that were not probed, and unscored answers with the most frequent reason."""
    lines = []
    unprobed = [standing.name for standing in standings if _is_unprobed(by_name[standing.name])]
    if len(unprobed) == 1:
        lines.append(f"{unprobed[0]} changed weights and was not probed, so what it forgot is not known.")
    elif unprobed:
        names = listed(unprobed)
        lines.append(f"{names} changed weights and were not probed, so what they forgot is not known.")
    unscored = []
    for standing in standings:
        own = by_name[standing.name].scores
        scores = [score for task, metric in metrics.items() for score in own[task][metric.name]]
        why = [score.reason or "no reason given" for score in scores if score.value is None]
        if why:
            usual = max(sorted(set(why)), key=why.count)
            unscored.append(f"{len(why):,} of {len(scores):,} answers of {standing.name} ({usual})")
    if unscored:
        lines.append(f"Left out of the means, for they could not be scored: {'; '.join(unscored)}.")
    return lines
