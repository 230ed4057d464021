"""Training curves, drawn from the rows that a step logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def curves(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Named results of kind `series`: the losses in one picture, everything else that is drawn in one of its own.

    That is every other validation metric, and the divergence from the model before training where it was held down.
    """
    found = {}
    losses = [_line(rows, key, name) for key, name in (("train/loss", "training"), ("validation/loss", "validation"))]
    if any(line["x"] for line in losses):
        found["loss"] = _series("Loss", "nats a token", [line for line in losses if line["x"]])
    if any("train/kl" in row for row in rows):
        title = "Divergence from the model before training"
        found["kl"] = _series(title, "nats a token", [_line(rows, "train/kl", "training")])
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("validation/"))
    for key in keys:
        name = key.removeprefix("validation/")
        if name != "loss":
            found[name] = _series(f"Validation {name.replace('_', ' ')}", name, [_line(rows, key, "validation")])
    return found


def _line(rows: Sequence[Mapping[str, float]], key: str, name: str) -> dict[str, Any]:
    points = [(row["step"], row[key]) for row in rows if key in row]
    return {"name": name, "x": [x for x, _ in points], "y": [y for _, y in points]}


def _series(title: str, y_label: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": "series", "title": title, "x_label": "optimizer step", "y_label": y_label, "lines": lines}
