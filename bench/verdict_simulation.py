"""How often the verdict is right: approaches of known accuracy, drawn again and again and compared."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import outcome

NAME = "verdict_simulation"
GAPS, EXAMPLES = (0.0, 0.02, 0.05, 0.08, 0.12), (60, 180, 480, 2000)
RUNS, QUICK_RUNS = 500, 20
VALIDATION = 72
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
    rows = [["true gap", "n", "help shown", "worse or no difference, and yet trained", "interval against words",
             "two runs disagree"]]  # fmt: skip
    scores: dict[str, Any] = {}
    for gap in GAPS[:2] if quick else GAPS:
        for n in EXAMPLES[:2] if quick else EXAMPLES:
            seen = list(_verdicts(gap, n, runs, seed=int(1000 * gap) + n))
            found = {
                "help_shown": statistics.fmean(one["helps"] for one in seen),
                "trained_without_help": statistics.fmean(one["trained"] and not one["helps"] for one in seen),
                "contradictions": statistics.fmean(one["contradicts"] for one in seen),
                "disagree": statistics.fmean(
                    a["trained"] != b["trained"] for a, b in zip(seen[::2], seen[1::2], strict=False)
                ),
            }
            scores[f"{gap}/{n}"] = found
            rows.append([f"{100 * gap:.0f} points", f"{n:,}", *(f"{100 * value:.1f}%" for value in found.values())])
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
            "Help shown: the verdict takes a trained approach to be better. At a gap of 0 that is an error about the "
            "method, of which one training says little. Interval against words: the interval of the pair that the "
            "verdict names leaves out zero beside 'no difference found', or holds it beside 'better'. Two runs: each "
            "with test examples, validation and trainings of its own.",
        ],
        **outcome.frame(quick),
    }


def _verdicts(gap: float, n: int, runs: int, seed: int) -> Iterator[dict[str, bool]]:
    from luthier.evaluate import compare

    draw = np.random.default_rng(seed)
    for _ in range(runs):
        result = compare(
            _approaches(gap, n, draw),
            targets=["task"],
            requests=1000,
            margin=0.02,
            forgetting_limit=None,
            seed=0,
        )
        verdict = str(result["verdict"])
        helps = any("training the language model is shown to help" in line for line in list(result["reasons"]))
        trained = result["recommended"] in TRAINED
        yield {"helps": helps, "trained": trained, "contradicts": _contradicts(result, verdict, helps)}


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


def _approaches(gap: float, n: int, draw: np.random.Generator) -> list[Any]:
    from luthier.evaluate import ApproachResult
    from luthier.types import Cost, Score

    found = []
    difficulty = draw.standard_normal(n + VALIDATION)
    for name, below in {**UNTRAINED, **TRAINED}.items():
        accuracy = BASE + below + (gap + SCATTER * draw.standard_normal() if name in TRAINED else 0.0)
        values = _right(min(0.99, accuracy), difficulty, draw)
        cost = Cost(3600.0 if name in TRAINED else 0.0, 0.0, 0, None, 0, 0, 0.0, 0, 10.0, 0.1, 0.1, 0.1, 10.0, 0.1)
        one = ApproachResult(
            name,
            "language model" if name in TRAINED else "none",
            {"task": {"accuracy": [Score(str(i), "accuracy", float(v), None) for i, v in enumerate(values[:n])]}},
            {"task": "accuracy"},
            cost,
            validation=(float(values[n:].mean()),),
        )
        found.append(one)
    return found


def _right(accuracy: float, difficulty: Sequence[float], draw: np.random.Generator) -> np.ndarray:
    """Answers that are right with this probability in the mean, less often where an example is hard."""
    own = math.sqrt(SHARED) * np.asarray(difficulty) + math.sqrt(1 - SHARED) * draw.standard_normal(len(difficulty))
    return (own < statistics.NormalDist().inv_cdf(accuracy)).astype(float)


def main(given: argparse.Namespace) -> None:
    outcome.finish(measure(quick=given.quick), given)


if __name__ == "__main__":
    main(parser().parse_args())
