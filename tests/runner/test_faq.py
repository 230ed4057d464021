"""A list of frequent questions, answered by the nearest known question, and not answered where none is near."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from luthier.runner import run
from luthier.runner.folder import read_jsonl
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows
from luthier.study import build_study

DATA = Path(os.environ.get("LUTHIER_DATA", "")) / "covid_question_similarity"
STRANGE = ["How do I bake sourdough bread?", "Which team won the football league in 1998?", "Wie spät ist es?"]


@pytest.mark.skipif(not DATA.is_dir(), reason="LUTHIER_DATA names no folder of data sets")
def test_a_faq_is_answered_by_its_nearest_question_and_abstains_where_none_is_near(tmp_path: Path):
    """Questions on COVID-19 that people found to be the same have the same answer: the first of them."""
    with open(DATA / "eval_question_similarity_en.csv", newline="", encoding="utf-8") as handle:
        pairs = [(row["question_1"], row["question_2"]) for row in csv.DictReader(handle) if row["similar"] == "1"]
    answer_of: dict[str, str] = {}
    for one, other in pairs:
        answer = answer_of.get(one) or answer_of.get(other) or one
        answer_of[one] = answer_of[other] = answer
    questions = list(answer_of.items())
    for name, rows in (("known", questions[::2]), ("asked", questions[1::2])):
        with open(tmp_path / f"{name}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("question", "answer"), *rows])
    study = build_study(
        name="faq",
        task={
            "data": {"train": "known.csv", "test": "asked.csv"},
            "split": {"validation": 20},
            "prompt": "{{ question }}",
            "completion": "{{ answer }}",
            "metrics": ["exact_match"],
        },
        approaches={
            "sure": [{"step": "nearest", "by": "embedding", "threshold": 0.6, "otherwise": "Please ask a person."}],
            "always": [{"step": "nearest", "by": "embedding"}],
        },
        latency_requests=2,
    )
    result = run(study, tmp_path / "run", root=tmp_path)
    means = {row["name"]: row["mean"] for row in result.comparison["approaches"]}
    assert means["always"] > 0.6
    assert means["sure"] <= means["always"]  # an answer that is not given counts as wrong
    rows = read_jsonl(tmp_path / "run" / "approaches" / "sure" / "predictions.jsonl")
    given = [row for row in rows if row["stopped"] == "copy"]
    assert 0 < len(given) < len(rows)
    right = sum(row["scores"]["exact_match"] for row in given) / len(given)
    assert right > means["always"]  # of what it is sure of, more is right
    strange = predict_rows(open_run(tmp_path / "run", "sure"), [{"question": text} for text in STRANGE])
    assert [(answer.text, answer.stopped) for answer in strange] == [("Please ask a person.", "abstained")] * 3
