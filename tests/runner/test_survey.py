"""What is said of a study's data before anything is timed."""

from __future__ import annotations

import csv
from pathlib import Path

from luthier.runner.survey import survey
from luthier.study import build_study


def test_answers_that_the_deciding_metric_takes_for_the_same_are_named(tmp_path: Path) -> None:
    with open(tmp_path / "data.csv", "w", newline="", encoding="utf-8") as handle:
        rows = [
            [f"question {number}", answer] for number, answer in enumerate(["dog bites man", "man bites dog", "no"] * 6)
        ]
        csv.writer(handle).writerows([["question", "answer"], *rows])
    task = {"data": "data.csv", "split": {"validation": 3, "test": 4}, "prompt": "{{ question }}"}
    own = {"approaches": {"nearest": [{"step": "nearest", "by": "bm25"}]}}
    warned = survey(build_study(task={**task, "completion": "{{ answer }}"}, **own), tmp_path).warnings
    (said,) = (warning for warning in warned if "for the same" in warning)
    assert said.startswith("task: token_f1 takes different answers of this task for the same, 1 of them: ")
    assert {"dog bites man", "man bites dog"} <= set(said.split("'"))
    stricter = {**task, "completion": "{{ answer }}", "metrics": ["exact_match", "token_f1"]}
    assert not any(
        "for the same" in warning for warning in survey(build_study(task=stricter, **own), tmp_path).warnings
    )
