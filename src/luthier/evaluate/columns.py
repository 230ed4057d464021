"""Scores as columns of numbers, and what they say: an interval of one, the paired difference of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
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


def values_of(column: Column, metric: Metric) -> Floats:
    """A value for each example whose mean is the metric, and whose spread is what the metric owes to that example: its
    score, or of a metric of all answers together its jackknife pseudo-value (Tukey 1958). Not a number where it has no
    score. (N,)"""
    found = np.full(len(column.scored), np.nan)
    values = column.values[column.scored]
    if metric.corpus is None or len(values) == 0:
        found[column.scored] = values
        return found
    total = values.sum(axis=0)
    whole = float(metric.corpus.aggregate(total[None])[0])
    if len(values) == 1:
        found[column.scored] = whole
        return found
    without = metric.corpus.aggregate(total - values)
    found[column.scored] = whole + (len(values) - 1) * (without.mean() - without)
    return found
