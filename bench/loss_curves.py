"""The loss of 100 steps from the same start, by Luthier and by TRL: same adapter, batches, optimizer and precision."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from typing import Any

import outcome

NAME = "loss_curves"
SETTINGS = {"learning_rate": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0}


def parser() -> argparse.ArgumentParser:
    options = outcome.options(__doc__, NAME)
    options.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of both sides (default: float32, in which rounding does not hide a difference)",
    )
    return options


def compare(*, quick: bool, model: str, precision: str) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side

    if importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed in this environment. Install it with: make bench-setup")
    steps, batch = (20, 2) if quick else (100, 4)
    with tempfile.TemporaryDirectory() as folder:
        what = {"model": model_folder(model), "steps": steps, "batch": batch, "precision": precision}
        what |= {"folder": folder, **SETTINGS}
        ours = run_side("ours:curve", what)["losses"]
        trl = run_side("peers_trl:curve", what)["losses"]
    apart = [abs(a - b) for a, b in zip(ours, trl, strict=True)]
    largest, mean = max(apart), sum(apart) / len(apart)
    return {
        "benchmark": NAME,
        "ours": ours[-1],
        "peers": {"trl": trl[-1]},
        "unit": f"nats a trained token at step {steps}",
        "ratios": {"trl": ours[-1] / trl[-1]},
        "largest_difference": largest,
        "mean_difference": mean,
        "precision": precision,
        "batch": batch,
        "settings": SETTINGS,
        "losses": {"luthier": ours, "trl": trl},
        "notes": [
            f"Over {steps} steps of {batch} rows in {precision}: the losses differ by at most {largest:.2g} and on "
            f"average by {mean:.2g} nats a trained token (first step {apart[0]:.2g}).",
        ],
        **outcome.frame(quick),
    }


def draw(found: dict[str, Any]) -> str:
    from pictures import line_chart

    curves = {name: [(float(n), y) for n, y in enumerate(own, 1)] for name, own in found["losses"].items()}
    return line_chart("Training loss from the same start", "step", "nats a trained token", curves, overlaid=True)


def main(given: argparse.Namespace) -> None:
    found = compare(quick=given.quick, model=given.model, precision=given.precision)
    outcome.RESULTS.mkdir(exist_ok=True)
    name = f"{NAME}-quick" if given.quick else NAME
    (outcome.RESULTS / f"{name}.svg").write_text(draw(found), encoding="utf-8")
    outcome.finish(found, given)


if __name__ == "__main__":
    main(parser().parse_args())
