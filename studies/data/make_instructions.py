"""Cut small instruction tasks into JSONL files of inputs and right answers.

    python studies/data/make_instructions.py path/to/instruction-induction path/to/bbh studies/data/instructions

`instruction-induction` is that repository's `data/raw`, with `induce` (to train on) and `execute` (to test); `bbh` is
the folder `bbh` of BIG-Bench-Hard, one JSON file a task. The instructions themselves stand in the studies.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INDUCTION = (
    "active_to_passive",
    "antonyms",
    "negation",
    "sentiment",
    "singular_to_plural",
    "synonyms",
    "translation_en-de",
)
BBH = ("boolean_expressions", "hyperbaton", "navigate", "object_counting", "sports_understanding", "word_sorting")
NUM_INDUCTION, NUM_BBH, NUM_TEST, SEED = 300, 150, 100, 0

Row = dict[str, Any]  # input, output, references


def main(induction: Path, bbh: Path, folder: Path) -> None:
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
        save(folder, task, drawn[NUM_TEST : NUM_TEST + NUM_BBH], drawn[:NUM_TEST])


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
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
