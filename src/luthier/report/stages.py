"""Approaches of several training steps: every stage on every task, as heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.report import units
from luthier.report.folder import RunFolder
from luthier.report.results import matrix
from luthier.report.svg import Look

Values = dict[str, Any]

_TITLES = {"loss": "Loss of the references", "answers": "Answers"}


def stage_pictures(folder: RunFolder, looks: Mapping[str, Look]) -> list[Values]:
    """For each approach with stages its matrices, what follows from them in words, and all figures as a table."""
    return [
        {"look": looks[name], "matrices": [_one(found) for found in matrices]}
        for name, matrices in (folder.comparison.get("matrix") or {}).items()
    ]


def _one(found: Mapping[str, Any]) -> Values:
    columns, rows = found["columns"], [row["name"] for row in found["rows"]]
    metrics = list(dict.fromkeys(column["metric"].replace("_", " ") for column in columns))
    names = [column["task"] for column in columns]
    if len(metrics) > 1:
        names = [f"{column['task']} ({column['metric'].replace('_', ' ')})" for column in columns]
    better = "less is better" if not columns[0]["higher_is_better"] else "more is better"
    label = f"{', '.join(metrics)}; {better}" if found["measure"] == "answers" else f"nats a token; {better}"
    title = _TITLES.get(found["measure"], found["measure"])
    content = {"title": title, "rows": rows, "columns": names, "values": found["values"], "value_label": label}
    return {
        "title": title,
        "picture": matrix(content),
        "figures": list(_figures(found)),
        "columns": ["", *(f"{name}, n = {n:,}" for name, n in zip(names, found["n"], strict=True))],
        "rows": [[row, *_cells(found, number)] for number, row in enumerate(rows)],
    }


def _cells(found: Mapping[str, Any], row: int) -> Iterator[str]:
    for column, about in enumerate(found["columns"]):
        unit = units.score_unit(about["metric"], *(values[column] for values in found["values"]))
        value, low, high = (found[name][row][column] for name in ("values", "low", "high"))
        yield units.MISSING if value is None else f"{unit.value(value)} [{unit.value(low)}, {unit.value(high)}]"


def _figures(found: Mapping[str, Any]) -> Iterator[str]:
    loss = found["measure"] == "loss"
    metrics = list(dict.fromkeys(column["metric"] for column in found["columns"]))
    # Of several metrics there is a mean only where they are all shares.
    share = len(metrics) > 1 or units.score_unit(metrics[0], *(v for row in found["values"] for v in row)).share
    said = {
        "average": "Average over the tasks learned, after the last stage",
        "backward_transfer": "Backward transfer: what the tasks learned earlier gained (lost, if negative) since their "
        "own stage",
        "forward_transfer": "Forward transfer: what tasks had gained before their own stage, from the stages before it",
    }
    for key, text in said.items():
        if figure := found.get(key):
            value, low, high = (
                (f"{100 * figure[end]:.1f}" if share else f"{figure[end]:.3f}").replace("-", "−")
                for end in ("value", "low", "high")
            )
            unit = "nats a token" if loss else "points" if share else ""
            of = units.plural(figure["tasks"], "task")
            yield f"{text}: {value} {unit}".rstrip() + f" [{low}, {high}] ({of})."
