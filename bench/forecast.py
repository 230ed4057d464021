"""How near the forecast of a training comes: its seconds and its peak memory, reckoned before and measured."""

from __future__ import annotations

import argparse
from typing import Any

import outcome

NAME = "forecast"
# Workload, what is trained, rows a step.
TRAININGS = (("varied", "lora", 8), ("varied", "none", 8), ("shared", "lora", 8), ("shared", "lora", 32))
STEPS, QUICK_STEPS = 24, 8


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side

    steps = QUICK_STEPS if given.quick else STEPS
    rows, ours, errors = [], {}, {}
    for workload, adapter, batch in TRAININGS[: 2 if given.quick else None]:
        name = f"{adapter.replace('none', 'full')}, {workload}, batch {batch}"
        what = {
            "workload": workload,
            "adapter": adapter,
            "batch": batch,
            "model": model_folder(given.model),
            "steps": steps,
        }
        before = run_side("ours:predict", what)
        after = run_side("ours:train_to_the_end", what)
        errors[name] = {key: before[key] / after[key] - 1 for key in ("seconds", "bytes")}
        ours[name] = {"measured": after, "forecast": before}
        rows.append(
            [
                name,
                f"{before['seconds']:.0f} s",
                f"{after['seconds']:.0f} s",
                f"{errors[name]['seconds']:+.0%}",
                f"{before['bytes'] / 1e9:.2f} GB",
                f"{after['bytes'] / 1e9:.2f} GB",
                f"{errors[name]['bytes']:+.0%}",
            ]
        )
    heading = ["training", "time, forecast", "measured", "error", "memory, forecast", "measured", "error"]
    return {
        "benchmark": NAME,
        "ours": ours,
        "peers": {},
        "unit": "forecast / measured - 1",
        "ratios": errors,
        "tables": {f"forecasts of {steps} optimizer steps": [heading, *rows]},
        "notes": [
            "The forecast times a few steps; the training is then run to its last checkpoint, in a process of its own."
        ],
        **outcome.frame(given.quick),
    }


if __name__ == "__main__":
    given = parser().parse_args()
    outcome.finish(measure(given), given)
