"""Results of kind `curve`: one line an approach, all of a title in one picture, so that they can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from luthier.report.pictures import Axis, frame, line_names, responsive, share_axis
from luthier.report.svg import Look, line, mark, picture, tag, text_width
from luthier.report.units import ScoreUnit, count, score_unit


@dataclass(frozen=True, slots=True)
class Curve:
    """An approach's line.

    Attributes:
        name: How it is called in the picture.
        content: The result: `x`, `y`, and `low` and `high` (null where there is no interval).
    """

    look: Look
    name: str
    content: Mapping[str, Any]

    def points(self) -> list[tuple[float, float, float | None, float | None]]:
        found = (self.content[field] for field in ("x", "y", "low", "high"))
        return [point for point in zip(*found, strict=True) if math.isfinite(point[1])]


def curves(ones: Sequence[Curve]) -> Markup:
    """The lines over a common axis, logarithmic from the smallest number above 0; what stands at 0 comes before it."""
    return responsive(lambda width: _drawn(width, ones))


def _drawn(width: int, ones: Sequence[Curve]) -> Markup:
    first = ones[0].content
    xs = sorted({x for one in ones for x, *_ in one.points()})
    ends = [end for one in ones for _, y, low, high in one.points() for end in (y, low, high) if end is not None]
    unit = score_unit(str(first["y_label"]), *ends)
    least = next((x for x in xs if x > 0), 1.0)
    zero = least / (max(xs) / least) ** 0.15 if xs[0] <= 0 and max(xs) > least else least

    def place(x: float) -> float:
        return x if x > 0 else zero

    gutter = 18 + max(text_width(one.name, 13) for one in ones)
    x_axis = Axis(
        str(first["x_label"]),
        place(xs[0]) * 0.94,
        max(place(x) for x in xs) * 1.06,
        log=True,
        ticks=[place(x) for x in xs],
        write=lambda at: "0" if xs[0] <= 0 and at == zero else count(at),
    )
    y_axis = share_axis(str(first["y_label"]), ends, ends, unit.tick)
    area = frame(width, 360 if width > 500 else 320, x_axis, y_axis, right=min(gutter, width * 0.4))
    parts, named = [area.axes], []
    for number, one in enumerate(ones):
        points = [(area.x(place(x)), y, low, high) for x, y, low, high in one.points()]
        path = "".join(f"{'M' if n == 0 else 'L'}{x:.1f} {area.y(y):.1f}" for n, (x, y, *_) in enumerate(points))
        parts.append(tag("path", tag("title", one.name), d=path, class_=f"line {one.look.colour}"))
        shift = (number - (len(ones) - 1) / 2) * 3.0  # whiskers of several approaches stand side by side
        for (x, y, low, high), (of, *_) in zip(points, one.points(), strict=True):
            if low is not None and high is not None:
                parts.append(line(x + shift, area.y(high), x + shift, area.y(low), f"whisker {one.look.colour}"))
            parts.append(mark(one.look, x + shift, area.y(y), 4, title=_title(one.name, of, y, unit)))
        named.append((one.name, area.x(place(one.points()[-1][0])), area.y(one.points()[-1][1]), one.look))
    return picture(width, 360 if width > 500 else 320, str(first["title"]), *parts, *line_names(area, named, gap=5))


def _title(name: str, x: float, y: float, unit: ScoreUnit) -> str:
    return f"{name}: {unit.value(y)} at {count(x)}"
