"""Greedy answers behind eight worked examples: Luthier beside transformers, one by one and padded by eight."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import outcome

NAME = "answer_few_shot"
TARGETS = {"hf-one-by-one": 10.0, "hf-padded-8": 8.0}
CHECKED = 4  # prompts that both sides also answer in float32, where they should agree to the letter


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def compare(*, quick: bool, model: str) -> dict[str, Any]:
    from ours import model_folder
    from sides import run_side
    from timing import FULL, QUICK

    pace = dataclasses.asdict(QUICK if quick else FULL)
    what = {"model": model_folder(model), "pace": pace, "checked": CHECKED}
    ours = run_side("ours:answer", {**what, "prompts": 32 if quick else 64})
    peers = {
        "hf-one-by-one": run_side("peers_hf:answer", {**what, "batch": 1}),
        "hf-padded-8": run_side("peers_hf:answer", {**what, "batch": 8, "checked": 0}),
    }
    exact = agreement(ours["texts_float32"], peers["hf-one-by-one"]["texts_float32"])
    own = {name: agreement(ours["texts"], peer["texts"]) for name, peer in peers.items()}
    notes = [
        f"{ours['prompt_tokens']:.0f} prompt tokens on average, {ours['shared_tokens']} of them shared by all; each "
        "answer takes 8 new tokens, and no token ends it earlier.",
        f"The same answers in float32: {exact['same']} of {exact['compared']}; in {ours['precision']}: "
        + ", ".join(f"{o['same']} of {o['compared']} ({name})" for name, o in own.items())
        + ".",
    ]
    return outcome.build(
        NAME,
        "answers/s",
        ours,
        peers,
        TARGETS,
        quick=quick,
        memory=outcome.memory_ratios(ours, peers),
        agreement={"float32": exact, ours["precision"]: own},
        notes=notes + outcome.few_steps(peers, quick),
    )


def agreement(ours: list[str], theirs: list[str]) -> dict[str, int]:
    """How many answers to the prompts that both have answered are the same."""
    both = list(zip(ours, theirs, strict=False))
    return {"same": sum(a == b for a, b in both), "compared": len(both)}


def main(given: argparse.Namespace) -> None:
    found = compare(quick=given.quick, model=given.model)
    outcome.finish(found, given)


if __name__ == "__main__":
    main(parser().parse_args())
