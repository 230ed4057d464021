"""Cut small instruction tasks into JSONL files of inputs and right answers.

    python studies/data/make_instructions.py \\
        path/to/instruction-induction path/to/bbh path/to/COVID-QA studies/data/instructions

`instruction-induction` is that repository's `data/raw`, with `induce` (to train on) and `execute` (to test); `bbh` is
the folder `bbh` of BIG-Bench-Hard, one JSON file a task; COVID-QA's `data` holds `eval_question_similarity_en.csv`. The
instructions themselves stand in the studies.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INDUCTION = ("antonyms", "negation", "sentiment", "synonyms", "translation_en-de")
BBH = ("disambiguation_qa", "snarks", "sports_understanding")
NUM_INDUCTION, NUM_BBH, NUM_TEST, SEED = 300, 150, 100, 0
LARGEST_TEST_SHARE = 0.45  # of a task with few examples
TESTED_QUESTIONS = 0.45  # the share of the questions in pairs that is kept for the test

Row = dict[str, Any]  # input, output, references


def main(induction: Path, bbh: Path, covid: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for task in INDUCTION:
        test = rows_of(induction / "execute" / f"{task}.json")
        asked = {row["input"].lower() for row in test}
        train = [row for row in rows_of(induction / "induce" / f"{task}.json") if row["input"].lower() not in asked]
        save(folder, task, random.Random(SEED).sample(train, NUM_INDUCTION), test[:NUM_TEST])
    for task in BBH:
        found = json.loads((bbh / f"{task}.json").read_text(encoding="utf-8"))["examples"]
        distinct = {row["input"]: {"input": row["input"], "output": row["target"], "references": []} for row in found}
        drawn = random.Random(SEED).sample(list(distinct.values()), len(distinct))
        test = min(NUM_TEST, int(LARGEST_TEST_SHARE * len(drawn)))
        save(folder, task, drawn[test : test + NUM_BBH], drawn[:test])
    save(folder, "question_similarity", *similar_questions(covid / "eval_question_similarity_en.csv"))


def similar_questions(file: Path) -> tuple[list[Row], list[Row]]:
    """Pairs of questions to train on and to test. No question stands on both sides; pairs across are left out."""
    with file.open(encoding="utf-8", newline="") as opened:
        pairs = [
            (row["question_1"].strip(), row["question_2"].strip(), row["similar"]) for row in csv.DictReader(opened)
        ]
    questions = sorted({question.lower() for pair in pairs for question in pair[:2]})
    tested = set(random.Random(SEED).sample(questions, round(TESTED_QUESTIONS * len(questions))))
    sides: dict[bool, list[Row]] = {False: [], True: []}
    for first, second, same in pairs:
        held = {first.lower() in tested, second.lower() in tested}
        if len(held) == 1:
            text = f"First question: {first}\nSecond question: {second}"
            sides[held.pop()].append({"input": text, "output": "yes" if same == "1" else "no", "references": []})
    return sides[False], sides[True]


def rows_of(file: Path) -> list[Row]:
    """One row for each input; all answers that the file gives to it are right, the first is learned."""
    found: dict[str, Row] = {}
    for example in json.loads(file.read_text(encoding="utf-8"))["examples"].values():
        text = example["input"].strip()
        row = found.setdefault(text.lower(), {"input": text, "output": example["output"].strip(), "references": []})
        more = [example["output"].strip(), *example.get("possible_translations", [])]
        row["references"] += [own for own in more if own != row["output"] and own not in row["references"]]
    return list(found.values())


def save(folder: Path, task: str, train: Sequence[Row], test: Sequence[Row]) -> None:
    for split, rows in (("train", train), ("test", test)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{task}-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{task}: {len(train)} to train on, {len(test)} to test")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
