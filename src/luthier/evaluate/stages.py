"""What a model learns and forgets over several stages of training: every stage scored on every task.

The matrix R of Lopez-Paz and Ranzato (2017), "Gradient Episodic Memory for Continual Learning": row i is the model
after stage i, column j a task, and the row above the first is the model before any stage. From it come three figures:
average accuracy, the mean of the last row over the tasks that were learned; backward transfer, how much the tasks that
were first learned before the last of the learning stages changed from their own stage to the end, negative where they
were forgotten; and forward transfer, how much better than before any stage a task was just before its own. A task that
is learned again together with others (replayed, or in a mixture) counts from the first time; one that the last of the
learning stages learns alone, or for which it trains a model apart, is no earlier one. Theirs compares with a model of
random weights; ours with the model that training began from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.evaluate.answer import Answer
from luthier.evaluate.columns import Column, column_of, difference_of, interval_of, settled
from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Z
from luthier.types import Score


@dataclass(frozen=True, slots=True)
class StageResult:
    """One model on the way.

    Attributes:
        name: How it is called.
        learned: The tasks of its stage; none for the model before all stages.
        scores: Task → metric → scores; the same examples for every stage.
        answers: Task → metric → the answers that its scores are of.
        apart: Those learned that each have a model of their own, which learned nothing else in the stage.
    """

    name: str
    learned: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Sequence[Score]]]
    answers: Mapping[str, Mapping[str, Sequence[Answer]]]
    apart: tuple[str, ...] = ()


def stage_matrix(
    stages: Sequence[StageResult], metrics: Mapping[str, Metric], measure: str, seed: int
) -> dict[str, Any]:
    """The matrix of one metric a task, and what follows from it.

    Args:
        stages: The model before all stages, then those after each, in their order.
        metrics: Task → the metric that is shown.
        measure: A name for the matrix, such as `loss` or `answers`.

    Returns:
        `rows` (name and task learned), `columns` (task and metric), `values`, `low`, `high`, `n`; and `average`,
        `backward_transfer` and `forward_transfer`, each null or with value and 95% interval. Differences are turned so
        that positive is better; null where fewer than two tasks were learned, or their metrics have no common scale.
    """
    settled_metrics = {
        task: settled(metric, (stage.scores[task][metric.name] for stage in stages)) for task, metric in metrics.items()
    }
    columns = {
        task: [
            column_of(s.scores[task][metric.name], s.answers[task].get(metric.name, ()), metric, f"{s.name} on {task}")
            for s in stages
        ]
        for task, metric in settled_metrics.items()
    }
    found = {
        task: [interval_of(c, settled_metrics[task], seed) if c.scored.any() else None for c in own]
        for task, own in columns.items()
    }
    tasks = list(metrics)

    def grid(of: Callable[[Any], float]) -> list[list[float | None]]:
        return [
            [_finite(of(own)) if (own := found[task][row]) else None for task in tasks] for row in range(len(stages))
        ]

    return {
        "measure": measure,
        "rows": [{"name": stage.name, "learned": list(stage.learned)} for stage in stages],
        "columns": [
            {"task": task, "metric": metrics[task].name, "higher_is_better": metrics[task].higher_is_better}
            for task in tasks
        ],
        "values": grid(lambda own: own.mean),
        "low": grid(lambda own: own.low),
        "high": grid(lambda own: own.high),
        "n": [own.n if (own := found[task][-1]) else 0 for task in tasks],
        **_transfer(stages, columns, settled_metrics, seed),
    }


def _transfer(
    stages: Sequence[StageResult], columns: Mapping[str, Sequence[Column]], metrics: Mapping[str, Metric], seed: int
) -> dict[str, Any]:
    last = len(stages) - 1
    of = [(task, row) for row, stage in enumerate(stages) for task in stage.learned if task in columns]
    first = dict(reversed(of))  # the first stage of each task
    nothing = {"average": None, "backward_transfer": None, "forward_transfer": None}
    if len(first) < 2:
        return nothing
    last_learning = max(row for _, row in of)

    def change(task: str, after: int, before: int) -> tuple[float, float]:
        """The gain from one row to another, and its standard error."""
        metric = metrics[task]
        found = difference_of(columns[task][after], columns[task][before], metric, seed, f"two stages on {task}")
        return found.difference * (1 if metric.higher_is_better else -1), _error(found.low, found.high)

    def level(task: str) -> tuple[float, float]:
        found = interval_of(columns[task][last], metrics[task], seed)
        return found.mean, _error(found.low, found.high)

    learned = list(dict(of))
    alike = len({metrics[task].name for task in learned}) == 1 or all(metrics[task].bounded for task in learned)
    if not alike:  # a mean over nats and shares says nothing
        return nothing
    newest = stages[last_learning]
    alone = newest.learned if len(newest.learned) == 1 else newest.apart
    earlier = [task for task in learned if first[task] < last_learning and task not in alone]
    return {
        "average": _within(_mean([level(task) for task in learned]), all(metrics[task].bounded for task in learned)),
        "backward_transfer": _mean([change(task, last, first[task]) for task in earlier]),
        "forward_transfer": _mean([change(task, first[task] - 1, 0) for task in learned if first[task] > 1]),
    }


def _mean(parts: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """The mean over tasks, whose examples are independent, so that their variances add up."""
    if not parts:
        return None
    value = sum(v for v, _ in parts) / len(parts)
    half = Z * math.sqrt(sum(error**2 for _, error in parts)) / len(parts)
    if not math.isfinite(half):  # a single example has no interval
        return None
    return {"value": value, "low": value - half, "high": value + half, "tasks": len(parts)}


def _error(low: float, high: float) -> float:
    """The standard error that a 95% interval amounts to: not nothing where no difference happened to be seen."""
    return (high - low) / (2 * Z)


def _within(figure: dict[str, float] | None, bounded: bool) -> dict[str, float] | None:
    """A figure's interval inside 0 and 1, where the metric is."""
    if figure is None or not bounded:
        return figure
    return {**figure, "low": max(0.0, figure["low"]), "high": min(1.0, figure["high"])}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
