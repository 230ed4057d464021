"""What a number of test examples can show: the smallest difference that is likely to be found, and the reverse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from luthier.compare.contrasts import Contrast
from luthier.errors import EvaluationError
from luthier.evaluate.metrics import metric_traits

DISCORDANCE = 0.25
"""Share of examples on which two approaches differ, where it is not measured yet.

Two approaches that are each right on 85% of the examples, independently of each other, differ on 2 × 0.85 × 0.15, about
a quarter; approaches that resemble each other differ on fewer, and then smaller differences can be found.
"""

# Times what there is: beyond it further examples alone are no advice.
_MANY = 20
_MORE = 100  # examples, to say what they would bring
_FEWEST = 6  # with fewer pairs McNemar's exact test cannot reach p < 0.05: 2 / 2⁵ = 0.0625


def minimum_detectable_difference(
    n: int,
    *,
    discordance: float | None = DISCORDANCE,
    sd: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """Smallest true difference that a paired test of n examples finds with this power.

    For proportions by Connor (1987, Biometrics 43:207-211): n = (z_α/2 √ψ + z_β √(ψ - d²))² / d², ψ being the share of
    discordant pairs (at least d). For means (`sd` given: of the paired differences): d = (z_α/2 + z_β) sd / √n.

    Returns:
        In the metric's unit; 1.0 for proportions where no difference can be found.
    """
    if n < 1:
        raise EvaluationError("With no test example no difference can be found.")
    z_alpha, z_beta = _quantiles(power, alpha)
    if sd is not None:
        return (z_alpha + z_beta) * sd / math.sqrt(n)
    share = _checked_share(discordance)
    if n < _FEWEST:
        return 1.0

    def too_small(difference: float) -> bool:
        return _connor(difference, share, z_alpha, z_beta) > n

    return _smallest(too_small)


def n_needed(
    difference: float,
    *,
    discordance: float | None = DISCORDANCE,
    sd: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """How many test examples it takes to find a true difference with this power; the inverse of the above."""
    if difference == 0 or not math.isfinite(difference):
        raise EvaluationError(f"A difference of {difference} is not found with any number of examples.")
    z_alpha, z_beta = _quantiles(power, alpha)
    if sd is not None:
        return max(2, math.ceil(((z_alpha + z_beta) * sd / difference) ** 2))
    share = _checked_share(discordance)
    if abs(difference) > 1:
        raise EvaluationError(f"Two proportions cannot differ by {difference}; it must be between -1 and 1.")
    return max(_FEWEST, math.ceil(_connor(abs(difference), share, z_alpha, z_beta)))


@dataclass(frozen=True, slots=True)
class Needed:
    """What would tell two approaches apart, beside what there was.

    Attributes:
        examples: Further test examples; 0: none are needed.
        trainings: Further trainings of what is trained; 0: none are needed.
    """

    examples: int
    trainings: int

    def content(self) -> dict[str, int]:
        """As `comparison.json` has it."""
        return {"examples": self.examples, "trainings": self.trainings}


def needed(lead: Contrast, wanted: float, *, power: float = 0.8, alpha: float = 0.05) -> Needed | None:
    """How many further examples, or trainings where examples alone cannot do it, find such a difference.

    By the two parts of the variance: an interval that is to leave out zero with this power needs a standard error of
    wanted / (z_α/2 + z_β).

    Args:
        wanted: The true difference, greater than 0.

    Returns:
        None where the scores do not vary enough to say, or what there was would probably have sufficed.
    """
    z_alpha, z_beta = _quantiles(power, alpha)
    allowed = (wanted / (z_alpha + z_beta)) ** 2
    if allowed <= 0 or not 0 < lead.of_examples < math.inf or lead.of_examples + lead.of_trainings <= allowed:
        return None
    an_example, a_training = lead.of_examples * lead.n, lead.of_trainings * lead.trainings

    def examples(share: float) -> int:
        return max(0, math.ceil(an_example / share - lead.n))

    def trainings(share: float) -> int:
        return max(0, math.ceil(a_training / share - lead.trainings))

    if lead.of_trainings < allowed and examples(allowed - lead.of_trainings) <= _MANY * lead.n:
        return Needed(examples(allowed - lead.of_trainings), 0)
    if lead.of_examples < allowed and trainings(allowed - lead.of_examples) <= _MANY:
        return Needed(0, trainings(allowed - lead.of_examples))
    if a_training == 0:
        return Needed(examples(allowed), 0)
    return Needed(examples(allowed / 2), trainings(allowed / 2))


def smoothed_discordance(discordance: float, n: int) -> float:
    """An observed share of discordant pairs with one pair of each outcome added, so that it is never 0."""
    return (discordance * n + 1) / (n + 2)


def describe_power(n: int, metric_name: str, *, discordance: float = DISCORDANCE, sd: float | None = None) -> str:
    """A sentence on what n test examples can show of this metric, before anything is measured."""
    metric = metric_traits(metric_name)
    examples = "1 test example" if n == 1 else f"{n:,} test examples"
    if n < _FEWEST:
        return f"With {examples} no difference can be found; take at least {_FEWEST}, better some hundred."
    if metric.proportion:
        smallest, more = (minimum_detectable_difference(k, discordance=discordance) for k in (n, n + _MORE))
        return (
            f"With {examples}, differences below about {100 * smallest:.1f} percentage points will not be found "
            f"(80% power, if two approaches differ on {100 * discordance:.0f}% of the examples); {_MORE} more "
            f"would find those from {100 * more:.1f} on."
        )
    if sd is None and not metric.bounded:
        return (
            f"How small a difference {examples} can show depends on how far the values spread: it is known after a run."
        )
    smallest = minimum_detectable_difference(n, sd=math.sqrt(discordance) if sd is None else sd)
    how = (
        "at worst, if they spread as much as right and wrong do"
        if sd is None
        else f"for a standard deviation of {sd:.3g}"
    )
    return f"With {examples}, differences below about {smallest:.2g} will not be found (80% power, {how})."


def _quantiles(power: float, alpha: float) -> tuple[float, float]:
    return NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)


def _checked_share(discordance: float | None) -> float:
    if discordance is None or not 0 < discordance <= 1:
        raise EvaluationError(f"discordance is {discordance}; it must be greater than 0 and at most 1.")
    return discordance


def _connor(difference: float, discordance: float, z_alpha: float, z_beta: float) -> float:
    share = max(discordance, difference)  # the difference is made of discordant pairs
    return float((z_alpha * math.sqrt(share) + z_beta * math.sqrt(share - difference**2)) ** 2 / difference**2)


def _smallest(too_small: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return high
