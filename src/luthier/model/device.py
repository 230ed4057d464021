"""Where tensors live and in which precision they are computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.errors import ModelError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "bfloat16", "float32"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resolve_device(name: DeviceName) -> str:
    """`auto` becomes cuda, mps or cpu, in this order of preference.

    Raises:
        ModelError: The device asked for is not there.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        have = ", ".join(device for device, there in available.items() if there)
        raise ModelError(f"device '{name}' is not available to torch {torch.__version__} here (available: {have}).")
    return name


def resolve_precision(name: PrecisionName, device: str) -> Literal["bfloat16", "float32"]:
    """`auto` becomes bfloat16 where the hardware multiplies it natively, float32 elsewhere.

    Weights that are trained, and the optimizer's state, are float32 in either case.
    """
    import torch

    if name != "auto":
        return name
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu":
        # Emulated bfloat16 is slower than float32; only AVX512-BF16 and AMX are worth it (torch has no public query).
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if native else "float32"
    return "float32"


def torch_dtype(precision: str) -> torch.dtype:
    import torch

    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


def autocast(device: str, precision: str) -> torch.autocast:
    """Compute in bfloat16 where `precision` says so, whatever the weights are kept in."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What a layer with weights of `dtype` computes in, autocast considered."""
    import torch

    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def peak_bytes(device: str) -> int:
    """The highest memory in use since the last `reset_peak`.

    On CUDA what torch had allocated; elsewhere the process's resident memory, libraries and all. Where the system keeps
    no such mark (it is Linux that does), the resident memory now.
    """
    import psutil
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if _STATUS.is_file():
        marks = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        if marks:
            return int(marks[0]) * 1024
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: str) -> int:
    """Memory that this process may use: what is free, and what it holds already."""
    import psutil
    import torch

    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved())
    return int(min(psutil.virtual_memory().available, _limit()) + psutil.Process().memory_info().rss)


def _limit() -> int:
    """What a control group leaves to its processes; containers have one."""
    most, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not (most.is_file() and used.is_file()) or not most.read_text().strip().isdigit():
        return sys.maxsize
    return max(0, int(most.read_text()) - int(used.read_text()))


def reset_peak(device: str) -> None:
    """Measure the peak from now on."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets the high-water mark of the resident memory
