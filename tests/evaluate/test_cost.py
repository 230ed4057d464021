"""Arithmetic of costs, by hand."""

from __future__ import annotations

import pytest

from luthier.compare.quantities import duration
from luthier.errors import EvaluationError
from luthier.evaluate import break_even_requests, latency, throughput, total_s
from luthier.types import Cost


def test_latency_takes_the_median_and_the_95th_percentile():
    found = latency([0.1 * number for number in range(1, 22)])  # 0.1 … 2.1
    assert found.latency_p50_s == pytest.approx(1.1)
    assert found.latency_p95_s == pytest.approx(2.0)
    assert latency([0.3]).latency_p95_s == 0.3
    with pytest.raises(EvaluationError, match="No request was timed"):
        latency([])


def test_throughput_and_its_inverse():
    found = throughput(50, 20.0)
    assert (found.throughput_per_s, found.seconds_per_request) == (2.5, 0.4)
    with pytest.raises(EvaluationError):
        throughput(0, 1.0)


def test_total_counts_training_once_and_every_request():
    cost = Cost(300.0, 0.0, 0, None, 0, 0, 0.0, 0, 10.0, 0.1, 0.4, 0.4, 2.5, 0.4)
    assert total_s(cost, 1000) == pytest.approx(700)


def test_training_pays_for_itself_by_faster_requests_only():
    assert break_even_requests(300.0, 0.4, 0.9) == 600
    assert break_even_requests(301.0, 0.4, 0.9) == 602
    assert break_even_requests(300.0, 0.9, 0.9) is None
    assert break_even_requests(300.0, 1.0, 0.9) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (1.5, "1.5 s"),
        (310, "5.2 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations_read_in_the_unit_that_fits(seconds: float, text: str):
    assert duration(seconds) == text
