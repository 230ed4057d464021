from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_folder() -> Path:
    """The folder of the larger data sets."""
    if "LUTHIER_DATA" not in os.environ:
        pytest.skip("LUTHIER_DATA names no folder of data sets")
    return Path(os.environ["LUTHIER_DATA"])
