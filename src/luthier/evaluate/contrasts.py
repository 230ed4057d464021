"""A few differences asked about beforehand, with intervals that hold together, over test examples and trainings.

What is trained is trained several times, and the question is about the way of training, not about one lucky model
(Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks"). The variance of a difference is
that between test examples over their number, and that between trainings over theirs; its degrees of freedom are
Satterthwaite's (1946). With one training the interval is about that model alone.

The intervals are simultaneous: all of them cover in 95% of cases, by the largest of the studentised differences (max-T;
Westfall and Young 1993), which costs little where the differences have an approach in common. The p of a difference is
the level at which its interval would touch zero, so that the two never contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from luthier.errors import EvaluationError
from luthier.evaluate.statistics import Floats

LEVEL = 0.95
# Draws of the largest of some correlated normal values.
_DRAWS = 50_000


@dataclass(frozen=True, slots=True)
class Trained:
    """What one approach scores on the test examples, with each of its trainings.

    Attributes:
        name: The same approach in several contrasts is known by it.
        values: A row for each training, one where nothing is trained; a column for each example, whose mean is the
            metric. (M, N)
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
        low, high: Ends of the interval, simultaneous with those of the other contrasts.
        p: Two-sided, adjusted for all contrasts: below 0.05 where the interval leaves out zero.
        of_examples, of_trainings: The two parts of its variance; the second is 0 with one training.
        freedom: Degrees of freedom.
        n: Test examples.
        trainings: Of the approach that was trained most often; 1: the interval is about one model.
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
    trainings: int


def contrasts(
    pairs: Sequence[tuple[Trained, Trained]], *, bounded: bool, level: float = LEVEL, seed: int = 0
) -> list[Contrast]:
    """The difference of each pair, with intervals that cover all of them together.

    Args:
        bounded: Whether values lie from 0 to 1. Then one pseudo-example is added on which the first approach is wholly
            better, and one on which it is wholly worse (Bonett and Price 2012), so that few examples, or none on which
            the two differ, claim no certainty.
        level: Of the whole.
        seed: Of the draws by which the common level is found.

    Raises:
        EvaluationError: Two approaches were not scored on the same examples, or there is but one example and values
            have no bounds.
    """
    parts = [_parts(a, b, bounded) for a, b in pairs]
    if not parts:
        return []
    largest = _Largest.of(_correlations(pairs, parts), seed)
    return [_contrast(a, b, own, largest, level) for (a, b), own in zip(pairs, parts, strict=True)]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A difference before the common level is known.

    Attributes:
        examples: The difference on each example. (N,)
        centre: What the interval is laid around: the mean, pseudo-examples included.
        between: Approach → variance of its mean between trainings, over their number.
    """

    examples: Floats
    difference: float
    centre: float
    of_examples: float
    between: dict[str, float]
    freedom: float

    @property
    def error(self) -> float:
        return math.sqrt(self.of_examples + sum(self.between.values()))


def _parts(a: Trained, b: Trained, bounded: bool) -> _Parts:
    if a.values.shape[1] != b.values.shape[1]:
        raise EvaluationError(
            f"'{a.name}' and '{b.name}' were scored on {a.values.shape[1]} and {b.values.shape[1]} examples, so they "
            "cannot be compared."
        )
    examples = a.values.mean(axis=0) - b.values.mean(axis=0)
    padded = np.concatenate([examples, (1.0, -1.0)]) if bounded else examples
    if len(padded) < 2:
        raise EvaluationError(f"'{a.name}' and '{b.name}': one example shows no difference.")
    of_examples = float(padded.var(ddof=1)) / len(padded)
    between = {
        own.name: float(own.values.mean(axis=1).var(ddof=1)) / own.trainings for own in (a, b) if own.trainings > 1
    }
    repeated = [(between[own.name], own.trainings) for own in (a, b) if own.trainings > 1]
    freedom = _freedom(of_examples, len(padded), repeated)
    return _Parts(examples, float(examples.mean()), float(padded.mean()), of_examples, between, freedom)


def _freedom(of_examples: float, n: int, of_trainings: Sequence[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of estimated variances."""
    parts = [(of_examples, n), *of_trainings]
    total = sum(part for part, _ in parts)
    if total == 0:
        return float(n - 1)
    return total**2 / sum(part**2 / (count - 1) for part, count in parts)


def _correlations(pairs: Sequence[tuple[Trained, Trained]], parts: Sequence[_Parts]) -> Floats:
    """Between the differences: by the examples that they share, and the trainings of approaches in both. (K, K)"""
    found = np.eye(len(parts))
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[:i]):
            if one.error == 0 or other.error == 0:
                continue
            common = math.sqrt(one.of_examples * other.of_examples) * _correlation(one.examples, other.examples)
            for name in one.between.keys() & other.between.keys():
                same = (pairs[i][0].name == name) == (pairs[j][0].name == name)
                common += one.between[name] if same else -one.between[name]
            found[i, j] = found[j, i] = min(1.0, max(-1.0, common / (one.error * other.error)))
    return found


def _correlation(a: Floats, b: Floats) -> float:
    """0 where one of them does not vary."""
    if len(a) != len(b) or float(np.ptp(a)) == 0 or float(np.ptp(b)) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True, slots=True)
class _Largest:
    """The distribution of the largest of some correlated normal values, without sign.

    Attributes:
        drawn: Ascending; None for a single value, whose distribution is known.
    """

    drawn: Floats | None

    @classmethod
    def of(cls, correlations: Floats, seed: int) -> _Largest:
        if len(correlations) == 1:
            return cls(None)
        values, vectors = np.linalg.eigh(correlations)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))  # of many contrasts they may be singular
        drawn = np.random.default_rng(seed).standard_normal((_DRAWS, len(correlations))) @ root.T
        return cls(np.sort(np.abs(drawn).max(axis=1)))

    def share(self, level: float) -> float:
        """The level of each interval by itself at which all of them hold together at `level`."""
        if self.drawn is None:
            return level
        return 2 * NormalDist().cdf(float(self.drawn[math.ceil(level * _DRAWS)])) - 1

    def above(self, share: float) -> float:
        """How often one at least lies beyond the interval that one by itself stays within in such a share of cases."""
        if self.drawn is None:
            return 1 - share
        if share >= 1:
            return 0.0
        beyond = NormalDist().inv_cdf((1 + share) / 2)
        return float(_DRAWS - np.searchsorted(self.drawn, beyond, side="left")) / _DRAWS


def _contrast(a: Trained, b: Trained, parts: _Parts, largest: _Largest, level: float) -> Contrast:
    from scipy.stats import t

    half = float(t.ppf((1 + largest.share(level)) / 2, parts.freedom)) * parts.error
    if parts.error > 0:
        p = largest.above(float(2 * t.cdf(abs(parts.centre) / parts.error, parts.freedom) - 1))
    else:
        p = 1.0 if parts.centre == 0 else 0.0
    return Contrast(
        a.name,
        b.name,
        parts.difference,
        parts.centre - half,
        parts.centre + half,
        p,
        parts.of_examples,
        sum(parts.between.values()),
        parts.freedom,
        a.values.shape[1],
        max(a.trainings, b.trainings),
    )


def over_trainings(
    a: Sequence[float], b: Sequence[float], of_examples: float, n: int, level: float = LEVEL
) -> tuple[float, float, float, float]:
    """The same for a metric that is no mean over examples: difference, ends of its interval, and its p.

    Args:
        a, b: The metric of each training.
        of_examples: The variance of the difference between samples of examples, as resampling gave it.
    """
    from scipy.stats import t

    difference = float(np.mean(a) - np.mean(b))
    parts = [(float(np.var(own, ddof=1)) / len(own), len(own)) for own in (a, b) if len(own) > 1]
    error = math.sqrt(of_examples + sum(part for part, _ in parts))
    if error == 0:
        return difference, min(difference, 0.0), max(difference, 0.0), 1.0
    freedom = _freedom(of_examples, n, parts)
    half = float(t.ppf((1 + level) / 2, freedom)) * error
    p = float(2 * t.sf(abs(difference) / error, freedom))
    return difference, difference - half, difference + half, p
