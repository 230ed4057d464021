"""A verdict on the mean over several tasks, task by task: scores as a heat map, the worst tasks, tasks won and lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.report import units
from luthier.report.folder import RunFolder
from luthier.report.results import matrix
from luthier.report.svg import Look

Values = dict[str, Any]


def task_by_task(folder: RunFolder, looks: Mapping[str, Look]) -> Values | None:
    """None where the verdict concerns a single task."""
    comparison = folder.comparison
    targets = comparison["targets"]
    if len(targets) < 2:
        return None
    rows = comparison["approaches"]
    deciding = {task: next(iter(rows[0]["scores"][task]))["metric"] for task in targets}
    means = [[row["scores"][task][0]["mean"] for task in targets] for row in rows]
    low_is_worse = _ranks_high(comparison)
    metrics = list(dict.fromkeys(deciding.values()))
    names = targets if len(metrics) == 1 else [f"{t} ({deciding[t].replace('_', ' ')})" for t in targets]
    content = {
        "title": "Every approach on every task",
        "rows": [row["name"] for row in rows],
        "columns": names,
        "values": means,
        "value_label": f"{metrics[0].replace('_', ' ') if len(metrics) == 1 else 'deciding metric'}; "
        f"{'more' if low_is_worse else 'less'} is better",
    }
    return {
        "picture": matrix(content),
        "worst": [_worst(looks[row["name"]], targets, own, low_is_worse) for row, own in zip(rows, means, strict=True)],
        "pairs": [_pair(looks, pair, len(targets)) for pair in comparison["by_task"]],
    }


def _ranks_high(comparison: Mapping[str, Any]) -> bool:
    """Whether more is better: approaches stand in their order, best first."""
    means = [row["mean"] for row in comparison["approaches"]]
    return bool(means[0] >= means[-1])


def _worst(look: Look, targets: list[str], means: list[float | None], low_is_worse: bool) -> Values:
    scored = [(mean, task) for mean, task in zip(means, targets, strict=True) if mean is not None]
    value, task = min(scored) if low_is_worse else max(scored)
    unit = units.score_unit("score", *(mean for mean, _ in scored))
    return {"look": look, "task": task, "score": unit.value(value)}


def _pair(looks: Mapping[str, Look], pair: Mapping[str, Any], tasks: int) -> Values:
    shown = [row for row in pair["tasks"] if row["p_holm"] < 0.05]
    unit = units.score_unit("score", *(abs(row["difference"]) for row in pair["tasks"]))
    return {
        "a": looks[pair["a"]],
        "b": looks[pair["b"]],
        "higher": pair["higher"],
        "lower": pair["lower"],
        "equal": tasks - pair["higher"] - pair["lower"],
        "shown": ", ".join(f"{row['task']} {unit.difference(row['difference'])}" for row in shown) or "none",
    }
