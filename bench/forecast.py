"""How near the forecast of a training comes: its seconds and its peak memory, reckoned before and measured."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import outcome

NAME = "forecast"
# Workload, what is trained, rows a step.
TRAININGS = (("varied", "lora", 8), ("varied", "none", 8), ("shared", "lora", 8), ("shared", "lora", 32))
STEPS, QUICK_STEPS = 24, 8


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(*, quick: bool, model: str) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side
    from timing import Pace

    steps = QUICK_STEPS if quick else STEPS
    rows, ours, errors = [], {}, {}
    for workload, adapter, batch in TRAININGS[: 2 if quick else None]:
        name = f"{adapter.replace('none', 'full')}, {workload}, batch {batch}"
        what = {"workload": workload, "adapter": adapter, "batch": batch, "model": model_folder(model), "steps": steps}
        before = run_side("ours:predict", what)
        pace = Pace(warmup=0, steps=steps, slow_steps=steps)
        after = run_side("ours:train", {**what, "pace": dataclasses.asdict(pace)})
        seconds = after["work_a_step"] * after["timed_steps"] / after["overall"]
        errors[name] = {
            "seconds": before["seconds"] / seconds - 1,
            "memory": before["bytes"] / after["peak_bytes"] - 1,
        }
        ours[name] = {"seconds": seconds, "peak_bytes": after["peak_bytes"], "forecast": before}
        rows.append(
            [
                name,
                f"{before['seconds']:.0f} s",
                f"{seconds:.0f} s",
                f"{errors[name]['seconds']:+.0%}",
                f"{before['bytes'] / 1e9:.2f} GB",
                f"{after['peak_bytes'] / 1e9:.2f} GB",
                f"{errors[name]['memory']:+.0%}",
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
        "notes": ["The forecast times two steps; the training is then run from the start, its first step included."],
        **outcome.frame(quick),
    }


if __name__ == "__main__":
    given = parser().parse_args()
    outcome.finish(measure(quick=given.quick, model=given.model), given)
