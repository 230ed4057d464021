"""Take all messages of the slice's intents out of Banking77: to train on, and to test.

    python studies/data/make_banking77.py path/to/banking_data studies/data/banking77

`banking_data` is that folder of the original repository, with `train.csv` and `test.csv`. The intents are those of the
slice's own `train.csv`. Messages whose words stand in the original test file are no part of `all-train.csv`.

`apart-train.csv` is `train.csv` without what has nearly the words of a message in `all-test.csv`, which made way for
the first other messages of the same intent.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]  # text, category

# Shared words over all words of two messages (Jaccard), from which on they are near each other.
NEAR = 0.7


def main(original: Path, folder: Path) -> None:
    intents = {row["category"] for row in read(folder / "train.csv")}
    test = read(original / "test.csv")
    seen = {bare(row) for row in test}
    write(folder / "all-test.csv", distinct((row for row in test if row["category"] in intents), set()))
    train = distinct((r for r in read(original / "train.csv") if r["category"] in intents), seen)
    write(folder / "all-train.csv", train)
    write(folder / "apart-train.csv", apart(read(folder / "train.csv"), train, read(folder / "all-test.csv")))


def apart(rows: list[Row], others: list[Row], asked: list[Row]) -> list[Row]:
    """As many messages of each intent as in the rows, the first of them and of the others that are near none asked."""
    told, most = [words(row) for row in asked], Counter(row["category"] for row in rows)
    kept: dict[str, list[Row]] = {intent: [] for intent in most}
    for row in distinct([*rows, *others], set()):
        own, found = words(row), kept[row["category"]]
        if len(found) < most[row["category"]] and all(len(own & t) < NEAR * len(own | t) for t in told):
            found.append(row)
    return [row for found in kept.values() for row in found]


def words(row: Row) -> frozenset[str]:
    return frozenset(bare(row).split())


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
