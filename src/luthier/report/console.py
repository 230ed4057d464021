"""The comparison for the terminal: a ranked table that gives up its less important columns where it is narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from luthier.report import units
from luthier.report.comparing import difference_to_best, forgotten_by, probe_change, target_unit, worsening
from luthier.report.floors import (
    approach_ends,
    floor_scores,
    floors_in_words,
    is_near,
    near_floor,
    scored_floors,
    unbeaten_floors,
)

_NAME_WIDTH = 24
_REASONS = 3  # the rest stands in the report
_LINE = {True: ("|", "-", "|", "o"), False: ("├", "─", "┤", "●")}
_FLOOR = {True: (":", "<", ">"), False: ("┊", "◂", "▸")}  # its line, and where it lies beyond the scale
_RULE = {True: "-", False: "─"}


def comparison_table(comparison: Mapping[str, Any]) -> ComparisonTable:
    """What `comparison.json` holds, to be printed by rich: the ranked approaches, the floors, then the verdict."""
    return ComparisonTable(comparison)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table; `rank` 0 is kept longest where room is short. `floor` is a floor's cell, if it has one."""

    heading: str
    rank: int
    cell: Callable[[Mapping[str, Any]], Text]
    right: bool = True
    floor: Callable[[Mapping[str, Any]], Text] = lambda floor: Text()

    def width(self, rows: Sequence[Mapping[str, Any]], floors: Sequence[Mapping[str, Any]]) -> int:
        cells = [*map(self.cell, rows), *map(self.floor, floors)]
        return max(len(self.heading), *(cell.cell_len for cell in cells))


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """A renderable that fits itself to the console's width."""

    comparison: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        rows, floors = list(self.comparison["approaches"]), scored_floors(self.comparison)
        bar = 30 if width >= 118 else 22 if width >= 96 else 16
        kept = _that_fit(list(_columns(self.comparison, bar, options.ascii_only)), rows, floors, width)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        for column in kept:
            # as Text: rich would read a str as markup, and a metric may be called anything
            table.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=True)
        for row in rows:
            chosen = row["name"] == self.comparison.get("recommended")
            table.add_row(*(column.cell(row) for column in kept), style="bold" if chosen else "")
        if floors:
            table.add_row(*_rule(kept, rows, floors, _RULE[options.ascii_only]), style="dim")
        for floor in floors:
            table.add_row(*(column.floor(floor) for column in kept), style="dim")
        yield Text(_caption(self.comparison), style="dim")
        yield Text()
        yield table
        for note in _notes(self.comparison, kept):
            yield Text(note, style="dim")
        yield Text()
        yield from self._verdict()

    def _verdict(self) -> Iterator[Text]:
        yield Text(str(self.comparison["headline"]), style="bold")
        yield Text(str(self.comparison["verdict"]))
        reasons = list(self.comparison.get("reasons") or ())
        for reason in reasons[:_REASONS]:
            yield Text(f"- {reason}")
        more = len(reasons) - _REASONS
        if more > 0:
            stand = "more reason stands" if more == 1 else "more reasons stand"
            yield Text(f"- {more} {stand} in the report.", style="dim")


def _caption(comparison: Mapping[str, Any]) -> str:
    metric = str(comparison["metric"]).replace("_", " ")
    n = units.plural(comparison["n"], f"{comparison.get('split', 'test')} example")
    text = f"{comparison['target']}: {metric} on {n}, with 95% intervals"
    least, unit = comparison.get("minimum_detectable"), target_unit(comparison)
    if least is not None:
        size = f"{100 * least:.1f} points" if unit.share else units.plain(least)
        text += f". Differences below {size} would probably not show."
    return text


def _notes(comparison: Mapping[str, Any], kept: list[_Column]) -> Iterator[str]:
    """What the table leaves unsaid, each in a line."""
    if words := floors_in_words(comparison):
        yield f"  floors, to be beaten: {words}."
    for floor, names in unbeaten_floors(comparison).items():
        yield f"  not shown to beat {floor}: {', '.join(names)}."
    for row in comparison["approaches"]:
        if row.get("unscored"):
            yield f"  {row['name']}: {units.plural(row['unscored'], 'answer')} could not be scored."
    if any(column.heading == "forgotten" for column in kept):
        probes = dict.fromkeys(p["probe"] for row in comparison["approaches"] for p in forgotten_by(row))
        if len(probes) > 1:
            yield f"  forgotten: what got worst, of {', '.join(probes)}."
    seeds = comparison.get("seeds")
    if seeds:
        unit = target_unit(comparison)
        shown = ", ".join(
            f"{own['name']} {unit.value(own['least'])} to {unit.value(own['most'])}" for own in seeds["approaches"]
        )
        yield f"  means of {len(seeds['approaches'][0]['seeds'])} trainings: {shown}."
    for name, own in (comparison.get("grounding") or {}).items():
        found = next((row for row in own["ranking"] if row["measure"].startswith("found@")), None)
        if found is not None:
            yield f"  {name}: a right passage among the {own['k']} shown in {100 * found['mean']:.0f}% of {found['n']}."
    for name, own in (comparison.get("diagnosis") or {}).items():
        yield f"  {name}: {own['advice']}"
    moved = {row["name"]: row["divergence"][0] for row in comparison["approaches"] if row.get("divergence")}
    if moved:
        on = next(iter(moved.values()))["on"].replace("_", " ")
        shown = ", ".join(f"{name} {units.plain(one['mean'])}" for name, one in moved.items())
        yield f"  predictions moved on {on}, KL in nats a token: {shown}."


def _columns(comparison: Mapping[str, Any], bar: int, ascii_only: bool) -> Iterator[_Column]:
    """All columns in the order in which they stand."""
    rows, unit, best = comparison["approaches"], target_unit(comparison), comparison["approaches"][0]["name"]

    def name(row: Mapping[str, Any]) -> Text:
        star = "*" if ascii_only else "★"
        mark = f"{star} " if row["name"] == comparison.get("recommended") else "  "
        return Text.assemble((mark, "green"), _name(row))

    def floor_name(floor: Mapping[str, Any]) -> Text:
        return Text.assemble("  ", _name(floor))

    def mean(row: Mapping[str, Any]) -> Text:
        return Text(unit.value(row["mean"]))

    def behind(row: Mapping[str, Any]) -> Text:
        found = difference_to_best(comparison, row["name"])
        return Text("best" if row["name"] == best else unit.difference(found["difference"] if found else None))

    def forgotten(row: Mapping[str, Any]) -> Text:
        return Text(_worst(forgotten_by(row)))

    def cost(write: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], Text]:
        return lambda row: Text(write(row["cost"]))

    ends = [*approach_ends(comparison), *floor_scores(comparison)]
    yield _Column("  approach", 0, name, right=False, floor=floor_name)
    yield _Column(_short(str(comparison["metric"])), 0, mean, floor=mean)
    if ends and min(ends) < max(ends):
        bars = _Bars(min(ends), max(ends), bar, near_floor(comparison), ascii_only)
        yield _Column(bars.heading(unit), 1, bars.approach, right=False, floor=lambda own: bars.floor(own, comparison))
    if len(rows) > 1:
        yield _Column("to best", 2, behind)
    yield _Column("training", 3, cost(lambda c: _brief(c["train_s"]) if c["train_s"] else units.MISSING))
    yield _Column("request", 4, cost(lambda c: _brief(c["seconds_per_request"])))
    yield _Column(
        "prompt", 6, cost(lambda c: f"{units.count(c['prompt_tokens'])} tok" if c["prompt_tokens"] else "none")
    )
    yield _Column("stored", 7, cost(lambda c: units.size(c["stored_bytes"])))
    yield _Column("trained", 8, lambda row: Text(str(row["training"])))
    if any(map(forgotten_by, rows)):
        yield _Column("forgotten", 5, forgotten)


def _name(row: Mapping[str, Any]) -> Text:
    """The name of an approach or a floor, cut where it is too long."""
    text = Text(str(row["name"]))
    text.truncate(_NAME_WIDTH, overflow="ellipsis")
    return text


def _rule(
    columns: Sequence[_Column], rows: Sequence[Mapping[str, Any]], floors: Sequence[Mapping[str, Any]], dash: str
) -> Iterator[Text]:
    """A thin rule under the approaches, as wide as the columns in which floors have something."""
    for column in columns:
        wide = column.width(rows, floors) if any(column.floor(floor) for floor in floors) else 0
        yield Text(f"  {dash * (wide - 2)}" if column is columns[0] else dash * wide)


def _that_fit(
    columns: list[_Column], rows: list[Mapping[str, Any]], floors: list[Mapping[str, Any]], width: int
) -> list[_Column]:
    """The columns that fit in `width` characters, in their order; the least important are left out first."""
    wide = {column.heading: column.width(rows, floors) + 2 for column in columns}
    kept: list[_Column] = []
    for column in sorted(columns, key=lambda column: column.rank):
        if column.rank == 0 or sum(wide[one.heading] for one in [*kept, column]) - 2 <= width:
            kept.append(column)
    return [column for column in columns if column in kept]


def _brief(seconds: float) -> str:
    """A time with one unit, to save room: `25.5 min`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return units.seconds(seconds)


def _short(metric: str) -> str:
    metric = metric.replace("_", " ")
    return metric if len(metric) <= 12 else metric[:11] + "…"


def _worst(probes: Sequence[Mapping[str, Any]]) -> str:
    """The change of the probe that got worst."""
    return probe_change(max(probes, key=worsening)) if probes else units.MISSING


@dataclass(frozen=True, slots=True)
class _Bars:
    """Intervals as lines of characters with whiskers, and a dot at the mean.

    Attributes:
        low, high: Where the scale begins and ends.
        line: The best floor, which stands as a thin line behind the approaches; None where it is not near.
    """

    low: float
    high: float
    width: int
    line: float | None
    ascii_only: bool

    def heading(self, unit: units.ScoreUnit) -> str:
        low, high = (f"{100 * end:.0f}%" if unit.share else units.plain(end) for end in (self.low, self.high))
        return low + " " * max(1, self.width - len(low) - len(high)) + high

    def approach(self, row: Mapping[str, Any]) -> Text:
        if row["mean"] is None:
            return Text("not scored", style="red")
        return Text("".join(self._drawn(row, self.line)), style="cyan")

    def floor(self, floor: Mapping[str, Any], comparison: Mapping[str, Any]) -> Text:
        _, left, right = _FLOOR[self.ascii_only]
        if is_near(floor, comparison):
            return Text("".join(self._drawn(floor, None)))
        return Text(left if floor["mean"] < self.low else right.rjust(self.width))

    def _drawn(self, row: Mapping[str, Any], line: float | None) -> list[str]:
        left, dash, right, dot = _LINE[self.ascii_only]
        cells = [" "] * self.width
        if line is not None:
            cells[self._place(line)] = _FLOOR[self.ascii_only][0]
        if row["low"] is not None and row["high"] is not None:
            start, end = self._place(row["low"]), self._place(row["high"])
            cells[start : end + 1] = dash * (end + 1 - start)
            cells[start], cells[end] = left, right
        cells[self._place(row["mean"])] = dot
        return cells

    def _place(self, value: float) -> int:
        return round((value - self.low) / (self.high - self.low) * (self.width - 1))
