"""Whether a small test gives the verdict of a large one: test sets drawn from the kept answers of finished runs."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import outcome

NAME = "verdict_subsets"
KEPT = outcome.RESULTS / "outcomes"
SIZES, DRAWS, QUICK_DRAWS = (180, 480), 200, 10
Values = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    found = outcome.options(__doc__, NAME)
    found.add_argument("--keep", type=Path, help="a run folder, whose right and wrong answers are kept to draw from")
    return found


def outcomes_of(run: Path) -> Values:
    """What each approach, each of its trainings and each floor had right, and all else that a verdict rests on."""
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    (target,) = comparison["targets"]
    metric = comparison["metric"]

    def right(folder: Path) -> str:
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: str(row["id"]))
        scores = [row["scores"][metric] for row in rows if row["task"] == target]
        assert set(scores) <= {0.0, 1.0}, f"{metric} is no matter of right and wrong"
        return "".join(str(int(score)) for score in scores)

    seeds = {own["name"]: own["seeds"][1:] for own in (comparison["seeds"] or {"approaches": []})["approaches"]}
    approaches = []
    for row in comparison["approaches"]:
        folder = run / "approaches" / row["name"]
        again = [right(folder / "seeds" / str(one["seed"])) for one in seeds.get(row["name"], [])]
        kind = json.loads((folder / "predictor.json").read_text(encoding="utf-8")).get("kind", "prompted model")
        approaches.append(
            {key: row[key] for key in ("name", "training", "cost")}
            | {"kind": kind, "validation": _validation(run, folder), "right": [right(folder), *again]}
        )
    floors = [
        {key: row[key] for key in ("name", "kind", "words")} | {"right": right(run / "floors" / row["name"])}
        for row in comparison["floors"]
    ]
    settings = {key: comparison[key] for key in ("requests", "margin", "forgetting_limit", "n")}
    name = json.loads((run / "run.json").read_text(encoding="utf-8"))["name"]
    return {"name": name, "metric": metric, **settings, "approaches": approaches, "floors": floors}


def _validation(run: Path, folder: Path) -> float | None:
    """What an approach scored on validation by the deciding metric; None where it was not asked."""
    steps = json.loads((folder / "approach.json").read_text(encoding="utf-8"))["steps"]
    places = [*(run / "steps" / step["hash"] for step in reversed(steps)), folder]
    for file in (file for place in places for file in sorted(place.glob("validation*.json"))):
        metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        return float(next(value for name, value in metrics.items() if name != "loss"))
    return None


def measure(runs: Sequence[Mapping[str, Any]], *, quick: bool) -> Values:
    tables, scores = {}, {}
    for kept in runs:
        title, rows, own = _of_run(kept, QUICK_DRAWS if quick else DRAWS)
        tables[title] = rows
        scores |= own
    return {
        "benchmark": NAME,
        "tables": tables,
        "scores": scores,
        "notes": [
            f"{QUICK_DRAWS if quick else DRAWS} test sets of each size, drawn without replacement from the answers of "
            "a run; trainings and validation are the run's. The opposite: one says that training the language model is "
            "better and the other that it is worse, or not worth the margin.",
        ],
        **outcome.frame(quick),
    }


def _of_run(kept: Mapping[str, Any], draws: int) -> tuple[str, list[list[str]], dict[str, dict[str, float]]]:
    """The title of its table, the table, and its figures by size."""
    whole = _verdict(kept, np.arange(kept["n"]))
    sizes = [size for size in SIZES if size < kept["n"]] or [kept["n"] // 3]
    rows, scores = [["test examples", "the same advice", "the opposite", "cannot tell", "said most often"]], {}
    for size in sizes:
        seen = list(_draws(kept, size, draws))
        found = {
            "same": statistics.fmean(one["recommended"] == whole["recommended"] for one in seen),
            "opposite": statistics.fmean(_opposite(one, whole) for one in seen),
            "cannot tell": statistics.fmean(one["answer"] == "cannot tell" for one in seen),
        }
        said = Counter(f"{one['answer']}: {one['recommended']}" for one in seen).most_common(3)
        scores[f"{kept['name']}, n {size}"] = found
        often = "; ".join(f"{words} ({count})" for words, count in said)
        rows.append([str(size), *(f"{100 * own:.1f}%" for own in found.values()), often])
    return f"{kept['name']}, {kept['n']:,} test examples: {whole['headline']}", rows, scores


def _opposite(one: Values, other: Values) -> bool:
    against = ("worse", "worth less than the margin")
    answers = (one["answer"], other["answer"])
    return any(a == "better" and b in against for a, b in (answers, answers[::-1]))


def _draws(kept: Mapping[str, Any], size: int, count: int) -> Iterator[Values]:
    draw = np.random.default_rng(size)
    for _ in range(count):
        yield _verdict(kept, np.sort(draw.choice(kept["n"], size, replace=False)))


def _verdict(kept: Mapping[str, Any], at: np.ndarray) -> Values:
    """The verdict on some of the examples: its headline, what is recommended, and the answer that decides."""
    from luthier.compare import ApproachResult, FloorResult, compare
    from luthier.types import Cost, Score

    def result(own: Mapping[str, Any], right: str, **more: Any) -> ApproachResult:
        scores = [Score(str(i), kept["metric"], float(right[i]), None) for i in at]
        return ApproachResult(
            own["name"], own.get("training", "none"), {"task": {kept["metric"]: scores}}, {"task": kept["metric"]},
            Cost(**own["cost"]), kind=own["kind"], **more,
        )  # fmt: skip

    approaches = [
        result(
            own,
            own["right"][0],
            validation=own["validation"],
            trainings=tuple(result(own, again) for again in own["right"][1:]),
        )
        for own in kept["approaches"]
    ]
    cost = kept["approaches"][0]["cost"]
    floors = [
        FloorResult(own["kind"], own["words"], result({**own, "cost": cost}, own["right"])) for own in kept["floors"]
    ]
    found: Values = compare(
        approaches, targets=["task"], requests=kept["requests"], margin=kept["margin"],
        forgetting_limit=kept["forgetting_limit"], seed=0, floors=floors,
    )  # fmt: skip
    decision = found["decision"]
    return {
        "headline": found["headline"],
        "recommended": found["recommended"],
        "answer": decision["answer"] or decision["kind"],
    }


def main(given: argparse.Namespace) -> None:
    if given.keep is not None:
        kept = outcomes_of(given.keep)
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{kept['name']}.json").write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
    if not any(KEPT.glob("*.json")):
        raise SystemExit("No run's answers are kept yet: give the folder of one with --keep.")
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(KEPT.glob("*.json"))]
    outcome.finish(measure(runs, quick=given.quick), given)


if __name__ == "__main__":
    main(parser().parse_args())
