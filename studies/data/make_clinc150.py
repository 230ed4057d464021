"""Cut tasks of CLINC150: what customers ask about cards and accounts, about kitchen and home, and about the home alone.

    python studies/data/make_clinc150.py path/to/clinc150 studies/data/clinc150

`clinc150` is the folder with `data_small.json` and `domains.json`. Each task has two domains, 30 intents, and the same
number of messages an intent, so that they differ in what the messages are about and in nothing else. Messages that
stand in another of the files, or in Banking77's test messages beside this folder, are left out.

Of the home alone there are all test messages, and training messages none of which has nearly the words of one of them.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

NUM_TRAIN, NUM_TEST, SEED = 25, 4, 0  # an intent
ALONE, NUM_ALONE = "home", 12  # an intent, to train on
NEAR = 0.7  # shared words over all words of two messages (Jaccard), from which on they are near each other
TASKS = {"money": ("banking", "credit_cards"), "household": ("kitchen_and_dining", "home")}

Row = tuple[str, str]  # text, intent


def main(clinc150: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    messages = json.loads((clinc150 / "data_small.json").read_text(encoding="utf-8"))
    domains = json.loads((clinc150 / "domains.json").read_text(encoding="utf-8"))
    seen = read_texts(folder.parent / "banking77" / "test.csv")
    for name, own in TASKS.items():
        intents = [intent for domain in own for intent in domains[domain]]
        for split, count in (("test", NUM_TEST), ("train", NUM_TRAIN)):
            rows = sample(messages[split], intents, count, seen)
            write(folder / f"{name}-{split}.csv", rows)
            seen |= {bare(text) for text, _ in rows}
    intents = domains[ALONE]
    asked = [(text, intent) for text, intent in messages["test"] if intent in intents]
    write(folder / f"{ALONE}-test.csv", asked)
    told = [words(text) for text, _ in asked]
    others = [row for row in messages["train"] if not any(near(words(row[0]), own) for own in told)]
    write(folder / f"{ALONE}-train.csv", sample(others, intents, NUM_ALONE, set()))


def sample(messages: Sequence[Sequence[str]], intents: Sequence[str], count: int, seen: set[str]) -> list[Row]:
    """So many messages of each intent, drawn at random, those seen already left out."""
    found: list[Row] = []
    for intent in intents:
        texts = {bare(text): text for text, own in messages if own == intent and bare(text) not in seen}
        found += [(text, intent) for text in random.Random(f"{SEED}/{intent}").sample(list(texts.values()), count)]
    return found


def bare(text: str) -> str:
    """The words alone: messages that differ in case and punctuation are the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def words(text: str) -> frozenset[str]:
    return frozenset(bare(text).split())


def near(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= NEAR * len(one | other)


def read_texts(file: Path) -> set[str]:
    with open(file, encoding="utf-8", newline="") as handle:
        return {bare(row["text"]) for row in csv.DictReader(handle)}


def write(file: Path, rows: Sequence[Row]) -> None:
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("text", "intent"))
        writer.writerows(rows)
    print(f"{file}: {len({intent for _, intent in rows})} intents, {len(rows)} messages")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
