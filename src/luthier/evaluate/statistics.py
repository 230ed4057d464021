"""Intervals and tests for means, proportions and corpus metrics, of one approach and of two on the same examples.

All intervals are at 95%. Values are (N,) numbers, one an example, or, with an `aggregate`, (N, K) rows whose sums
determine the metric. Nothing here knows of metrics' names or of approaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from luthier.errors import EvaluationError

Floats = NDArray[np.float64]
Aggregate = Callable[[Floats], Floats]
"""From sums of rows, (R, K), to one number for each, (R,)."""

RESAMPLES = 10_000
AGGREGATE_RESAMPLES = 2_000
"""Fewer where each resample goes through an aggregate: enough for the second digit of an interval's end."""

# Of a two-sided 95% interval.
Z = NormalDist().inv_cdf(0.975)
_CHUNK = 2_000_000  # resampled values held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or corpus metric) with its 95% interval, and how that was computed."""

    mean: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference a - b on the same examples.

    Attributes:
        p: Two-sided, of the hypothesis that the two do not differ; by `test`.
        interval: How `low` and `high`, the ends at 95%, were computed.
        sd: Standard deviation of the difference on one example (the standard error times √n).
        discordance: For proportions, the share of examples on which the two differ; else None.
    """

    difference: float
    low: float
    high: float
    n: int
    p: float
    test: str
    interval: str
    sd: float
    discordance: float | None


def wilson_interval(successes: float, n: int) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001)."""
    _check_not_empty(n)
    if not 0 <= successes <= n:
        raise EvaluationError(f"{successes} successes of {n}: there must be between 0 and {n}.")
    share, z2 = successes / n, Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # the ends are exactly 0 and 1 at the extremes; rounding would leave 1e-17
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high, n, "Wilson")


def bootstrap_interval(
    values: ArrayLike,
    seed: int,
    aggregate: Aggregate | None = None,
    bounded: bool = False,
    resamples: int | None = None,
) -> Interval:
    """A mean, or an aggregate of summed rows, with its bootstrap interval: BCa (Efron 1987).

    Where the resamples do not vary (one value, or all equal) the bootstrap would claim certainty. Then, for a metric
    `bounded` to 0 and 1, values never seen get the weight that Wilson's interval gives to an event seen 0 times in n;
    an unbounded metric of one value has an interval without ends.
    """
    rows = _rows(values, aggregate)
    statistic = aggregate or _mean
    bounds = (0.0, 1.0) if bounded else None
    result = _bootstrap(rows, statistic, seed, bounds, _number(aggregate, resamples))
    return Interval(result.estimate, result.low, result.high, len(rows), result.method)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test; b and c count the examples on which only one of the two is right."""
    if b + c == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(min(b, c), b + c, 0.5).pvalue)


def paired_proportion_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """95% interval of (b - c) / n by Tango's score method (Tango 1998, Statistics in Medicine 17:891-908).

    It keeps its coverage with few examples and few discordant pairs, also with none (Fagerland, Lydersen and Laake
    2014), and at difference 0 it is McNemar's test.
    """
    _check_not_empty(n)

    def z(delta: float) -> float:
        """The score statistic of the difference delta, with the constrained estimate of c / n."""
        linear = -b - c + (2 * n - b + c) * delta
        share = (math.sqrt(max(0.0, linear**2 + 8 * n * c * delta * (1 - delta))) - linear) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        gap = b - c - n * delta
        return math.copysign(math.inf, gap) if variance <= 0 else gap / math.sqrt(variance)

    estimate = (b - c) / n
    return _crossing(z, -1.0, estimate, Z), _crossing(z, estimate, 1.0, -Z)


def _crossing(decreasing: Callable[[float], float], low: float, high: float, level: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) > level else (low, middle)
    return (low + high) / 2


def paired_difference(
    a_values: ArrayLike,
    b_values: ArrayLike,
    proportion: bool,
    *,
    seed: int,
    aggregate: Aggregate | None = None,
    bounded: bool = False,
    resamples: int | None = None,
) -> Difference:
    """How far a lies above b, measured on the same examples in the same order.

    Proportions (values 0 and 1): Tango's interval and McNemar's exact test. Else: the bootstrap over examples (BCa) and
    the permutation test that swaps a and b on each example (Fisher's sign-flip test; for corpus metrics the
    approximate randomisation of Noreen 1989), all swaps where there are few, else a sample of them (Phipson and Smyth
    2010). Interval and test are not the inverse of each other, so near 5% they may disagree.
    """
    a, b = _rows(a_values, aggregate), _rows(b_values, aggregate)
    if a.shape != b.shape:
        raise EvaluationError(f"A paired difference needs the same examples: found {len(a)} and {len(b)} of them.")
    if proportion:
        return _paired_proportions(a[:, 0], b[:, 0])
    statistic, width = aggregate or _mean, a.shape[1]

    def difference(sums: Floats) -> Floats:
        return statistic(sums[:, :width]) - statistic(sums[:, width:])

    count = _number(aggregate, resamples)
    result = _bootstrap(np.hstack([a, b]), difference, seed, (-1.0, 1.0) if bounded else None, count)
    p, test = _swap_p(a, b, difference, seed, count)
    sd = result.standard_error * math.sqrt(len(a))
    return Difference(result.estimate, result.low, result.high, len(a), p, test, result.method, sd, None)


def _paired_proportions(a: Floats, b: Floats) -> Difference:
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        raise EvaluationError("Values of a proportion must be 0 or 1.")
    n, only_a, only_b = len(a), int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    low, high = paired_proportion_interval(only_a, only_b, n)
    difference, discordance = (only_a - only_b) / n, (only_a + only_b) / n
    return Difference(
        difference,
        low,
        high,
        n,
        mcnemar_exact(only_a, only_b),
        "McNemar, exact",
        "Tango",
        math.sqrt(discordance - difference**2),
        discordance,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _check_not_empty(n: int) -> None:
    if n < 1:
        raise EvaluationError("There is no scored example: an empty set has no mean.")


def _rows(values: ArrayLike, aggregate: Aggregate | None) -> Floats:
    rows = np.asarray(values, dtype=float)
    _check_not_empty(len(rows))
    if aggregate is None:
        rows = np.column_stack([rows, np.ones(len(rows))])
    if not np.isfinite(rows).all():
        raise EvaluationError("A value is not a finite number; such a score must be None, with a reason.")
    return rows


def _mean(sums: Floats) -> Floats:
    """Of rows (value, 1)."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def _number(aggregate: Aggregate | None, resamples: int | None) -> int:
    return resamples or (RESAMPLES if aggregate is None else AGGREGATE_RESAMPLES)


@dataclass(frozen=True, slots=True)
class _Bootstrapped:
    estimate: float
    low: float
    high: float
    standard_error: float
    method: str


def _bootstrap(
    rows: Floats, statistic: Aggregate, seed: int, bounds: tuple[float, float] | None, resamples: int
) -> _Bootstrapped:
    estimate = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    if len(rows) > 1:
        samples = statistic(_resampled_sums(rows, resamples, seed))
        if float(np.ptp(samples)) > 1e-12:
            low, high = _bca_ends(samples, estimate, statistic(rows.sum(axis=0) - rows))
            # a strong bias correction can leave the estimate outside
            return _Bootstrapped(
                estimate, min(low, estimate), max(high, estimate), float(samples.std()), "bootstrap BCa"
            )
    low, high = _unvaried_ends(estimate, len(rows), bounds)
    return _Bootstrapped(estimate, low, high, 0.0, "no variation seen")


def _resampled_sums(rows: Floats, resamples: int, seed: int) -> Floats:
    """(R, K): sums of N rows drawn with replacement, R times."""
    rng, n = np.random.default_rng(seed), len(rows)
    sums = []
    for size in _chunks(resamples, n):
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        sums.append(times @ rows)
    return np.concatenate(sums)


def _bca_ends(samples: Floats, estimate: float, left_one_out: Floats) -> tuple[float, float]:
    """Ends of the bias-corrected and accelerated interval (Efron 1987), the plain percentiles where it breaks down."""
    normal, count = NormalDist(), len(samples)
    below = float(((samples < estimate).mean() + (samples <= estimate).mean()) / 2)
    bias = normal.inv_cdf(min(max(below, 1 / (count + 1)), count / (count + 1)))
    deviation = left_one_out.mean() - left_one_out
    scale = float((deviation**2).sum()) ** 1.5
    acceleration = float((deviation**3).sum()) / (6 * scale) if scale > 0 else 0.0
    shares = []
    for z in (-Z, Z):
        shrink = 1 - acceleration * (bias + z)
        if shrink <= 0:
            shares = [0.025, 0.975]
            break
        shares.append(normal.cdf(bias + (bias + z) / shrink))
    low, high = np.quantile(samples, shares)
    return float(low), float(high)


def _unvaried_ends(estimate: float, n: int, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if bounds is not None:
        unseen = wilson_interval(0, n).high
        return estimate - unseen * (estimate - bounds[0]), estimate + unseen * (bounds[1] - estimate)
    return (-math.inf, math.inf) if n == 1 else (estimate, estimate)


def _swap_p(a: Floats, b: Floats, difference: Aggregate, seed: int, resamples: int) -> tuple[float, str]:
    """Share of the swaps of a and b, example by example, that give a difference as large as the one observed."""
    change = (b - a)[(a != b).any(axis=1)]  # swapping equal rows changes nothing
    if len(change) == 0:
        return 1.0, "permutation, exact"
    a_sum, b_sum = a.sum(axis=0), b.sum(axis=0)
    observed = abs(float(difference(np.hstack([a_sum, b_sum])[None])[0]))
    exact = len(change) < 60 and 2 ** len(change) <= resamples
    as_large, count = 0, 0
    for swapped in _all_swaps(len(change)) if exact else _random_swaps(len(change), resamples, seed):
        moved = swapped @ change
        differences = np.abs(difference(np.hstack([a_sum + moved, b_sum - moved])))
        as_large += int((differences >= observed - 1e-9 * max(observed, 1e-3)).sum())
        count += len(swapped)
    if exact:
        return as_large / count, "permutation, exact"
    return (as_large + 1) / (count + 1), f"permutation, {count:,} samples"


def _all_swaps(n: int) -> Iterator[NDArray[np.int64]]:
    yield (np.arange(2**n)[:, None] >> np.arange(n)) & 1


def _random_swaps(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for size in _chunks(resamples, n):
        yield rng.integers(0, 2, size=(size, n))


def _chunks(total: int, n: int) -> Iterator[int]:
    size = max(1, _CHUNK // n)
    for start in range(0, total, size):
        yield min(size, total - start)
