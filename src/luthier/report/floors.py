"""Floors, apart from the approaches: rules that have to be beaten, and where they stand in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from luthier.report.pictures import Level, beyond, whisker
from luthier.report.svg import Look, Scale
from luthier.report.units import ScoreUnit

Floor = Mapping[str, Any]
Comparison = Mapping[str, Any]
Values = dict[str, Any]

# An axis so many times as long as the approaches need would squeeze them: a floor that wants more stands at its end.
_STRETCH = 3.0


def scored_floors(comparison: Comparison) -> list[Floor]:
    """The floors, best first; none where the deciding metric cannot score them."""
    return [floor for floor in comparison.get("floors") or () if floor["mean"] is not None]


def best_floor(comparison: Comparison) -> Floor | None:
    return next(iter(scored_floors(comparison)), None)


def approach_ends(comparison: Comparison) -> list[float]:
    """All means and ends of intervals of the approaches: what an axis has to hold."""
    rows = comparison["approaches"]
    return [float(row[field]) for row in rows for field in ("low", "mean", "high") if row[field] is not None]


def is_near(floor: Floor, comparison: Comparison) -> bool:
    """Whether an axis that holds the approaches can hold the floor too and not squeeze them; one alone can bear it."""
    ends = approach_ends(comparison)
    if not ends or len(comparison["approaches"]) == 1:
        return bool(ends)
    low, high = min(ends), max(ends)
    mean = float(floor["mean"])
    return max(high, mean) - min(low, mean) <= _STRETCH * (high - low)


def near_floor(comparison: Comparison) -> float | None:
    """Mean of the best floor, where it is near enough to be drawn to the approaches' scale."""
    floor = best_floor(comparison)
    return float(floor["mean"]) if floor is not None and is_near(floor, comparison) else None


def floor_level(comparison: Comparison, unit: ScoreUnit) -> Level | None:
    """The best floor as a rule over a picture that has the deciding metric upright."""
    floor = best_floor(comparison)
    if floor is None:
        return None
    return Level(floor["mean"], f"floor: {floor['name']}, {unit.value(floor['mean'])}")


def unbeaten(row: Mapping[str, Any]) -> str:
    """The floor that an approach is not shown to beat; empty where it does, or has none to beat."""
    floor = row.get("floor")
    return "" if floor is None or floor["above"] else str(floor["name"])


def unbeaten_floors(comparison: Comparison) -> dict[str, list[str]]:
    """Each floor that some approaches are not shown to beat, with their names."""
    found: dict[str, list[str]] = {}
    for row in comparison["approaches"]:
        if floor := unbeaten(row):
            found.setdefault(floor, []).append(str(row["name"]))
    return found


def all_unbeaten(comparison: Comparison) -> str:
    """The best floor where no approach is shown to beat it; else empty."""
    floor, rows = best_floor(comparison), comparison["approaches"]
    return str(floor["name"]) if floor is not None and all(map(unbeaten, rows)) else ""


def floor_rows(comparison: Comparison, scale: Scale | None, ticks: Sequence[float], unit: ScoreUnit) -> list[Values]:
    """What the ranking says of each floor, its whisker on the approaches' scale."""
    return [
        {
            "name": floor["name"],
            "words": floor["words"],
            "mean": unit.value(floor["mean"]),
            "interval": unit.interval(floor["low"], floor["high"]),
            "plot": _plot(floor, comparison, scale, ticks, unit) if scale else "",
        }
        for floor in scored_floors(comparison)
    ]


def _plot(floor: Floor, comparison: Comparison, scale: Scale, ticks: Sequence[float], unit: ScoreUnit) -> Markup:
    look = Look(floor["name"], 0, floor=True)
    value = f"floor {floor['name']}: {unit.value(floor['mean'])}"
    if not is_near(floor, comparison):
        return beyond(scale, ticks, floor["mean"] < scale.low, look, f"{value}, beyond this scale")
    value += f", 95% interval {unit.interval(floor['low'], floor['high'])}"
    return whisker(scale, ticks, floor["mean"], floor["low"], floor["high"], look, value, floor=near_floor(comparison))


def floors_in_words(comparison: Comparison) -> str:
    """`always giving the most frequent answer (most-frequent); …`; empty without floors."""
    return "; ".join(f"{floor['words']} ({floor['name']})" for floor in scored_floors(comparison))


def floor_scores(comparison: Comparison) -> list[float]:
    """What an axis has to hold of the floors that are near."""
    return [
        floor[field]
        for floor in scored_floors(comparison)
        if is_near(floor, comparison)
        for field in ("low", "mean", "high")
        if floor[field] is not None
    ]
