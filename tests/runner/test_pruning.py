"""Settings that do badly are given up before their training is over, and what that took is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.folder import read_json, read_jsonl
from luthier.runner.pruning import MedianRule
from luthier.study import Study

RATES = [1e-2, 5e-3, 2e-2, 1e-9, 1e-8]
THREE = [((0.5,), (0.6,)), ((0.4,), (0.8,), (0.9,)), ((0.1,), (0.2,), (0.2,), (0.3,))]


@pytest.mark.parametrize(
    ("number", "best", "expected"),
    [
        (1, 0.0, False),  # before half of the training
        (2, 0.59, True),  # the median of 0.6, 0.8 and 0.2
        (2, 0.6, False),
        (3, 0.59, True),  # a training that ended early stays at its best: the median of 0.6, 0.9 and 0.2
        (4, 0.0, False),  # the last evaluation ends it in any case
    ],
)
def test_the_rule_compares_with_the_median_at_the_same_evaluation(number: int, best: float, expected: bool) -> None:
    assert MedianRule(THREE, 4).gives_up(number, (best,)) is expected


def test_nothing_is_given_up_before_three_were_trained_to_their_end() -> None:
    assert not MedianRule(THREE[:2], 4).gives_up(2, (0.0,))


def rates(model: Path, **changes: object) -> Study:
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 2, "evaluations": 4, "learning_rate": {"choose": RATES}}
    return tiny_study(model, approaches={"lora": [sft]}, **changes)


def tried(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    (choice,) = read_json(folder / "approaches" / "lora" / "approach.json")["choices"]
    return choice["tried"]  # type: ignore[no-any-return]


def test_a_bad_learning_rate_is_given_up_half_way_and_counted(root: Path, tiny_model_folder: Path) -> None:
    result = run(rates(tiny_model_folder), root / "run", root=root)
    found = tried(root / "run")
    assert [one["given_up_at"] for one in found] == [None, None, None, 2, 2]
    assert not any(one["taken"] for one in found[3:])
    (row,) = result.comparison["approaches"]
    assert 0 < sum(one["seconds"] for one in found[3:]) < row["cost"]["search_s"]
    given_up = list((root / "run" / "steps").glob("*/given_up.json"))
    assert len(given_up) == 2
    for file in given_up:
        rows = read_jsonl(file.parent / "metrics.jsonl")
        assert max(row["step"] for row in rows) == 4  # of eight
        assert sorted(path.name for path in file.parent.iterdir()) == ["given_up.json", "memory.json", "metrics.jsonl"]
    assert "given up at evaluation 2" in write_report(root / "run").read_text(encoding="utf-8")


def test_what_was_given_up_is_not_trained_again(root: Path, tiny_model_folder: Path) -> None:
    first = run(rates(tiny_model_folder), root / "run", root=root)
    logs = {file: file.stat().st_mtime_ns for file in (root / "run").glob("steps/*/metrics.jsonl")}
    second = run(rates(tiny_model_folder), root / "run", root=root)
    assert dict(second.comparison) == dict(first.comparison)
    assert {file: file.stat().st_mtime_ns for file in logs} == logs


def test_without_pruning_all_are_trained_to_their_end_and_with_it_the_choice_is_the_same(
    root: Path, tiny_model_folder: Path
) -> None:
    run(rates(tiny_model_folder, prune=True), root / "run", root=root)
    run(rates(tiny_model_folder, prune=False), root / "run", root=root)
    whole = tried(root / "run")
    assert [one["given_up_at"] for one in whole] == [None] * 5
    run(rates(tiny_model_folder, prune=True), root / "run", root=root)
    again = tried(root / "run")  # what the folder holds of whole trainings changes nothing
    assert [one["given_up_at"] for one in again] == [None, None, None, 2, 2]
    assert [one["taken"] for one in again] == [one["taken"] for one in whole]


def test_only_the_settings_that_are_taken_draw_their_learning_curve(root: Path, tiny_model_folder: Path) -> None:
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1, "learning_curve": [6]}
    open_sft = {**sft, "learning_rate": {"choose": [1e-9, 2e-2]}}
    run(tiny_study(tiny_model_folder, approaches={"lora": [open_sft]}), root / "run", root=root)
    records = {file.parent: read_json(file) for file in (root / "run" / "steps").glob("*/step.json")}
    drawn = {row["settings"]["learning_rate"]: (folder / "curve" / "6").is_dir() for folder, row in records.items()}
    (taken,) = [one["settings"]["learning_rate"] for one in tried(root / "run") if one["taken"]]
    assert drawn == {rate: rate == taken for rate in (1e-9, 2e-2)}
    (curve,) = (root / "run" / "steps").glob("*/results/learning-curve.json")
    assert read_json(curve)["x"] == [0, 6, 30]
