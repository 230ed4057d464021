"""The command line as a user meets it: each command once, and what it says when something is wrong."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from luthier.cli import main

BANKING = Path(__file__).parents[1] / "studies" / "data" / "banking77"


@pytest.fixture
def luthier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Call the command line in a folder of its own; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["luthier", *words])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), " ".join(err.split())

    return call


@pytest.fixture
def study(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A study of three intents of Banking77 with a tiny random model."""
    keep = {"card_arrival", "exchange_rate", "top_up_failed"}
    for split in ("train", "test"):
        with open(BANKING / f"{split}.csv", encoding="utf-8") as source:
            rows = [row for row in csv.DictReader(source) if row["category"] in keep]
        with open(tmp_path / f"{split}.csv", "w", newline="", encoding="utf-8") as to:
            writer = csv.DictWriter(to, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)
    file = tmp_path / "study.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "model": str(tiny_model_folder),
                "device": "cpu",
                "latency_requests": 2,
                "forgetting": {"probe": False},
                "task": {
                    "data": {"train": "train.csv", "test": "test.csv"},
                    "split": {"validation": 9},
                    "prompt": "{{ text }}",
                    "completion": "{{ category }}",
                    "labels": "auto",
                    "answer": "choose",
                },
                "approaches": {
                    "zero-shot": [],
                    "lora": [{"step": "sft", "adapter": {"rank": 2}, "epochs": 0.5, "evaluations": 1}],
                },
            }
        )
    )
    return file


def test_from_check_to_export(luthier, study: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = luthier("check", str(study))
    assert code == 0
    assert "57 training, 9 validation, 45 test examples, 3 labels" in out
    assert "percentage points" in out
    assert "GB of memory" in out

    code, out, _ = luthier("show", str(study), "-n", "2")
    assert code == 0
    assert out.count("tokens,") == 2
    assert "<|im_start|>" in out
    assert "card_arrival<|im_end|>" in out

    code, out, err = luthier("run", str(study), "--output", "out", "--set", "approaches.lora.0.adapter.rank=4")
    assert (code, err) == (0, "")
    assert "zero-shot" in out
    assert "out/report.html" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert (
        json.loads((tmp_path / "out" / "study.json").read_text())["approaches"]["lora"]["steps"][0]["adapter"]["rank"]
        == 4
    )

    assert luthier("report", "out")[0] == 0

    code, out, _ = luthier("predict", "out", "test.csv", "--approach", "lora", "--output", "answers.jsonl")
    assert code == 0
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 45
    assert set(answers[0]) == {"text", "category", "prediction", "confidence"}

    code, _, err = luthier("predict", "out", "test.csv", "--approach", "lora", "--output", "answers.jsonl")
    assert (code, "exists" in err, "--force" in err) == (1, True, True)
    code, _, err = luthier("predict", "out", "test.csv", "--output", "test.csv", "--force")
    assert (code, "is the file of the rows" in err) == (1, True)
    code, _, err = luthier("predict", "out", "answers.jsonl", "--approach", "lora", "--output", "more.jsonl")
    assert (code, "'prediction' and 'confidence'" in err, "--force" in err) == (1, True, True)
    before = (tmp_path / "answers.jsonl").read_bytes()
    code, _, _ = luthier("predict", "out", "test.csv", "--approach", "lora", "--output", "answers.jsonl", "--force")
    assert (code, (tmp_path / "answers.jsonl").read_bytes()) == (0, before)
    code, _, err = luthier("predict", "out", "test.csv", "--output", "test.csv/answers.jsonl")
    assert (code, "cannot be written" in err) == (1, True)

    code, out, _ = luthier("predict", "out", "test.csv", "--approach", "zero-shot")
    assert code == 0
    assert out.startswith("{")

    (tmp_path / "long.csv").write_text(f"text\napple\n{'word ' * 9000}\nsaw\n", encoding="utf-8")
    code, _, err = luthier("predict", "out", "long.csv", "--approach", "lora", "--output", "long.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "long.jsonl").read_text().splitlines()]
    assert (code, [row["prediction"] is None for row in answers]) == (1, [False, True, False])
    assert "1 of 3 rows have no answer; all others do:" in err
    assert "long.csv:3: the prompt takes" in err

    code, out, _ = luthier("export", "out", "--to", "model", "--approach", "lora", "--merge", "--check", "10")
    assert code == 0
    assert "all of 10 test prompts" in out
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_folder_of_other_files_is_not_taken_for_a_run(luthier, study: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("data.json", "notes.writing"):
        (mine / name).write_text("mine", encoding="utf-8")
    code, _, err = luthier("run", str(study), "--output", "mine", "--no-forecast")
    assert (code, "data.json, notes.writing" in err, "no run" in err) == (1, True, True)
    assert {file.name: file.read_text() for file in mine.iterdir()} == {"data.json": "mine", "notes.writing": "mine"}
    code, _, err = luthier("run", str(study), "--output", "mine/data.json", "--no-forecast")
    assert (code, "is a file" in err) == (1, True)


def test_values_of_a_row_are_written_as_json_can_hold_them() -> None:
    from datetime import date
    from decimal import Decimal

    import numpy as np

    from luthier.runner.predict import plain_row

    row = {
        "day": date(2026, 1, 2),
        "price": Decimal("1.10"),
        "none": float("nan"),
        "bytes": b"caf\xc3\xa9",
        "raw": b"\xff",
    }
    row |= {"many": np.array([1.5, float("inf")]), "nested": {"at": [date(2026, 1, 2)]}, "text": "007", "yes": True}
    found = {"day": "2026-01-02", "price": "1.10", "none": None, "bytes": "café", "raw": "/w=="}
    found |= {"many": [1.5, None], "nested": {"at": ["2026-01-02"]}, "text": "007", "yes": True}
    assert plain_row(row) == found
    json.dumps(plain_row(row), allow_nan=False)


def test_show_draws_the_first_step_as_a_tree(luthier, study: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = luthier("show", str(study), "--tree")
    assert code == 0
    assert out.startswith("lora, first training step 8 examples, ")
    assert "computed (" in out
    assert "×8 <|im_start|>" in out
    assert out.count("<|im_end|>⟧") == 8

    code, out, _ = luthier("show", str(study), "--tree", "--approach", "zero-shot")
    assert code == 0
    assert out.startswith("zero-shot, prompts to the validation split 9 prompts, ")
    assert "trains nothing" in out


def test_init_writes_a_study_that_checks(luthier, tmp_path: Path, tiny_model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = luthier("init", str(BANKING / "train.csv"), "--model", str(tiny_model_folder))
    assert code == 0
    assert "luthier check study.yaml" in out
    assert luthier("check", "study.yaml")[0] == 0
    code, _, err = luthier("init", str(BANKING / "train.csv"))
    assert code == 1
    assert "--force" in err


def test_check_says_what_it_knows_before_it_times_anything(
    luthier,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    def interrupted(model: object, rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("luthier.runner.estimate.measure_answering", interrupted)
    code, out, _ = luthier("check", str(study))
    assert code == 130
    assert "test examples" in out
    assert "differences below about" in out
    assert "tokens, prompt and answer" in out


def test_chat_answers_until_an_empty_line(luthier, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    luthier("run", str(study), "--output", "out", "--no-forecast")
    lines = iter(["Where is my card?", ""])
    monkeypatch.setattr("luthier.console.console.input", lambda *_: next(lines))
    code, out, _ = luthier("chat", "out", "--approach", "zero-shot")
    assert code == 0
    assert any(label in out for label in ("card_arrival", "exchange_rate", "top_up_failed"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "nothing.yaml"], "nothing.yaml does not exist"),
        (["run", "study.yaml", "--set", "approaches.lora.0.adapter.rnk=3"], "did you mean 'rank'"),
        (["run", "study.yaml", "--set", "model=no/such-model"], "Tried:"),
        (["run", "study.yaml", "--set", "model=."], "no model folder"),
        (["run", "study.yaml", "--set", "task.prompt={{ txt }}"], "text"),
        (["run", "study.yaml", "--set", "task.data=nothing.csv"], "nothing.csv"),
        (["run", "study.yaml", "--set", "device=tpu"], "device"),
        (["predict", "nothing", "test.csv"], "luthier run"),
        (["report", "nothing"], "nothing"),
        (["show", "study.yaml", "--tree", "-n", "3"], "leave one of them out"),
        (["show", "study.yaml", "--tree", "--approach", "lorra"], "no approach 'lorra'"),
        (["run", "study.yaml", "--colour"], "No such option"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(luthier, study: Path, words: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = luthier(*words)
    assert code in (1, 2)
    assert err.startswith("error:")
    assert said in err
    assert "Traceback" not in err


def test_ctrl_c_says_how_to_go_on(luthier, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("luthier.runner.main._fit_all", interrupt)
    code, _, err = luthier("run", str(study), "--no-forecast")
    assert code == 130
    assert "go on" in err


def test_a_full_disk_is_said_and_nothing_is_lost(luthier, study: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/predictions.jsonl")

    monkeypatch.setattr("luthier.runner.measure.write_jsonl", full)
    code, _, err = luthier("run", str(study), "--output", "out", "--no-forecast")
    assert code == 1
    assert "No space left" in err
    assert "kept" in err
    monkeypatch.undo()
    os.chdir(study.parent)
    assert subprocess.run([sys.executable, "-m", "luthier", "--help"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", ["run", "check", "init", "show", "report", "predict", "chat", "export"])
def test_each_command_explains_itself_with_an_example(luthier, command: str) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = luthier(command, "--help")
    assert code == 0
    assert f"luthier {command}" in out


def test_damaged_and_odd_files_never_end_in_a_traceback(luthier) -> None:  # type: ignore[no-untyped-def]
    data = os.environ.get("LUTHIER_DATA")
    if not data:
        pytest.skip("LUTHIER_DATA is not set")
    files = [p for p in sorted(Path(data).glob("fmt_*/**/*")) if p.is_file()]
    assert len(files) > 150
    for number, file in enumerate(files):
        code, _, err = luthier("init", str(file), "--output", f"{number}.yaml")
        assert code == 0 or (code == 1 and err.startswith("error:")), f"{file}: {err}"
