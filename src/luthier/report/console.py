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

_NAME_WIDTH = 24
_REASONS = 3  # the rest stands in the report
_LINE = {True: ("|", "-", "|", "o"), False: ("├", "─", "┤", "●")}


def comparison_table(comparison: Mapping[str, Any]) -> ComparisonTable:
    """What `comparison.json` holds, to be printed by rich: the ranked approaches, then the verdict."""
    return ComparisonTable(comparison)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table; `rank` 0 is kept longest where room is short."""

    heading: str
    rank: int
    cell: Callable[[Mapping[str, Any]], Text]
    right: bool = True


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """A renderable that fits itself to the console's width."""

    comparison: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        rows = list(self.comparison["approaches"])
        bar = 30 if width >= 118 else 22 if width >= 96 else 16
        kept = _that_fit(list(_columns(self.comparison, bar, options.ascii_only)), rows, width)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        for column in kept:
            # as Text: rich would read a str as markup, and a metric may be called anything
            table.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=True)
        for row in rows:
            chosen = row["name"] == self.comparison.get("recommended")
            table.add_row(*(column.cell(row) for column in kept), style="bold" if chosen else "")
        yield Text(_caption(self.comparison), style="dim")
        yield Text()
        yield table
        for note in _notes(self.comparison, kept):
            yield Text(note, style="dim")
        yield Text()
        yield from self._verdict()

    def _verdict(self) -> Iterator[Text]:
        yield Text(str(self.comparison["verdict"]), style="bold")
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
        yield f"  over {len(seeds['approaches'][0]['seeds'])} seeds: {shown}."
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
        text = Text(str(row["name"]))
        text.truncate(_NAME_WIDTH, overflow="ellipsis")
        star = "*" if ascii_only else "★"
        mark = f"{star} " if row["name"] == comparison.get("recommended") else "  "
        return Text.assemble((mark, "green"), text)

    def mean(row: Mapping[str, Any]) -> Text:
        return Text(unit.value(row["mean"]))

    def behind(row: Mapping[str, Any]) -> Text:
        found = difference_to_best(comparison, row["name"])
        return Text("best" if row["name"] == best else unit.difference(found["difference"] if found else None))

    def forgotten(row: Mapping[str, Any]) -> Text:
        return Text(_worst(forgotten_by(row)))

    def cost(write: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], Text]:
        return lambda row: Text(write(row["cost"]))

    bars = _bars(rows, bar, ascii_only)
    yield _Column("  approach", 0, name, right=False)
    yield _Column(_short(str(comparison["metric"])), 0, mean)
    if bars:
        yield _Column(_scale(rows, unit, bar), 1, lambda row: bars[row["name"]], right=False)
    if len(rows) > 1:
        yield _Column("to best", 2, behind)
    yield _Column("training", 3, cost(lambda c: _brief(c["train_s"]) if c["train_s"] else units.MISSING))
    yield _Column("request", 4, cost(lambda c: _brief(c["seconds_per_request"])))
    yield _Column("prompt", 6, cost(lambda c: f"{units.count(c['prompt_tokens'])} tok"))
    yield _Column("stored", 7, cost(lambda c: units.size(c["stored_bytes"])))
    if any(map(forgotten_by, rows)):
        yield _Column("forgotten", 5, forgotten)


def _that_fit(columns: list[_Column], rows: list[Mapping[str, Any]], width: int) -> list[_Column]:
    """The columns that fit in `width` characters, in their order; the least important are left out first."""
    wide = {
        column.heading: max(len(column.heading), *(column.cell(row).cell_len for row in rows)) + 2 for column in columns
    }
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


def _range(rows: list[Mapping[str, Any]]) -> tuple[float, float] | None:
    ends = [row[field] for row in rows for field in ("low", "mean", "high") if row[field] is not None]
    if not ends or min(ends) == max(ends):
        return None
    return min(ends), max(ends)


def _scale(rows: list[Mapping[str, Any]], unit: units.ScoreUnit, width: int) -> str:
    """The bars' heading: where they begin and end."""
    found = _range(rows)
    assert found is not None
    low, high = (f"{100 * end:.0f}%" if unit.share else units.plain(end) for end in found)
    return low + " " * max(1, width - len(low) - len(high)) + high


def _bars(rows: list[Mapping[str, Any]], width: int, ascii_only: bool) -> dict[str, Text]:
    """For each approach its interval as a line with whiskers and a dot at the mean; empty where nothing differs."""
    found = _range(rows)
    if found is None:
        return {}
    left, dash, right, dot = _LINE[ascii_only]

    def place(value: float) -> int:
        return round((value - found[0]) / (found[1] - found[0]) * (width - 1))

    bars = {}
    for row in rows:
        if row["mean"] is None:
            bars[row["name"]] = Text("not scored", style="red")
            continue
        cells = [" "] * width
        if row["low"] is not None and row["high"] is not None:
            start, end = place(row["low"]), place(row["high"])
            cells[start : end + 1] = dash * (end + 1 - start)
            cells[start], cells[end] = left, right
        cells[place(row["mean"])] = dot
        bars[row["name"]] = Text("".join(cells), style="cyan")
    return bars
