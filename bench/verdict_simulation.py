"""How often the verdict is right: approaches of known accuracy, drawn again and again and compared."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import outcome

NAME = "verdict_simulation"
GAPS, EXAMPLES = (0.0, 0.02, 0.05, 0.08, 0.12), (60, 180, 480, 2000)
RUNS, QUICK_RUNS = 400, 20
VALIDATION = 72
TRAININGS = (1, 3)
# Accuracy beside that of the best untrained one; the two that train have the gap on top.
UNTRAINED = {"few-shot": 0.0, "nearest": -0.02, "zero-shot": -0.3}
TRAINED = {"lora": 0.0, "full": -0.02}
BASE = 0.77
# How alike the difficulty of an example is to all (correlation), and how far trainings scatter, in accuracy.
SHARED, SCATTER = 0.8, 0.02


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(*, quick: bool) -> dict[str, Any]:
    runs = QUICK_RUNS if quick else RUNS
    heading = ["true gap", "n"]
    for count in TRAININGS:
        which = "one training" if count == 1 else f"{count} trainings"
        heading += [f"help shown, {which}", "the model is no better", "interval against words", "two runs disagree"]
    rows, scores = [heading], {}
    for gap in GAPS[:2] if quick else GAPS:
        for n in EXAMPLES[:2] if quick else EXAMPLES:
            row = [f"{100 * gap:.0f} points", f"{n:,}"]
            for count in TRAININGS:
                seen = list(_verdicts(gap, n, count, runs, seed=int(1000 * gap) + n))
                found = {
                    "help_shown": statistics.fmean(one["helps"] for one in seen),
                    "model_no_better": statistics.fmean(one["helps"] and not one["model_better"] for one in seen),
                    "contradictions": statistics.fmean(one["contradicts"] for one in seen),
                    "disagree": statistics.fmean(
                        one["trained"] != other["trained"] for one, other in zip(seen[::2], seen[1::2], strict=False)
                    ),
                }
                scores[f"gap {gap}, n {n}, trainings {count}"] = found
                row += [f"{100 * value:.1f}%" for value in found.values()]
            rows.append(row)
    return {
        "benchmark": NAME,
        "tables": {f"of {runs} runs each": rows},
        "scores": scores,
        "notes": [
            f"Five approaches: few-shot with an accuracy of {100 * BASE:.0f}%, nearest 2 and zero-shot 30 points "
            f"below; lora above few-shot by the true gap, full 2 points below lora. {VALIDATION} validation examples "
            "choose. "
            f"Examples are as hard for one approach as for another (correlation {SHARED}); each training scatters by "
            f"{100 * SCATTER:.0f} points around its method. A request costs the same with all, a training an hour.",
            "Help shown: the verdict takes training to be better. At a gap of 0 that is an error about the method, of "
            "which one training says little. The model is no better: help is shown, and the trained model that is "
            "handed over has no higher accuracy than the best of the others. Interval against words: the interval of "
            "the pair that the verdict names leaves out zero beside 'no difference found', or holds it beside "
            "'better'. Two runs: each with test examples, validation and trainings of its own.",
        ],
        **outcome.frame(quick),
    }


def _verdicts(gap: float, n: int, trainings: int, runs: int, seed: int) -> Iterator[dict[str, bool]]:
    from luthier.evaluate import compare

    draw = np.random.default_rng(seed)
    for _ in range(runs):
        approaches, accuracies = _approaches(gap, n, trainings, draw)
        result = compare(approaches, targets=["task"], requests=1000, margin=0.02, forgetting_limit=None, seed=0)
        helps = any("training the language model is shown to help" in line for line in list(result["reasons"]))
        named = next((name for name in TRAINED if name in str(result["verdict"])), "lora")
        yield {
            "helps": helps,
            "trained": result["recommended"] in TRAINED,
            "model_better": accuracies[named] > BASE,
            "contradicts": _contradicts(result, str(result["verdict"]), helps),
        }


def _contradicts(result: dict[str, Any], verdict: str, helps: bool) -> bool:
    """Of the best trained and the best other pair as the verdict names them."""
    named = [name for name in (*TRAINED, *UNTRAINED) if name in verdict]
    pairs = [
        p for p in result["pairs"] if {p["a"], p["b"]} <= set(named) and (p["a"] in TRAINED) != (p["b"] in TRAINED)
    ]
    if not pairs:
        return False
    pair = pairs[0]
    above = pair["low"] > 0 if pair["a"] in TRAINED else pair["high"] < 0
    return bool(above) != helps


def _approaches(gap: float, n: int, trainings: int, draw: np.random.Generator) -> tuple[list[Any], dict[str, float]]:
    """The approaches with their scores, and the accuracy that the handed-over model of each really has."""
    from luthier.evaluate import ApproachResult
    from luthier.types import Cost, Score

    found, accuracies = [], {}
    difficulty = draw.standard_normal(n + VALIDATION)
    for name, below in {**UNTRAINED, **TRAINED}.items():
        models = []
        for number in range(trainings if name in TRAINED else 1):
            accuracy = BASE + below + (gap + SCATTER * draw.standard_normal() if name in TRAINED else 0.0)
            accuracies.setdefault(name, accuracy)
            values = _right(min(0.99, accuracy), difficulty, draw)
            scores = [Score(str(i), "accuracy", float(value), None) for i, value in enumerate(values[:n])]
            models.append(
                ApproachResult(
                    name,
                    "language model" if name in TRAINED else "none",
                    {"task": {"accuracy": scores}},
                    {"task": "accuracy"},
                    Cost(
                        3600.0 if name in TRAINED else 0.0, 0.0, 0, None, 0, 0, 0.0, 0, 10.0, 0.1, 0.1, 0.1, 10.0, 0.1
                    ),
                    validation=float(values[n:].mean()) if number == 0 else None,
                )
            )
        found.append(replace(models[0], trainings=tuple(models[1:])))
    return found, accuracies


def _right(accuracy: float, difficulty: Sequence[float], draw: np.random.Generator) -> np.ndarray:
    """Answers that are right with this probability in the mean, less often where an example is hard."""
    own = math.sqrt(SHARED) * np.asarray(difficulty) + math.sqrt(1 - SHARED) * draw.standard_normal(len(difficulty))
    return (own < statistics.NormalDist().inv_cdf(accuracy)).astype(float)


def main(given: argparse.Namespace) -> None:
    outcome.finish(measure(quick=given.quick), given)


if __name__ == "__main__":
    main(parser().parse_args())
