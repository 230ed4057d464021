from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import write_run

from luthier.report.folder import RunFolder, read_run
from luthier.report.html import write_report
from luthier.report.sureness import answered, sureness
from luthier.report.svg import looks


def _rows(confidences: Sequence[float], scores: Sequence[float | None], kept_back: int = 0) -> list[dict[str, Any]]:
    """Answers, the last `kept_back` of which are not given."""
    given = len(scores) - kept_back
    return [
        {"confidence": sure, "scores": {"accuracy": score}, "stopped": "choice" if number < given else "abstained"}
        for number, (sure, score) in enumerate(zip(confidences, scores, strict=True))
    ]


def _answers(run: Path, name: str) -> list[dict[str, Any]]:
    lines = (run / "approaches" / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _write_answers(run: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "approaches" / name / "predictions.jsonl").write_text(text, encoding="utf-8")


def _shown(folder: RunFolder) -> dict[str, Any] | None:
    return sureness(folder, looks([approach.name for approach in folder.approaches]))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", approaches=["classifier", "few-shot"], examples=40)


def test_accuracy_is_of_the_surest_answers_alone() -> None:
    steps = answered(_rows([0.2, 0.9, 0.5, 0.7], [0.0, 1.0, 0.0, 1.0]), "accuracy")
    assert [(step.n, step.share, step.mean) for step in steps] == [
        (1, 0.25, 1.0),
        (2, 0.5, 1.0),
        (3, 0.75, pytest.approx(2 / 3)),
        (4, 1.0, 0.5),
    ]


def test_answers_of_equal_confidence_are_left_out_together() -> None:
    steps = answered(_rows([0.9, 0.6, 0.6, 0.6, 0.1], [1.0, 1.0, 0.0, 1.0, 0.0]), "accuracy")
    assert [(step.n, step.mean) for step in steps] == [(1, 1.0), (4, 0.75), (5, 0.6)]


def test_answers_kept_back_are_not_answered_but_count_among_the_examples() -> None:
    steps = answered(_rows([0.9, 0.8, 0.7, 0.2], [1.0, 1.0, 0.0, 1.0], kept_back=1), "accuracy")
    assert [(step.n, step.share) for step in steps] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_answers_that_could_not_be_scored_are_in_no_mean() -> None:
    steps = answered(_rows([0.9, 0.8, 0.7], [None, 1.0, 0.0]), "accuracy")
    assert [(step.n, step.mean) for step in steps] == [(1, None), (2, 1.0), (3, 0.5)]


def test_the_table_gives_the_smallest_share_answered_that_is_large_enough(run: Path) -> None:
    rows = _answers(run, "classifier")
    for number, row in enumerate(rows):  # 24 of 40 at once, then 16 one by one, of which the last 8 are wrong
        row["confidence"] = 0.9 if number < 24 else 0.8 - number / 100
        row["scores"]["exact_match"] = 1.0 if number < 32 else 0.0
    _write_answers(run, "classifier", rows)
    comparison = json.loads((run / "comparison.json").read_text())
    next(row for row in comparison["approaches"] if row["name"] == "classifier")["mean"] = 0.8
    (run / "comparison.json").write_text(json.dumps(comparison))
    shown = _shown(read_run(run))
    assert shown is not None
    (row,) = shown["rows"]
    assert [(cell["mean"], cell["n"], cell["share"]) for cell in row["cells"]] == [
        ("100.0%", "n = 24", "at 60%"),
        ("100.0%", "n = 32", ""),
        ("88.9%", "n = 36", ""),
        ("80.0%", "n = 40", ""),
    ]


def test_only_approaches_that_give_confidence_have_a_line(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    section = page.split('<section id="sure">', 1)[1].split("</section>", 1)[0]
    assert section.count('d="M') - section.count('class="mark') == 2  # for wide and for narrow screens
    assert "few-shot" not in section
    assert "Of 40 test examples" in section
    assert 'href="#sure"' in page


def test_nothing_is_drawn_where_nothing_gives_confidence(run_dir: Path) -> None:
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert 'id="sure"' not in page
    assert 'href="#sure"' not in page


def test_nothing_is_drawn_where_the_metric_is_no_mean_of_single_answers(run: Path) -> None:
    comparison = json.loads((run / "comparison.json").read_text())
    comparison["approaches"][0]["mean"] += 0.01
    (run / "comparison.json").write_text(json.dumps(comparison))
    assert _shown(read_run(run)) is None


def test_nothing_is_drawn_where_several_tasks_decide(run: Path) -> None:
    comparison = json.loads((run / "comparison.json").read_text()) | {"targets": ["support-tickets", "other"]}
    (run / "comparison.json").write_text(json.dumps(comparison))
    assert _shown(read_run(run)) is None


def test_answers_kept_back_are_counted_on_the_page(run: Path) -> None:
    rows = sorted(_answers(run, "classifier"), key=lambda row: float(row["confidence"]))
    for row in rows[:6]:
        row["stopped"] = "abstained"
    _write_answers(run, "classifier", rows)
    page = write_report(run).read_text(encoding="utf-8")
    assert "keeps back 6 of 40 answers by a threshold" in page
    shown = _shown(read_run(run))
    assert shown is not None
    assert [cell["n"] for cell in shown["rows"][0]["cells"]] == ["n = 20", "n = 32", "", ""]


def test_an_approach_that_keeps_all_answers_back_has_no_line(run: Path) -> None:
    rows = [{**row, "stopped": "abstained"} for row in _answers(run, "classifier")]
    _write_answers(run, "classifier", rows)
    assert _shown(read_run(run)) is None


def test_a_task_that_an_approach_does_not_answer_counts_as_no_mistake(run: Path) -> None:
    rows = [{**row, "unserved": "it was made for other tasks"} for row in _answers(run, "few-shot")]
    _write_answers(run, "few-shot", rows)
    comparison = json.loads((run / "comparison.json").read_text())
    next(row for row in comparison["approaches"] if row["name"] == "few-shot")["mean"] = None
    (run / "comparison.json").write_text(json.dumps(comparison))
    page = write_report(run).read_text(encoding="utf-8")
    assert "few-shot: right label by row" not in page
    assert "classifier: right label by row" in page
