"""What a step is given, with the tiny task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.progress import Silent
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.types import ModelRef, Task


@pytest.fixture
def rows() -> list[Mapping[str, float]]:
    return []


@pytest.fixture
def context(
    without_test: Task, tmp_path: Path, rows: list[Mapping[str, float]], tiny_model_folder: Path
) -> StepContext:
    return StepContext(
        lesson=Lesson((without_test,), (METRICS["accuracy"],), without_test.name),
        start=ModelRef(str(tiny_model_folder)),
        engine=Engine("cpu", "float32"),
        folder=tmp_path,
        seed=0,
        progress=Silent(),
        log=rows.append,
    )
