"""Take all messages of the slice's intents out of Banking77: to train on, and to test.

    python studies/data/make_banking77.py path/to/banking_data studies/data/banking77

`banking_data` is that folder of the original repository, with `train.csv` and `test.csv`. The intents are those of the
slice's own `train.csv`. Messages whose words stand in the original test file are no part of `all-train.csv`.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]  # text, category


def main(original: Path, folder: Path) -> None:
    intents = {row["category"] for row in read(folder / "train.csv")}
    test = read(original / "test.csv")
    seen = {bare(row) for row in test}
    write(folder / "all-test.csv", distinct((row for row in test if row["category"] in intents), set()))
    write(
        folder / "all-train.csv", distinct((r for r in read(original / "train.csv") if r["category"] in intents), seen)
    )


def distinct(rows: Iterable[Row], seen: set[str]) -> list[Row]:
    """Each message once, and none that was seen."""
    found = {bare(row): row for row in reversed(list(rows)) if bare(row) not in seen}
    return list(reversed(found.values()))


def bare(row: Row) -> str:
    """The words alone: messages that differ in case and punctuation are the same."""
    return " ".join(re.findall(r"\w+", row["text"].casefold()))


def read(file: Path) -> list[Row]:
    with open(file, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def write(file: Path, rows: list[Row]) -> None:
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ("text", "category"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{file}: {len(rows)} messages, {len({row['category'] for row in rows})} intents")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
