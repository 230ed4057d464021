"""A rule of the user's beside the other approaches: Python code, which runs only where that is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.errors import CodeRefused, EvaluationError, StudyError
from luthier.progress import Silent
from luthier.runner import run
from luthier.runner.export import export
from luthier.runner.folder import read_jsonl
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows
from luthier.runner.show import training_examples
from luthier.study import Study, build_study

RULE = """
def answer(prompt, fields):
    if "cat" in prompt:
        return "animal"
    return None if "hammer" in fields["text"] else "fruit"

def number(prompt, fields):
    return 3

def failing(prompt, fields):
    return fields["kind"]
"""


def study(**rule: object) -> Study:
    settings = tiny_study(Path("none"), approaches={"rule": [{"step": "rule", **rule}]}).model_dump(exclude_unset=True)
    del settings["model"]
    return build_study(**settings)


@pytest.fixture
def root(root: Path) -> Path:
    (root / "rule.py").write_text(RULE)
    return root


def test_a_rule_stands_in_the_table_answers_new_rows_and_leaves_as_its_file(root: Path, tmp_path: Path):
    result = run(study(function="rule.py:answer", otherwise="unknown"), root / "run", root=root, allow_code=True)
    (row,) = result.comparison["approaches"]
    assert (row["name"], row["training"]) == ("rule", "none")
    rows = read_jsonl(root / "run" / "approaches" / "rule" / "predictions.jsonl")
    for one in rows:
        text = one["messages"][-1]["content"]
        right = "animal" if "cat" in text else "unknown" if "hammer" in text else "fruit"
        assert (one["completion"], one["stopped"]) == (right, "abstained" if right == "unknown" else "rule")
    opened = open_run(root / "run", "rule", allow_code=True)
    (root / "rule.py").unlink()  # the run has a copy
    assert [a.text for a in predict_rows(opened, [{"text": "cat 99"}, {"text": "pear"}])] == ["animal", "fruit"]
    usage: list[str] = []

    def card(kind: str, how: str) -> str:
        usage.append(how)
        return how

    done = export(opened, root / "out", merge=False, card=card, check=4, progress=Silent())
    assert done.checked == 0  # the run's answers keep no columns, which the rule reads
    program = usage[0].split("```")[1].removeprefix("python").replace("your question", "a cat")
    printed = subprocess.run([sys.executable, "-c", program], cwd=root / "out", capture_output=True, text=True)
    assert printed.stdout.strip() == "animal"


def test_a_changed_rule_answers_anew(root: Path):
    first = run(study(function="rule.py:answer"), root / "run", root=root, allow_code=True)
    (root / "rule.py").write_text("def answer(prompt, fields):\n    return 'never'\n")
    second = run(study(function="rule.py:answer"), root / "run", root=root, allow_code=True)
    assert first.comparison["approaches"][0]["mean"] > second.comparison["approaches"][0]["mean"] == 0


def test_a_rule_runs_only_where_code_is_allowed(root: Path):
    (root / "rule.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(CodeRefused, match=r"rule 'rule\.py:answer' is Python code, and code is not allowed"):
        run(study(function="rule.py:answer"), root / "run", root=root)
    with pytest.raises(CodeRefused):
        training_examples(study(function="rule.py:answer"), root, 1)


def test_a_run_folder_with_a_rule_is_not_run_without_leave(root: Path):
    run(study(function="rule.py:answer"), root / "run", root=root, allow_code=True)
    with pytest.raises(CodeRefused, match="code is not allowed"):
        predict_rows(open_run(root / "run", "rule"), [{"text": "cat"}])


@pytest.mark.parametrize(
    ("function", "error", "complaint"),
    [
        ("rule.py:missing", StudyError, "has no function 'missing' \\(found: answer, number, failing\\)"),
        ("none.py:answer", StudyError, "there is no file"),
        ("../rule.py:answer", CodeRefused, "lies outside the study's folder"),
        ("rule.py:number", EvaluationError, "returns int for prompt .* expected a text, or None"),
        ("rule.py:failing", EvaluationError, "fails on prompt .* KeyError: 'kind'"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(root: Path, function: str, error: type[Exception], complaint: str):
    with pytest.raises(error, match=complaint):
        run(study(function=function), root / "run", root=root, allow_code=True)


def test_a_rule_is_named_as_file_and_function():
    with pytest.raises(StudyError, match=r"expected 'file\.py:function'"):
        study(function="rule")


def test_show_gives_what_the_rule_answers(root: Path):
    shown = training_examples(study(function="rule.py:answer"), root, 2, allow_code=True)
    assert all(one.pieces[-1][1] and one.pieces[-1][0] in ("animal", "fruit", "") for one in shown)
