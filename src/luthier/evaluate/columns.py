"""Scores as columns of numbers, and what they say: an interval of one, the paired difference of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
from luthier.evaluate.contrasts import Trained, contrasts
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
        known: The difference of the first of each as one of many, which says how far the two differ on one example.
    """
    both = np.logical_and.reduce([column.scored for column in (*a, *b)])
    if both.sum() < 2 and not metric.bounded:
        return known
    own = [
        Trained(name, np.stack([_influence(column.values[both], metric) for column in columns]))
        for name, columns in (("a", a), ("b", b))
    ]
    (found,) = contrasts([(own[0], own[1])], bounded=metric.bounded)
    how = "t, asked beforehand"
    mean = known.difference if len(a) == len(b) == 1 else found.difference
    low, high = min(found.low, mean), max(found.high, mean)
    return replace(known, difference=mean, low=low, high=high, p=found.p, test=how, interval=how)


def _influence(values: Floats, metric: Metric) -> Floats:
    """A number for each example whose mean is the metric: jackknife pseudo-values of a corpus metric (Tukey 1958)."""
    if metric.corpus is None:
        return values
    sums, n = values.sum(axis=0), len(values)
    whole = float(metric.corpus.aggregate(sums[None])[0])
    return np.asarray(n * whole - (n - 1) * metric.corpus.aggregate(sums - values))
