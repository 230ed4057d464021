"""A rule of the user's beside the other approaches: Python code, which runs only where that is allowed."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.errors import CodeRefused, EvaluationError, RunError, StudyError
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

def leaving(prompt, fields):
    raise SystemExit(0)
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
    done = export(opened, root / "out", merge=False, card=lambda kind, how: how, check=4, progress=Silent())
    assert done.checked == 0  # the run's answers keep no columns, which the rule reads
    assert (root / "out" / "rule.py").read_text() == RULE


def test_what_was_exported_answers_by_the_lines_on_its_card_with_columns_and_without_an_answer(root: Path):
    run(study(function="rule.py:answer", otherwise="unknown"), root / "run", root=root, allow_code=True)
    usage: list[str] = []
    opened = open_run(root / "run", "rule", allow_code=True)
    export(
        opened, root / "out", merge=False, card=lambda kind, how: usage.append(how) or how, check=4, progress=Silent()
    )
    program = usage[0].split("```")[1].removeprefix("python").replace('"column": "its value"', '"text": "a hammer"')
    printed = subprocess.run([sys.executable, "-c", program], cwd=root / "out", capture_output=True, text=True)
    assert printed.stdout.strip() == "unknown", printed.stderr


def test_a_rule_leaves_tasks_alone_that_are_no_target(root: Path):
    (root / "other.csv").write_text("word,kind\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)))
    settings = study(function="rule.py:answer").model_dump(exclude_unset=True)
    own = settings["tasks"]["task"]
    other = {**own, "data": "other.csv", "prompt": "{{ word }}", "split": {"validation": 4, "test": 8}}
    settings |= {"tasks": {"task": own, "other": other}, "target": "task"}
    run(build_study(**settings), root / "run", root=root, allow_code=True)
    rows = read_jsonl(root / "run" / "approaches" / "rule" / "predictions.jsonl")
    assert {row["stopped"] for row in rows if row["task"] == "task"} == {"rule", "abstained"}
    assert all("written for task alone" in str(row) for row in rows if row["task"] == "other")


def test_a_compiled_file_beside_the_rule_is_not_believed(root: Path):
    hostile = root / "hostile.py"
    hostile.write_text("def answer(prompt, fields):\n    return 'hostile'\n")
    cached = root / "__pycache__" / Path(importlib.util.cache_from_source("rule.py")).name
    py_compile.compile(str(hostile), cfile=str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    run(study(function="rule.py:answer"), root / "run", root=root, allow_code=True)
    rows = read_jsonl(root / "run" / "approaches" / "rule" / "predictions.jsonl")
    assert "hostile" not in {row["completion"] for row in rows}


@pytest.mark.parametrize("code", ["..", "steps/../../elsewhere"])
def test_a_run_folder_cannot_name_code_elsewhere(root: Path, code: str):
    run(study(function="rule.py:answer"), root / "run", root=root, allow_code=True)
    file = root / "run" / "approaches" / "rule" / "predictor.json"
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "rule.py").write_text("def answer(prompt, fields): return 'elsewhere'\n")
    for change in ({"code": code}, {"function": "../../../rule.py:answer"}):
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(RunError, match="lies outside its folder"):
            open_run(root / "run", "rule", allow_code=True)


def test_a_rule_never_sees_the_columns_of_the_answer(root: Path):
    """Neither in the run nor where labelled rows are answered later."""
    seen = "def answer(prompt, fields):\n    return ' '.join(sorted(fields))\n"
    (root / "rule.py").write_text(seen)
    settings = study(function="rule.py:answer").model_dump(exclude_unset=True)
    settings["tasks"]["task"] |= {"references": "kind"}
    run(build_study(**settings), root / "run", root=root, allow_code=True)
    rows = read_jsonl(root / "run" / "approaches" / "rule" / "predictions.jsonl")
    opened = open_run(root / "run", "rule", allow_code=True)
    (later,) = predict_rows(opened, [{"text": "cat", "kind": "animal"}])
    assert {later.text, *(row["completion"] for row in rows)} == {"text"}


def test_a_rule_that_fails_does_so_before_the_test_is_opened(root: Path):
    with pytest.raises(EvaluationError):
        run(study(function="rule.py:failing"), root / "run", root=root, allow_code=True)
    assert not (root / "run" / "ledger.jsonl").exists()


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
        ("rule.py:missing", StudyError, "has no function 'missing' \\(found: answer, number, failing, leaving\\)"),
        ("none.py:answer", StudyError, "there is no file"),
        ("../rule.py:answer", CodeRefused, "lies outside the study's folder"),
        ("rule.py:number", EvaluationError, "returns int for prompt .* expected a text, or None"),
        ("rule.py:failing", EvaluationError, "fails on prompt .* KeyError: 'kind'"),
        ("rule.py:leaving", EvaluationError, "fails on prompt .* SystemExit: 0"),
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
    assert all(one.pieces[-1][0] in ("\n→ animal", "\n→ fruit", "\n→ ") for one in shown)
    assert not any(one.trained for one in shown)  # it is a guess, and nothing learns it
