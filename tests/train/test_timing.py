"""The forecast of a training's time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_loop import ALIKE, SETTINGS

from luthier.train.timing import TrainingSpeed, forecast_seconds, training_speed


@pytest.mark.parametrize(("on_tree", "step_tokens"), [(True, 6 + 4 * 2), (False, 4 * 9)])
def test_shared_tokens_count_once_where_they_are_computed_once(on_tree: bool, step_tokens: int):
    assert forecast_seconds(TrainingSpeed(0.5, on_tree), ALIKE, SETTINGS) == 6 * step_tokens * 0.5


@pytest.mark.parametrize(("family", "on_tree"), [("llama", True), ("mamba", False)])
def test_a_few_steps_are_timed_as_the_model_will_be_trained(make_tiny: Callable[..., Any], family: str, on_tree: bool):
    speed = training_speed(make_tiny(family, vocabulary=80), ALIKE, SETTINGS)
    assert speed.on_tree == on_tree
    assert speed.token_s > 0
