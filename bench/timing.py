"""When a side is warm, how many steps are timed, and what their times come to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sides import progress

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Pace:
    """How many steps a side makes.

    Attributes:
        warmup: Steps before timing begins; one where a step takes longer than `slow_s`.
        steps: Timed steps, at least 7 in a full run.
        slow_s: Above this, a step is slow, and `slow_steps` of them are timed.
        limit_s: No further step begins after so many seconds, except that one is always timed; None for no limit.
    """

    warmup: int = 2
    steps: int = 10
    slow_s: float = 60.0
    slow_steps: int = 3
    limit_s: float | None = None

    @property
    def at_most(self) -> int:
        """Steps to prepare data for."""
        return self.warmup + self.steps


FULL = Pace()
QUICK = Pace(warmup=1, steps=7, limit_s=60.0)


class Clock:
    """Notes the end of each step and says when enough are timed."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.seconds: list[float] = []
        self.work: list[float] = []
        self.start()

    def start(self) -> None:
        """The next step begins now."""
        self._last = time.perf_counter()

    def tick(self, work: float) -> bool:
        """A step with so many tokens (or prompts) has ended; whether enough are timed."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self.work.append(work)
        self._last = now
        timed = len(self.seconds) - self._warm()
        if timed < 1:
            return False
        slow = statistics.median(self.seconds[self._warm() :]) > self.pace.slow_s
        wanted = min(self.pace.slow_steps, self.pace.steps) if slow else self.pace.steps
        over = self.pace.limit_s is not None and sum(self.seconds) > self.pace.limit_s
        return timed >= wanted or over

    def _warm(self) -> int:
        if self.pace.warmup > 1 and self.seconds and self.seconds[0] > self.pace.slow_s:
            return 1
        return self.pace.warmup

    def result(self) -> dict[str, Any]:
        """The rate (work a second; median over the timed steps), and what it comes from.

        `overall` is all timed work over all timed seconds: it differs from the median where steps differ in size.
        """
        seconds, work = self.seconds[self._warm() :], self.work[self._warm() :]
        return {
            "rate": statistics.median(w / s for w, s in zip(work, seconds, strict=True)),
            "overall": sum(work) / sum(seconds),
            "step_s": statistics.median(seconds),
            "timed_steps": len(seconds),
            "warmup_steps": self._warm(),
            "work_a_step": statistics.mean(work),
        }


def timed_passes(
    name: str, pace: Pace, items: Sequence[Item], per_pass: int, answer: Callable[[Sequence[Item]], list[Answer]]
) -> tuple[Clock, list[Answer]]:
    """Answer `per_pass` items a step, going round, until enough steps are timed.

    Returns:
        The clock, and the answers to the first items in their order, warm-up included.
    """
    clock = Clock(pace)
    answers: list[Answer] = []
    done = False
    while not done:
        begin = len(clock.seconds) * per_pass % len(items)
        chunk = [items[(begin + k) % len(items)] for k in range(per_pass)]
        clock.start()
        found = answer(chunk)
        done = clock.tick(per_pass)
        answers += found
        progress(f"{name}: {per_pass} in {clock.seconds[-1]:.1f} s")
    return clock, answers[: len(items)]
