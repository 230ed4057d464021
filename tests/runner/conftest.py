from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_rows


@pytest.fixture(autouse=True)
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings without a learning rate take the usual one; tests of the search for it take this back."""
    from luthier.steps import SftStep

    monkeypatch.setattr(SftStep, "for_data", lambda self, tasks: self)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the data files of the tiny study."""
    write_rows(tmp_path / "train.csv", 12, seed=1)
    write_rows(tmp_path / "test.csv", 8, seed=2)
    return tmp_path
