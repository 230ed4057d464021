"""Cut a chain of three tasks, general → medical → pediatric, into CSV files of questions and answers.

    python studies/data/make_medical.py path/to/gsm8k path/to/medquad studies/data/medical

`gsm8k` is the folder with `train.jsonl` and `test.jsonl` of GSM8K; `medquad` is a folder with MedQuAD's XML files in
`general/` and `pediatrics/`, one file a topic. A topic's questions stay on one side. Of a medical answer the sentences
are taken that end within the first 700 characters.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

NUM_TRAIN, NUM_TEST, SEED = 340, 100, 0
LONGEST_ANSWER = 700

Row = tuple[str, str, str]  # topic, question, answer


def main(gsm8k: Path, medquad: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        rows = problems(gsm8k / f"{split}.jsonl")
        write(folder / f"maths-{split}.csv", random.Random(SEED).sample(rows, count))
    for part, name in (("general", "medical"), ("pediatrics", "pediatric")):
        train, test = cut(topics(medquad / part))
        write(folder / f"{name}-train.csv", train)
        write(folder / f"{name}-test.csv", test)


def problems(file: Path) -> list[Row]:
    """GSM8K's problems with their worked answers, without the calculator's marks `<<1+1=2>>`."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [("", row["question"].strip(), re.sub(r"<<[^>]*>>", "", row["answer"]).strip()) for row in found]


def topics(folder: Path) -> list[list[Row]]:
    """The questions of each topic, those without an answer left out; a topic may stand in several files."""
    found: dict[str, dict[str, Row]] = {}
    for file in sorted(folder.rglob("*.xml")):
        root = ElementTree.parse(file).getroot()  # noqa: S314
        topic = plain(root.findtext("Focus") or file.stem)
        for pair in root.iter("QAPair"):
            question, answer = plain(pair.findtext("Question") or ""), shortened(plain(pair.findtext("Answer") or ""))
            if question and answer:
                question = re.sub(r" +([?.,])", r"\1", question)
                found.setdefault(topic.lower(), {}).setdefault(question.lower(), (topic, question, answer))
    return [list(rows.values()) for rows in found.values()]


def cut(groups: Sequence[list[Row]]) -> tuple[list[Row], list[Row]]:
    """Whole topics, drawn at random, until the test is full; then as many to train on as are wanted, or there are."""
    drawn = random.Random(SEED).sample(list(groups), len(groups))
    test: list[Row] = []
    while len(test) < NUM_TEST:
        test += drawn.pop()
    train = [row for rows in drawn for row in rows]
    return train[:NUM_TRAIN], test[:NUM_TEST]


def plain(text: str) -> str:
    return " ".join(text.split())


def shortened(text: str) -> str:
    """The sentences that end within the length; the first alone where it is longer, cut at a word."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text[: LONGEST_ANSWER + 1])]
    if len(text) <= LONGEST_ANSWER or not ends:
        return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER].rpartition(" ")[0]
    return text[: ends[-1]]


def write(file: Path, rows: Sequence[Row]) -> None:
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("topic", "question", "answer"))
        writer.writerows(rows)
    print(f"{file}: {len({topic for topic, _, _ in rows})} topics, {len(rows)} questions")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
