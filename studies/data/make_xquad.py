"""Cut XQuAD's English part into documents and questions on them, with a revision of some documents.

    python studies/data/make_xquad.py path/to/xquad.en.json studies/data/xquad

Every article becomes a document of its paragraphs. An article's questions stand on one side of the split. Of each
question the sentence that holds the answer is kept as evidence. For the revision some numbers in documents of the test
become others, and one document is removed; the questions on these are not those of the test alone, and none is trained
on.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SEED, TEST_ARTICLES, NUM_TRAIN, NUM_TEST, NUM_REVISED, NUM_REMOVED = 0, 18, 400, 150, 24, 12
COLUMNS = ("question", "answer", "document", "evidence")


class Question(NamedTuple):
    question: str
    answer: str
    document: str
    evidence: str
    paragraph: int
    start: int


def main(source: Path, folder: Path) -> None:
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    documents = {name_of(article["title"]): article for article in articles}
    for name, article in documents.items():
        write_document(folder / "documents" / name, article, [p["context"] for p in article["paragraphs"]])
    draw = random.Random(SEED)
    names = draw.sample(sorted(documents), len(documents))
    test_names, train_names = names[:TEST_ARTICLES], names[TEST_ARTICLES:]
    train = draw.sample([q for name in train_names for q in questions(name, documents[name])], NUM_TRAIN)
    all_test = [q for name in test_names for q in questions(name, documents[name])]
    test = draw.sample(all_test, NUM_TEST)
    write_rows(folder / "train.csv", COLUMNS, [q[:4] for q in train])
    write_rows(folder / "test.csv", COLUMNS, [q[:4] for q in test])
    revise(folder / "revised", draw.sample(all_test, len(all_test)), documents)


def name_of(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower() + ".md"


def questions(name: str, article: dict) -> list[Question]:
    """Those of an article, each with the sentence that holds its answer."""
    found = []
    for number, paragraph in enumerate(article["paragraphs"]):
        for qa in paragraph["qas"]:
            answer, context = qa["answers"][0], paragraph["context"]
            evidence = sentence_at(context, answer["answer_start"], answer["answer_start"] + len(answer["text"]))
            found.append(
                Question(qa["question"].strip(), answer["text"], name, evidence, number, answer["answer_start"])
            )
    return found


def sentence_at(text: str, start: int, end: int) -> str:
    """The sentence around a place, or as many as it goes over."""
    before = [match.end() for match in re.finditer(r"[.!?]\s+(?=[A-Z0-9\"'])", text[:start])]
    behind = re.search(r"[.!?](?=\s+[A-Z0-9\"']|\s*$)", text[end:])
    return text[before[-1] if before else 0 : end + behind.end() if behind else len(text)].strip()


def revise(folder: Path, test: Sequence[Question], documents: dict[str, dict]) -> None:
    """Other numbers in some documents of the test, with questions on what has changed; that of the first question is to
    be removed."""
    removed = test[0].document
    contexts = {name: [p["context"] for p in article["paragraphs"]] for name, article in documents.items()}
    rows: list[tuple[str, str, str, str]] = []
    for q in test:
        if q.document == removed:
            if len([row for row in rows if not row[1]]) < NUM_REMOVED:
                rows.append((q.question, "", q.answer, q.document))
        elif len([row for row in rows if row[1]]) < NUM_REVISED and re.fullmatch(r"\d{2,4}", q.answer):
            paragraph = contexts[q.document][q.paragraph]
            other = another(q.answer)
            if len(re.findall(rf"\b{q.answer}\b", paragraph)) == 1 and other not in paragraph:
                contexts[q.document][q.paragraph] = re.sub(rf"\b{q.answer}\b", other, paragraph)
                rows.append((q.question, other, q.answer, q.document))
    for name in sorted({row[3] for row in rows if row[1]}):
        write_document(folder / "documents" / name, documents[name], contexts[name])
    write_rows(folder / "questions.csv", ("question", "answer", "before", "document"), rows)


def another(number: str) -> str:
    """Another number of as many digits, near it."""
    value = int(number)
    return str(value + 7 if len(str(value + 7)) == len(number) else value - 7)


def write_document(file: Path, article: dict, paragraphs: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    title = article["title"].replace("_", " ")
    file.write_text("\n\n".join([f"# {title}", *paragraphs]) + "\n", encoding="utf-8")


def write_rows(file: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows([columns, *rows])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
