"""Learning rates are searched where a study names none, by short trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_study

from luthier.runner import run
from luthier.runner.folder import read_json
from luthier.settings import Choose
from luthier.steps import SftStep
from luthier.types import Task


@pytest.fixture(autouse=True)
def one_rate() -> None:
    """The search is what is tested here."""


def test_three_rates_are_tried_for_a_third_of_the_epochs_and_the_best_is_trained_whole(
    root: Path, tiny_model_folder: Path
):
    step = {"step": "sft", "adapter": {"rank": 2}, "epochs": 3, "evaluations": 3}
    run(tiny_study(tiny_model_folder, approaches={"lora": [step]}), root / "run", root=root)
    approach = read_json(root / "run" / "approaches" / "lora" / "approach.json")
    (choice,) = approach["choices"]
    assert [one["settings"]["learning_rate"] for one in choice["tried"]] == [3e-4, 1e-3, 3e-3]
    (taken,) = [one["settings"]["learning_rate"] for one in choice["tried"] if one["taken"]]
    steps = [read_json(file) for file in (root / "run" / "steps").rglob("step.json")]
    whole = [one for one in steps if one["settings"]["epochs"] == 3]
    short = [one for one in steps if one["settings"]["epochs"] == pytest.approx(1)]
    assert (len(whole), len(short)) == (1, 3)
    assert whole[0]["settings"]["learning_rate"] == taken
    cost = approach["cost"]
    assert 0 < cost["search_s"] < cost["train_s"]
    assert cost["tokens_seen"] == whole[0]["trained_tokens"]


def test_a_rate_that_is_given_or_anything_else_left_open_is_left_as_it_is(tiny_task: Task):
    for step in (
        SftStep(learning_rate=1e-3, epochs=3),
        SftStep(learning_rate=Choose[float](choose=(1e-4, 1e-3)), least_steps=1),
        SftStep(epochs=Choose[float](choose=(1.0, 2.0))),
    ):
        assert step.for_data([tiny_task]) == step
    searched = SftStep(adapter="none").for_data([tiny_task])  # type: ignore[arg-type]
    assert isinstance(searched, SftStep)
    assert searched.learning_rate == Choose[float](choose=(3e-5, 1e-4, 3e-4))
    assert searched.trial == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("examples", "settings", "passes"),
    [
        (16, {}, 10),  # 2 steps a pass
        (240, {}, 8),  # 30 steps a pass
        (240, {"batch_size": 16}, 10),
        (800, {}, 3),
        (240, {"examples": 24}, 10),
        (240, {"epochs": 2}, 2),
        (240, {"least_steps": 60}, 3),
        (240, {"data": "task"}, 8),
    ],
)
def test_few_examples_are_passed_over_more_often(
    tiny_task: Task, examples: int, settings: dict[str, Any], passes: float
):
    task = replace(tiny_task, train=(tiny_task.train * examples)[:examples])
    step = SftStep(learning_rate=1e-3, **settings).for_data([task])
    assert isinstance(step, SftStep)
    assert step.epochs == passes


def test_a_trial_is_short_in_all_that_makes_a_training_long():
    step = SftStep(epochs=6, evaluations=3, least_steps=60, patience=2, trial=0.5, learning_curve=(4,))
    short = step.on_trial()
    assert (short.epochs, short.evaluations, short.least_steps, short.patience) == (3, 2, 30, 0)
    assert short.learning_curve == ()
    assert short.whole
