"""Pictures that compare approaches: dots with whiskers, gain against a cost, total cost by number of requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from luthier.report.svg import (
    Fill,
    Look,
    Scale,
    join,
    line,
    mark,
    padded,
    picture,
    spread,
    tag,
    text,
    text_width,
    time_ticks,
)
from luthier.report.units import plain, seconds

WIDE, NARROW = 760, 340
Box = tuple[float, float, float, float]  # left, top, right, bottom


def responsive(draw: Callable[[int], Markup]) -> Markup:
    """The picture drawn for wide and for narrow screens; the style sheet shows one of them."""
    return join(tag("div", draw(WIDE), class_="for-wide"), tag("div", draw(NARROW), class_="for-narrow"))


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it measures, from where to where, and how its ticks are written."""

    label: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] | None = None
    write: Callable[[float], str] = plain
    reverse: bool = False

    def scale(self, start: float, end: float) -> Scale:
        if self.reverse:
            start, end = end, start
        return Scale(self.low, self.high, start, end, self.log)


@dataclass(frozen=True, slots=True)
class Frame:
    """The area that data are drawn in, its scales and its drawn axes."""

    x: Scale
    y: Scale
    left: float
    right: float
    top: float
    bottom: float
    axes: Markup


def frame(width: float, height: float, x: Axis, y: Axis, right: float = 14) -> Frame:
    """Axes with hairlines; the y label stands above the axis, so that nothing has to be read sideways."""
    y_ticks = y.ticks if y.ticks is not None else Scale(y.low, y.high, 0, 1, y.log).ticks(5)
    left = 12 + max((text_width(y.write(tick)) for tick in y_ticks), default=20)
    top, bottom = 30.0, height - 42.0
    end = width - right
    x_scale, y_scale = x.scale(left, end), y.scale(bottom, top)
    parts = [text(0, 14, y.label, class_="axis-label")]
    for tick in y_ticks:
        at = y_scale(tick)
        parts += [line(left, at, end, at, "grid"), text(left - 8, at + 4, y.write(tick), "end", "tick")]
    x_ticks = x.ticks if x.ticks is not None else x_scale.ticks(max(4, int((end - left) / 110)))
    taken = -math.inf
    for tick in sorted(x_ticks, key=x_scale):
        at, label = x_scale(tick), x.write(tick)
        half = text_width(label) / 2
        parts.append(line(at, bottom, at, bottom + 5, "axis"))
        if at - half > taken + 6 and at + half <= width + 2:
            parts.append(text(at, bottom + 19, label, "middle", "tick"))
            taken = at + half
    parts += [line(left, bottom, end, bottom, "axis"), text(end, height - 4, x.label, "end", "axis-label")]
    return Frame(x_scale, y_scale, left, end, top, bottom, join(*parts))


def whisker(
    scale: Scale,
    ticks: Sequence[float],
    value: float | None,
    low: float | None,
    high: float | None,
    look: Look,
    title: str,
    zero: bool = False,
    floor: float | None = None,
) -> Markup:
    """One row of a dot-and-whisker picture, to stand in a table cell under `whisker_axis`; no dot without a value.

    `floor` stands as an upright dashed line.
    """
    height, middle = 30, 15.0
    # the hairlines reach beyond the row, and the cell clips them: rows differ in height
    kinds = ["zero" if zero and tick == 0 else "grid" for tick in ticks]
    parts = [line(scale(tick), -60, scale(tick), height + 60, kind) for tick, kind in zip(ticks, kinds, strict=True)]
    parts += _upright(scale, floor)
    if low is not None and high is not None:
        start, end = scale(low), scale(high)
        parts.append(line(start, middle, end, middle, f"whisker {look.colour}"))
        parts += [line(at, middle - 4, at, middle + 4, f"whisker {look.colour}") for at in (start, end)]
    if value is not None:
        parts.append(mark(look, scale(value), middle, 5))
    return picture(max(scale.start, scale.end) + 14, height, title, *parts, class_="row-plot")


def _upright(scale: Scale, floor: float | None) -> list[Markup]:
    return [] if floor is None else [line(scale(floor), -60, scale(floor), 90, "floor-line")]


def beyond(scale: Scale, ticks: Sequence[float], below: bool, look: Look, title: str) -> Markup:
    """A row whose value lies beyond the scale: an arrow at the end towards it."""
    parts = [line(scale(tick), -60, scale(tick), 90, "grid") for tick in ticks]
    at, side = (scale.start, -1) if below else (scale.end, 1)
    parts.append(tag("path", d=f"M{at + 11 * side:g} 15l{-8 * side} -5v10z", class_=f"mark {look.colour}"))
    return picture(max(scale.start, scale.end) + 14, 30, title, *parts, class_="row-plot")


def dots(
    scale: Scale,
    ticks: Sequence[float],
    values: Sequence[float],
    look: Look,
    title: str,
    floor: float | None = None,
) -> Markup:
    """One row of marks, the first filled and the others hollow, to stand in a table cell under `whisker_axis`."""
    height, middle = 30, 15.0
    parts = [line(scale(tick), -60, scale(tick), height + 60, "grid") for tick in ticks]
    parts += _upright(scale, floor)
    parts.append(line(scale(min(values)), middle, scale(max(values)), middle, f"whisker {look.colour}"))
    # The first is drawn last, on top of what it may cover.
    parts += [mark(look, scale(value), middle, 5, "hollow") for value in values[1:]]
    parts.append(mark(look, scale(values[0]), middle, 5))
    return picture(max(scale.start, scale.end) + 14, height, title, *parts, class_="row-plot")


def whisker_axis(scale: Scale, ticks: Sequence[float], write: Callable[[float], str]) -> Markup:
    """Tick labels for a column of `whisker` rows."""
    parts, taken = [], -math.inf
    for tick in ticks:
        half = text_width(write(tick), 11) / 2
        if scale(tick) - half > taken + 4:
            parts.append(text(scale(tick), 12, write(tick), "middle", "tick small"))
            taken = scale(tick) + half
    width = max(scale.start, scale.end) + 14
    return tag(
        "svg", *parts, class_="row-plot", viewBox=f"0 0 {width:g} 18", width=width, height=18, aria_hidden="true"
    )


@dataclass(frozen=True, slots=True)
class Point:
    """An approach in a scatter plot; `low` and `high` bound y, `x_low` and `x_high` bound x."""

    look: Look
    x: float
    y: float
    low: float | None
    high: float | None
    title: str
    x_low: float | None = None
    x_high: float | None = None
    fill: Fill = "full"


@dataclass(frozen=True, slots=True)
class Level:
    """A value of the upright axis: a dashed rule with its label, or that alone at the edge if the axis ends before."""

    at: float
    label: str


def scatter(
    width: int,
    title: str,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    rules: Sequence[tuple[float, str]] = (),
    level: Level | None = None,
) -> Markup:
    """Marks with whiskers and their names beside them; `rules` are upright lines at an x, with a label."""
    height = 380 if width > 500 else 340
    area = frame(width, height, x, y)
    parts = [area.axes]
    taken: list[Box] = []
    for at, label in rules:
        px = area.x(at)
        end = "end" if px > (area.left + area.right) / 2 else "start"
        parts.append(line(px, area.top - 4, px, area.bottom, "rule"))
        if label:
            parts.append(text(px + (-6 if end == "end" else 6), area.bottom - 8, label, end, "tick"))
            far = px + (-1 if end == "end" else 1) * (6 + text_width(label))
            taken.append((min(px, far), area.bottom - 20, max(px, far), area.bottom - 4))
    for point in points:
        px, py = area.x(point.x), area.y(point.y)
        taken.append((px - 7, py - 7, px + 7, py + 7))
        if point.low is not None and point.high is not None:
            top, bottom = area.y(point.high), area.y(point.low)
            parts.append(line(px, bottom, px, top, f"whisker {point.look.colour}"))
            taken.append((px - 2, top, px + 2, bottom))
        if point.x_low is not None and point.x_high is not None:
            start, end_x = sorted((area.x(point.x_low), area.x(point.x_high)))
            parts.append(line(start, py, end_x, py, f"whisker {point.look.colour}"))
            taken.append((start, py - 2, end_x, py + 2))
    if level is not None:
        parts += _level(level, area, y, taken)
    for point in points:
        parts.append(mark(point.look, area.x(point.x), area.y(point.y), 6, point.fill, point.title))
    for point in points:
        others = [(area.x(other.x), area.y(other.y)) for other in points if other is not point]
        parts.append(_label(point, area, taken, others, width))
    return picture(width, height, title, *parts)


def _level(level: Level, area: Frame, y: Axis, taken: list[Box]) -> list[Markup]:
    """The rule with its label at that end and side where it covers the least; `taken` grows by the label's box."""
    if y.low <= level.at <= y.high:
        at, label = area.y(level.at), level.label
        drawn = [line(area.left, at, area.right, at, "floor-line")]
        heights = [at - 6, at + 15]
    else:
        edge = area.bottom if level.at < y.low else area.top
        label = f"{'↓' if edge == area.bottom else '↑'} {level.label}"
        drawn, heights = [], [edge - 8, edge - 24] if edge == area.bottom else [edge + 14, edge + 30]
    wide = text_width(label)
    best: tuple[float, float, str, float, Box] | None = None
    for order, (base, anchor) in enumerate((base, anchor) for base in heights for anchor in ("end", "start")):
        x = area.right - 2 if anchor == "end" else area.left + 6
        start = x - wide if anchor == "end" else x
        box = (start, base - 11, start + wide, base + 3)
        outside = max(0.0, area.top - 12 - box[1]) + max(0.0, box[3] - area.bottom)
        cost = _overlap(box, taken) + 60 * outside + order
        if best is None or cost < best[0]:
            best = (cost, x, anchor, base, box)
    assert best is not None
    taken.append(best[4])
    return [*drawn, text(best[1], best[3], label, best[2], "tick beside")]


def _overlap(box: Box, taken: Sequence[Box]) -> float:
    """How much of a box is covered by others, in square pixels."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )


def _label(
    point: Point,
    area: Frame,
    taken: list[Box],
    others: Sequence[tuple[float, float]],
    width: int,
) -> Markup:
    """The name where it overlaps the least with what is there already, and nearer to its own mark than to `others`.

    `taken` grows by its box.
    """
    px, py, wide = area.x(point.x), area.y(point.y), text_width(point.look.name, 13)
    best: tuple[float, str, float, float, Box] | None = None
    places = [(dx, dy) for dy in (0, -13, 13, -26, 26, -40, 40) for dx in (1, -1)] + [(0, -18), (0, 22)]
    for order, (side, dy) in enumerate(places):
        anchor = {1: "start", -1: "end", 0: "middle"}[side]
        x = px + 11 * side
        start = {1: x, -1: x - wide, 0: x - wide / 2}[side]
        box = (start, py + dy - 8, start + wide, py + dy + 8)
        outside = max(0.0, 2 - box[0]) + max(0.0, box[2] - width) + max(0.0, 18 - box[1], box[3] - area.bottom) * 3
        nearest = min((_distance(box, x, y) for x, y in others), default=math.inf)
        mistaken = 400 if nearest < _distance(box, px, py) + 4 else 0
        cost = _overlap(box, taken) + 60 * outside + 2 * order + mistaken
        if best is None or cost < best[0]:
            best = (cost, anchor, x, py + dy + 4, box)
    assert best is not None
    taken.append(best[4])
    return text(best[2], best[3], point.look.name, best[1], f"name {point.look.colour}")


def _distance(box: Box, x: float, y: float) -> float:
    """From a point to a box; 0 inside."""
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


def line_names(area: Frame, ends: Sequence[tuple[str, float, float, Look]], gap: float = 2) -> list[Markup]:
    """Names of lines beyond the last of their ends, which are given as (name, x, y, look), so that none covers another.

    Args:
        gap: Pixels between an end and what leads from it to the name.
    """
    last = max(x for _, x, _, _ in ends)
    labels = spread([y for _, _, y, _ in ends], 16, area.top, area.bottom)
    parts = []
    for (name, x, y, look), at in zip(ends, labels, strict=True):
        parts.append(line(x + gap, y, last + gap + 4, at, f"leader {look.colour}"))
        parts.append(text(last + gap + 7, at + 4, name, class_="name"))
    return parts


@dataclass(frozen=True, slots=True)
class CostLine:
    """What an approach costs: once, and for each request, in seconds."""

    look: Look
    train_s: float
    per_request_s: float

    def total(self, requests: float) -> float:
        return self.train_s + requests * self.per_request_s


def cost_lines(
    width: int, title: str, lines: Sequence[CostLine], requests: float, crossings: Sequence[tuple[Look, float]]
) -> Markup:
    """Total seconds by number of requests, both axes logarithmic; `crossings` are (trained, requests)."""
    height = 420 if width > 500 else 380
    top_requests = max([requests * 10, *(at * 4 for _, at in crossings if at < 1e9)])
    high = 10.0 ** math.ceil(math.log10(max(top_requests, 100)))
    totals = [cost.total(at) for cost in lines for at in (1, high)]
    bottom, top = min(value for value in totals if value > 0) * 0.8, max(totals) * 1.4
    gutter = 16 + max(text_width(cost.look.name, 13) for cost in lines) if width > 500 else 14
    area = frame(
        width,
        height,
        Axis("requests answered", 1, high, log=True, write=_power),
        Axis("training and answering together", bottom, top, log=True, ticks=time_ticks(bottom, top), write=seconds),
        right=gutter,
    )
    at = area.x(max(requests, 1))
    parts = [area.axes, line(at, area.top - 4, at, area.bottom, "rule")]
    near_end = at > (area.left + area.right) / 2
    side, anchor = (-6, "end") if near_end else (6, "start")
    parts.append(text(at + side, area.bottom - 8, f"this study: {requests:,.0f}", anchor, "tick"))
    for index, cost in enumerate(lines):
        steps = [10 ** (math.log10(high) * step / 60) for step in range(61)]
        path = "M" + "L".join(f"{area.x(step):.1f} {area.y(cost.total(step)):.1f}" for step in steps)
        parts.append(tag("path", tag("title", cost.look.name), d=path, class_=f"line {cost.look.colour} d{index % 4}"))
    for look, crossing in crossings:
        if 1 <= crossing <= high:
            total = next(cost for cost in lines if cost.look == look).total(crossing)
            ring = tag("title", f"{look.name} has paid for its training after {crossing:,.0f} requests")
            parts.append(tag("circle", ring, cx=area.x(crossing), cy=area.y(total), r=5, class_=f"ring {look.colour}"))
    ends = [area.y(cost.total(high)) for cost in lines]
    if width > 500:
        for cost, end, label in zip(lines, ends, spread(ends, 16, area.top, area.bottom), strict=True):
            parts.append(line(area.right + 2, end, area.right + 10, label, f"leader {cost.look.colour}"))
            parts.append(text(area.right + 13, label + 4, cost.look.name, class_=f"name {cost.look.colour}"))
    else:  # no room beside the lines: the names stand in the legend below the picture
        starts = [area.y(cost.total(1)) for cost in lines]
        parts += [mark(cost.look, area.left, y, 4) for cost, y in zip(lines, starts, strict=True)]
    return picture(width, height, title, *parts)


def _power(value: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:g} {name}"
    return f"{value:,.0f}"


def share_axis(label: str, lows: Sequence[float], highs: Sequence[float], write: Callable[[float], str]) -> Axis:
    """An axis for scores: padded, and for shares never beyond 0 and 1."""
    low, high = padded(min(lows), max(highs), 0.08)
    if min(lows) >= 0:
        low = max(low, 0.0)
    if max(highs) <= 1:
        high = min(high, 1.0)
    return Axis(label, low, high, write=write)
