"""What became of the tasks that are no targets, approach by approach: scores beside the target's, and changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from luthier.report import units
from luthier.report.comparing import fill, lower_is_better, mean_axis, probe_unit, target_unit
from luthier.report.floors import floor_level
from luthier.report.folder import RunFolder
from luthier.report.pictures import Point, responsive, scatter, share_axis
from luthier.report.svg import Look

Values = dict[str, Any]

_MOST_PICTURES = 4  # of more tasks the table says it
_FALLING = ("loss", "perplexity")  # metrics of which less is better


def task_pictures(folder: RunFolder, looks: Mapping[str, Look]) -> list[Values]:
    """For each task that is no target every approach's score on it beside its score on the target."""
    rows = [row for row in folder.comparison["approaches"] if row["mean"] is not None]
    targets = folder.comparison.get("targets") or [folder.comparison["target"]]
    scored: dict[str, dict[str, Any]] = {}  # by task, then by approach
    for row in rows:
        for task, scores in (row.get("scores") or {}).items():
            if task not in targets and scores and scores[0]["mean"] is not None:
                scored.setdefault(task, {})[row["name"]] = scores[0]
    if len(scored) > _MOST_PICTURES:
        return []
    return [_task_picture(folder, rows, task, own, looks) for task, own in scored.items()]


def _task_picture(
    folder: RunFolder, rows: list[Any], task: str, own: Mapping[str, Any], looks: Mapping[str, Look]
) -> Values:
    """One task's picture, from the approaches' scores on it."""
    metric, unit = str(next(iter(own.values()))["metric"]), target_unit(folder.comparison)
    ends = [score[end] for score in own.values() for end in ("mean", "low", "high") if score[end] is not None]
    shown = units.score_unit(metric, *ends)
    points = [
        Point(looks[row["name"]], one["mean"], row["mean"], row["low"], row["high"],
              f"{row['name']}: {unit.value(row['mean'])}, {task} {shown.value(one['mean'])}",
              one["low"], one["high"], fill=fill(row))
        for row in rows
        if (one := own.get(row["name"]))
    ]  # fmt: skip
    label = f"{task}: {metric.replace('_', ' ')} (worse to the left)"
    x_axis = replace(share_axis(label, ends, ends, shown.tick), reverse=metric in _FALLING)
    y_axis, floor = mean_axis(folder, points, unit), floor_level(folder.comparison, unit)
    return {
        "task": task,
        "n": next(iter(own.values()))["n"],
        "down": lower_is_better(folder.comparison),
        "picture": responsive(
            lambda width: scatter(width, f"The target against {task}", points, x_axis, y_axis, level=floor)
        ),
    }


def other_tasks(folder: RunFolder, looks: Mapping[str, Look]) -> Values | None:
    """The change of each task's loss as cells, a row for each approach that changed it; None where there is none."""
    rows = [row for row in folder.comparison["approaches"] if row.get("other_tasks")]
    columns = list(dict.fromkeys(one["probe"] for row in rows for one in row["other_tasks"]))
    if not rows:
        return None
    return {
        "columns": columns,
        "rows": [
            {"look": looks[row["name"]], "cells": [_cell(row["other_tasks"], column) for column in columns]}
            for row in rows
        ],
    }


def _cell(changes: list[Mapping[str, Any]], task: str) -> Values | None:
    one = next((own for own in changes if own["probe"] == task), None)
    if one is None:
        return None
    unit = probe_unit(one)
    return {
        "before": unit.value(one["before"]),
        "after": unit.value(one["after"]),
        "difference": unit.difference(one["difference"]),
        "interval": unit.difference_interval(one.get("low"), one.get("high")),
        "n": one["n"],
        "since": one["since"],
    }
