"""Differences asked about beforehand: beside scipy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from luthier.errors import EvaluationError
from luthier.evaluate.contrasts import Trained, contrasts, over_trainings


def once(name: str, *values: float) -> Trained:
    return Trained(name, np.array([values], dtype=float))


def drawn(name: str, share: float, n: int, seed: int, trainings: int = 1, spread: float = 0.0) -> Trained:
    draw = np.random.default_rng(seed)
    shares = share + spread * draw.standard_normal((trainings, 1))
    return Trained(name, (draw.random((trainings, n)) < shares).astype(float))


def test_one_difference_of_unbounded_values_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    a, b = draw.normal(0.3, 1, 40), draw.normal(0, 1, 40)
    (found,) = contrasts([(once("a", *a), once("b", *b))], bounded=False)
    wanted = ttest_rel(a, b)
    interval = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.freedom, found.n, found.trainings) == (39, 40, 1)


def test_of_several_trainings_the_variance_is_that_of_examples_and_that_of_trainings():
    a, b = drawn("a", 0.8, 200, 1, trainings=3, spread=0.05), drawn("b", 0.7, 200, 2)
    (found,) = contrasts([(a, b)], bounded=False)
    differences = a.values.mean(axis=0) - b.values[0]
    assert found.of_examples == pytest.approx(differences.var(ddof=1) / 200)
    assert found.of_trainings == pytest.approx(a.values.mean(axis=1).var(ddof=1) / 3)
    error = np.sqrt(found.of_examples + found.of_trainings)
    freedom = error**4 / (found.of_examples**2 / 199 + found.of_trainings**2 / 2)
    assert found.freedom == pytest.approx(freedom)
    assert found.high - found.difference == pytest.approx(t.ppf(0.975, freedom) * error)


def test_the_intervals_of_independent_differences_hold_together_as_sidak_has_it():
    pairs = [(drawn(f"a{k}", 0.5, 4000, k), drawn(f"b{k}", 0.5, 4000, 10 + k)) for k in range(3)]
    (first, *_) = contrasts(pairs, bounded=False)
    error = np.sqrt(first.of_examples)
    assert (first.high - first.low) / 2 == pytest.approx(t.ppf((1 + 0.95 ** (1 / 3)) / 2, 3999) * error, rel=0.02)


def test_the_same_difference_asked_twice_costs_nothing():
    a, b = drawn("a", 0.8, 300, 1), drawn("b", 0.7, 300, 2)
    (alone,) = contrasts([(a, b)], bounded=True)
    for found in contrasts([(a, b), (b, a)], bounded=True):
        assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.01)


@pytest.mark.parametrize("count", [1, 3])
def test_the_p_is_below_five_per_cent_just_where_the_interval_leaves_out_zero(count: int):
    """In every case, with pseudo-examples and several trainings too."""
    for seed in range(100):
        draw = np.random.default_rng(seed)
        n, share = int(draw.integers(8, 120)), float(draw.uniform(0.5, 0.9))
        other = drawn("other", 0.6, n, seed)
        pairs = [(drawn(f"a{k}", share, n, 1000 * k + seed, trainings=1 + 2 * (k % 2)), other) for k in range(count)]
        for found in contrasts(pairs, bounded=True):
            assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_where_two_never_differ_a_few_examples_claim_no_certainty():
    same = once("a", *[1.0] * 10)
    (found,) = contrasts([(same, once("b", *[1.0] * 10))], bounded=True)
    assert found.difference == 0
    assert found.low < -0.2 < 0.2 < found.high
    assert found.p == 1


def test_with_three_trainings_the_interval_covers_the_truth_about_the_method():
    """And with one it does not, where trainings scatter: it is about that model."""
    draw = np.random.default_rng(3)
    covered = {1: 0, 3: 0}
    for _ in range(400):
        difficulty = draw.normal(0, 0.15, 500)
        shares = np.clip(0.8 + draw.normal(0, 0.04, (3, 1)) + difficulty, 0, 1)
        a = (draw.random((3, 500)) < shares).astype(float)
        b = (draw.random((1, 500)) < np.clip(0.75 + difficulty, 0, 1)).astype(float)
        for trainings in covered:
            (found,) = contrasts([(Trained("a", a[:trainings]), Trained("b", b))], bounded=True)
            covered[trainings] += found.low <= 0.045 <= found.high  # clipping takes half a point
    assert covered[3] / 400 > 0.92
    assert covered[1] / 400 < 0.85


def test_scores_on_other_examples_are_refused():
    with pytest.raises(EvaluationError, match="scored on 2 and 3 examples"):
        contrasts([(once("a", 1, 0), once("b", 1, 0, 1))], bounded=True)
    with pytest.raises(EvaluationError, match="one example shows no difference"):
        contrasts([(once("a", 1), once("b", 0))], bounded=False)
    assert contrasts([], bounded=True) == []


def test_a_corpus_metric_over_trainings_has_both_parts_of_the_variance():
    difference, low, high, p = over_trainings([0.62, 0.60, 0.64], [0.50], 0.0004, 200)
    error = np.sqrt(0.0004 + 0.0004 / 3)
    freedom = error**4 / (0.0004**2 / 199 + (0.0004 / 3) ** 2 / 2)
    assert difference == pytest.approx(0.12)
    assert (low, high) == pytest.approx((0.12 - t.ppf(0.975, freedom) * error, 0.12 + t.ppf(0.975, freedom) * error))
    assert p == pytest.approx(2 * t.sf(0.12 / error, freedom))
    assert over_trainings([0.5, 0.5], [0.4], 0.0, 1)[1:] == (0.0, pytest.approx(0.1), 1.0)
