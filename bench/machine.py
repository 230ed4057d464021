"""What the figures were measured with: versions, processor, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "lancedb", "bm25s")


def versions() -> dict[str, str]:
    """Versions of Luthier, of its peers and of what both stand on; a package that is not there is left out."""
    import luthier

    found = {"luthier": luthier.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, as the system names it, and how much of it is used."""
    import psutil
    import torch

    from luthier.model.device import resolve_precision

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "own_precision": resolve_precision("auto", "cpu"),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        names = [line.partition(":")[2].strip() for line in listed.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
