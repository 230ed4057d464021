"""Raw text to pretrain on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from colours import make_example
from luthier.data.audit import standing_in
from luthier.data.text import Document, TextSource, halves, load_text
from luthier.errors import DataError
from luthier.types import Place


def load(root: Path, **settings: Any) -> list[tuple[str, str]]:
    text = load_text(TextSource.model_validate(settings), (), root)
    return [(document.text, str(document.place)) for document in text.documents]


def test_paragraphs_are_documents_with_their_lines(tmp_path: Path):
    (tmp_path / "a.txt").write_text("One\nmore.\n\n \nTwo.\r\n\r\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("# Three", encoding="utf-8")
    assert load(tmp_path, files=["a.txt", "b.md"]) == [
        ("One\nmore.", "a.txt:1"),
        ("Two.", "a.txt:5"),
        ("# Three", "b.md:1"),
    ]
    assert load(tmp_path, files="*.*", document="file")[0] == ("One\nmore.\n\n \nTwo.", "a.txt")


def test_what_is_empty_or_repeated_is_left_out_and_counted(tmp_path: Path):
    (tmp_path / "rows.csv").write_text('body,n\nThe sky,1\n"",2\nthe  SKY.,3\nThe sea,4\n  ,5\n', encoding="utf-8")
    text = load_text(TextSource(files="rows.csv", column="body"), (), tmp_path)
    assert [(d.text, d.place.line) for d in text.documents] == [("The sky", 2), ("The sea", 5)]
    assert (text.empty, text.repeated) == (2, 1)


def test_a_pattern_names_files_once_in_their_order(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "notes" / f"{name}.txt").write_text(f"text {name}", encoding="utf-8")
    (tmp_path / "notes" / "c.txt").write_text("", encoding="utf-8")
    found = load(tmp_path, files=["notes/b.txt", "**/*.txt"])
    assert found == [("text b", "notes/b.txt:1"), ("text a", "notes/a.txt:1")]


def test_the_text_of_a_task_is_what_its_training_prompts_say():
    train = [make_example(n, f"question {n}", f"answer {n}") for n in range(2)]
    source = TextSource(task="colours")
    assert [d.text for d in load_text(source, train, Path()).documents] == ["question 0", "question 1"]
    with_answers = load_text(TextSource(task="colours", completions=True), train, Path())
    assert [d.text for d in with_answers.documents] == ["question 0\n\nanswer 0", "question 1\n\nanswer 1"]
    assert with_answers.documents[0].place == Place("colours.csv", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": "rows.csv"}, r"rows\.csv: column is not given \(found: body, tags\)"),
        ({"files": "rows.csv", "column": "text"}, r"rows\.csv: no column 'text' \(found: body, tags\)"),
        ({"files": "lists.jsonl", "column": "body"}, r"lists\.jsonl:1: 'body' is no text: .*a list"),
        ({"files": "*.text"}, r"\*\.text: no file matches this pattern"),
        ({"files": "missing.txt"}, r"missing\.txt: no such file"),
        ({"files": "scan.pdf"}, r"scan\.pdf: the ending '\.pdf' names no format of text \(known: \.txt, \.md"),
        ({"files": "alone.txt"}, r"alone\.txt: 1 documents with text, each once \(1 in all\); expected two at least"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(tmp_path: Path, settings: dict[str, Any], message: str):
    (tmp_path / "rows.csv").write_text("body,tags\na,b\n", encoding="utf-8")
    (tmp_path / "lists.jsonl").write_text('{"body": ["a"]}\n', encoding="utf-8")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    (tmp_path / "alone.txt").write_text("One document.", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"files": "a.txt", "completions": True},
        {"files": "a.csv", "column": "text", "document": "file"},
        {"files": "a.txt", "encoding": "utf-9"},
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        TextSource.model_validate(settings)


def test_a_share_of_the_documents_is_kept_apart_by_the_seed():
    documents = [Document(str(n), Place("a", n)) for n in range(40)]
    first, again, other = (halves(documents, 0.1, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.held != other.held
    assert len(first.held) == 4
    assert sorted((*first.train, *first.held), key=lambda d: int(d.text)) == documents
    assert [len(part) for part in (halves(documents[:2], 0.01, 0).held, halves(documents[:2], 0.99, 0).train)] == [1, 1]


def test_passages_are_found_word_for_word_whatever_their_case_and_punctuation():
    passage = "The cat sat on the mat, and purred loudly."
    text = "He said: the CAT sat on\nthe mat and purred loudly — twice."
    assert standing_in([passage], ["something else entirely, of quite some words", text]) == {passage}
    assert standing_in([passage], [text.replace("loudly", "softly")]) == set()
    assert standing_in(["the cat sat on the mat and"], [text]) == set()  # seven words
