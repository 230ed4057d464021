"""The few things that pictures are made of: tags, scales, marks. All text is escaped here.

Colours are classes (`c0` … `c7`) that the style sheet fills for light and dark; a mark's shape repeats what its colour
says, so that the pictures can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

COLOURS = 8
SHAPES = ("circle", "square", "diamond", "triangle", "down", "plus")
Fill = Literal["full", "dotted", "hollow"]


@dataclass(frozen=True, slots=True)
class Look:
    """The one colour and shape that an approach has everywhere in the report; a floor is a grey bar."""

    name: str
    index: int
    floor: bool = False

    @property
    def colour(self) -> str:
        return "c-floor" if self.floor else f"c{self.index % COLOURS}"

    @property
    def shape(self) -> str:
        return "bar" if self.floor else SHAPES[self.index % len(SHAPES)]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name. By alphabet, not by rank: a rerun of the study keeps its colours."""
    return {name: Look(name, index) for index, name in enumerate(sorted(names))}


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """An element; `class_` gives class, an underscore a hyphen, None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(str(escape(child)) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704 - every part was escaped above


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def join(*parts: Markup) -> Markup:
    return Markup("").join(parts)


def picture(width: float, height: float, title: str, *children: Markup, class_: str = "plot") -> Markup:
    """An SVG that says what it shows to those who cannot see it."""
    return tag(
        "svg",
        tag("title", title),
        *children,
        class_=class_,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
    )


def text(x: float, y: float, content: str, anchor: str = "start", class_: str | None = None, **more: object) -> Markup:
    return tag("text", content, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str, **more: object) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_, **more)


def text_width(content: str, size: float = 12) -> float:
    """About how wide a text is in a sans serif face, in pixels."""
    return sum(0.35 if letter in "iljt.,:;|' " else 0.86 if letter in "mwMW%" else 0.57 for letter in content) * size


def mark(look: Look, x: float, y: float, r: float = 5, fill: Fill = "full", title: str = "") -> Markup:
    """The approach's mark at a point; one that is dotted is hollow but for a dot."""
    if look.shape == "circle":
        path = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    else:
        corners = {
            "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
            "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
            "down": [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
            "bar": [(-0.2, -1.2), (0.2, -1.2), (0.2, 1.2), (-0.2, 1.2)],
            "plus": [
                *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
                *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
            ],
        }[look.shape]
        path = "M" + "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners) + "z"
    inside = [tag("title", title)] if title else []
    drawn = tag("path", *inside, d=path, class_=f"mark {look.colour}{'' if fill == 'full' else f' {fill}'}")
    return (
        join(drawn, tag("circle", cx=x, cy=y, r=0.42 * r, class_=f"dot {look.colour}")) if fill == "dotted" else drawn
    )


def key(look: Look) -> Markup:
    """The mark alone, to be put before the name in text."""
    return tag("svg", mark(look, 6, 6, 4.4), class_="key", viewBox="0 0 12 12", width=12, height=12, aria_hidden="true")


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low`…`high` to pixels `start`…`end`, on a logarithmic axis where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high, wanted)


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values within low…high."""
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within low…high; with twos and fives where there are fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**power for power in powers if low <= 10.0**power <= high * 1.0001]
    if len(tens) >= 3:
        every = math.ceil(len(tens) / 8)
        return tens[::every]
    return [v for power in powers for f in (1, 2, 5) if low <= (v := f * 10.0**power) <= high * 1.0001]


_TIMES = (
    *(0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0),
    *(86_400.0, 864_000.0, 8_640_000.0, 86_400_000.0, 864_000_000.0),
)
# Where those stand too far apart.
_MORE_TIMES = sorted(
    {1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 86_400.0, 172_800.0, 432_000.0}
    | {60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30)}
    | {3_600.0 * hours for hours in (1, 2, 5, 12)}
)


def time_ticks(low: float, high: float) -> list[float]:
    """Seconds that have a round name: 1 s, 10 s, 1 min, 10 min, 1 h…, with those between where few of them fit."""
    for times in (_TIMES, _MORE_TIMES):
        ticks = [value for value in times if low <= value <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks if len(ticks) >= 2 else log_ticks(low, high)


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """The range with some air around it; a single value gets a range too."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - share * (high - low), high + share * (high - low)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions for labels near the wanted ones, at least `gap` apart and within low…high where they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [min(max(wanted[index], low), high) for index in order]
    for _ in range(60):
        for left, right in pairwise(range(len(placed))):
            overlap = gap - (placed[right] - placed[left])
            if overlap > 0:
                placed[left] -= overlap / 2
                placed[right] += overlap / 2
        placed = [min(max(position, low), high) for position in placed]
    # what the bounds pushed together is laid out downwards
    for left, right in pairwise(range(len(placed))):
        placed[right] = max(placed[right], placed[left] + gap * 0.98)
    result = [0.0] * len(wanted)
    for index, position in zip(order, placed, strict=True):
        result[index] = position
    return result
