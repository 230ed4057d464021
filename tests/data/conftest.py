import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.data import TaskSettings, load_task
from luthier.types import Task


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, where the environment names one."""
    if "LUTHIER_DATA" not in os.environ:
        pytest.skip("LUTHIER_DATA names no folder of data sets")
    return Path(os.environ["LUTHIER_DATA"])


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[object], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Task]:
    """Load a task from files in tmp_path, with question and answer columns unless told otherwise."""

    def call(root: Path = tmp_path, seed: int = 0, allow_code: bool = False, **settings: object) -> Task:
        usual: dict[str, object] = {"data": "data.jsonl"}
        if settings.get("format") not in ("chat", "alpaca"):
            usual |= {"prompt": "{{ question }}", "completion": "{{ answer }}"}
        return load_task("task", TaskSettings.model_validate(usual | settings), root, allow_code, seed)

    return call
