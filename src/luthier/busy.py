"""Whether other programs take the cores on which something is timed.

On a busy machine, threads that spin while they wait for each other take the time that others would need, themselves
included; alone, threads that sleep while they wait are slower. So which of the two is decided when the program starts.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import psutil

# From so many cores on, a timing is said to have been made beside other work.
BUSY_CORES = 0.25
_POLICY = "OMP_WAIT_POLICY"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds since some moment: of the wall, of all cores at work, and of this program's own work."""

    wall: float
    machine: float
    own: float

    @classmethod
    def now(cls) -> _Clock:
        times = psutil.cpu_times()
        # A guest's time is part of the user's on Linux, and cores that wait for a disk are idle.
        idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
        return cls(time.perf_counter(), float(sum(times) - idle), float(sum(psutil.Process().cpu_times()[:4])))


class OtherWork:
    """Counts, from its making on, how many cores other programs take."""

    def __init__(self) -> None:
        self._start = _Clock.now()

    @property
    def cores(self) -> float:
        """In the mean since then; 0 where the clocks are too coarse to say."""
        now, start = _Clock.now(), self._start
        if now.wall <= start.wall:
            return 0.0
        return max(0.0, (now.machine - start.machine - (now.own - start.own)) / (now.wall - start.wall))


def busy_note(cores: float, what: str) -> str:
    """A sentence on other programs; empty where they hardly take anything.

    Args:
        what: What was timed beside them, such as "this forecast".
    """
    if cores < BUSY_CORES:
        return ""
    return f"other programs took about {cores:.1f} of {os.cpu_count()} cores beside {what}: alone it takes less time"


def wait_as_the_machine_is() -> None:
    """Let threads sleep while they wait where other programs take cores, and spin where not.

    It must be called before PyTorch is loaded, and decides nothing where the user has, or where it is too late.
    """
    if _POLICY in os.environ or "torch" in sys.modules:
        return
    others = OtherWork()
    time.sleep(_LOOK_S)
    if others.cores >= BUSY_CORES:
        os.environ[_POLICY] = "PASSIVE"
