"""How sure approaches are of their answers: how right they are where the least sure answers are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from luthier.report import units
from luthier.report.comparing import handed_over, target_unit
from luthier.report.folder import Record, RunFolder
from luthier.report.pictures import Axis, frame, line_names, responsive, share_axis
from luthier.report.svg import Look, mark, picture, tag, text_width
from luthier.report.units import ScoreUnit

Values = dict[str, Any]

_SHARES = (0.5, 0.8, 0.9, 1.0)  # of the examples, those that the table names and a mark stands at
_LEAST = 0.1  # where less is answered, chance decides: it is not drawn
_DRAWN = 200  # points of a line; more cannot be seen
_FEW = 20  # so many points are drawn each: between them the line says nothing


@dataclass(frozen=True, slots=True)
class Answered:
    """The surest answers of an approach.

    Attributes:
        n: How many are given.
        share: Of all examples.
        mean: Of the deciding metric over those that could be scored; None where none could.
    """

    n: int
    share: float
    mean: float | None


@dataclass(frozen=True, slots=True)
class Sureness:
    """An approach that says how sure it is.

    Attributes:
        steps: From its surest answers alone to all that it gives.
        kept_back: Answers that it was not sure enough to give.
    """

    look: Look
    steps: tuple[Answered, ...]
    kept_back: int

    def at(self, share: float) -> Answered | None:
        """Where at least this share is answered, and no more than need be; None where it does not answer so much."""
        return next((step for step in self.steps if step.share >= share - 1e-9), None)


def sureness(folder: RunFolder, looks: Mapping[str, Look]) -> Values | None:
    """The picture and its table; None where no approach says how sure it is, or no mean of single answers decides."""
    found = _found(folder, looks)
    if not found:
        return None
    unit, label = target_unit(folder.comparison), str(folder.comparison["metric"]).replace("_", " ")
    return {
        "n": found[0].steps[-1].n + found[0].kept_back,
        "picture": responsive(lambda width: _drawn(width, found, label, unit)),
        "columns": [f"{100 * share:.0f}%" for share in _SHARES],
        "rows": [
            {"look": one.look, "cells": [_cell(one.at(share), share, unit) for share in _SHARES]} for one in found
        ],
        "kept_back": [{"look": one.look, "n": one.kept_back} for one in found if one.kept_back],
    }


def _found(folder: RunFolder, looks: Mapping[str, Look]) -> list[Sureness]:
    targets, metric = folder.comparison["targets"], str(folder.comparison["metric"])
    if len(targets) != 1:
        return []
    found = []
    for approach in folder.approaches:
        rows = [row for row in approach.predictions if row["task"] == targets[0] and not row.get("unserved")]
        if not _is_mean(rows, metric, handed_over(folder.row(approach.name))["mean"]):
            return []
        if rows and all(row.get("confidence") is not None for row in rows):
            steps = answered(rows, metric)
            if any(step.mean is not None for step in steps):
                found.append(Sureness(looks[approach.name], steps, len(rows) - steps[-1].n))
    return found


def _is_mean(rows: Sequence[Record], metric: str, mean: float | None) -> bool:
    """Whether the score is the mean of those of single answers, which a metric of many answers together is not."""
    known = [score for row in rows if (score := row["scores"].get(metric)) is not None]
    if mean is None or not known:
        return mean is None and not known
    return math.isclose(sum(known) / len(known), mean, abs_tol=1e-6)


def answered(rows: Sequence[Record], metric: str) -> tuple[Answered, ...]:
    """From the surest answers to all that are given, those of equal confidence at once; what was kept back never is."""
    given = sorted((row for row in rows if row["stopped"] != "abstained"), key=lambda row: -float(row["confidence"]))
    steps, n, scored, total = [], 0, 0, 0.0
    for _, equal in groupby(given, key=lambda row: float(row["confidence"])):
        scores = [row["scores"].get(metric) for row in equal]
        known = [score for score in scores if score is not None]
        n, scored, total = n + len(scores), scored + len(known), total + sum(known)
        steps.append(Answered(n, n / len(rows), total / scored if scored else None))
    return tuple(steps)


def _cell(step: Answered | None, share: float, unit: ScoreUnit) -> Values:
    if step is None:
        return {"mean": units.MISSING, "n": "", "share": ""}
    share_told = f"at {_percent(step.share)}" if step.share - share >= 0.01 else ""
    return {"mean": unit.value(step.mean), "n": f"n = {step.n:,}", "share": share_told}


def _drawn(width: int, found: Sequence[Sureness], label: str, unit: ScoreUnit) -> Markup:
    height = 340 if width > 500 else 300
    shown = [(one, _thinned(one.steps)) for one in found]
    ys = [y for _, points in shown for _, y in points]
    gutter = 18 + max(text_width(one.look.name, 13) for one in found)
    x_axis = Axis("share of the examples answered", _LEAST, 1.0, ticks=(0.2, 0.4, 0.6, 0.8, 1.0), write=_percent)
    area = frame(width, height, x_axis, share_axis(label, ys, ys, unit.tick), right=min(gutter, width * 0.34))
    parts, ends = [area.axes], []
    for one, points in shown:
        path = "M" + "L".join(f"{area.x(share):.1f} {area.y(y):.1f}" for share, y in points)
        name = one.look.name
        parts.append(tag("path", tag("title", name), d=path, class_=f"line {one.look.colour}"))
        if len(points) <= _FEW:
            dot = f"dot {one.look.colour}"
            parts += [tag("circle", cx=area.x(share), cy=area.y(y), r=2.5, class_=dot) for share, y in points]
        ends.append((name, area.x(points[-1][0]), area.y(points[-1][1]), one.look))
    for one, _ in shown:
        for step in dict.fromkeys(one.at(share) for share in _SHARES):
            if step is not None and step.mean is not None:
                title = f"{one.look.name}: {unit.value(step.mean)} where {_percent(step.share)} are answered"
                parts.append(mark(one.look, area.x(step.share), area.y(step.mean), 4, title=title))
    return picture(width, height, "How right the surest answers are", *parts, *line_names(area, ends, gap=5))


def _thinned(steps: Sequence[Answered]) -> list[tuple[float, float]]:
    """Points to draw, from the share on below which chance decides; the last always."""
    points = [(step.share, step.mean) for step in steps if step.mean is not None]
    wide = [point for point in points if point[0] >= _LEAST] or points[-1:]
    every = math.ceil(len(wide) / _DRAWN)
    return wide if every == 1 else [*wide[:-1:every], wide[-1]]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
