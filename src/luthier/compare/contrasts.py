"""Differences between approaches, with intervals that hold together, over test examples and trainings.

What is trained is trained several times, and the question is about the way of training, not about one lucky model
(Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks"). The variance of a difference is
that between test examples over their number, and that between trainings over theirs, both of them drawn at random and
crossed: what trainings differ by on single examples is in the first part already, and is taken off the second (analysis
of variance; Searle, Casella and McCulloch 1992). Its degrees of freedom are Satterthwaite's (1946). With one training
the interval is about that model alone.

The intervals hold together by the largest of the studentised differences (max-T; Westfall and Young 1993), which costs
little where the differences have an approach in common. The p of a difference is the level at which its interval would
touch zero, so that the two never contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from luthier.errors import EvaluationError
from luthier.evaluate.statistics import Floats, Interval

LEVEL = 0.95
# Draws of the largest of some correlated normal values.
_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Trained:
    """What one approach scores on the test examples, with each of its trainings.

    Attributes:
        name: The same approach in several contrasts is known by it.
        values: A row for each training, one where nothing is trained; a column for each example, whose mean is the
            metric. Not a number where an example has no score. (M, N)
    """

    name: str
    values: Floats

    @property
    def trainings(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Contrast:
    """How far one approach lies above another.

    Attributes:
        difference: Of the means over examples and trainings.
        low, high: Ends of the interval, simultaneous with those of the other contrasts; infinite where one example of
            a metric without bounds gives none.
        p: Two-sided, adjusted for all contrasts: below 0.05 where the interval leaves out zero.
        of_examples, of_trainings: The two parts of its variance; the second is 0 with one training.
        freedom: Degrees of freedom.
        n: Test examples that both have scored.
        counts: Trainings of the first and of the second.
        each: The difference with each training of the one, against the mean of the other.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    of_examples: float
    of_trainings: float
    freedom: float
    n: int
    counts: tuple[int, int]
    each: tuple[float, ...]

    @property
    def trainings(self) -> int:
        """Of the approach that was trained most often; 1: the interval is about one model."""
        return max(self.counts)

    @property
    def turned(self) -> Contrast:
        """The same with the sign of the difference the other way round, `a` and `b` where they were."""
        each = tuple(-own for own in self.each)
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low, each=each)

    @property
    def spread(self) -> float:
        """Standard deviation of the difference on one example."""
        return math.sqrt(self.of_examples * self.n)


def contrasts(
    pairs: Sequence[tuple[Trained, Trained]],
    *,
    bounded: bool,
    tasks: Sequence[int] = (),
    stepwise: bool = False,
    weights: Sequence[float] = (),
    level: float = LEVEL,
    seed: int = 0,
) -> list[Contrast]:
    """The difference of each pair, with intervals that hold together.

    Args:
        bounded: Whether values lie from 0 to 1. Then one pseudo-example is added on which the first approach is wholly
            better, and one on which it is wholly worse (Bonett and Price 2012), so that few examples, or none on which
            the two differ, claim no certainty; of several tasks each has its part of them.
        tasks: How many examples each of several tasks has, in their order; the difference is the mean over the tasks,
            whose examples are samples apart.
        stepwise: The clearest difference pays for all of them; each that follows pays for itself and those that are
            not settled yet (step-down max-T; Romano and Wolf 2005). The chance of any wrong claim stays the same, and a
            question beside others that are plain is asked almost as if alone. An interval that leaves out zero is then
            certain of its side only, at the level of the whole. Else all intervals cover together.
        weights: How the chance of a wrong claim is shared out, one a pair; equally where none are given (Benjamini and
            Hochberg 1997). What is settled leaves its share to the others.
        level: Of the whole.
        seed: Of the draws by which the common level is found.

    Raises:
        EvaluationError: Two approaches have no scored example in common.
    """
    parts = [_parts(a, b, bounded, tasks) for a, b in pairs]
    if not parts:
        return []
    together = _Together(_correlations(pairs, parts), weights or [1.0] * len(parts), seed)
    waiting = sorted(range(len(parts)), key=lambda k: (1 - parts[k].share) / together.weights[k])
    found: dict[int, Contrast] = {}
    p = 0.0
    while waiting:
        first = waiting[0]
        plain = stepwise and parts[first].share > together.share(waiting, first, level)
        settled = waiting[:1] if plain else waiting
        for k in settled:
            p = max(p, together.chance(waiting, k, parts[k].share))
            found[k] = _contrast(*pairs[k], parts[k], together.share(waiting, k, level), p, bounded)
        waiting = waiting[len(settled) :]
    return [found[k] for k in range(len(parts))]


def mean_over_trainings(own: Trained, *, bounded: bool, tasks: Sequence[int] = ()) -> Interval:
    """The mean over examples and trainings with its interval, reckoned as a difference from a known value: of a bounded
    metric from one half, so that the pseudo-examples lie at 0 and 1.

    Args:
        bounded, tasks: As for `contrasts`.
    """
    middle, half = (0.5, 0.5) if bounded else (0.0, 1.0)
    known = Trained("", np.zeros((1, own.values.shape[1])))
    (found,) = contrasts([(Trained(own.name, (own.values - middle) / half), known)], bounded=bounded, tasks=tasks)
    mean, low, high = (middle + half * end for end in (found.difference, found.low, found.high))
    return Interval(mean, low, high, found.n, f"of {own.trainings} trainings, over examples and trainings")


@dataclass(frozen=True)
class _Parts:
    """A difference before the common level is known.

    Attributes:
        deviations: Of the difference on each example from the mean of its task, weighed as the mean over all weighs
            it; 0 where one of the two has no score. (N,)
        centre: What the interval is laid around: the mean, pseudo-examples included.
        between: Approach → variance of its mean between trainings, over their number.
    """

    deviations: Floats
    n: int
    means: tuple[float, float]
    centre: float
    of_examples: float
    between: dict[str, float]
    freedom: float
    each: tuple[float, ...]

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]

    @property
    def error(self) -> float:
        return math.sqrt(self.of_examples + sum(self.between.values()))

    @cached_property
    def share(self) -> float:
        """The level of the interval, by itself, that would touch zero."""
        from scipy.stats import t

        if self.centre == 0 or not math.isfinite(self.error):
            return 0.0
        if self.error == 0:  # they differ by the same everywhere: the chance that all signs agree (exact sign flips)
            return max(0.0, 1 - 2.0 ** (1 - self.n))
        return float(2 * t.cdf(abs(self.centre) / self.error, self.freedom) - 1)


def _parts(a: Trained, b: Trained, bounded: bool, tasks: Sequence[int]) -> _Parts:
    if a.values.shape[1] != b.values.shape[1]:
        raise EvaluationError(
            f"'{a.name}' and '{b.name}' were scored on {a.values.shape[1]} and {b.values.shape[1]} examples, so they "
            "cannot be compared."
        )
    ends = np.cumsum([0, *(tasks or [a.values.shape[1]])])
    samples = [(a.values[:, start:end], b.values[:, start:end]) for start, end in pairwise(ends)]
    count = len(samples)
    weight = 1 / count if bounded else 0.0
    found = [_sample(one, other, weight, f"'{a.name}' and '{b.name}'") for one, other in samples]
    variances: list[tuple[float, float]] = [(own.variance / count**2, own.size) for own in found]
    means = {a.name: np.mean([own.a for own in found], axis=0), b.name: np.mean([own.b for own in found], axis=0)}
    noise = {a.name: sum(own.noise_a for own in found), b.name: sum(own.noise_b for own in found)}
    between, estimated = {}, list(variances)
    for own in (a, b):
        if own.trainings > 1:
            seen, by_chance = float(means[own.name].var(ddof=1)), noise[own.name] / count**2
            between[own.name] = max(0.0, seen - by_chance) / own.trainings
            estimated.append((seen / own.trainings, own.trainings))
    each = means[a.name] - means[b.name].mean()
    if b.trainings > a.trainings:
        each = means[a.name].mean() - means[b.name]
    return _Parts(
        np.concatenate([own.deviations / count for own in found]),
        sum(own.n for own in found),
        (float(means[a.name].mean()), float(means[b.name].mean())),
        float(np.mean([own.centre for own in found])),
        sum(variance for variance, _ in variances),
        between,
        _freedom(sum(variance for variance, _ in variances) + sum(between.values()), estimated),
        tuple(float(own) for own in each),
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """The difference on the examples of one task.

    Attributes:
        a, b: The mean of each training, over the examples that both have scored.
        size: Examples, pseudo-examples included.
        variance: Of the mean.
        noise_a, noise_b: Variance of a training's mean that comes of these examples; 0 with one training.
    """

    a: Floats
    b: Floats
    n: int
    size: float
    centre: float
    variance: float
    deviations: Floats
    noise_a: float
    noise_b: float


def _sample(a: Floats, b: Floats, weight: float, who: str) -> _Sample:
    """The difference with a pseudo-example of this weight on either side."""
    examples = a.mean(axis=0) - b.mean(axis=0)
    both = np.isfinite(examples)
    if not both.any():
        raise EvaluationError(f"{who} have no scored example in common, so they cannot be compared.")
    kept, pseudo = examples[both], 2 * weight
    size = len(kept) + pseudo
    centre = float(kept.sum()) / size
    squares = float((kept**2).sum()) + pseudo - size * centre**2
    variance = max(squares, 0.0) / (size - 1) / size if size > 1 else math.inf
    deviations = np.where(both, examples - kept.mean(), 0.0) / len(kept)
    a, b = a[:, both], b[:, both]
    return _Sample(a.mean(axis=1), b.mean(axis=1), len(kept), size, centre, variance, deviations, _noise(a), _noise(b))


def _noise(values: Floats) -> float:
    """What a training's mean varies by because trainings differ on single examples: the mean square of the interaction,
    over the examples. (M, N)"""
    trainings, n = values.shape
    if trainings < 2 or n < 2:
        return 0.0
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((trainings - 1) * (n - 1)) / n)


def _freedom(total: float, parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a variance made of estimated parts, each with the size of its sample."""
    if total == 0 or not math.isfinite(total):
        return float(max(1.0, parts[0][1] - 1))
    return total**2 / sum(part**2 / (count - 1) for part, count in parts if part > 0)


def _correlations(pairs: Sequence[tuple[Trained, Trained]], parts: Sequence[_Parts]) -> Floats:
    """Between the differences: by the examples that they share, and the trainings of approaches in both. (K, K)"""
    lengths = [float(np.linalg.norm(own.deviations)) for own in parts]
    found = np.eye(len(parts))
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[:i]):
            if not (0 < one.error < math.inf and 0 < other.error < math.inf):
                continue
            common = 0.0
            if lengths[i] > 0 and lengths[j] > 0:
                alike = float(one.deviations @ other.deviations) / (lengths[i] * lengths[j])
                common = math.sqrt(one.of_examples * other.of_examples) * alike
            for name in one.between.keys() & other.between.keys():
                same = (pairs[i][0].name == name) == (pairs[j][0].name == name)
                common += one.between[name] if same else -one.between[name]
            found[i, j] = found[j, i] = min(1.0, max(-1.0, common / (one.error * other.error)))
    return found


class _Together:
    """Some correlated normal values, each held to a share of the chance that any of them lies far out.

    Attributes:
        weights: Of each, in proportion to its share.
    """

    def __init__(self, correlations: Floats, weights: Sequence[float], seed: int) -> None:
        from scipy.special import erfc

        values, vectors = np.linalg.eigh(correlations)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))  # of many contrasts they may be singular
        drawn = np.random.default_rng(seed).standard_normal((_DRAWS, len(correlations))) @ root.T
        self.weights = np.asarray(weights, float)
        # How unlikely each draw is by itself, two-sided, over its weight.
        self._unlikely = erfc(np.abs(drawn) / math.sqrt(2)) / self.weights
        self._sorted: dict[tuple[int, ...], Floats] = {}

    def _least(self, of: Sequence[int]) -> Floats:
        """Ascending. (_DRAWS,)"""
        if tuple(of) not in self._sorted:
            self._sorted[tuple(of)] = np.sort(self._unlikely[:, list(of)].min(axis=1))
        return self._sorted[tuple(of)]

    def share(self, of: Sequence[int], k: int, level: float) -> float:
        """The level of the interval of k, by itself, at which all of them hold together at `level`."""
        if len(of) == 1:  # whose distribution is known
            return level
        at = round((1 - level) * _DRAWS) - 1  # fewer than that lie below it
        return 1 - float(self._least(of)[at] * self.weights[k])

    def chance(self, of: Sequence[int], k: int, share: float) -> float:
        """How often one at least lies further out than k would at the end of an interval of such a level."""
        if len(of) == 1:
            return 1 - share
        return float(np.searchsorted(self._least(of), (1 - share) / self.weights[k], side="right")) / _DRAWS


def _contrast(a: Trained, b: Trained, parts: _Parts, share: float, p: float, bounded: bool) -> Contrast:
    from scipy.stats import t

    half = float(t.ppf((1 + share) / 2, parts.freedom)) * parts.error if math.isfinite(parts.error) else math.inf
    low, high = parts.centre - half, parts.centre + half
    if bounded:
        low, high = max(low, -1.0), min(high, 1.0)
    if half == 0 and parts.share <= share:  # no variation, and too few examples to be sure of any
        low, high = min(low, 0.0), max(high, 0.0)
    return Contrast(
        a.name,
        b.name,
        parts.difference,
        min(low, parts.difference),
        max(high, parts.difference),
        p,
        parts.of_examples,
        sum(parts.between.values()),
        parts.freedom,
        parts.n,
        (a.trainings, b.trainings),
        parts.each,
    )
