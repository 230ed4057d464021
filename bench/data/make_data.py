"""Cut the slices that the benchmarks run on: varied/rows.jsonl and banking77/queries.csv.

    python bench/data/make_data.py path/to/datasets bench/data

The data sets' folder holds self_instruct_seed, self_instruct_user_oriented, pubmedqa and banking77 as their authors
publish them (see the SOURCE.md of each slice).
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 0
NUM_INSTRUCTIONS, NUM_ABSTRACTS = 268, 52  # together a mean of about 196 tokens
NUM_QUERIES = 640  # whole batches of 8, 32 and 128
MAX_TOKENS = 1024  # TRL cuts longer rows off by default


def main(source: Path, folder: Path) -> None:
    from luthier.model.find import find_model
    from luthier.model.load import load_tokenizer

    tokenizer = load_tokenizer(find_model("smollm2-135m-instruct", Path()))
    draw = random.Random(SEED)
    instructions = [row for row in _instructions(source) if _tokens(row, tokenizer) <= MAX_TOKENS]
    abstracts = [row for row in _abstracts(source) if _tokens(row, tokenizer) <= MAX_TOKENS]
    rows = draw.sample(instructions, NUM_INSTRUCTIONS) + draw.sample(abstracts, NUM_ABSTRACTS)
    draw.shuffle(rows)
    with open(folder / "varied/rows.jsonl", "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(folder / "banking77/queries.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("text", "category"))
        writer.writerows(_queries(source, draw))


def _row(prompt: str, completion: str, source: str) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return {"messages": turns, "source": source}


def _instructions(source: Path) -> Iterator[dict[str, object]]:
    for name in ("self_instruct_seed/seed_tasks.jsonl", "self_instruct_user_oriented/user_oriented_instructions.jsonl"):
        for line in (source / name).read_text(encoding="utf-8").splitlines():
            task = json.loads(line)
            for instance in task["instances"]:
                prompt = "\n\n".join(part.strip() for part in (task["instruction"], instance["input"]) if part.strip())
                if instance["output"].strip():
                    yield _row(prompt, instance["output"].strip(), task["id"])


def _abstracts(source: Path) -> Iterator[dict[str, object]]:
    articles = json.loads((source / "pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    for number, article in articles.items():
        prompt = "\n\n".join((" ".join(article["CONTEXTS"]).strip(), article["QUESTION"].strip()))
        yield _row(prompt, article["LONG_ANSWER"].strip(), f"pubmed_{number}")


def _queries(source: Path, draw: random.Random) -> list[tuple[str, str]]:
    """As many of each intent as of any other, as far as the number divides; no text twice."""
    texts: dict[str, dict[str, None]] = {}
    with open(source / "banking77/train.csv", encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            texts.setdefault(row["category"], {})[" ".join(row["text"].split())] = None
    each, more = divmod(NUM_QUERIES, len(texts))
    with_one_more = set(draw.sample(sorted(texts), more))
    drawn = [
        (text, label)
        for label in sorted(texts)
        for text in draw.sample(sorted(texts[label]), each + (label in with_one_more))
    ]
    draw.shuffle(drawn)
    return drawn


def _tokens(row: dict[str, object], tokenizer: Any) -> int:
    return len(tokenizer.apply_chat_template(row["messages"], tokenize=True)["input_ids"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
