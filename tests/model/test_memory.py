from pathlib import Path

import pytest

from luthier.model.device import peak_bytes, reset_peak


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a mark that can be reset")
def test_the_peak_counts_what_was_freed_again_and_can_be_reset() -> None:
    import torch

    reset_peak("cpu")
    before = peak_bytes("cpu")
    block = torch.ones(50_000_000)  # 200 MB
    del block
    assert peak_bytes("cpu") > before + 150_000_000
    reset_peak("cpu")
    assert peak_bytes("cpu") < before + 100_000_000
