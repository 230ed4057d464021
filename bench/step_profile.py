"""Where the time of a LoRA step goes, beside the least that its matrix products can take on this machine."""

from __future__ import annotations

import argparse
from typing import Any

import outcome

NAME = "step_profile"
# Workload, rows a step.
STEPS = (("varied", 8), ("shared", 8), ("shared", 32))


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side

    model = model_folder(given.model)
    found = {}
    for workload, batch in STEPS:
        what = {"workload": workload, "batch": batch, "model": model, "steps": 3 if given.quick else 7}
        found[f"{workload}, batch {batch}"] = run_side("ours:profile", what)
    precision = next(iter(found.values()))["precision"]
    gflops = run_side("ceiling:measure", {"model": model})[precision]["gflops"]
    parts = list(next(iter(found.values()))["parts"])
    rows = [["", *found], ["tokens computed", *(f"{own['computed']:,.0f}" for own in found.values())]]
    rows += [[part, *(f"{own['parts'][part] / own['seconds']:.0%}" for own in found.values())] for part in parts]
    rows.append(["a step", *(f"{own['seconds']:.2f} s" for own in found.values())])
    rows.append(["layers' products at the ceiling", *(f"{own['gflop'] / gflops:.2f} s" for own in found.values())])
    return {
        "benchmark": NAME,
        "ours": found,
        "peers": {},
        "unit": "share of a step's seconds",
        "ratios": {name: own["gflop"] / gflops / own["seconds"] for name, own in found.items()},
        "tables": {"shares of a step": rows},
        "notes": [
            f"The ceiling is {gflops:.0f} GFLOP/s, torch's {precision} products of the model's own shapes; the last "
            "row is what the frozen weights' products alone would take there, forward and backward, each token once.",
            "Timed under torch's profiler, which itself takes some per cent.",
        ],
        **outcome.frame(given.quick),
    }


if __name__ == "__main__":
    given = parser().parse_args()
    outcome.finish(measure(given), given)
