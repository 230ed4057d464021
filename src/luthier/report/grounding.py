"""Approaches that retrieve: which half is weak, how well passages are found, whether answers stand on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.report import units
from luthier.report.folder import RunFolder
from luthier.report.pictures import share_axis, whisker, whisker_axis
from luthier.report.svg import Look, Scale, linear_ticks

_ROW_WIDTH = 300
Values = dict[str, Any]

_NAMES = {
    "abstained": "not in the documents",
    "string_support": "answer stands in a passage",
    "ngram_support": "words that stand there",
    "cited": "names a passage",
    "citation_exists": "named numbers that exist",
    "citation_supports": "named passage holds the answer given",
    "citation_right": "named passage is right",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
}


def halves(folder: RunFolder, looks: Mapping[str, Look]) -> Values | None:
    """The conditions of each diagnosis, one row each; None where nothing was diagnosed."""
    found = folder.comparison.get("diagnosis") or {}
    if not found:
        return None
    rows = [row for own in found.values() for row in own["conditions"]]
    metric = next(iter(found.values()))["metric"]
    unit = units.score_unit(metric, *(row["mean"] for row in rows))
    axis = share_axis("", [row["low"] for row in rows], [row["high"] for row in rows], unit.tick)
    scale = Scale(axis.low, axis.high, 14, _ROW_WIDTH - 14)
    ticks = linear_ticks(axis.low, axis.high, 4)
    return {
        "metric": metric,
        "n": max(row["n"] for row in rows),
        "same_n": len({row["n"] for row in rows}) == 1,
        "axis": whisker_axis(scale, ticks, unit.tick),
        "approaches": [
            {
                "look": looks[name],
                "n": own["conditions"][0]["n"],
                "advice": own["advice"],
                "rows": [
                    {
                        "name": row["name"],
                        "mean": unit.value(row["mean"]),
                        "interval": unit.interval(row["low"], row["high"]),
                        "plot": whisker(
                            scale,
                            ticks,
                            row["mean"],
                            row["low"],
                            row["high"],
                            looks[name],
                            f"{name}, {row['name']}: {unit.value(row['mean'])}",
                        ),
                    }
                    for row in own["conditions"]
                ],
            }
            for name, own in found.items()
        ],
    }


def grounding(folder: RunFolder, looks: Mapping[str, Look]) -> list[Values]:
    """A table of retrieval's measures and one of the answers' support; none where nothing retrieves."""
    found = folder.comparison.get("grounding") or {}
    titles = {
        "ranking": "How well passages are found",
        "support": "Whether answers stand on the passages",
    }
    tables = [_table(title, {name: own[key] for name, own in found.items()}, looks) for key, title in titles.items()]
    return [table for table in tables if table["columns"]]


def room(folder: RunFolder, looks: Mapping[str, Look]) -> list[Values]:
    """Approaches to which passages were found that had no room, or that their embedder does not read to the end."""
    found = folder.comparison.get("grounding") or {}
    return [{"look": looks[name], "note": "; ".join(notes)} for name, own in found.items() if (notes := _room(own))]


def _room(own: Mapping[str, Any]) -> list[str]:
    notes = []
    if own["dropped"]:
        notes.append(
            f"{own['shown']:.1f} passages are shown on average where {own['k']} may be; {own['dropped']:,} that were "
            "found had no room (tokens, or the model's window), though they count as found here"
        )
    if own["too_long"]:
        notes.append(
            f"of {own['too_long']:,} of {own['passages']:,} passages the embedder reads the beginning only: smaller "
            "chunks would be seen whole"
        )
    return notes


def _table(title: str, found: Mapping[str, Sequence[Mapping[str, Any]]], looks: Mapping[str, Look]) -> Values:
    measures = list(dict.fromkeys(row["measure"] for own in found.values() for row in own))
    unit = units.ScoreUnit(share=True)
    rows = []
    for name, own in found.items():
        by_measure = {row["measure"]: row for row in own}
        cells = []
        for measure in measures:
            row = by_measure.get(measure)
            cells.append(
                {"value": units.MISSING, "interval": ""}
                if row is None
                else {
                    "value": unit.value(row["mean"]),
                    "interval": f"{unit.interval(row['low'], row['high'])}, n = {row['n']:,}",
                }
            )
        rows.append({"look": looks[name], "cells": cells})
    return {"title": title, "columns": [_NAMES.get(own, own) for own in measures], "rows": rows}


def revision(folder: RunFolder, looks: Mapping[str, Look]) -> Values | None:
    """What each approach answers once documents have changed; None where none do."""
    found = folder.comparison.get("revision")
    if not found:
        return None
    first = next(iter(found.values()))
    unit = units.ScoreUnit(share=True)
    columns = [("revised", "new", "says what is written now"), ("revised", "old", "says what was written before")]
    columns += [("removed", "old", "still says what was there"), ("removed", "absent", "says that it is not there")]
    columns = [own for own in columns if first[own[0]]["n"]]
    return {
        "revised": first["revised"]["n"],
        "removed": first["removed"]["n"],
        "columns": [{"about": about, "title": title} for about, _, title in columns],
        "rows": [
            {
                "look": looks[name],
                "cells": [
                    {
                        "value": unit.value(own[about][key]["mean"]),
                        "interval": unit.interval(own[about][key]["low"], own[about][key]["high"]),
                    }
                    for about, key, _ in columns
                ],
            }
            for name, own in found.items()
        ],
    }
