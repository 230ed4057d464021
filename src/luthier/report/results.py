"""Draw named results by their kind, and other pictures of one approach's data. Nothing here knows a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from luthier.report.pictures import Axis, Frame, frame, line_names, responsive
from luthier.report.svg import Look, join, linear_ticks, padded, picture, tag, text, text_width
from luthier.report.units import MISSING, is_number, plain, setting

_STEEP = 50  # a loss falls by so much that a linear axis shows its first steps alone
_OUTSIDE = "outside the layers"
_POINTS = 400  # a line is drawn from at most so many points; more cannot be seen


def draw(content: Mapping[str, Any], look: Look, beside: Sequence[Mapping[str, Any]] = ()) -> Markup:
    """A result of any kind; a kind that is not known is shown as its JSON would be read.

    Args:
        beside: Results that stand next to this one: lines are drawn smaller, and to a common scale.
    """
    kind = content.get("kind")
    if kind == "series":
        if beside:
            return series(400, content, look, beside)
        return responsive(lambda width: series(width, content, look))
    if kind == "matrix":
        return matrix(content)
    if kind == "table":
        return table(content["columns"], content["rows"])
    return table(["", ""], [[key, setting(value)] for key, value in content.items() if key not in ("kind", "title")])


def series(width: int, content: Mapping[str, Any], look: Look, beside: Sequence[Mapping[str, Any]] = ()) -> Markup:
    """Lines over a common x axis, named at their ends. All have the approach's colour; dashes tell them apart.

    A line may name its points (`labels`, one each) and mark one of them (`marked`, its number).
    """
    lines = [(str(one["name"]), _points(one["x"], one["y"])) for one in content["lines"]]
    drawn = [point for _, points in lines for point in points if point[1] is not None]
    title = str(content["title"])
    if not drawn:
        return tag("p", "This series has no values.", class_="note")
    scaled = [*drawn, *(point for one in beside for other in one["lines"] for point in _points(other["x"], other["y"]))]
    xs, ys = [x for x, _ in scaled], [y for _, y in scaled if y is not None]
    x_low, x_high = min(xs), max(xs)
    if 0 < x_low <= 0.25 * x_high:  # steps are counted from 1, an axis from 0
        x_low = 0.0
    height = 300 if width > 500 else 260
    gutter = 16 + max(text_width(name, 13) for name, _ in lines)
    area = frame(
        width,
        height,
        Axis(str(content.get("x_label", "")), x_low, x_high if x_high > x_low else x_low + 1),
        _values_axis(str(content.get("y_label", "")), min(ys), max(ys)),
        right=min(gutter, width * 0.34),
    )
    parts, ends = [area.axes], []
    for index, (name, points) in enumerate(lines):
        path, pen_up = "", True
        for x, y in points:
            if y is None:
                pen_up = True
                continue
            path += f"{'M' if pen_up else 'L'}{area.x(x):.1f} {area.y(y):.1f}"
            pen_up = False
        parts.append(tag("path", tag("title", name), d=path, class_=f"line {look.colour} d{index % 4}"))
        known = [(x, y) for x, y in points if y is not None]
        if len(known) <= 12:
            parts += [
                tag("circle", tag("title", f"{name}: {plain(y)} at {plain(x)}"), cx=area.x(x), cy=area.y(y), r=3,
                    class_=f"dot {look.colour}")
                for x, y in known
            ]  # fmt: skip
        parts += _named_points(content["lines"][index], area, look)
        if known:
            ends.append((name, area.x(known[-1][0]), area.y(known[-1][1]), look))
    return picture(width, height, title, *parts, *line_names(area, ends))


def _named_points(content: Mapping[str, Any], area: Frame, look: Look) -> list[Markup]:
    """What stands beside a line's points, where the line does not go, and a ring around the one that is marked."""
    found: list[Markup] = []
    drawn = [(x, y, n) for n, (x, y) in enumerate(_points(content["x"], content["y"])) if y is not None]
    if not drawn or not content.get("labels"):
        return []
    rises = max(drawn)[1] > min(drawn)[1]  # from left to right
    for value, score, number in drawn:
        x, y, label = area.x(value), area.y(score), content["labels"][number]
        if number == content.get("marked"):
            found.append(tag("circle", cx=x, cy=y, r=7, class_=f"taken {look.colour}"))
        found.append(text(x + 8, min(y + 16, area.bottom - 4) if rises else y - 9, str(label), "start", "tick beside"))
    return found


def _values_axis(label: str, low: float, high: float) -> Axis:
    """An axis for lines: logarithmic where the largest value is so large that the others would lie on the ground."""
    if low > 0 and high >= _STEEP * low:
        return Axis(f"{label}, logarithmic" if label else "logarithmic", low / 1.25, high * 1.25, log=True)
    start, end = padded(low, high)
    return Axis(label, max(start, 0.0) if low >= 0 else start, end)


def _points(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float | None]]:
    points = [(x, y if y is not None and math.isfinite(y) else None) for x, y in zip(xs, ys, strict=True)]
    if len(points) <= _POINTS:
        return points
    every = math.ceil(len(points) / _POINTS)
    return [*points[::every], points[-1]]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a matrix; where `apart`, its one value belongs to none of the columns."""

    name: str
    values: Sequence[float | None]
    apart: bool = False


def matrix(content: Mapping[str, Any]) -> Markup:
    """A heat map. Values of both signs get two hues with white at zero, others one hue from low to high.

    Rows whose one value stands in a column called `—` (weights outside the layers) come below, a little apart.
    """
    columns, rows = _columns_and_rows(content)
    known = [value for row in rows for value in row.values if value is not None and math.isfinite(value)]
    title, label = str(content["title"]), str(content.get("value_label") or "")
    if not known:
        return tag("p", "This matrix has no values.", class_="note")
    low, high = min(known), max(known)
    both_signs = low < 0 < high
    decimals = _decimals(known)
    size = max(abs(low), abs(high))
    cell = 66.0 if len(columns) <= 10 else 44.0 if len(columns) <= 16 else max(12.0, 700 / len(columns))
    tall = 19.0 if len(rows) <= 40 else 13.0
    left = 10 + max(text_width(row.name, 11) for row in rows)
    steep = max(text_width(column, 11) for column in columns) > cell - 4
    top = 8 + max(text_width(column, 11) for column in columns) if steep else 22.0
    parts = []
    for index, column in enumerate(columns):
        x = left + (index + 0.5) * cell
        turned = f"rotate(-90 {x + 4:g} {top - 6:g})" if steep else None
        parts.append(
            text(x + (4 if steep else 0), top - 6, column, "start" if steep else "middle", "tick small",
                 transform=turned)
        )  # fmt: skip
    y = top
    for down, row in enumerate(rows):
        if row.apart:
            y += 6
            parts.append(text(left + cell + 6, y + tall * 0.72, _OUTSIDE, class_="tick small"))
        if row.apart or tall > 14 or down % 2 == 0:
            parts.append(text(left - 7, y + tall * 0.72, row.name, "end", "tick small"))
        for across, (column, value) in enumerate(zip([_OUTSIDE] if row.apart else columns, row.values, strict=True)):
            x = left + across * cell
            if value is None or not math.isfinite(value):
                parts.append(tag("rect", tag("title", f"{row.name}, {column}: no value"), x=x, y=y,
                                 width=cell - 1, height=tall - 1, class_="cell none"))  # fmt: skip
                continue
            share = abs(value) / size if both_signs else (value - low) / (high - low) if high > low else 0.5
            hue = "cold" if both_signs and value < 0 else "heat"
            told = tag("title", f"{row.name}, {column}: {plain(value)}")
            parts.append(_cell(x, y, cell - 1, tall - 1, share, hue, told))
            if cell >= 40 and tall > 14:
                class_ = "cell-text strong" if share > 0.65 else "cell-text"
                written = plain(value) if decimals is None else f"{value:.{decimals}f}".replace("-", "−")
                parts.append(text(x + (cell - 1) / 2, y + tall * 0.7, written, "middle", class_))
        y += tall
    wide = max(len(columns) * cell, cell + 6 + text_width(_OUTSIDE, 11) if rows[-1].apart else 0)
    drawing = picture(left + wide + 2, y + 2, f"{title}: {label}" if label else title, *parts, class_="fixed")
    return join(tag("div", drawing, class_="scroll", tabindex="0"), _legend(low, high, label, both_signs))


def _columns_and_rows(content: Mapping[str, Any]) -> tuple[list[str], list[_Row]]:
    """The columns and rows to draw: a column `—` goes, if the rows that have a value there have no other."""
    columns = [str(column) for column in content["columns"]]
    rows = [_Row(str(name), list(values)) for name, values in zip(content["rows"], content["values"], strict=True)]
    if columns.count("—") == 1 and len(columns) > 1:
        at = columns.index("—")
        others = {id(row): [*row.values[:at], *row.values[at + 1 :]] for row in rows}
        outside = [row for row in rows if row.values[at] is not None]
        if all(value is None for row in outside for value in others[id(row)]):
            inside = [_Row(row.name, others[id(row)]) for row in rows if row.values[at] is None]
            return [*columns[:at], *columns[at + 1 :]], [
                *inside,
                *(_Row(r.name, [r.values[at]], True) for r in outside),
            ]
    return columns, rows


def _decimals(known: Sequence[float]) -> int | None:
    """So many that the largest value has three digits; None where that leaves too long a number."""
    most = max(abs(value) for value in known)
    decimals = 2 - math.floor(math.log10(most)) if most > 0 else 0
    return max(decimals, 0) if decimals <= 5 and most < 1e5 else None


def _cell(x: float, y: float, width: float, height: float, share: float, hue: str, inside: Markup) -> Markup:
    return tag("rect", inside, x=x, y=y, width=width, height=height, class_=f"cell {hue}",
               fill_opacity=round(0.05 + 0.95 * share, 3))  # fmt: skip


def _legend(low: float, high: float, label: str, both_signs: bool) -> Markup:
    steps = 9
    shares = [abs(2 * i / (steps - 1) - 1) if both_signs else i / (steps - 1) for i in range(steps)]
    hues = ["cold" if both_signs and i < (steps - 1) / 2 else "heat" for i in range(steps)]
    bar = [
        _cell(i * 16.0, 0, 16, 10, share, hue, Markup(""))
        for i, (share, hue) in enumerate(zip(shares, hues, strict=True))
    ]
    size = max(abs(low), abs(high))
    left, right = (plain(-size), plain(size)) if both_signs else (plain(low), plain(high))
    swatch = tag("svg", *bar, viewBox="0 0 144 10", width=144, height=10, aria_hidden="true")
    return tag("p", f"{left} ", swatch, f" {right}", f"  {label}" if label else "", class_="legend")


def histogram(width: int, title: str, bins: Sequence[Sequence[float]], look: str) -> Markup:
    """Counts by tokens; `bins` are (from, to, count)."""
    if not bins:
        return tag("p", "No histogram.", class_="note")
    height = 150
    most = max(count for _, _, count in bins) or 1
    x = Axis("tokens", bins[0][0], max(bins[-1][1], bins[0][0] + 1))
    area = frame(width, height, x, Axis(title, 0, most, ticks=linear_ticks(0, most, 2)))
    bars = [
        tag("rect", tag("title", f"{plain(start)} to {plain(end)} tokens: {count:,.0f}"), x=area.x(start) + 0.5,
            y=area.y(count), width=max(area.x(end) - area.x(start) - 1, 0.5), height=area.bottom - area.y(count),
            class_=look)
        for start, end, count in bins
    ]  # fmt: skip
    return picture(width, height, title, area.axes, *bars)


def table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    """A table with numbers to the right, in its own scrolling box."""
    numeric = [
        bool(rows) and all(is_number(row[index]) or row[index] is None for row in rows) for index in range(len(columns))
    ]
    classes = ["num" if one else None for one in numeric]
    head = [tag("th", str(column), scope="col", class_=class_) for column, class_ in zip(columns, classes, strict=True)]
    body = [
        tag("tr", *(tag("td", _written(value), class_=class_) for value, class_ in zip(row, classes, strict=True)))
        for row in rows
    ]
    drawn = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", drawn, class_="scroll", tabindex="0")


def _written(value: object) -> str:
    if value is None:
        return MISSING
    return plain(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else setting(value)
