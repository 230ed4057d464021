"""Choosing among 77 labels: Luthier beside scoring each label as a sequence of its own with transformers."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import outcome

NAME = "choose_label"
TARGETS = {"hf-each-label": 100.0}


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def compare(*, quick: bool, model: str) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side
    from timing import FULL, QUICK

    pace = QUICK if quick else FULL
    folder = model_folder(model)
    ours = run_side("ours:choose", {"model": folder, "pace": dataclasses.asdict(pace), "prompts": 8 if quick else 32})
    # It is warmed up on three labels; a query is 77 of them.
    alone = dataclasses.replace(pace, warmup=0, steps=7)
    peers = {"hf-each-label": run_side("peers_hf:choose", {"model": folder, "pace": dataclasses.asdict(alone)})}
    same = agreement(ours["logprobs"], peers["hf-each-label"]["logprobs"])
    notes = [
        f"{ours['prompt_tokens']:.0f} prompt tokens on average; the 77 labels take {ours['label_tokens']} tokens.",
        f"{same['same']} of {same['compared']} queries get the same label from both sides; the log-probabilities "
        f"differ by {same['mean_difference']:.2g} nats on average, at most by {same['largest_difference']:.2g} "
        f"({ours['precision']}).",
        "hf-each-label is timed over whole queries, 77 forward passes each.",
    ]
    return outcome.build(
        NAME,
        "choices/s",
        ours,
        peers,
        TARGETS,
        quick=quick,
        memory=outcome.memory_ratios(ours, peers),
        agreement=same,
        notes=notes + outcome.few_steps(peers, quick),
    )


def agreement(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    """How far the log-probabilities lie apart on the queries that both have scored, and whether the choices agree."""
    both = list(zip(ours, theirs, strict=False))
    apart = [abs(a - b) for left, right in both for a, b in zip(left, right, strict=True)]
    return {
        "same": sum(left.index(max(left)) == right.index(max(right)) for left, right in both),
        "compared": len(both),
        "mean_difference": sum(apart) / len(apart),
        "largest_difference": max(apart),
    }


def main(given: argparse.Namespace) -> None:
    found = compare(quick=given.quick, model=given.model)
    outcome.finish(found, given)


if __name__ == "__main__":
    main(parser().parse_args())
