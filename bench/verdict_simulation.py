"""How often the verdict is right: approaches of known accuracy, drawn again and again and compared."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

import outcome

NAME = "verdict_simulation"
GAPS, EXAMPLES, TRAININGS = (0.0, 0.02, 0.05, 0.08, 0.12), (60, 180, 480, 2000), (1, 3, 5)
RUNS, QUICK_RUNS = 300, 20
VALIDATION = 72
# Accuracy beside that of the best untrained one; those that train the language model have the gap on top.
UNTRAINED = {"few-shot": 0.0, "nearest": -0.02, "zero-shot": -0.3}
SMALL = {"classifier": -0.01}
TRAINED = {"lora": 0.0, "full": -0.02}
BASE, FLOOR = 0.77, 0.1


@dataclass(frozen=True, slots=True)
class World:
    """What is the case.

    Attributes:
        gap: By how much lora is better than few-shot.
        n: Test examples.
        scatter: How far trainings of the language model scatter around their method, in accuracy.
        shared: How alike the difficulty of an example is to all (correlation).
    """

    gap: float
    n: int
    scatter: float
    shared: float

    def accuracy(self, name: str) -> float:
        """Of the method: the mean over its trainings."""
        below = {**UNTRAINED, **SMALL, **TRAINED, "floor": FLOOR - BASE}[name]
        return BASE + below + (self.gap if name in TRAINED else 0.0)


# (scatter, shared): trainings that scatter little, usually and much; and examples that are hard each for its own.
WORLDS = ((0.01, 0.8), (0.03, 0.8), (0.06, 0.8), (0.03, 0.0))


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(*, quick: bool) -> dict[str, Any]:
    runs = QUICK_RUNS if quick else RUNS
    tables, scores = {}, {}
    for scatter, shared in WORLDS[1:2] if quick else WORLDS:
        rows = [["true gap", "n", "trainings", *_COLUMNS]]
        cells = product(GAPS[::2] if quick else GAPS, EXAMPLES[:2] if quick else EXAMPLES, TRAININGS)
        for gap, n, count in cells:
            found = _summary(list(_seen(World(gap, n, scatter, shared), count, runs)))
            scores[f"gap {gap}, n {n}, trainings {count}, scatter {scatter}, shared {shared}"] = found
            rows.append(
                [f"{100 * gap:.0f} points", f"{n:,}", str(count), *(f"{100 * found[key]:.1f}%" for key in _COLUMNS)]
            )
        alike = "as hard for one as for another" if shared else "hard each for one approach alone"
        tables[f"trainings scatter by {100 * scatter:.0f} points, examples {alike}; {runs} runs each"] = rows
    return {
        "benchmark": NAME,
        "tables": tables,
        "scores": scores,
        "worst": _worst(scores),
        "notes": [
            f"Six approaches: few-shot with an accuracy of {100 * BASE:.0f}%, nearest 2 and zero-shot 30 points below, "
            "a classifier 1 below; lora above few-shot by the true gap, full 2 points below lora; a floor of "
            f"{100 * FLOOR:.0f}%. {VALIDATION} validation examples choose who is asked about. A request costs the same "
            "with all, a training an hour.",
            "Better: the verdict takes training the language model to be better than the best of the others. False: it "
            "does, and the way of training that validation chose is no better than its rival. Covers: the interval "
            "holds the true difference of the two ways. Oracle: how often a z test of that question alone finds it, "
            "which knows all variances. Differ: of two runs with other examples and trainings, the advice differs.",
        ],
        **outcome.frame(quick),
    }


_COLUMNS = ("better", "false", "covers", "oracle", "differ")


def _summary(seen: list[dict[str, float]]) -> dict[str, float]:
    found = {key: statistics.fmean(one[key] for one in seen) for key in seen[0] if key != "trained"}
    pairs = list(zip(seen[::2], seen[1::2], strict=False))
    return {**found, "differ": statistics.fmean(one["trained"] != other["trained"] for one, other in pairs)}


def _worst(scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Over all worlds: what the verdict promises of three trainings or more."""
    several = {key: own for key, own in scores.items() if "trainings 1" not in key}
    return {
        "false better, mean": statistics.fmean(own["false"] for own in several.values()),
        "false better, most": max((own["false"], key) for key, own in several.items()),
        "covers, least": min((own["covers"], key) for key, own in several.items()),
        "below the oracle, most": max((own["oracle"] - own["better"], key) for key, own in several.items()),
        "interval against words": max(own["contradicts"] for own in scores.values()),
    }


def _seen(world: World, trainings: int, runs: int) -> Iterator[dict[str, float]]:
    from luthier.compare import compare
    from luthier.compare.comparison import FloorResult

    draw = np.random.default_rng([int(1000 * world.gap), world.n, int(1000 * world.scatter), int(10 * world.shared)])
    for _ in range(runs):
        approaches, variances = _approaches(world, trainings, draw)
        floor = FloorResult("most frequent answer", "saying x", approaches.pop())
        result = compare(
            approaches, targets=["task"], requests=1000, margin=0.02, forgetting_limit=None, seed=0, floors=[floor]
        )
        decision: Any = result["decision"]
        asked = decision["questions"][0]
        truth = world.accuracy(asked["of"]) - world.accuracy(asked["over"])
        above = asked["low"] > 0
        better = decision["about"] == "language model" and decision["answer"] == "better"
        error = math.sqrt(variances[asked["over"]] / world.n + world.scatter**2 / trainings)
        yield {
            "better": better,
            "false": better and truth <= 0,
            "covers": asked["low"] <= truth <= asked["high"],
            "oracle": statistics.NormalDist().cdf(truth / error - 1.96),
            "contradicts": (better and not above) or ((asked["p"] < 0.05) != (above or asked["high"] < 0)),
            "trained": result["recommended"] in TRAINED,
        }


def _approaches(world: World, trainings: int, draw: np.random.Generator) -> tuple[list[Any], dict[str, float]]:
    """The approaches with their scores, the floor last, and of each that may be the rival the variance of the
    difference to the mean of lora's trainings on one example."""
    from luthier.compare import ApproachResult
    from luthier.types import Cost, Score

    found, values = [], {}
    difficulty = draw.standard_normal(world.n + VALIDATION)
    for name in (*UNTRAINED, *SMALL, *TRAINED, "floor"):
        training = "language model" if name in TRAINED else "small model" if name in SMALL else "none"
        models = []
        for number in range(trainings if name in TRAINED else 1):
            accuracy = world.accuracy(name) + (world.scatter * draw.standard_normal() if name in TRAINED else 0.0)
            right = _right(min(0.99, accuracy), difficulty, world.shared, draw)
            values.setdefault(name, []).append(right[: world.n])
            scores = [Score(str(i), "accuracy", value, None) for i, value in enumerate(right[: world.n].tolist())]
            train_s = 3600.0 if name in TRAINED else 1.0 if name in SMALL else 0.0
            models.append(
                ApproachResult(
                    name,
                    training,  # type: ignore[arg-type]
                    {"task": {"accuracy": scores}},
                    {"task": "accuracy"},
                    Cost(train_s, 0.0, 0, None, 0, 0, 0.0, 0, 10.0, 0.1, 0.1, 0.1, 10.0, 0.1),
                    validation=float(right[world.n :].mean()) if number == 0 else None,
                )
            )
        found.append(replace(models[0], trainings=tuple(models[1:])))
    ours = np.mean(values["lora"], axis=0)
    return found, {name: float((ours - values[name][0]).var()) for name in (*UNTRAINED, *SMALL)}


def _right(accuracy: float, difficulty: np.ndarray, shared: float, draw: np.random.Generator) -> np.ndarray:
    """Answers that are right with this probability in the mean, less often where an example is hard."""
    own = math.sqrt(shared) * difficulty + math.sqrt(1 - shared) * draw.standard_normal(len(difficulty))
    return (own < statistics.NormalDist().inv_cdf(accuracy)).astype(float)


def main(given: argparse.Namespace) -> None:
    outcome.finish(measure(quick=given.quick), given)


if __name__ == "__main__":
    main(parser().parse_args())
