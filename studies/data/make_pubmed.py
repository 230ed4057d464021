"""Cut a task of medical abstracts, raw text of the same domain, and as much of another domain as a control.

    python studies/data/make_pubmed.py path/to/pubmedqa path/to/scitldr studies/data/pubmed

`pubmedqa` is the folder with `ori_pqal.json` and `test_ground_truth.json` of PubMedQA, `scitldr` the one with SciTLDR's
`dev.jsonl`. No article stands in two of the files: the task is tested on articles of PubMedQA's own test split, and
learned and pretrained on others. The raw text is the whole abstract with its conclusion, a paragraph each.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

NUM_TRAIN, NUM_TEST, NUM_TEXT, SEED = 180, 120, 260, 0
LONGEST = 1600  # characters of abstract, question and conclusion together

Row = tuple[str, str, str]  # abstract without its conclusion, question, conclusion


def main(pubmedqa: Path, scitldr: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    articles = json.loads((pubmedqa / "ori_pqal.json").read_text(encoding="utf-8"))
    tested = set(json.loads((pubmedqa / "test_ground_truth.json").read_text(encoding="utf-8")))
    draw = random.Random(SEED)
    test, others = (
        draw.sample([row(articles[key]) for key in sorted(articles) if (key in tested) == wanted], 500)
        for wanted in (True, False)
    )
    short = [own for own in others if is_short(own)]
    train = short[:NUM_TRAIN]
    write_rows(folder / "train.csv", train)
    write_rows(folder / "test.csv", [own for own in test if is_short(own)][:NUM_TEST])
    text = [f"{abstract} {conclusion}" for abstract, _, conclusion in others if (abstract, _, conclusion) not in train]
    write_text(folder / "medicine.txt", text[:NUM_TEXT])
    write_text(folder / "computing.txt", as_long(computing(scitldr / "dev.jsonl"), sum(map(len, text[:NUM_TEXT]))))


def row(article: dict[str, list[str] | str]) -> Row:
    abstract = " ".join(article["CONTEXTS"])
    return plain(abstract), plain(str(article["QUESTION"])), plain(str(article["LONG_ANSWER"]))


def is_short(row: Row) -> bool:
    return sum(map(len, row)) <= LONGEST


def computing(file: Path) -> list[str]:
    """Abstracts of papers on machine learning, in an order that the seed decides."""
    found = [plain(" ".join(json.loads(line)["source"])) for line in file.read_text(encoding="utf-8").splitlines()]
    return random.Random(SEED).sample(found, len(found))


def as_long(texts: Sequence[str], characters: int) -> list[str]:
    """The first texts that together have about so many characters."""
    taken: list[str] = []
    for text in texts:
        if sum(map(len, taken)) + len(text) <= characters:
            taken.append(text)
    return taken


def plain(text: str) -> str:
    return " ".join(text.split())


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("abstract", "question", "conclusion"))
        writer.writerows(rows)
    print(f"{file}: {len(rows)} articles")


def write_text(file: Path, texts: Sequence[str]) -> None:
    file.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    print(f"{file}: {len(texts)} abstracts, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
