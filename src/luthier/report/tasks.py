"""A verdict on the mean over several tasks, task by task: scores as a heat map, the worst tasks, tasks won and lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.report import units
from luthier.report.comparing import lower_is_better
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
    deciding = {task: rows[0]["scores"][task][0]["metric"] for task in targets}
    means = [[row["scores"][task][0]["mean"] for task in targets] for row in rows]
    more_is_better = not lower_is_better(comparison)
    metrics = list(dict.fromkeys(deciding.values()))
    names = targets if len(metrics) == 1 else [f"{t} ({deciding[t].replace('_', ' ')})" for t in targets]
    content = {
        "title": "Every approach on every task",
        "rows": [row["name"] for row in rows],
        "columns": names,
        "values": means,
        "value_label": f"{metrics[0].replace('_', ' ') if len(metrics) == 1 else 'deciding metric'}; "
        f"{'more' if more_is_better else 'less'} is better",
    }
    return {
        "picture": matrix(content),
        "worst": [
            _worst(looks[row["name"]], deciding, own, more_is_better) for row, own in zip(rows, means, strict=True)
        ],
        "pairs": [_pair(looks, pair, deciding) for pair in comparison["by_task"]],
    }


def _worst(look: Look, deciding: Mapping[str, str], means: list[float | None], more_is_better: bool) -> Values:
    scored = [(mean, task) for mean, task in zip(means, deciding, strict=True) if mean is not None]
    value, task = min(scored) if more_is_better else max(scored)
    unit = units.score_unit(deciding[task], *(mean for mean, _ in scored))
    return {"look": look, "task": task, "score": unit.value(value)}


def _pair(looks: Mapping[str, Look], pair: Mapping[str, Any], deciding: Mapping[str, str]) -> Values:
    shown = [row for row in pair["tasks"] if row["p_holm"] < 0.05]
    return {
        "a": looks[pair["a"]],
        "b": looks[pair["b"]],
        "higher": pair["higher"],
        "lower": pair["lower"],
        "equal": len(deciding) - pair["higher"] - pair["lower"],
        "shown": ", ".join(f"{row['task']} {_difference(row, deciding)}" for row in shown) or "none",
    }


def _difference(row: Mapping[str, Any], deciding: Mapping[str, str]) -> str:
    return units.score_unit(deciding[row["task"]], abs(row["difference"])).difference(row["difference"])
