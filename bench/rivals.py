"""What needs no training of a language model, on every set with labels: nearest example, classifiers, few-shot."""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import outcome

NAME = "rivals"
HERE = Path(__file__).parent
STUDIES = HERE.parent / "studies" / "data"
SEEDS = (0, 1, 2)
# With more training messages than this an approach is left out: it would take an hour.
MOST = {"hidden": 300, "few-shot": 300, "encoder": 300, "contrastive": 300}
WITH_MODEL = ("hidden", "few-shot")

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Set:
    """Messages with labels to train on and to test on, and how many are kept for validation."""

    train: Rows
    test: Rows
    validation: int


def parser() -> argparse.ArgumentParser:
    found = outcome.options(__doc__, NAME)
    found.add_argument(
        "--data", type=Path, default=os.environ.get("LUTHIER_DATA"), help="the folder of data sets (or LUTHIER_DATA)"
    )
    found.add_argument("--only", nargs="*", help="names of sets; default: all that are there")
    found.add_argument("--no-model", action="store_true", help="leave the language model out everywhere")
    found.add_argument(
        "--no-tuning", action="store_true", help="leave what trains an embedder or encoder out everywhere"
    )
    return found


def sets(data: Path | None) -> dict[str, Callable[[], Set]]:
    """Those of the shipped studies, and the whole ones where the folder of data sets is there."""
    found: dict[str, Callable[[], Set]] = {
        "quickstart (Banking77, 12 intents)": lambda: _csv(
            STUDIES / "banking77", "apart-train", "all-test", "category", 72
        ),
        "adapters (Banking77, 12 intents, a slice)": lambda: _csv(
            STUDIES / "banking77", "train", "test", "category", 72
        ),
        "transfer (Banking77, 12 intents, all messages)": lambda: _csv(
            STUDIES / "banking77", "all-train", "all-test", "category", 240
        ),
        "clinc150 money": lambda: _csv(STUDIES / "clinc150", "money-train", "money-test", "intent", 75),
        "clinc150 household": lambda: _csv(STUDIES / "clinc150", "household-train", "household-test", "intent", 75),
    }
    if data is not None:
        found["Banking77 whole"] = lambda: _csv(data / "banking77", "train", "test", "category", 400)
        found["clinc150 whole, without out-of-scope"] = lambda: _clinc(data / "clinc150")
    return found


def measure(
    chosen: Mapping[str, Callable[[], Set]], *, quick: bool, no_model: bool = False, no_tuning: bool = False
) -> dict[str, Any]:
    from luthier.quiet import quiet

    quiet()
    rows = [["set", "training, test", "approach", "accuracy, mean of seeds", "each seed", "fitted in", "a request"]]
    kept: dict[str, Any] = {}
    for name, read in chosen.items():
        own = read()
        print(f"{name}: {len(own.train):,} training, {len(own.test):,} test messages", file=sys.stderr, flush=True)
        left_out = {approach for approach, most in MOST.items() if quick or len(own.train) > most}
        left_out |= {*(WITH_MODEL if no_model else ()), *(("contrastive", "encoder") if no_tuning else ())}
        runs = [_run(own, seed, left_out) for seed in (SEEDS[:1] if quick else SEEDS)]
        kept[name] = {
            approach: [next(r for r in run["approaches"] if r["name"] == approach) for run in runs]
            for approach in (row["name"] for row in runs[0]["approaches"])
        }
        kept[name]["floors"] = [run["floors"] for run in runs]
        rows += _rows(name, own, runs)
    return {
        "benchmark": NAME,
        "tables": {"accuracy on the test messages": rows},
        "scores": {
            name: {
                approach: [{key: row[key] for key in ("mean", "low", "high", "n")} for row in every]
                for approach, every in own.items()
                if approach != "floors"
            }
            for name, own in kept.items()
        },
        "notes": [
            "bench/rivals.yaml, run by `luthier` on each set with seeds 0, 1 and 2, which decide the validation split "
            "and with it every choice; the test messages are the same. What is fitted and a request are medians of the "
            "seeds, on this machine.",
            "nearest: the label of the most similar training message, by words, embedding or both, and how many vote, "
            "as validation takes them. tfidf and embedding: logistic regression on word and character TF-IDF, and on "
            "MiniLM-L6. contrastive: the same when MiniLM-L6 was trained on the labels first. encoder: "
            "all of MiniLM-L6 trained with a classification head. hidden: on the hidden "
            "states of SmolLM2-135M. few-shot: SmolLM2-135M with the eight most similar messages in its prompt.",
            f"Left out with more training messages than these: {', '.join(f'{k} {v:,}' for k, v in MOST.items())}"
            f"{'; what asks the language model everywhere in this run' if no_model else ''}"
            f"{'; what trains an embedder or encoder everywhere in this run' if no_tuning else ''}.",
        ],
        **outcome.frame(quick),
    }


def _run(own: Set, seed: int, left_out: set[str]) -> dict[str, Any]:
    """The comparison of one run, without some approaches."""
    from luthier.runner import run
    from luthier.study import load_study

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for split, rows in (("train", own.train), ("test", own.test)):
            with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle)
                writer.writerow(["text", "label"])
                writer.writerows(rows)
        settings = yaml.safe_load((HERE / "rivals.yaml").read_text(encoding="utf-8"))
        settings["seed"] = seed
        settings["task"]["split"]["validation"] = own.validation
        settings["approaches"] = {k: v for k, v in settings["approaches"].items() if k not in left_out}
        if left_out.issuperset(WITH_MODEL):
            del settings["model"]
        (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        result = run(load_study(folder / "study.yaml"), folder / "run", root=folder)
        return dict(result.comparison)


def _rows(name: str, own: Set, runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    sizes = f"{len(own.train):,}, {len(own.test):,}"
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for row in run["approaches"]:
            by_name.setdefault(row["name"], []).append(row)
    ordered = sorted(by_name.items(), key=lambda item: -statistics.fmean(row["mean"] for row in item[1]))
    for approach, every in ordered:
        means = [row["mean"] for row in every]
        first = every[0]
        yield [
            name,
            sizes,
            approach,
            f"{100 * statistics.fmean(means):.1f}%",
            f"{', '.join(f'{100 * mean:.1f}' for mean in means)} (seed 0: {_interval(first)})",
            _time(statistics.median(row["cost"]["train_s"] for row in every)),
            _time(statistics.median(row["cost"]["seconds_per_request"] for row in every)),
        ]
    floor = runs[0]["floors"][0]
    yield [name, sizes, f"floor: {floor['words']}", f"{100 * floor['mean']:.1f}%", _interval(floor), "–", "–"]


def _interval(row: Mapping[str, Any]) -> str:
    return f"{100 * row['low']:.1f}–{100 * row['high']:.1f}"


def _time(seconds: float) -> str:
    from luthier.compare.quantities import duration

    return duration(seconds)


def _csv(folder: Path, train: str, test: str, label: str, validation: int) -> Set:
    def read(name: str) -> Rows:
        with open(folder / f"{name}.csv", newline="", encoding="utf-8") as handle:
            return [(row["text"], row[label]) for row in csv.DictReader(handle)]

    return Set(read(train), read(test), validation)


def _clinc(folder: Path) -> Set:
    data = json.loads((folder / "data_small.json").read_text(encoding="utf-8"))
    train, test = ([(text, label) for text, label in data[split]] for split in ("train", "test"))
    return Set(train, test, 750)


def main(given: argparse.Namespace) -> None:
    data = Path(given.data) if given.data is not None and Path(given.data).is_dir() else None
    found = sets(data)
    chosen = {name: own for name, own in found.items() if not given.only or any(o in name for o in given.only)}
    if given.quick:
        chosen = dict(list(chosen.items())[:1])
    if not chosen:
        raise SystemExit(f"no such set (there are: {'; '.join(found)})")
    outcome.finish(measure(chosen, quick=given.quick, no_model=given.no_model, no_tuning=given.no_tuning), given)


if __name__ == "__main__":
    main(parser().parse_args())
