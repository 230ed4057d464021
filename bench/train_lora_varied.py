"""LoRA on rows of varied length, in batches of 8: Luthier beside TRL by default and TRL tuned."""

from __future__ import annotations

import argparse

import outcome

NAME = "train_lora_varied"
TARGETS = {"trl-default": 7.0, "trl-tuned": 2.5}


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


if __name__ == "__main__":
    given = parser().parse_args()
    from training import compare

    outcome.finish(compare(NAME, "varied", "lora", 8, TARGETS, given), given)
