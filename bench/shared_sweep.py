"""How fast Luthier trains as the shared part grows and as more rows branch from it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import outcome

NAME = "shared_sweep"
SHARED = (0, 64, 256, 573, 1024)
BRANCHES = (1, 4, 8, 32, 128)
QUICK_SHARED, QUICK_BRANCHES = (0, 573), (1, 8, 32)


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(*, quick: bool, model: str) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side
    from timing import Pace

    pace = Pace(warmup=1, steps=2, limit_s=30.0) if quick else Pace(warmup=1, steps=7, limit_s=60.0)
    shared, branches = (QUICK_SHARED, QUICK_BRANCHES) if quick else (SHARED, BRANCHES)
    what = {"model": model_folder(model), "shared": shared, "branches": branches, "pace": dataclasses.asdict(pace)}
    rates = run_side("ours:sweep", what)["rates"]
    cells = [[f"{rates[str(s)][str(b)]:.0f}" for b in branches] for s in shared]
    heading = ["shared tokens", *(f"{b} branches" if b > 1 else "1 branch" for b in branches)]
    title = "useful tokens a second: a message and its intent behind a shared part"
    return {
        "benchmark": NAME,
        "ours": rates,
        "peers": {},
        "unit": "useful tokens/s",
        # What sharing gives: the same number of branches behind the longest and behind no shared part.
        "ratios": {str(b): rates[str(shared[-1])][str(b)] / rates[str(shared[0])][str(b)] for b in branches},
        "shared": shared,
        "branches": branches,
        "tables": {title: [heading, *([s, *row] for s, row in zip(shared, cells, strict=True))]},
        "notes": [
            "LoRA, one batch a step; shared tokens count for every branch. All steps after the first, seven or as "
            "many as fit in a minute.",
            f"The ratios: {shared[-1]} shared tokens beside {shared[0]}, by the number of branches.",
        ],
        **outcome.frame(quick),
    }


def draw(found: dict[str, Any]) -> str:
    from pictures import line_chart

    series = {
        f"{shared} shared tokens": [(float(b), found["ours"][str(shared)][str(b)]) for b in found["branches"]]
        for shared in found["shared"]
    }
    return line_chart(
        "Training speed by shared length and branches",
        "branches (rows of a batch)",
        "useful tokens a second",
        series,
        log_x=True,
        at=found["branches"],
    )


def main(given: argparse.Namespace) -> None:
    found = measure(quick=given.quick, model=given.model)
    outcome.RESULTS.mkdir(exist_ok=True)
    name = f"{NAME}-quick" if given.quick else NAME
    (outcome.RESULTS / f"{name}.svg").write_text(draw(found), encoding="utf-8")
    outcome.finish(found, given)


if __name__ == "__main__":
    main(parser().parse_args())
