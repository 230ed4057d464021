"""The same training with several seeds: a row of dots for each approach, one a seed, the one handed over filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from luthier.report import units
from luthier.report.comparing import probe_change
from luthier.report.floors import best_floor, near_floor
from luthier.report.pictures import dots, share_axis, whisker_axis
from luthier.report.svg import Look, Scale, linear_ticks

_ROW_WIDTH = 300
Values = dict[str, Any]


def seed_rows(comparison: Mapping[str, Any], looks: Mapping[str, Look]) -> Values | None:
    """None where every training was done once."""
    content = comparison.get("seeds")
    if not content:
        return None
    rows = sorted(content["approaches"], key=lambda row: list(looks).index(row["name"]))
    means = [own["mean"] for row in rows for own in row["seeds"]]
    unit = units.score_unit(content["metric"], *means)
    floor, best = near_floor(comparison), best_floor(comparison)
    ends = [*means, *([] if floor is None else [floor])]
    axis = share_axis("", ends, ends, unit.tick)
    scale = Scale(axis.low, axis.high, 14, _ROW_WIDTH - 14)
    ticks = linear_ticks(axis.low, axis.high, 4)
    probes = {row["name"]: row.get("forgotten") or () for row in comparison["approaches"]}
    forgotten = {row["name"]: _forgotten(row["seeds"], probes[row["name"]]) for row in rows}
    return {
        "metric": content["metric"],
        "any_forgotten": any(forgotten.values()),
        "seeds": [own["seed"] for own in rows[0]["seeds"]],
        "axis": whisker_axis(scale, ticks, unit.tick),
        "floor": best["name"] if best and floor is not None else "",
        "rows": [
            {
                "look": looks[row["name"]],
                "mean": unit.value(row["mean"]),
                "sd": _sd(row["sd"], unit),
                "forgotten": forgotten[row["name"]],
                "range": f"{unit.value(row['least'])} to {unit.value(row['most'])}",
                "plot": dots(scale, ticks, _handed_first(row), looks[row["name"]], _title(row, unit), floor),
                "seeds": [
                    {
                        "mean": unit.value(own["mean"]),
                        "interval": unit.interval(own["low"], own["high"]),
                        "handed": own["seed"] == _handed(row),
                    }
                    for own in row["seeds"]
                ],
            }
            for row in rows
        ],
        "pairs": [
            {"a": looks[own["a"]], "b": looks[own["b"]], **{k: own[k] for k in ("a_better", "b_better", "of")}}
            for own in content["pairs"]
        ],
    }


def _forgotten(seeds: Sequence[Mapping[str, Any]], probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each probe the mean of its changes over seeds, and the least and the most of them."""
    said = []
    for probe in probes:
        changes = [one["forgotten"][probe["probe"]] for one in seeds if probe["probe"] in one.get("forgotten", {})]
        if len(changes) == len(seeds):
            mean, *ends = (
                probe_change({**probe, "difference": own}) for own in (fmean(changes), min(changes), max(changes))
            )
            said.append(f"{probe['probe'].replace('_', ' ')} {mean} ({ends[0]} to {ends[1]})")
    return said


def _handed(row: Mapping[str, Any]) -> int:
    """The seed whose model is handed over."""
    return int(row.get("handed_over", row["seeds"][0]["seed"]))  # runs of before handed over the first


def _handed_first(row: Mapping[str, Any]) -> list[float]:
    return [own["mean"] for own in sorted(row["seeds"], key=lambda own: own["seed"] != _handed(row))]


def _sd(value: float, unit: units.ScoreUnit) -> str:
    return f"{100 * value:.1f} points" if unit.share else units.plain(value)


def _title(row: Mapping[str, Any], unit: units.ScoreUnit) -> str:
    return f"{row['name']}: " + ", ".join(f"seed {own['seed']} {unit.value(own['mean'])}" for own in row["seeds"])
