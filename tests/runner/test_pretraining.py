"""Studies in which a step reads raw text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_study, write_rows

from luthier.errors import DataError, StudyError
from luthier.evaluate import forgetting
from luthier.runner.estimate import forecast
from luthier.runner.main import run
from luthier.runner.prepare import prepare
from luthier.runner.show import training_examples
from luthier.runner.survey import survey
from luthier.study import Study

SFT = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
PRETRAIN = {"step": "pretrain", "adapter": {"rank": 2}, "evaluations": 1}
FILE, TASK = ({**PRETRAIN, "text": text} for text in ("notes.txt", {"task": "task"}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.csv", 8, seed=1)
    write_rows(tmp_path / "test.csv", 4, seed=2)
    write_notes(tmp_path)
    return tmp_path


def write_notes(root: Path, *more: str) -> None:
    notes = [f"Note {n}: apples and pears are fruit, and a saw is a tool." for n in range(12)]
    (root / "notes.txt").write_text("\n\n".join([*notes, *more]), encoding="utf-8")


def study(model: Path, **approaches: list[dict[str, Any]]) -> Study:
    return tiny_study(model, approaches=approaches or {"domain": [FILE, SFT]})


def steps(root: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((root / f"run/approaches/{name}/approach.json").read_text())["steps"]  # type: ignore[no-any-return]


def test_text_changes_only_what_read_it(tiny_model_folder: Path, root: Path) -> None:
    own = study(tiny_model_folder, both=[TASK, FILE])
    result = run(own, root / "run", root=root)
    assert result.comparison["approaches"][0]["cost"]["train_s"] > 0
    task = root / "run/steps" / steps(root, "both")[0]["hash"]
    facts = json.loads((task / "step.json").read_text())["facts"]
    assert (facts["documents"], facts["held_out_documents"]) == (17, 1)  # 24 rows without the 6 of validation
    picture = json.loads((task / "results/loss.json").read_text())
    assert [line["name"] for line in picture["lines"]] == ["training", "validation"]

    write_notes(root, "One more note.")
    run(own, root / "run", root=root)
    assert [step["reused"] for step in steps(root, "both")] == [True, False]


def test_the_trained_share_is_that_of_the_largest_training(tiny_model_folder: Path, root: Path) -> None:
    whole = {**FILE, "adapter": "none"}
    result = run(study(tiny_model_folder, lora=[SFT], domain=[whole, SFT]), root / "run", root=root)
    shares = {row["name"]: row["cost"]["trainable_share"] for row in result.comparison["approaches"]}
    assert 0 < shares["lora"] < shares["domain"] == 1


def test_a_rate_left_open_is_chosen_by_the_text_kept_apart(tiny_model_folder: Path, root: Path) -> None:
    result = run(
        study(tiny_model_folder, domain=[{**FILE, "learning_rate": {"choose": [1e-7, 1e-2]}}]), root / "run", root=root
    )
    (choice,) = json.loads((root / "run/approaches/domain/approach.json").read_text())["choices"]
    assert [(one["metric"], one["taken"]) for one in choice["tried"]] == [("loss", False), ("loss", True)]
    assert result.comparison["approaches"][0]["cost"]["search_s"] > 0


def test_raw_text_and_examples_are_shown_training_by_training(tiny_model_folder: Path, root: Path) -> None:
    replaying = {**SFT, "replay": {"task": "task", "examples": 5}}
    shown = training_examples(study(tiny_model_folder, domain=[FILE, TASK, replaying]), root, 2)
    titles = [
        "1: pretrain on raw text: notes.txt",
        "2: pretrain on raw text: the prompts of task",
        "3: sft on task; beside them 5 answers to prompts of task that the model writes first",
    ]
    assert [one.training for one in shown] == [title for title in titles for _ in range(2)]
    assert shown[0].place.startswith("notes.txt")
    texts = ["".join(text for text, _, _ in one.pieces) for one in shown]
    assert "Note " in texts[0]
    assert all(trained for _, trained, _ in shown[0].pieces[1:])
    assert "<|im_start|>" in texts[4]


def test_a_forecast_counts_pretraining(tiny_model_folder: Path, root: Path) -> None:
    longer = study(tiny_model_folder, sft=[SFT], domain=[{**FILE, "epochs": 20}, SFT])
    seconds = {one.name: one.seconds for one in forecast(prepare(longer, root)).approaches}
    assert seconds["domain"] > seconds["sft"]
    assert not [w for w in survey(longer, root).warnings if "notes.txt" in w]


def test_what_of_the_test_and_the_probes_stands_in_the_text_is_counted(tiny_model_folder: Path, root: Path) -> None:
    with open(root / "test.csv", "a", encoding="utf-8") as handle:
        handle.write('"a very long message of more than eight words about a saw",tool\n')
    told = "Someone wrote a VERY long message of more than eight words, about a saw, and left."
    write_notes(root, told, told, forgetting.general_text()[0])
    said = [w for w in survey(study(tiny_model_folder), root).warnings if "notes.txt" in w]
    assert said == [
        "notes.txt: documents left out: 0 empty, 1 equal to an earlier one; 14 are left",
        "task: of 1 of 13 test examples the prompt or an answer stands word for word in notes.txt, which an approach "
        "is pretrained on; its scores on task are too good by them",
        "1 of the 100 general texts that show what was forgotten stand in notes.txt; what is pretrained on it seems to "
        "forget less than it does",
    ]


def test_wrong_sources_are_named_before_a_model_loads(tiny_model_folder: Path, root: Path) -> None:
    with pytest.raises(StudyError, match=r"approaches\.a\.0\.text\.task: 'notes' is no task of this study"):
        study(tiny_model_folder, a=[{**PRETRAIN, "text": {"task": "notes"}}])
    with pytest.raises(StudyError, match=r"approaches\.a\.0\.text: names no text; give files, the name of a task"):
        study(tiny_model_folder, a=[{**PRETRAIN, "text": {"column": "body"}}])
    with pytest.raises(DataError, match=r"note\.txt: no such file\. In the folder .* there is notes\.txt"):
        survey(tiny_study(root / "no-model", approaches={"a": [{**PRETRAIN, "text": "note.txt"}]}), root)
