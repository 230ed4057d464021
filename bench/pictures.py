"""A line chart as an SVG file that stands alone, drawn with the report's own helpers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.report.svg import Look, Scale, line, mark, padded, spread, tag, text, text_width

_COLOURS = ("#0b6fb8", "#c2410c", "#15803d", "#7e3ba8", "#a16207", "#0f766e", "#be185d", "#475569")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:14px}"
    ".grid{stroke:#ddd;stroke-width:1}.curve{fill:none;stroke-width:1.8}.beneath{stroke-width:7;opacity:.45}"
    + "".join(f".c{i}{{fill:{c}}}.l{i}{{stroke:{c}}}" for i, c in enumerate(_COLOURS))
)
_WIDTH, _HEIGHT = 720.0, 400.0
_LEFT, _TOP, _BOTTOM = 64.0, 40.0, 52.0


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    log_x: bool = False,
    overlaid: bool = False,
    at: Sequence[float] | None = None,
) -> str:
    """Each series as a line with its name at its end; the y axis begins at 0.

    Args:
        overlaid: The lines should lie on each other: no marks, and the first is broad and pale beneath the rest.
        at: Where the x axis is ticked; round values otherwise.
    """
    looks = {name: Look(name, index) for index, name in enumerate(series)}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    right = _WIDTH - 24 - max(text_width(name) for name in series)
    low, high = (min(xs), max(xs)) if max(xs) > min(xs) else padded(min(xs), max(xs))
    across = Scale(low, high, _LEFT, right, log=log_x)
    up = Scale(0.0, max(ys) * 1.05, _HEIGHT - _BOTTOM, _TOP)
    drawn = [tag("style", _STYLE), tag("rect", width=_WIDTH, height=_HEIGHT, fill="#fff")]
    drawn.append(text(_LEFT, 22, title, class_="title"))
    for value in up.ticks():
        drawn.append(line(_LEFT, up(value), right, up(value), "grid"))
        drawn.append(text(_LEFT - 8, up(value) + 4, f"{value:g}", "end"))
    for value in across.ticks() if at is None else at:
        drawn.append(text(across(value), _HEIGHT - _BOTTOM + 20, f"{value:g}", "middle"))
    drawn.append(text((_LEFT + right) / 2, _HEIGHT - 10, x_label, "middle"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    drawn.append(text(16, middle, y_label, "middle", transform=f"rotate(-90 16 {middle:g})"))
    heights = spread([up(points[-1][1]) for points in series.values()], 15, _TOP, _HEIGHT - _BOTTOM)
    for (name, points), height in zip(series.items(), heights, strict=True):
        path = "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)
        beneath = " beneath" if overlaid and looks[name].index == 0 else ""
        drawn.append(tag("path", d=path, class_=f"curve l{looks[name].index % len(_COLOURS)}{beneath}"))
        if not overlaid:
            drawn += [mark(looks[name], across(x), up(y), r=4, title=f"{name}: {x:g}, {y:.4g}") for x, y in points]
        drawn.append(text(right + 10, height + 4, name, class_=looks[name].colour))
    size = {"width": _WIDTH, "height": _HEIGHT, "viewBox": f"0 0 {_WIDTH:g} {_HEIGHT:g}"}
    return str(tag("svg", tag("title", title), *drawn, xmlns="http://www.w3.org/2000/svg", role="img", **size)) + "\n"
