"""Arithmetic of costs: what a number of requests takes, and after how many a training has paid for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.errors import EvaluationError
from luthier.types import Cost


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds for one request alone: the median and the 95th percentile."""

    latency_p50_s: float
    latency_p95_s: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Requests answered in batches: how many a second, and its inverse."""

    throughput_per_s: float
    seconds_per_request: float


def latency(seconds: Sequence[float]) -> Latency:
    """Percentiles of measured times, by linear interpolation between them."""
    if len(seconds) == 0:
        raise EvaluationError("No request was timed: there is no latency.")
    p50, p95 = np.percentile(np.asarray(seconds, dtype=float), [50, 95])
    return Latency(float(p50), float(p95))


def throughput(requests: int, seconds: float) -> Throughput:
    """`requests` answered in `seconds`."""
    if requests < 1 or seconds <= 0:
        raise EvaluationError(f"{requests} requests in {seconds} s give no throughput; both must be greater than 0.")
    return Throughput(requests / seconds, seconds / requests)


def total_s(cost: Cost, requests: int) -> float:
    """Seconds of training (and searching) and of answering so many requests."""
    return cost.train_s + requests * cost.seconds_per_request


def break_even_requests(train_s: float, trained_s_per_request: float, untrained_s_per_request: float) -> int | None:
    """After how many requests the time saved on each makes up for the training; None where none is saved."""
    saved_s = untrained_s_per_request - trained_s_per_request
    if saved_s <= 0:
        return None
    return math.ceil(train_s / saved_s)
