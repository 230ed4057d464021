"""Intervals and tests beside statsmodels and scipy, at their edges, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.compare import describe_power, minimum_detectable_difference, n_needed
from luthier.errors import EvaluationError
from luthier.evaluate import (
    bootstrap_interval,
    holm,
    mcnemar_exact,
    paired_difference,
    wilson_interval,
)
from luthier.evaluate.statistics import paired_proportion_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (164, 200), (20, 20), (1, 3)])
def test_wilson_agrees_with_statsmodels(successes: int, n: int):
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, method="wilson")
    interval = wilson_interval(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.mean == successes / n


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 7), (10, 10), (3, 25), (0, 6), (400, 301)])
def test_mcnemar_agrees_with_statsmodels(b: int, c: int):
    from statsmodels.stats.contingency_tables import mcnemar

    expected = 1.0 if b + c == 0 else mcnemar([[5, b], [c, 5]], exact=True).pvalue
    assert mcnemar_exact(b, c) == pytest.approx(expected)


def test_mcnemar_by_hand():
    # 6 of 6 discordant pairs one way: 2 / 2⁶
    assert mcnemar_exact(6, 0) == pytest.approx(1 / 32)


def test_holm_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p_values = [0.04, 0.001, 0.03, 0.03, 0.9]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([]) == []


def test_paired_proportion_interval_agrees_with_the_published_example():
    # airway hyper-responsiveness in 21 children, 1 against 7 discordant (Fagerland, Lydersen and Laake 2014)
    low, high = paired_proportion_interval(1, 7, 21)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_paired_proportion_interval_without_discordant_pairs_still_has_width():
    low, high = paired_proportion_interval(0, 0, 200)
    assert high == pytest.approx(1.959964**2 / (200 + 1.959964**2), abs=1e-6)
    assert low == pytest.approx(-high)


def test_paired_proportion_interval_mirrors_and_stays_within_bounds():
    for b, c, n in [(1, 0, 1), (5, 2, 10), (10, 0, 10), (0, 3, 50)]:
        low, high = paired_proportion_interval(b, c, n)
        assert -1 <= low <= (b - c) / n <= high <= 1
        assert paired_proportion_interval(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


def test_paired_proportion_interval_covers_the_true_difference():
    rng, n = np.random.default_rng(5), 40
    for only_a, only_b in [(0.20, 0.10), (0.05, 0.05), (0.02, 0.30)]:
        draws = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=2000)
        counts: dict[tuple[int, int], int] = {}
        for b, c, _ in draws.tolist():
            counts[b, c] = counts.get((b, c), 0) + 1
        covered = 0
        for (b, c), times in counts.items():
            low, high = paired_proportion_interval(b, c, n)
            covered += times * (low <= only_a - only_b <= high)
        assert 0.93 <= covered / 2000 <= 0.99


def test_bootstrap_covers_the_true_mean():
    rng, covered = np.random.default_rng(6), 0
    for seed in range(400):
        interval = bootstrap_interval(rng.beta(5, 1, size=50), seed, resamples=1000)
        covered += interval.low <= 5 / 6 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).beta(2, 1, size=120)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=3).confidence_interval
    interval = bootstrap_interval(values, seed=4, resamples=20_000)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert interval.mean == pytest.approx(values.mean())


def test_bootstrap_of_a_ratio_of_sums_is_the_ratio_not_the_mean_of_ratios():
    rows = np.array([[1.0, 10.0], [9.0, 10.0], [3.0, 1.0], [2.0, 4.0]])
    interval = bootstrap_interval(rows, seed=0, aggregate=lambda sums: sums[:, 0] / sums[:, 1])
    assert interval.mean == pytest.approx(15 / 25)
    assert interval.low < 15 / 25 < interval.high


def test_bootstrap_gives_the_same_for_the_same_seed():
    values = [0.1, 0.5, 0.9, 0.3]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_equal_values_of_a_bounded_metric_do_not_claim_certainty():
    interval = bootstrap_interval([1.0] * 20, seed=0, bounded=True)
    assert (interval.mean, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(wilson_interval(20, 20).low)


def test_one_value_of_an_unbounded_metric_has_no_ends():
    interval = bootstrap_interval([2.5], seed=0)
    assert (interval.mean, interval.low, interval.high) == (2.5, -math.inf, math.inf)


@pytest.mark.parametrize("call", [lambda: wilson_interval(0, 0), lambda: bootstrap_interval([], 0)])
def test_an_empty_set_has_no_mean(call):
    with pytest.raises(EvaluationError, match="empty set"):
        call()


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(EvaluationError, match="finite"):
        bootstrap_interval([1.0, math.nan], 0)


def test_paired_difference_of_proportions_by_hand():
    a = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0]
    b = [1, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    found = paired_difference(a, b, True, seed=0)
    assert found.difference == pytest.approx(0.5)
    assert found.discordance == pytest.approx(0.7)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert (found.low, found.high) == pytest.approx(paired_proportion_interval(6, 1, 10))


def test_paired_difference_of_means_gives_the_exact_sign_flip_p_for_few_pairs():
    from scipy.stats import permutation_test

    a, b = np.array([0.9, 0.8, 0.7, 0.95, 0.6]), np.array([0.5, 0.6, 0.75, 0.5, 0.4])
    expected = permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples").pvalue
    found = paired_difference(a, b, False, seed=0)
    assert found.test == "permutation, exact"
    assert found.p == pytest.approx(expected)
    assert found.low < found.difference < found.high


def test_paired_difference_of_means_agrees_with_scipy_for_many_pairs():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(8)
    a = rng.normal(0.5, 0.2, size=200)
    b = a - rng.normal(0.015, 0.1, size=200)
    found, expected = paired_difference(a, b, False, seed=0), ttest_rel(a, b)
    ends = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=2e-3)
    assert found.sd == pytest.approx((a - b).std(ddof=1), rel=0.05)


def test_paired_difference_through_an_aggregate_compares_the_aggregates():
    a, b = np.array([[2.0, 4.0], [3.0, 5.0]]), np.array([[1.0, 4.0], [1.0, 1.0]])
    found = paired_difference(a, b, False, seed=0, aggregate=lambda sums: sums[:, 0] / sums[:, 1])
    assert found.difference == pytest.approx(5 / 9 - 2 / 5)


def test_identical_approaches_differ_by_nothing():
    proportions = paired_difference([1, 0, 1], [1, 0, 1], True, seed=0)
    assert (proportions.difference, proportions.p) == (0, 1)
    assert proportions.low < 0 < proportions.high
    bounded = paired_difference([0.5, 0.2], [0.5, 0.2], False, seed=0, bounded=True)
    assert (bounded.difference, bounded.p) == (0, 1)
    assert bounded.low < 0 < bounded.high
    losses = paired_difference([2.0, 3.0], [2.0, 3.0], False, seed=0)
    assert (losses.low, losses.high, losses.p) == (0, 0, 1)


def test_one_pair_shows_nothing():
    assert paired_difference([1], [0], True, seed=0).p == 1
    assert paired_difference([2.0], [1.0], False, seed=0).p == 1
    assert paired_difference([2.0], [1.0], False, seed=0).low == -math.inf


def test_paired_difference_refuses_unlike_examples_and_values():
    with pytest.raises(EvaluationError, match="same examples"):
        paired_difference([1, 0], [1], True, seed=0)
    with pytest.raises(EvaluationError, match="0 or 1"):
        paired_difference([0.5], [1], True, seed=0)


def test_two_hundred_examples_show_about_ten_points():
    assert minimum_detectable_difference(200) == pytest.approx(0.098, abs=5e-4)
    assert "below about 9.8 percentage points" in describe_power(200, "accuracy")
    assert describe_power(200, "accuracy").endswith("100 more would find those from 8.1 on.")


def test_minimum_detectable_difference_has_the_power_it_promises():
    rng, n, discordance = np.random.default_rng(9), 200, 0.25
    d = minimum_detectable_difference(n, discordance=discordance)
    draws = rng.multinomial(n, [(discordance + d) / 2, (discordance - d) / 2, 1 - discordance], size=2000)
    found = np.mean([(b - c) ** 2 / max(b + c, 1) > 3.841 for b, c, _ in draws.tolist()])
    assert found == pytest.approx(0.8, abs=0.03)


def test_examples_needed_are_the_inverse_of_the_difference_that_can_be_found():
    for n in (50, 200, 3000):
        assert n_needed(minimum_detectable_difference(n)) == pytest.approx(n, abs=1)
        assert n_needed(minimum_detectable_difference(n, sd=0.3), sd=0.3) == pytest.approx(n, abs=1)


def test_minimum_detectable_difference_of_means_by_hand():
    # (1.960 + 0.842) · 0.5 / √100
    assert minimum_detectable_difference(100, sd=0.5) == pytest.approx(0.1401, abs=1e-4)


def test_too_few_examples_show_nothing():
    assert minimum_detectable_difference(5) == 1.0
    assert "no difference can be found" in describe_power(5, "accuracy")
    assert "1 test example " in describe_power(1, "loss")
    with pytest.raises(EvaluationError):
        minimum_detectable_difference(0)
    with pytest.raises(EvaluationError):
        n_needed(0.0)


def test_power_of_a_metric_that_is_no_proportion_is_described_in_its_own_unit():
    assert "below about 0.099" in describe_power(200, "rouge_l")
    assert "points" not in describe_power(200, "rouge_l")
    assert "known after a run" in describe_power(200, "loss")
