"""LoRA on rows that share an instruction of 573 tokens: Luthier beside TRL by default and TRL tuned."""

from __future__ import annotations

import argparse

import outcome

NAME = "train_lora_shared"
TARGETS = {8: {"trl-default": 35.0, "trl-tuned": 15.0}, 32: {"trl-default": 60.0, "trl-tuned": 28.0}}


def parser() -> argparse.ArgumentParser:
    options = outcome.options(__doc__, NAME, " --batch 8")
    options.add_argument("--batch", type=int, default=8, help="examples a step (default: 8)")
    return options


if __name__ == "__main__":
    given = parser().parse_args()
    from training import compare

    targets = TARGETS.get(given.batch, {})
    outcome.finish(compare(f"{NAME}_{given.batch}", "shared", "lora", given.batch, targets, given), given)
