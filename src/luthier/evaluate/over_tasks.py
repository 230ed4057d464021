"""Several tasks as one measure: the mean over them (the macro mean), and how two approaches differ on each.

Every task weighs the same, however many examples it has, and every task keeps its own metric. The mean is a function of
sums like any metric of a whole test set (`evaluate/corpus.py`), so its interval and its tests resample examples in the
same way: the bootstrap draws from the examples of all tasks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
from luthier.evaluate.columns import Column, difference_of
from luthier.evaluate.corpus import Corpus
from luthier.evaluate.metrics import Metric
from luthier.evaluate.per_answer import Options, Value
from luthier.evaluate.statistics import Aggregate, Floats, holm

MEAN = "mean"


def have_common_scale(metrics: Sequence[Metric]) -> bool:
    """Whether a mean over these metrics says something: all of them from 0 to 1, or all the same."""
    return all(metric.bounded for metric in metrics) or len({metric.name for metric in metrics}) == 1


def mean_over(columns: Mapping[str, Sequence[Column]], metrics: Mapping[str, Metric]) -> tuple[Metric, list[Column]]:
    """The mean over tasks as a metric, and each approach's column of it.

    Args:
        columns: Task → the approaches' columns, in the same order for every task.
        metrics: Task → its metric, settled.
    """
    blocks = {task: [_summed(column, metrics[task]) for column in own] for task, own in columns.items()}
    widths = [own[0].shape[1] for own in blocks.values()]
    ends = np.cumsum([0, *widths])
    count = len(next(iter(columns.values())))
    found = []
    for index in range(count):
        rows = [_placed(own[index], int(ends[k]), int(ends[-1])) for k, own in enumerate(blocks.values())]
        scored = np.concatenate([own[index].scored for own in columns.values()])
        found.append(Column(np.concatenate(rows), scored))
    aggregates = [metric.corpus.aggregate if metric.corpus else _mean for metric in metrics.values()]

    def mean(sums: Floats) -> Floats:
        parts = [
            _where_any(aggregate, sums[:, low:high])
            for aggregate, low, high in zip(aggregates, ends, ends[1:], strict=False)
        ]
        return np.asarray(np.nanmean(np.stack(parts), axis=0))

    first = next(iter(metrics.values()))
    metric = Metric(
        MEAN if first.bounded else f"{MEAN} {first.name}",  # a mean of losses is no share
        _of_no_answer,
        proportion=False,
        higher_is_better=first.higher_is_better,
        bounded=all(own.bounded for own in metrics.values()),
        corpus=Corpus(_of_no_answers, mean),
    )
    return metric, found


def task_differences(
    a: Mapping[str, Column], b: Mapping[str, Column], metrics: Mapping[str, Metric], seed: int, alpha: float
) -> dict[str, Any]:
    """How a differs from b on each task, and on how many it is better or worse.

    Differences are turned so that positive is better; p is adjusted for the number of tasks (Holm 1979).

    Returns:
        `tasks`, one row each, and the counts `higher` and `lower` (by the mean), `better` and `worse` (shown: adjusted
        p below alpha).
    """
    found = {task: difference_of(a[task], b[task], metric, seed, task) for task, metric in metrics.items()}
    adjusted = holm([own.p for own in found.values()])
    rows: list[dict[str, Any]] = []
    for (task, own), p in zip(found.items(), adjusted, strict=True):
        ends = (own.low, own.high) if metrics[task].higher_is_better else (-own.high, -own.low)
        difference = own.difference if metrics[task].higher_is_better else -own.difference
        low, high = (end if np.isfinite(end) else None for end in ends)
        rows.append({"task": task, "difference": difference, "low": low, "high": high, "p_holm": p, "n": own.n})
    return {
        "tasks": rows,
        "higher": sum(row["difference"] > 0 for row in rows),
        "lower": sum(row["difference"] < 0 for row in rows),
        "better": sum(row["difference"] > 0 and row["p_holm"] < alpha for row in rows),
        "worse": sum(row["difference"] < 0 and row["p_holm"] < alpha for row in rows),
    }


def _summed(column: Column, metric: Metric) -> Floats:
    """A row for each example whose sum the metric is a function of. (N, K)"""
    if metric.corpus is not None:
        return column.values
    scored = column.scored.astype(float)
    return np.column_stack([column.values * scored, scored])


def _placed(block: Floats, start: int, width: int) -> Floats:
    rows = np.zeros((len(block), width))
    rows[:, start : start + block.shape[1]] = block
    return rows


def _where_any(aggregate: Aggregate, sums: Floats) -> Floats:
    """The metric of each row of sums; not a number where a resample drew no example of the task."""
    drawn = sums.any(axis=1)
    found = np.full(len(sums), np.nan)
    if drawn.any():
        found[drawn] = aggregate(sums[drawn])
    return found


def _mean(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _of_no_answer(answer: Answer, options: Options) -> Value:
    raise EvaluationError("A mean over tasks is no metric of a single answer.")


def _of_no_answers(answers: Sequence[Answer]) -> Floats:
    raise EvaluationError("A mean over tasks is computed from the columns of its tasks.")
