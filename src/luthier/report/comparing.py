"""The parts of the report that compare approaches, as values for the template: ranking, cost, forgetting, pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from luthier.report import units
from luthier.report.floors import (
    approach_ends,
    best_floor,
    floor_level,
    floor_rows,
    floor_scores,
    near_floor,
    unbeaten,
)
from luthier.report.folder import RunFolder
from luthier.report.pictures import (
    Axis,
    CostLine,
    Point,
    cost_lines,
    responsive,
    scatter,
    share_axis,
    whisker,
    whisker_axis,
)
from luthier.report.svg import Fill, Look, Scale, linear_ticks, padded, time_ticks
from luthier.report.units import ScoreUnit, score_unit

Looks = Mapping[str, Look]
Values = dict[str, Any]
_ROW_WIDTH = 232.0
_NOT_LEARNED = "the base model"  # since when a task has changed that no earlier step learned
_TRAINED = {"none": "nothing trained", "small model": "a small model", "language model": "the language model"}
_FILLS: Mapping[str, Fill] = {"none": "hollow", "small model": "dotted", "language model": "full"}
_FILLS_TOLD = {
    "none": "hollow marks: nothing was trained",
    "small model": "marks with a dot inside: a small model was",
    "language model": "full marks: the language model was",
}


def target_unit(comparison: Mapping[str, Any]) -> ScoreUnit:
    """How the deciding metric's values are written."""
    rows = comparison["approaches"]
    return score_unit(str(comparison["metric"]), *(row[field] for row in rows for field in ("mean", "low", "high")))


def handed_over(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mean and ends of the model that is handed over, which of several trainings is one."""
    own: Mapping[str, Any] = row.get("handed_over") or row  # runs of before have no such key
    return own


def lower_is_better(comparison: Mapping[str, Any]) -> bool:
    """Whether small values of the deciding metric are good ones: seen from the ranking, which is best first."""
    means = [row["mean"] for row in comparison["approaches"] if row["mean"] is not None]
    return bool(means) and means[0] < means[-1]


def difference_to_best(comparison: Mapping[str, Any], name: str) -> Values | None:
    """Mean minus the best approach's, with interval and p where the pair was tested; None for the best itself."""
    best = comparison["approaches"][0]
    if name == best["name"]:
        return None
    for pair in comparison.get("pairs") or ():
        if (pair["a"], pair["b"]) == (name, best["name"]):
            return {key: pair.get(key) for key in ("difference", "low", "high", "p")}
        if (pair["b"], pair["a"]) == (name, best["name"]):
            return _turned(pair)
    row = next(row for row in comparison["approaches"] if row["name"] == name)
    difference = None if row["mean"] is None or best["mean"] is None else row["mean"] - best["mean"]
    return {"difference": difference, "low": None, "high": None, "p": None}


def _turned(pair: Mapping[str, Any]) -> Values:
    low, high = pair.get("low"), pair.get("high")
    return {
        "difference": None if pair["difference"] is None else -pair["difference"],
        "low": None if high is None else -high,
        "high": None if low is None else -low,
        "p": pair.get("p"),
        "asked": pair.get("asked"),
    }


def fill(row: Mapping[str, Any]) -> Fill:
    """How an approach's mark is filled where what was trained is told by it."""
    return _FILLS[row["training"]]


def fills_told(comparison: Mapping[str, Any]) -> str:
    """What the fillings of the marks say, for those that there are."""
    there = {row["training"] for row in comparison["approaches"]}
    told = "; ".join(words for training, words in _FILLS_TOLD.items() if training in there)
    return f"{told[0].upper()}{told[1:]}."


def ranking(folder: RunFolder, looks: Looks) -> Values:
    comparison = folder.comparison
    rows, unit = comparison["approaches"], target_unit(comparison)
    bounds = approach_ends(comparison)
    scale = axis = None
    if bounds:
        bounds += floor_scores(comparison)
        axis = share_axis("", bounds, bounds, unit.tick)
        scale = Scale(axis.low, axis.high, 14, _ROW_WIDTH - 14)
    ticks = linear_ticks(axis.low, axis.high, 4) if axis else []
    floor, shown = near_floor(comparison), []
    for row in rows:
        look, cost = looks[row["name"]], row["cost"]
        value = f"{row['name']}: {unit.value(row['mean'])}, 95% interval {unit.interval(row['low'], row['high'])}"
        plot = whisker(scale, ticks, row["mean"], row["low"], row["high"], look, value, floor=floor) if scale else ""
        shown.append(
            {
                "look": look,
                "recommended": row["name"] == comparison.get("recommended"),
                "unbeaten": unbeaten(row),
                "steps": " → ".join(folder.approach(row["name"]).kinds) or "the model as it comes",
                "plot": plot,
                "mean": unit.value(row["mean"]),
                "interval": unit.interval(row["low"], row["high"]),
                "trainings": row.get("trainings", 1),
                "unscored": row.get("unscored") or 0,
                "behind": _difference_cell(difference_to_best(comparison, row["name"]), unit),
                "train": units.seconds(cost["train_s"]) if cost["train_s"] else "none",
                "trained": _TRAINED[row["training"]] if cost["train_s"] or row["training"] != "none" else "",
                "request": units.seconds(cost["seconds_per_request"]),
                "prompt": units.tokens(cost["prompt_tokens"]),
                "stored": units.size(cost["stored_bytes"]),
                "forgotten": [_forgotten_cell(probe) for probe in forgotten_by(row)],
            }
        )
    return {
        "rows": shown,
        "floors": floor_rows(comparison, scale, ticks, unit),
        "best_floor": _floor_told(comparison, unit) if scale else None,
        "axis": whisker_axis(scale, ticks, unit.tick) if scale else "",
        "unit": unit,
        "smallest": None
        if (least := comparison.get("minimum_detectable")) is None
        else (f"{100 * least:.1f} points" if unit.share else units.plain(least)),
        "intervals": sorted({str(row["interval"]) for row in rows if row.get("interval")}),
        "any_forgotten": any(map(forgotten_by, rows)),
    }


def _floor_told(comparison: Mapping[str, Any], unit: ScoreUnit) -> Values | None:
    """The best floor, and whether it stands as a line beside the approaches."""
    floor = best_floor(comparison)
    if floor is None:
        return None
    drawn = near_floor(comparison) is not None
    return {"name": floor["name"], "mean": unit.value(floor["mean"]), "drawn": drawn}


def _difference_cell(behind: Values | None, unit: ScoreUnit) -> Values | None:
    if behind is None:
        return None
    return {
        "difference": unit.difference(behind["difference"]),
        "interval": unit.difference_interval(behind["low"], behind["high"]) if behind["low"] is not None else "",
    }


def forgotten_by(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The changes of an approach's general probes, and of the tasks that its own earlier steps had learned."""
    earlier = [task for task in row.get("other_tasks") or () if task["since"] != _NOT_LEARNED]
    return [*(row.get("forgotten") or ()), *earlier]


def worsening(probe: Mapping[str, Any]) -> float:
    """How much worse a probe got, as the forgetting limit counts it: points lost, or the relative rise of a loss."""
    before, difference = float(probe["before"]), float(probe["difference"])
    if probe.get("higher_is_better", True):
        return -difference
    return difference / before if before > 0 else difference


def probe_change(probe: Mapping[str, Any]) -> str:
    """A probe's change in short: `−1.8 pt` of a share, `+2.2%` of a loss."""
    if probe.get("higher_is_better", True):
        unit = probe_unit(probe)
        return f"{unit.difference(probe['difference'])}{' pt' if unit.share else ''}"
    return f"{100 * worsening(probe):+.1f}%".replace("-", "−")


def _forgotten_cell(probe: Mapping[str, Any]) -> Values:
    metric = "" if probe.get("higher_is_better", True) else f"{probe['metric']}, "
    return {
        "what": f"{metric}{probe['probe']}".replace("_", " "),
        "change": probe_change(probe),
        "worse": worsening(probe) > 0,
    }


def divergences(folder: RunFolder, looks: Looks) -> Values | None:
    """How far the predictions of each trained approach moved, by what they were compared on."""
    rows = [row for row in folder.comparison["approaches"] if row.get("divergence")]
    columns = list(dict.fromkeys(one["on"] for row in rows for one in row["divergence"]))
    if not rows:
        return None
    return {
        "columns": [column.replace("_", " ") for column in columns],
        "rows": [{"look": looks[row["name"]], "cells": _divergence_cells(row, columns)} for row in rows],
    }


def _divergence_cells(row: Mapping[str, Any], columns: list[str]) -> list[Values | None]:
    found = {one["on"]: one for one in row["divergence"]}
    return [
        {
            "mean": units.plain(one["mean"]),
            "interval": ScoreUnit(share=False).interval(one["low"], one["high"]),
            "n": one["n"],
            "learned": one["learned"],
        }
        if (one := found.get(column))
        else None
        for column in columns
    ]


def probe_unit(probe: Mapping[str, Any]) -> ScoreUnit:
    return score_unit(str(probe["metric"]), probe["before"], probe["after"])


def every_score(folder: RunFolder, looks: Looks) -> Values | None:
    """Means of all metrics on all tasks, where there is more than the one that decides."""
    rows = folder.comparison["approaches"]
    columns = list(
        dict.fromkeys(
            (task, score["metric"])
            for row in rows
            for task, scores in (row.get("scores") or {}).items()
            for score in scores
        )
    )
    if len(columns) < 2:
        return None
    several = len({task for task, _ in columns}) > 1
    table = []
    for row in rows:
        found = {(task, score["metric"]): score for task, scores in row["scores"].items() for score in scores}
        cells = []
        for column in columns:
            score = found.get(column)
            unit = score_unit(column[1], *([score["mean"], score["low"], score["high"]] if score else []))
            cells.append(
                {
                    "mean": unit.value(score["mean"]),
                    "interval": unit.interval(score["low"], score["high"]),
                    "n": score["n"],
                }
                if score
                else None
            )
        table.append({"look": looks[row["name"]], "cells": cells})
    return {"columns": [{"task": task if several else "", "metric": metric} for task, metric in columns], "rows": table}


def every_cost(folder: RunFolder, looks: Looks) -> Values:
    rows, hour_price = [], folder.comparison.get("hour_price")
    for row in folder.comparison["approaches"]:
        cost = row["cost"]
        rate = cost.get("tokens_per_s")
        cells = [
            units.seconds(cost["train_s"]),
            units.seconds(cost["search_s"]),
            units.large(cost["tokens_seen"]) if cost["tokens_seen"] else "none",
            f"{rate:,.0f}" if rate is not None else units.MISSING,
            _trained_parameters(row),
            units.size(cost["peak_bytes"]),
            units.size(cost["stored_bytes"]),
            f"{units.count(cost['prompt_tokens'])} ({units.percent(cost['window_share'])})"
            if cost["prompt_tokens"]
            else "none",
            units.count(cost["passage_tokens"]) if cost.get("passage_tokens") else "none",
            units.plain(cost["completion_tokens"]) if cost.get("completion_tokens") else "none",
            units.seconds(cost["latency_p50_s"]),
            units.seconds(cost["latency_p95_s"]),
            units.plain(cost["throughput_per_s"]),
            units.seconds(row["total_s"]),
        ]
        if hour_price is not None:
            cells.append(units.plain(row["total_s"] / 3600 * hour_price))
        rows.append({"look": looks[row["name"]], "cells": cells})
    requests = units.count(folder.comparison["requests"])
    columns = [
        *("training", "of it, search", "tokens trained on", "tokens/s", "trained parameters", "peak memory", "stored"),
        *(
            "prompt tokens (of window)",
            "of them, passages",
            "answer tokens",
            "latency, median",
            "latency, 95th percentile",
            "requests/s",
        ),
        f"total for {requests} requests",
        *([] if hour_price is None else [f"price of that, at {units.plain(hour_price)} an hour"]),
    ]
    return {"columns": columns, "rows": rows}


def _trained_parameters(row: Mapping[str, Any]) -> str:
    cost = row["cost"]
    if not cost["trainable_parameters"]:
        return "none"
    count = units.large(cost["trainable_parameters"])
    # a small model is no part of the language model, which the share is of
    return count if row["training"] == "small model" else f"{count} ({units.percent(cost['trainable_share'])})"


def cost_picture(folder: RunFolder, looks: Looks) -> Markup | None:
    """The mean with its interval against total seconds, for as many requests as the study names."""
    rows = [row for row in folder.comparison["approaches"] if row["mean"] is not None and row["total_s"] > 0]
    if len(rows) < 2:
        return None
    unit = target_unit(folder.comparison)
    totals = [row["total_s"] for row in rows]
    low, high = min(totals) / 1.6, max(totals) * 1.6
    if high / low < 30:
        middle = (low * high) ** 0.5
        low, high = min(low, middle / 5.5), max(high, middle * 5.5)
    requests = units.count(folder.comparison["requests"])
    x = Axis(f"training + {requests} requests", low, high, log=True, ticks=time_ticks(low, high), write=units.seconds)
    points = [
        Point(looks[row["name"]], row["total_s"], row["mean"], row["low"], row["high"],
              f"{row['name']}: {unit.value(row['mean'])} for {units.seconds(row['total_s'])}",
              fill=fill(row))
        for row in rows
    ]  # fmt: skip
    y, floor = mean_axis(folder, points, unit), floor_level(folder.comparison, unit)
    return responsive(lambda width: scatter(width, "Gain against cost", points, x, y, level=floor))


def mean_axis(folder: RunFolder, points: list[Point], unit: ScoreUnit) -> Axis:
    """The upright axis of the deciding metric; it holds the best floor where that is near."""
    floor = near_floor(folder.comparison)
    near = [] if floor is None else [floor]
    lows = [point.low if point.low is not None else point.y for point in points] + near
    highs = [point.high if point.high is not None else point.y for point in points] + near
    label = str(folder.comparison["metric"]).replace("_", " ")
    if lower_is_better(folder.comparison):
        label += " (lower is better)"
    return share_axis(label, lows, highs, unit.tick)


def forgetting_pictures(folder: RunFolder, looks: Looks) -> list[Values]:
    """One picture for each probe: the mean against what the probe lost; worse is always to the left."""
    rows = [row for row in folder.comparison["approaches"] if row["mean"] is not None]
    unit = target_unit(folder.comparison)
    names = list(dict.fromkeys(probe["probe"] for row in rows for probe in row.get("forgotten") or ()))
    return [_forgetting_picture(folder, rows, name, looks, unit) for name in names]


def _forgetting_picture(
    folder: RunFolder, rows: list[Mapping[str, Any]], name: str, looks: Looks, unit: ScoreUnit
) -> Values:
    found = {row["name"]: probe for row in rows for probe in row.get("forgotten") or () if probe["probe"] == name}
    probe = next(iter(found.values()))
    lost, better_up = probe_unit(probe), bool(probe.get("higher_is_better", True))
    points = []
    for row in rows:
        one = found.get(row["name"])
        if one is None and row.get("forgotten"):
            continue
        x = one["difference"] if one else 0.0
        change = lost.difference(x) if one else "the model that answers was not changed"
        title = f"{row['name']}: {unit.value(row['mean'])}, {name} {change}"
        points.append(
            Point(looks[row["name"]], x, row["mean"], row["low"], row["high"], title,
                  one.get("low") if one else None, one.get("high") if one else None, fill=fill(row))
        )  # fmt: skip
    ends = [0.0, *(v for p in points for v in (p.x, p.x_low, p.x_high) if v is not None)]
    limit = folder.comparison.get("forgetting_limit")
    rules = [(0.0, "")]
    if limit is not None and (lost.share or not better_up):
        at = -limit if better_up else limit * probe["before"]
        ends.append(at)
        rules.append((at, f"limit {lost.difference(at)}"))
    low, high = padded(min(ends), max(ends), 0.1)
    label = f"change of {probe['metric'].replace('_', ' ')}{', points' if lost.share else ''} (worse to the left)"
    x_axis = Axis(label, low, high, write=lost.difference_tick, reverse=not better_up)
    y_axis, floor = mean_axis(folder, points, unit), floor_level(folder.comparison, unit)
    return {
        "probe": name,
        "n": probe["n"],
        "picture": responsive(
            lambda width: scatter(width, f"Gain against {name}", points, x_axis, y_axis, rules, floor)
        ),
    }


def pairs(folder: RunFolder, looks: Looks) -> Values | None:
    """All pairs as a forest plot in a table, the higher ranked approach first."""
    found = folder.comparison.get("pairs") or []
    if not found:
        return None
    unit = target_unit(folder.comparison)
    rank = {row["name"]: index for index, row in enumerate(folder.comparison["approaches"])}
    ordered = []
    for pair in found:
        a, b = pair["a"], pair["b"]
        ordered.append((b, a, _turned(pair)) if rank[b] < rank[a] else (a, b, pair))
    ordered.sort(key=lambda pair: (not pair[2].get("asked"), rank[pair[0]], rank[pair[1]]))
    ends = [
        v for *_, pair in ordered for v in (0.0, pair["difference"], pair.get("low"), pair.get("high")) if v is not None
    ]
    low, high = padded(min(ends), max(ends))
    scale, ticks = Scale(low, high, 18, 230), linear_ticks(low, high, 5)
    rows: list[Values] = []
    for a, b, pair in ordered:
        title = f"{a} minus {b}: {unit.difference(pair['difference'])}"
        rows.append(
            {
                "a": looks[a],
                "b": looks[b],
                "plot": whisker(
                    scale, ticks, pair["difference"], pair.get("low"), pair.get("high"), looks[a], title, zero=True
                ),
                "difference": unit.difference(pair["difference"]),
                "interval": unit.difference_interval(pair.get("low"), pair.get("high")),
                "p": units.p_value(pair.get("p")),
                "settled": pair.get("p") is not None and pair["p"] < 0.05,
                "asked": bool(pair.get("asked")),
            }
        )
    axis = whisker_axis(scale, ticks, unit.difference_tick)
    asked = sum(row["asked"] for row in rows)
    return {"rows": rows, "axis": axis, "unit": unit.points, "asked": asked}


def break_even(folder: RunFolder, looks: Looks) -> Values | None:
    """Total cost by number of requests, and where training has paid for itself; None where nothing was trained."""
    found = folder.comparison.get("break_even") or []
    rows = folder.comparison["approaches"]
    lines = [
        CostLine(looks[row["name"]], row["cost"]["train_s"], row["cost"]["seconds_per_request"])
        for row in rows
        if row["cost"]["seconds_per_request"] > 0
    ]
    if not found or len(lines) < 2:
        return None
    crossings = [(looks[pair["trained"]], float(pair["requests"])) for pair in found if pair["requests"] is not None]
    requests = folder.comparison["requests"]
    picture = responsive(
        lambda width: cost_lines(width, "Total cost by number of requests", lines, requests, crossings)
    )
    when = {(pair["trained"], pair["untrained"]): pair["requests"] for pair in found}
    untrained = list(dict.fromkeys(pair["untrained"] for pair in found))
    table = [
        {
            "look": looks[trained],
            "cells": [
                "" if (trained, other) not in when
                else "never" if (at := when[trained, other]) is None
                else f"{at:,.0f}"
                for other in untrained
            ],
        }
        for trained in dict.fromkeys(pair["trained"] for pair in found)
    ]  # fmt: skip
    return {
        "picture": picture,
        "columns": [looks[name] for name in untrained],
        "rows": table,
        "legend": [cost.look for cost in lines],
    }
