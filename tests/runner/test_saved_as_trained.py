"""A model that is loaded from the run folder predicts what it did while it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.errors import TrainingError
from luthier.model import load
from luthier.runner import run
from luthier.runner.folder import read_json, read_jsonl

HEAD = {"step": "sft", "adapter": {"rank": 4, "targets": ["lm_head"]}, "learning_rate": 5e-2, "epochs": 4}


def test_an_adapter_on_a_tied_output_layer_scores_on_validation_what_it_did_in_training(
    root: Path, tiny_model_folder: Path
) -> None:
    approaches = {"lora": [{**HEAD, "evaluations": 2}], "other": [{**HEAD, "adapter": "lora", "evaluations": 2}]}
    study = tiny_study(tiny_model_folder, approaches=approaches, seeds=2, finalists="all")
    run(study, root / "run", root=root)
    for folder in (root / "run" / "steps").iterdir():
        rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "validation/accuracy" in row]
        merged = read_json(folder / "validation.json")["metrics"]
        kept = max(rows, key=lambda row: (row["validation/accuracy"], -row["validation/loss"]))
        assert merged["accuracy"] == pytest.approx(kept["validation/accuracy"])
        assert merged["loss"] == pytest.approx(kept["validation/loss"], abs=0.02)


def test_a_training_that_is_not_what_was_saved_stops_the_run(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "untie_adapted", lambda adapted: None)
    study = tiny_study(tiny_model_folder, approaches={"lora": [HEAD]})
    with pytest.raises(TrainingError, match=r"predicts otherwise than it did in training .* nats a token apart"):
        run(study, root / "run", root=root)
    assert not list((root / "run" / "steps").glob("*/step.json"))
