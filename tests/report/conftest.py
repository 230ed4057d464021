from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import write_run


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six approaches; tests that change it make their own."""
    return write_run(tmp_path_factory.mktemp("runs") / "support")
