"""Scores as columns of numbers, and what they say: an interval of one, the paired difference of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
from luthier.evaluate.contrasts import Trained, contrasts, over_trainings
from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import (
    Difference,
    Floats,
    Interval,
    bootstrap_interval,
    paired_difference,
    wilson_interval,
)
from luthier.types import Score


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one model: (N,) values, or (N, K) rows of a corpus metric; which of them are scored (N,)."""

    values: Floats
    scored: NDArray[np.bool_]


def settled(metric: Metric, scores: Iterable[Sequence[Score]]) -> Metric:
    """A user's own metric is a proportion where all its values, in all columns, are 0 or 1."""
    if metric.proportion is not None:
        return metric
    values = {score.value for own in scores for score in own} - {None}
    proportion = values <= {0.0, 1.0}
    return replace(metric, proportion=proportion, bounded=proportion)


def column_of(scores: Sequence[Score], answers: Sequence[Answer], metric: Metric, what: str) -> Column:
    """The column of a metric's scores.

    Args:
        answers: In the order of the scores; needed where the metric is not the mean of its values.
        what: Whose they are and of which task, for errors.

    Raises:
        EvaluationError: Answers are needed, and there are other than one a score.
    """
    scored = np.array([score.value is not None for score in scores], dtype=bool)
    if metric.corpus is None:
        return Column(np.array([0.0 if score.value is None else score.value for score in scores]), scored)
    if len(answers) != len(scores):
        raise EvaluationError(
            f"{what}: {metric.name} is computed from all answers together, and {len(answers)} answers came with "
            f"{len(scores)} scores."
        )
    kept = [answer for answer, keep in zip(answers, scored, strict=True) if keep]
    if not kept:
        return Column(np.zeros((len(scores), 1)), scored)
    rows = metric.corpus.rows(kept)
    values = np.zeros((len(scores), rows.shape[1]))
    values[scored] = rows
    return Column(values, scored)


def interval_of(column: Column, metric: Metric, seed: int) -> Interval:
    """The metric of a column with its 95% interval."""
    values = column.values[column.scored]
    if metric.proportion:
        return wilson_interval(float(values.sum()), len(values))
    aggregate = metric.corpus.aggregate if metric.corpus else None
    return bootstrap_interval(values, seed, aggregate, bounded=metric.bounded)


def difference_of(a: Column, b: Column, metric: Metric, seed: int, who: str) -> Difference:
    """The paired difference a - b, over the examples that both have scored.

    Raises:
        EvaluationError: There is none.
    """
    both = a.scored & b.scored
    if not both.any():
        raise EvaluationError(f"{who}: {metric.name} scored no example of both, so they cannot be compared.")
    aggregate = metric.corpus.aggregate if metric.corpus else None
    return paired_difference(
        a.values[both],
        b.values[both],
        bool(metric.proportion),
        seed=seed,
        aggregate=aggregate,
        bounded=metric.bounded,
    )


def asked_difference(a: Sequence[Column], b: Sequence[Column], metric: Metric, known: Difference) -> Difference:
    """The difference a - b where it was asked about beforehand: one interval, whose p never contradicts it.

    Args:
        a, b: A column for each training; the difference is that of their means.
        known: The difference of the first of each, as one of many.
    """
    if metric.corpus is None:
        both = np.logical_and.reduce([column.scored for column in (*a, *b)])
        if both.sum() < 2:
            return agreeing(known)
        own = [Trained(name, np.stack([c.values[both] for c in columns])) for name, columns in (("a", a), ("b", b))]
        (found,) = contrasts([(own[0], own[1])], bounded=metric.bounded)
        if found.of_examples + found.of_trainings == 0:
            return agreeing(known)
        mean, low, high, p = found.difference, found.low, found.high, found.p
    elif len(a) == len(b) == 1:
        return agreeing(known)  # resampled: such a metric is no mean over examples
    else:
        one, other = ([_metric_of(column, metric) for column in columns] for columns in (a, b))
        mean, low, high, p = over_trainings(one, other, known.sd**2 / known.n, known.n)
    if metric.bounded:
        low, high = max(low, -1.0), min(high, 1.0)
    how = "t, asked beforehand"
    low, high = min(low, mean), max(high, mean)
    return replace(known, difference=mean, low=low, high=high, p=p, test=how, interval=how)


def agreeing(known: Difference) -> Difference:
    """A difference whose interval and test were made apart, so that neither says more than the other: the interval is
    widened to zero where the test finds nothing, and the test finds nothing where the interval holds zero."""
    if known.low <= 0 <= known.high:
        return replace(known, p=max(known.p, 0.05))
    if known.p < 0.05:
        return known
    return replace(known, low=min(known.low, 0.0), high=max(known.high, 0.0))


def _metric_of(column: Column, metric: Metric) -> float:
    assert metric.corpus is not None
    return float(metric.corpus.aggregate(column.values[column.scored].sum(axis=0)[None])[0])
