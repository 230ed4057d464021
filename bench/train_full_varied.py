"""Full fine-tuning on rows of varied length, in batches of 8: Luthier beside TRL by default and TRL tuned."""

from __future__ import annotations

import argparse

import outcome

NAME = "train_full_varied"
TARGETS = {"trl-default": 6.0, "trl-tuned": 2.0}


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def main(given: argparse.Namespace) -> None:
    from training import compare

    found = compare(NAME, "varied", "none", 8, TARGETS, quick=given.quick, model=given.model)
    outcome.finish(found, given)


if __name__ == "__main__":
    main(parser().parse_args())
