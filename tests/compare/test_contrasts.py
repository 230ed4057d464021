"""Differences asked about beforehand: beside scipy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from luthier.compare.contrasts import Trained, contrasts, mean_over_trainings
from luthier.errors import EvaluationError
from luthier.evaluate import Answer, LogProb, metric_traits
from luthier.evaluate.columns import column_of, values_of
from luthier.evaluate.corpus import corpus_value
from luthier.evaluate.statistics import wilson_interval
from luthier.types import Score


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
    # A two-way layout with one value a cell: of the mean square between trainings that of the interaction is no part.
    rest = a.values - a.values.mean(axis=0) - a.values.mean(axis=1, keepdims=True) + a.values.mean()
    interaction, between = (rest**2).sum() / (2 * 199), 200 * a.values.mean(axis=1).var(ddof=1)
    assert between > interaction
    assert found.of_trainings == pytest.approx((between - interaction) / (3 * 200))
    error = np.sqrt(found.of_examples + found.of_trainings)
    freedom = error**4 / (found.of_examples**2 / 199 + (between / 600) ** 2 / 2)
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


@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_the_mean_over_three_trainings_covers_the_truth_about_the_method(spread: float):
    """A right answer has its difficulty, a training its luck; one training's interval leaves the second out."""
    random, truth, covered, alone, draws = np.random.default_rng(3), 0.8, 0, 0, 400
    for _ in range(draws):
        level = np.clip(truth + spread * random.standard_normal((3, 1)), 0, 1)
        values = (random.random((3, 300)) < level).astype(float)
        found = mean_over_trainings(Trained("lora", values), bounded=True)
        covered += found.low <= truth <= found.high
        one = wilson_interval(float(values[0].sum()), 300)
        alone += one.low <= truth <= one.high
    assert covered / draws > 0.93
    if spread > 0.02:
        assert alone / draws < 0.8


def test_the_mean_over_trainings_of_a_bounded_metric_stays_in_its_bounds():
    found = mean_over_trainings(Trained("lora", np.ones((3, 20))), bounded=True)
    assert (found.mean, found.high, found.n) == (1.0, 1.0, 20)
    assert 0.75 < found.low < 0.95
    losses = Trained("lora", 2 + np.random.default_rng(0).standard_normal((3, 50)))
    unbounded = mean_over_trainings(losses, bounded=False)
    assert unbounded.mean == pytest.approx(losses.values.mean())
    assert unbounded.low < unbounded.mean < unbounded.high


def test_scores_on_other_examples_are_refused():
    with pytest.raises(EvaluationError, match="scored on 2 and 3 examples"):
        contrasts([(once("a", 1, 0), once("b", 1, 0, 1))], bounded=True)
    (found,) = contrasts([(once("a", 1), once("b", 0))], bounded=False)
    assert (found.low, found.high, found.p) == (-np.inf, np.inf, 1.0)
    assert contrasts([], bounded=True) == []


@pytest.mark.parametrize("metric", ["macro_f1", "bleu", "perplexity"])
def test_what_a_metric_owes_to_each_example_gives_its_jackknife_variance(metric: str):
    """A metric of all answers together: the mean of its values is the metric, and their spread its standard error."""
    traits, draw = metric_traits(metric), np.random.default_rng(1)
    labels = ("yes", "no", "perhaps")
    answers = [
        Answer(str(said), (wanted,), wanted, labels, logprob=LogProb(-float(draw.gamma(2)), int(draw.integers(1, 9))))
        for said, wanted in zip(draw.choice(labels, 60), draw.choice(labels, 60), strict=True)
    ]
    scores = [Score(str(k), metric, 0.0, None) for k in range(60)]
    column = column_of(scores, answers, traits, "x")
    values = values_of(column, traits)
    assert traits.corpus is not None
    assert values.mean() == pytest.approx(corpus_value(traits.corpus, answers))
    without = [corpus_value(traits.corpus, answers[:k] + answers[k + 1 :]) for k in range(60)]
    assert values.var(ddof=1) / 60 == pytest.approx(59 / 60 * np.var(without) * 60, rel=1e-9)


def test_examples_without_a_score_are_left_out_of_the_differences_that_they_belong_to():
    a, b, c = once("a", 1, 0, np.nan, 1), once("b", 0, 0, 1, 0), once("c", 0, 1, 1, 1)
    first, second = contrasts([(a, b), (b, c)], bounded=True)
    assert (first.n, first.difference) == (3, pytest.approx(2 / 3))
    assert (second.n, second.difference) == (4, pytest.approx(-2 / 4))
    with pytest.raises(EvaluationError, match="no scored example in common"):
        contrasts([(once("a", np.nan, 1), once("b", 1, np.nan))], bounded=True)


def test_over_several_tasks_each_is_a_sample_of_its_own():
    a, b = drawn("a", 0.8, 300, 1), drawn("b", 0.6, 300, 2)
    (found,) = contrasts([(a, b)], bounded=False, tasks=[200, 100])
    gap = a.values[0] - b.values[0]
    assert found.difference == pytest.approx((gap[:200].mean() + gap[200:].mean()) / 2)
    assert found.of_examples == pytest.approx((gap[:200].var(ddof=1) / 200 + gap[200:].var(ddof=1) / 100) / 4)


def test_step_by_step_a_question_beside_plain_ones_is_asked_as_if_alone():
    """And where none is plain, all pay; at every step p and interval agree."""
    a, b, far = drawn("a", 0.8, 200, 1), drawn("b", 0.7, 200, 2), drawn("far", 0.1, 200, 3)
    (alone,) = contrasts([(a, b)], bounded=True)
    beside = contrasts([(a, b), (a, far), (b, far)], bounded=True, stepwise=True)
    assert (beside[0].low, beside[0].high, beside[0].p) == pytest.approx((alone.low, alone.high, alone.p))
    together = contrasts([(a, b), (a, far), (b, far)], bounded=True)
    assert together[0].low < alone.low
    assert [own.difference for own in together] == [own.difference for own in beside]
    near = [(drawn(f"c{k}", 0.72, 200, 50 + k), b) for k in range(3)]
    for own in contrasts(near, bounded=True, stepwise=True):
        assert (own.low > 0 or own.high < 0) == (own.p < 0.05)


def test_a_question_with_most_of_the_chance_is_asked_almost_as_if_alone():
    a, b = drawn("a", 0.8, 300, 1), drawn("b", 0.72, 300, 2)
    pairs = [(a, b), *((drawn(f"c{k}", 0.72, 300, 60 + k), drawn(f"d{k}", 0.72, 300, 80 + k)) for k in range(2))]
    (alone,) = contrasts(pairs[:1], bounded=True)
    favoured, second, third = contrasts(pairs, bounded=True, stepwise=True, weights=[6, 1, 1])
    equal, *_ = contrasts(pairs, bounded=True, stepwise=True)
    half = [(own.high - own.low) / 2 for own in (alone, favoured, equal)]
    # 5% by itself; of independent ones about six eighths of it, and a third
    assert half[1] / half[0] == pytest.approx(t.ppf(1 - 0.0375 / 2, 300) / t.ppf(0.975, 300), rel=0.02)
    assert half[2] / half[0] == pytest.approx(t.ppf(1 - 0.05 / 3 / 2, 300) / t.ppf(0.975, 300), rel=0.02)
    for own in (favoured, second, third):
        assert (own.low > 0 or own.high < 0) == (own.p < 0.05)


def test_step_by_step_the_chance_of_any_wrong_claim_stays_below_five_per_cent():
    """One true difference and two that are none, of approaches that share a rival."""
    wrong, runs = 0, 300
    for seed in range(runs):
        draw = np.random.default_rng(seed)
        difficulty = draw.normal(0, 1, 150)

        def scored(name: str, shift: float, draw: np.random.Generator = draw, hard: np.ndarray = difficulty) -> Trained:
            return once(name, *((hard + draw.normal(0, 1, 150)) < shift))

        other, far = scored("other", 0.5), scored("far", 2.0)
        pairs = [(far, other), (scored("b", 0.5), other), (scored("c", 0.5), other)]
        wrong += any(own.low > 0 or own.high < 0 for own in contrasts(pairs, bounded=True, stepwise=True)[1:])
    assert wrong / runs < 0.09  # 5% and three standard errors


def test_what_never_varies_is_claimed_only_where_the_signs_alone_could_show_it():
    """Without bounds: six examples that differ by the same are as unlikely by chance as one in 32."""
    for n, shown in ((1, False), (2, False), (5, False), (6, True)):
        (found,) = contrasts([(once("a", *[2.0] * n), once("b", *[1.0] * n))], bounded=False)
        assert (found.low > 0) == shown == (found.p < 0.05)
