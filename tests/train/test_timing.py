"""The forecast of a training's time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from luthier.prompt.render import TrainingSequence
from luthier.train.loop import LoopSettings
from luthier.train.timing import TrainingSpeed, forecast_seconds, training_speed

# Ten tokens in common and two of their own, the last of which is trained: eleven are read.
ALIKE = [TrainingSequence(str(k), (*range(3, 13), 20 + k, 30 + k), (False,) * 11 + (True,)) for k in range(8)]
SETTINGS = LoopSettings(
    epochs=2,
    batch_size=4,
    learning_rate=1e-3,
    warmup=0.1,
    schedule="cosine",
    weight_decay=0.01,
    max_grad_norm=1.0,
    evaluations=1,
    patience=0,
    seed=0,
    device="cpu",
    precision="float32",
    max_tokens=1000,
)


@pytest.mark.parametrize(("on_tree", "step_tokens"), [(True, 10 + 4), (False, 4 * 12)])
def test_shared_tokens_count_once_where_they_are_computed_once(on_tree: bool, step_tokens: int):
    assert forecast_seconds(TrainingSpeed(0.5, on_tree), ALIKE, SETTINGS) == 4 * step_tokens * 0.5


@pytest.mark.parametrize(("family", "on_tree"), [("llama", True), ("mamba", False)])
def test_a_few_steps_are_timed_as_the_model_will_be_trained(make_tiny: Callable[..., Any], family: str, on_tree: bool):
    speed = training_speed(make_tiny(family), ALIKE, SETTINGS)
    assert speed.on_tree == on_tree
    assert speed.token_s > 0
