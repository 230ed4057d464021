"""What became of the tasks that are no targets, approach by approach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.report.comparing import probe_unit
from luthier.report.folder import RunFolder
from luthier.report.svg import Look

Values = dict[str, Any]


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
