"""Keep the figures of a finished run of a shipped study, for bench/RESULTS.md.

    luthier run studies/behavioural.yaml --output runs/behavioural
    .venv/bin/python bench/studies.py runs/behavioural
    .venv/bin/python bench/record.py

What is said of them stands in results/studies/NAME.md and is written by hand; the tables are made from the run alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "results" / "studies"
Values = Mapping[str, Any]

_OF_RUN = ("name", "finished", "seconds", "targets", "model", "device", "precision", "seed", "machine", "versions")
_OF_COMPARISON = (
    *("target", "targets", "metric", "n", "split", "approaches", "floors", "pairs", "by_task", "matrix", "seeds"),
)
_OF_RETRIEVAL = ("grounding", "diagnosis", "revision")
_MOST_COLUMNS = 5  # of tasks; with more they stand in rows
_MOST_TASKS = 2  # a study with more targets shows them in a table of their own, task by row


def kept_of(run: Path) -> dict[str, Any]:
    """What is kept of a run folder."""
    about, comparison = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("run", "comparison")
    )
    sizes = {name: {k: task[k] for k in ("train", "validation", "test")} for name, task in about["tasks"].items()}
    return {
        **{key: about[key] for key in _OF_RUN},
        **{key: comparison.get(key) for key in (*_OF_COMPARISON, "recommended", "headline", "verdict")},
        **{key: comparison[key] for key in _OF_RETRIEVAL if comparison.get(key)},
        "tasks": sizes,
        "choices": {name: _taken(run, name) for name in (row["name"] for row in comparison["approaches"])},
        "curves": list(_results(run, comparison)),
    }


def _taken(run: Path, name: str) -> list[dict[str, Any]]:
    approach = json.loads((run / "approaches" / name / "approach.json").read_text(encoding="utf-8"))
    return [one for choice in approach["choices"] for one in choice["tried"] if one["taken"]]


def _results(run: Path, comparison: Values) -> Iterator[dict[str, Any]]:
    """Curves and tables that steps drew, with the approaches that they belong to."""
    owners: dict[str, list[str]] = {}
    for row in comparison["approaches"]:
        approach = json.loads((run / "approaches" / row["name"] / "approach.json").read_text(encoding="utf-8"))
        for step in approach["steps"]:
            owners.setdefault(step["hash"], []).append(row["name"])
    for step, names in owners.items():
        for file in sorted((run / "steps" / step).glob("results/*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["kind"] == "curve" or (content["kind"] == "table" and file.stem == "points"):
                yield {"approaches": names, **content}


def read_studies(folder: Path = KEPT) -> list[dict[str, Any]]:
    """What was kept, by name, each with what is said of it."""
    found = []
    for file in sorted(folder.glob("*.json")):
        said = file.with_suffix(".md")
        own = json.loads(file.read_text(encoding="utf-8"))
        found.append({**own, "said": said.read_text(encoding="utf-8").strip() if said.is_file() else ""})
    return found


def sections(studies: Sequence[Values]) -> str:
    """All of them as Markdown, one section each."""
    return "\n\n".join("\n\n".join(_section(study)) for study in studies) or "None has been run at full size yet."


def _section(study: Values) -> Iterator[str]:
    name, machine = study["name"], study["machine"]
    yield f"### studies/{name}.yaml"
    sizes = _sizes(study["tasks"])
    versions = ", ".join(f"{package} {study['versions'][package]}" for package in ("torch", "transformers", "peft"))
    yield (
        f"`luthier run studies/{name}.yaml --output runs/{name}`: {study['model']} in {study['precision']}, seed "
        f"{study['seed']}, {study['finished'][:10]}, {machine['cpu']}, {machine['cores']} cores; {versions}; "
        f"{study['seconds'] / 60:.0f} minutes in all. Examples: {sizes}."
    )
    if study["said"]:
        yield study["said"]
    yield f"The report's verdict: *{' '.join(filter(None, (study.get('headline'), study['verdict'])))}*"
    yield _ranking(study)
    if len(study["targets"]) > _MOST_TASKS:
        yield _by_task(study)
    if study["seeds"]:
        yield _seeds(study)
    yield from _retrieval(study)
    for approach, matrices in study["matrix"].items():
        for matrix in matrices:
            yield _stages(approach, matrix)
    yield from _curves(study["curves"])


def _sizes(tasks: Values) -> str:
    """Examples of each task, or of many together."""
    splits = ("training", "train"), ("validation", "validation"), ("test", "test")
    if len(tasks) <= _MOST_COLUMNS:
        shown = (f"{name}: " + ", ".join(f"{own[key]:,} {word}" for word, key in splits) for name, own in tasks.items())
        return "; ".join(shown)
    words = (
        f"{sum(own[key] for own in tasks.values()):,} {word} (a task "
        f"{min(own[key] for own in tasks.values()):,} to {max(own[key] for own in tasks.values()):,})"
        for word, key in splits
    )
    return f"{len(tasks)} tasks, {', '.join(words)}"


def _ranking(study: Values) -> str:
    share = _is_share(study["metric"])
    probes = list(dict.fromkeys(probe["probe"] for row in study["approaches"] for probe in row.get("forgotten", ())))
    others = [task for task in study["tasks"] if task not in study["targets"]]
    heading = [
        *("", f"{study['metric'].replace('_', ' ')} (n = {study['n']:,})", "against the best, p (adjusted)"),
        *("training and search", "trained share", "stored", "peak memory"),
        *(f"{probe.replace('_', ' ')}, change" for probe in probes),
        *(["KL on general text"] if any(row.get("divergence") for row in study["approaches"]) else []),
        *(f"{task}: {_metric_of(study, task).replace('_', ' ')}" for task in others),
    ]
    rows = []
    for row in study["approaches"]:
        cost = row["cost"]
        changes = {probe["probe"]: probe for probe in row.get("forgotten", ())}
        cells = [
            f"**{row['name']}**" if row["name"] == study["recommended"] else row["name"],
            _with_interval(row, share) + (f", mean of {row['trainings']}" if row.get("trainings", 1) > 1 else ""),
            _to_best(study, row["name"], share),
            f"{cost['train_s'] / 60:.1f} min" if cost["train_s"] else "–",
            f"{100 * cost['trainable_share']:.2f}%" if cost["trainable_share"] else "–",
            f"{cost['stored_bytes'] / 1e6:.1f} MB" if cost["stored_bytes"] else "–",
            f"{cost['peak_bytes'] / 1e9:.2f} GB",
            *(_change(changes[probe]) if probe in changes else "–" for probe in probes),
        ]
        if "KL on general text" in heading:
            cells.append(f"{row['divergence'][0]['mean']:.3f}" if row.get("divergence") else "–")
        for task in others:
            found = row["scores"][task][0]
            cells.append(_with_interval(found, _is_share(found["metric"])))
        rows.append(cells)
    for floor in study.get("floors") or ():  # not there in studies that were kept before
        rows.append([f"floor: {floor['words']}", _with_interval(floor, share), *[""] * (len(heading) - 2)])
    note = "Brackets hold 95% intervals; in bold what the study recommends. Changes of probes are paired with the base."
    return f"{_table(heading, rows)}\n\n{note}"


def _by_task(study: Values) -> str:
    names = [row["name"] for row in study["approaches"]]
    rows = []
    for task in study["targets"]:
        scores = [row["scores"][task][0] for row in study["approaches"]]
        rows.append([task, *(_value(one["mean"], _is_share(one["metric"])) for one in scores)])
    metrics = {study["approaches"][0]["scores"][task][0]["metric"].replace("_", " ") for task in study["targets"]}
    worst = []
    for row in study["approaches"]:
        scores = [(row["scores"][task][0]["mean"], task) for task in study["targets"]]
        value, task = min(scores)
        worst.append(f"{task} {_value(value, True)}")
    rows.append(["*worst*", *worst])
    lost = [
        f"- {pair['a']} beside {pair['b']}: higher on {pair['higher']} tasks, lower on {pair['lower']}; shown to be "
        f"better on {pair['better']}, worse on {pair['worse']}"
        for pair in study["by_task"]
        if names[0] in (pair["a"], pair["b"])
    ]
    title = f"Task by task, {' and '.join(sorted(metrics))}:"
    return "\n\n".join([title, _table(["", *names], rows), "\n".join(lost)])


def _seeds(study: Values) -> str:
    seeds = study["seeds"]
    share = _is_share(seeds["metric"])
    probes = {row["name"]: {one["probe"]: one for one in row.get("forgotten", ())} for row in study["approaches"]}
    names = list(dict.fromkeys(probe for row in seeds["approaches"] for probe in row["seeds"][-1].get("forgotten", ())))
    heading = [
        *("", "mean over seeds", "standard deviation", *(f"seed {own['seed']}" for own in _first_seeds(seeds))),
        *(f"{probe.replace('_', ' ')}, change (least to most)" for probe in names),
    ]
    rows = [
        [
            row["name"],
            _value(row["mean"], share),
            f"{100 * row['sd']:.1f} points" if share else f"{row['sd']:.3g}",
            *(_value(own["mean"], share) for own in row["seeds"]),
            # A small model has no general ability to lose.
            *(_changes(own, row["seeds"]) if (own := probes[row["name"]].get(probe)) else "–" for probe in names),
        ]
        for row in seeds["approaches"]
    ]
    return "The finalists over seeds, on the test:\n\n" + _table(heading, rows)


def _changes(probe: Values, seeds: Sequence[Values]) -> str:
    """The mean of a probe's changes over seeds, the least and the most of them."""
    changes = [one["forgotten"][probe["probe"]] for one in seeds]
    return _change({**probe, "difference": sum(changes) / len(changes), "low": min(changes), "high": max(changes)})


def _first_seeds(seeds: Values) -> Sequence[Values]:
    return seeds["approaches"][0]["seeds"]  # type: ignore[no-any-return]


def _retrieval(study: Values) -> Iterator[str]:
    """What approaches with documents find, stand on, lack, and say when documents have changed."""
    if found := study.get("grounding"):
        for key, title in (("ranking", "Passages found"), ("support", "What answers stand on")):
            measures = list(dict.fromkeys(row["measure"] for own in found.values() for row in own[key]))
            rows = []
            for name, own in found.items():
                by_measure = {row["measure"]: row for row in own[key]}
                cells = [_with_interval(by_measure[m], True) if m in by_measure else "–" for m in measures]
                rows.append([name, *cells])
            tokens = {row["name"]: row["cost"]["passage_tokens"] for row in study["approaches"]}
            if key == "ranking":
                measures.append("passage tokens a prompt")
                rows = [[*row, f"{tokens[row[0]]:.0f}"] for row in rows]
            yield f"{title}, on the {study['split']} examples:\n\n" + _table(["", *measures], rows)
    if found := study.get("diagnosis"):
        share = _is_share(next(iter(found.values()))["metric"])
        conditions = [row["name"] for row in next(iter(found.values()))["conditions"]]
        n = next(iter(found.values()))["conditions"][0]["n"]
        rows = [[name, *(_with_interval(row, share) for row in own["conditions"])] for name, own in found.items()]
        yield f"Search or answering? On {n} validation examples:\n\n" + _table(["", *conditions], rows)
        yield "\n".join(f"- {name}: {own['advice']}" for name, own in found.items())
    if found := study.get("revision"):
        first = next(iter(found.values()))
        columns = [("revised", "new"), ("revised", "old"), ("removed", "old"), ("removed", "absent")]
        heading = ["", "revised: new version", "revised: old version", "removed: old text", "removed: not there"]
        rows = [[name, *(_with_interval(own[part][key], True) for part, key in columns)] for name, own in found.items()]
        yield (
            f"When all is trained, documents change ({first['revised']['n']} questions on revised ones, "
            f"{first['removed']['n']} on a removed one):\n\n{_table(heading, rows)}"
        )


def _stages(approach: str, matrix: Values) -> str:
    columns = matrix["columns"]
    names = [f"{one['task']}: {one['metric'].replace('_', ' ')}" for one in columns]
    rows = []
    for at, row in enumerate(matrix["rows"]):
        cells = []
        for column, one in enumerate(columns):
            own = {
                "mean": matrix["values"][at][column],
                "low": matrix["low"][at][column],
                "high": matrix["high"][at][column],
            }
            cells.append(_with_interval(own, _is_share(one["metric"])))
        rows.append([row["name"], *cells])
    counts = ", ".join(f"{one['task']} {n}" for one, n in zip(columns, matrix["n"], strict=True))
    heading = ["", *names]
    if len(columns) > _MOST_COLUMNS:
        if len(set(matrix["n"])) == 1:
            counts = f"{matrix['n'][0]} of each task"
        heading, *rows = [list(row) for row in zip(heading, *rows, strict=True)]
    share = _is_share(columns[0]["metric"])
    figures = []
    for key, title in (
        ("average", "average over the tasks learned"),
        ("backward_transfer", "backward transfer"),
        ("forward_transfer", "forward transfer"),
    ):
        own = matrix[key]
        if own and own["value"] is not None:
            figures.append(f"{title} {_with_interval({**own, 'mean': own['value']}, share)}")
    return (
        f"{approach}, stage after stage, {matrix['measure']} (n: {counts}):\n\n"
        f"{_table(heading, rows)}\n\n{'; '.join(figures)}."
    )


def _curves(curves: Sequence[Values]) -> Iterator[str]:
    grouped: dict[str, list[Values]] = {}
    for one in curves:
        if one["kind"] == "curve":
            grouped.setdefault(f"{one['title']} ({one['y_label']})", []).append(one)
    for title, members in grouped.items():
        xs = sorted({x for one in members for x in one["x"]})
        share = _is_share(members[0]["y_label"].split(" on ")[0].replace(" ", "_"))
        rows = []
        for one in members:
            at = {x: n for n, x in enumerate(one["x"])}
            cells = [
                _with_interval({"mean": one["y"][at[x]], "low": one["low"][at[x]], "high": one["high"][at[x]]}, share)
                if x in at
                else "–"
                for x in xs
            ]
            rows.append([", ".join(one["approaches"]), *cells])
        yield f"{title}, by {members[0]['x_label']}:\n\n" + _table(["", *(f"{x:,}" for x in xs)], rows)
    for one in curves:
        if one["kind"] == "table":
            rows = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in one["rows"]]
            yield f"{', '.join(one['approaches'])}: {one['title'].lower()}\n\n" + _table(one["columns"], rows)


def _metric_of(study: Values, task: str) -> str:
    return study["approaches"][0]["scores"][task][0]["metric"]  # type: ignore[no-any-return]


def _is_share(metric: str) -> bool:
    return metric not in ("loss", "perplexity", "mean loss", "mean_loss")


def _value(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if share else f"{value:.3f}".replace("-", "−")


def _with_interval(own: Values, share: bool) -> str:
    if own["low"] is None or own["high"] is None:
        return _value(own["mean"], share)
    low, high = (f"{100 * end:.1f}" if share else f"{end:.3f}" for end in (own["low"], own["high"]))
    return f"{_value(own['mean'], share)} [{low}, {high}]".replace("-", "−")


def _to_best(study: Values, name: str, share: bool) -> str:
    best = study["approaches"][0]["name"]
    if name == best:
        return "best"
    (pair,) = [own for own in study["pairs"] if {own["a"], own["b"]} == {name, best}]
    turn = 1 if pair["a"] == name else -1
    unit = 100 if share else 1
    low, high = sorted(turn * unit * end for end in (pair["low"], pair["high"]))
    digits = 1 if share else 3
    p = "< 0.001" if pair["p"] < 0.001 else f"{pair['p']:.3f}"
    text = f"{turn * unit * pair['difference']:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}], {p}"
    return text.replace("-", "−")


def _change(probe: Values) -> str:
    share = probe["metric"] != "loss"
    unit, digits = (100, 0) if share else (1, 3)
    change, low, high = (f"{unit * probe[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    text = f"{change} [{low}, {high}]"
    return text.replace("-", "−") + (" points" if share else " nats")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heading) + " |", "|---" + "|---:" * (len(heading) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description="Keep the figures of a finished run of a shipped study in bench/results/studies.",
        epilog="Example: .venv/bin/python bench/studies.py runs/behavioural",
    )
    found.add_argument("run", type=Path, help="the run folder")
    return found


if __name__ == "__main__":
    folder: Path = parser().parse_args().run
    kept = kept_of(folder)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{kept['name']}.json").write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
