"""Predictors as JSON and back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from colours import make_example
from luthier.errors import RunError
from luthier.record import load_predictor, predictor_from_json, predictor_to_json
from luthier.types import Decoding, ModelRef, PromptedModel, Shots, Task, Wording


def predictor(run: Path) -> PromptedModel:
    pool = (make_example(1, "sky?", "blue", label="blue", group="g"), make_example(2, "moss?", "green"))
    return PromptedModel(
        model=ModelRef("/models/base", (str(run / "steps" / "a" / "adapter"), str(run / "steps" / "b" / "adapter"))),
        decoding=Decoding("generate", 12, ("\n", "stop")),
        wording=Wording("System.", "{{ text }}"),
        shots=Shots(pool, 2, "bm25"),
    )


def test_a_predictor_comes_back_as_it_was(tmp_path: Path):
    given = predictor(tmp_path)
    text = json.dumps(predictor_to_json(given, tmp_path))
    assert predictor_from_json(json.loads(text), tmp_path) == given
    drawing = replace(given, decoding=replace(given.decoding, temperature=0.7, top_p=0.9, seed=3))
    assert predictor_from_json(json.loads(json.dumps(predictor_to_json(drawing, tmp_path))), tmp_path) == drawing
    routes = {"other": ModelRef("/models/base", (str(tmp_path / "steps" / "c" / "adapter"),))}
    routed = replace(given, routes=routes)
    row = json.loads(json.dumps(predictor_to_json(routed, tmp_path)))
    assert row["routes"]["other"]["adapters"] == ["steps/c/adapter"]
    assert predictor_from_json(json.loads(json.dumps(row)), tmp_path) == routed
    bare = PromptedModel(ModelRef("/models/base"), Decoding())
    assert predictor_from_json(json.loads(json.dumps(predictor_to_json(bare, tmp_path))), tmp_path) == bare


def test_folders_inside_the_run_are_written_relative_to_it(tmp_path: Path):
    row = json.loads(json.dumps(predictor_to_json(predictor(tmp_path), tmp_path)))
    assert row["model"] == {"base": "/models/base", "adapters": ["steps/a/adapter", "steps/b/adapter"], "head": None}


def test_a_run_can_be_moved(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "predictor.json").write_text(json.dumps(predictor_to_json(predictor(old), old)))
    shutil.move(old, new)
    assert load_predictor(new / "predictor.json", new) == predictor(new)


def test_a_predictor_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(RunError, match=r"predictor.json is missing: .* has not been fitted yet"):
        load_predictor(tmp_path / "predictor.json", tmp_path)


def test_each_task_is_asked_of_its_own_model_and_only_the_target_with_the_prompts(tmp_path: Path, tiny_task: Task):
    given = predictor(tmp_path)
    own = ModelRef("/models/own")
    routed = replace(given, routes={tiny_task.name: own})
    assert routed.asked(tiny_task, tiny_task.name) == replace(given, model=own)
    assert routed.asked(tiny_task, "target") == PromptedModel(own, tiny_task.decoding)
    assert routed.asked(replace(tiny_task, name="another"), "target") == PromptedModel(given.model, tiny_task.decoding)
    assert routed.models == (given.model, own)
