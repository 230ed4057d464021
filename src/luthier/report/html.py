"""Write the report: one HTML file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from luthier.errors import RunError
from luthier.report import comparing, units
from luthier.report.confusion import confusion, draw_confusion
from luthier.report.curve import Curve, curves
from luthier.report.examples import BUDGET_BYTES, browser
from luthier.report.floors import all_unbeaten
from luthier.report.folder import Result, RunFolder, read_run
from luthier.report.grounding import grounding, halves, revision, room
from luthier.report.other_tasks import other_tasks, task_pictures
from luthier.report.pictures import responsive
from luthier.report.results import draw, histogram
from luthier.report.seeds import seed_rows
from luthier.report.stages import stage_pictures
from luthier.report.sureness import sureness
from luthier.report.svg import Look, key, looks
from luthier.report.tasks import task_by_task

_HERE = Path(__file__).parent
Values = dict[str, Any]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a finished run's folder, from that folder's files alone.

    Returns:
        The file written.

    Raises:
        RunError: The folder is not a finished run, or a field is missing in its files.
    """
    path, folder = run_dir / "report.html", read_run(run_dir)
    try:
        page = render(folder)
    except (KeyError, UndefinedError) as error:
        raise RunError(
            f"{run_dir}: a field that the report needs is missing: {error}. Was the run made by another version of "
            f"Luthier? Run `luthier run STUDY --output {run_dir}` with the same study to complete it."
        ) from error
    path.write_text(page, encoding="utf-8")
    return path


def render(folder: RunFolder, budget_bytes: int = BUDGET_BYTES) -> str:
    """The page. The same folder gives the same page, to the byte."""
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["key"] = key
    environment.filters |= {
        "count": units.count,
        "large": units.large,
        "seconds": units.seconds,
        "size": units.size,
        "setting": units.setting,
        "plural": units.plural,
        "settings_taken": units.settings_taken,
        "moment": units.moment,
        "breakable": units.breakable,
    }
    known = looks([approach.name for approach in folder.approaches])
    examples = browser(folder, budget_bytes)
    return environment.get_template(
        "report.html"
    ).render(
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=f"sha256-{digest}",
        run=folder.run,
        data=folder.data,
        comparison=folder.comparison,
        split=folder.comparison.get("split", "test"),
        looks=known,
        ranking=comparing.ranking(folder, known),
        all_unbeaten=all_unbeaten(folder.comparison),
        fills_told=comparing.fills_told(folder.comparison),
        lower_is_better=comparing.lower_is_better(folder.comparison),
        scores=comparing.every_score(folder, known),
        costs=comparing.every_cost(folder, known),
        cost_picture=comparing.cost_picture(folder, known),
        sureness=sureness(folder, known),
        forgetting=comparing.forgetting_pictures(folder, known),
        task_pictures=task_pictures(folder, known),
        other_tasks=other_tasks(folder, known),
        divergence=comparing.divergences(folder, known),
        stages=stage_pictures(folder, known),
        by_task=task_by_task(folder, known),
        seeds=seed_rows(folder.comparison, known),
        halves=halves(folder, known),
        grounding=grounding(folder, known),
        room=room(folder, known),
        revision=revision(folder, known),
        pairs=comparing.pairs(folder, known),
        break_even=comparing.break_even(folder, known),
        compared_curves=_compared_curves(folder.results, known),
        curves=_groups(_curves(folder.results), known),
        inside=_groups([one for one in folder.results if one.content.get("kind") not in ("series", "curve")], known),
        confusions=_confusions(folder, known),
        examples=examples,
        examples_json=Markup(examples.json),  # noqa: S704 - written by script_json
        labels=_labels(folder),
        tried=_tried(folder, known),
        histograms=_histograms(folder),
        day=str(folder.run.get("finished") or "")[:10],
    )


def _groups(results: Sequence[Result], known: Mapping[str, Look]) -> list[Values]:
    """Results of one title together, one for each approach that has it."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(str(result.content.get("title") or result.name), []).append(result)
    return [
        {"title": title, "members": [_member(result, group, known) for result in group]}
        for title, group in groups.items()
    ]


def _curves(results: Sequence[Result]) -> list[Result]:
    """The results of kind series; those that set several lines beside each other come first."""
    found = [one for one in results if one.content.get("kind") == "series"]
    return sorted(found, key=lambda one: len(one.content["lines"]) < 2)


def _compared_curves(results: Sequence[Result], known: Mapping[str, Look]) -> list[Values]:
    """Results of kind curve, all of one title in one picture."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.content.get("kind") == "curve":
            groups.setdefault(str(result.content["title"]), []).append(result)
    return [
        {
            "title": title,
            "picture": curves([Curve(known[one.owners[0]], ", ".join(one.owners), one.content) for one in group]),
            "intervals": any(low is not None for one in group for low in one.content["low"]),
        }
        for title, group in groups.items()
    ]


def _member(result: Result, group: Sequence[Result], known: Mapping[str, Look]) -> Values:
    look = known[result.owners[0]]
    beside = [other.content for other in group if other is not result]
    return {
        "look": look,
        "owners": ", ".join(result.owners),
        "step": result.step,
        "picture": draw(result.content, look, beside),
        "note": result.content.get("note") or "",
        "own_scale": bool(beside) and result.content.get("kind") == "matrix",
    }


def _labels(folder: RunFolder) -> list[str]:
    return list(dict.fromkeys(label for task in folder.run["tasks"].values() for label in task.get("labels") or ()))


def _confusions(folder: RunFolder, known: Mapping[str, Look]) -> list[Values]:
    """For each task with labels, every approach's matrix and most confused pairs."""
    shown = []
    for task, about in folder.run["tasks"].items():
        if not about.get("labels") or about.get("label_separator"):
            continue  # of several labels an answer there is no single one that was taken for another
        members = []
        for approach in folder.approaches:
            rows = [row for row in approach.predictions if row["task"] == task and not row.get("unserved")]
            if not rows:
                continue
            table = confusion(rows, about["labels"])
            pairs = table.confused()
            members.append(
                {
                    "look": known[approach.name],
                    "picture": draw_confusion(table, f"{approach.name}: right label by row, answer by column"),
                    "pairs": [(right, answered, n, table.total(right)) for right, answered, n in pairs[:12]],
                    "left_out": max(0, len(pairs) - 12),
                }
            )
        if members:
            shown.append({"task": task, "labels": len(about["labels"]), "members": members})
    return shown


def _tried(folder: RunFolder, known: Mapping[str, Look]) -> list[Values]:
    """What each approach consists of, and the settings that were tried for it."""
    return [
        {
            "look": known[approach.name],
            "steps": approach.approach["steps"],
            "choices": [_choice(choice) for choice in approach.approach.get("choices") or ()],
        }
        for approach in folder.approaches
    ]


def _choice(choice: Mapping[str, Any]) -> Values:
    """A choice as a table whose columns are the settings that differed."""
    tried = [{**one, "settings": units.flat(one["settings"])} for one in choice["tried"]]
    keys = list(dict.fromkeys(key for one in tried for key in one["settings"]))
    varied = [key for key in keys if len({units.setting(one["settings"].get(key)) for one in tried}) > 1]
    varied = varied or [key for key in keys if key != "step"]
    metric = str(tried[0]["metric"]) if tried else ""
    unit = units.score_unit(metric, *(one["score"] for one in tried))
    rows = [
        {
            "settings": [units.setting(one["settings"].get(key)) for key in varied],
            "score": unit.value(one["score"]),
            "seconds": units.seconds(one["seconds"]),
            "taken": one["taken"],
            "given_up_at": one.get("given_up_at"),
        }
        for one in tried
    ]
    columns = [{"name": key, "num": all(units.is_number(one["settings"].get(key)) for one in tried)} for key in varied]
    return {"step": choice["step"], "columns": columns, "metric": metric, "rows": rows}


def _histograms(folder: RunFolder) -> dict[str, Markup]:
    """Token histograms of the training split (the largest), by task."""
    shown = {}
    for task, about in folder.data.items():
        tokens = about.get("tokens") or {}
        for split in ("train", "validation", "test"):
            bins = (tokens.get(split) or {}).get("histogram")
            if bins:
                shown[task] = _histogram(f"examples of the {split} split", bins)
                break
    return shown


def _histogram(title: str, bins: Sequence[Sequence[float]]) -> Markup:
    return responsive(lambda width: histogram(width, title, bins, "bar"))
