"""Which approach to take: the rule, without words.

1. An approach that made a general probe worse by more than the study's limit is out.
2. The best of the rest by its mean is the measure. Whatever is shown to lie within the margin of it (the paired 95%
   interval of the difference stays above -margin) qualifies, and so does the best itself.
3. Where some difference among the approaches was found (p after Holm below alpha), the cheapest that qualifies is
   recommended: seconds of training, and of answering the number of requests that the study names.
4. Where none was found, there is no evidence for training: the cheapest untrained approach is recommended, unless a
   trained one is cheaper still and is shown to lie within the margin of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Difference, Interval
from luthier.types import Cost


@dataclass(frozen=True, slots=True)
class Standing:
    """An approach as it came out.

    Attributes:
        total_s: Seconds of training and of answering the study's number of requests.
        forgot: What it forgot beyond the limit, in words; None where nothing.
    """

    name: str
    trains: bool
    interval: Interval
    cost: Cost
    total_s: float
    forgot: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two approaches on the same examples: a - b, and the p adjusted for the number of pairs."""

    a: str
    b: str
    difference: Difference
    p_holm: float


@dataclass(frozen=True, slots=True)
class Advantage:
    """How much better one approach is than another: positive is better, whatever the metric's direction."""

    mean: float
    low: float
    high: float
    p: float
    difference: Difference


@dataclass(frozen=True, slots=True)
class Table:
    """All that the recommendation is made from; `standings` best first, a pair for every two of them."""

    metric: Metric
    standings: Sequence[Standing]
    pairs: Sequence[Pair]
    requests: int
    margin: float
    forgetting_limit: float | None
    alpha: float

    @property
    def eligible(self) -> list[Standing]:
        return [standing for standing in self.standings if standing.forgot is None]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The approach to take, None where all forget too much; `tied`: no difference was found among the eligible."""

    chosen: Standing | None
    tied: bool


def recommend(table: Table) -> Recommendation:
    """Apply the rule at the top of this module."""
    eligible = table.eligible
    if not eligible:
        return Recommendation(None, tied=False)
    if not _tied(table, eligible):
        return Recommendation(_cheapest([s for s in eligible if within_margin(table, s, eligible[0])]), tied=False)
    untrained = _cheapest([s for s in eligible if not s.trains] or eligible)
    shown = [s for s in eligible if within_margin(table, s, untrained)]
    return Recommendation(_cheapest(shown), tied=True)


def within_margin(table: Table, candidate: Standing, measure: Standing) -> bool:
    """Whether the candidate is shown to be no more than the margin worse than the measure."""
    if candidate.name == measure.name:
        return True
    return advantage(table, candidate, measure).low >= -table.margin


def advantage(table: Table, of: Standing, over: Standing) -> Advantage:
    """How much better `of` is than `over`, by the pair that compares them."""
    pair = next(pair for pair in table.pairs if {pair.a, pair.b} == {of.name, over.name})
    found = pair.difference
    if (pair.a == of.name) == table.metric.higher_is_better:
        return Advantage(found.difference, found.low, found.high, pair.p_holm, found)
    return Advantage(-found.difference, -found.high, -found.low, pair.p_holm, found)


def _tied(table: Table, eligible: Sequence[Standing]) -> bool:
    names = {standing.name for standing in eligible}
    pairs = [pair for pair in table.pairs if {pair.a, pair.b} <= names]
    return bool(pairs) and all(pair.p_holm >= table.alpha for pair in pairs)


def _cheapest(standings: Sequence[Standing]) -> Standing:
    """By total seconds; of equals the untrained, then the better one."""
    return min(standings, key=lambda standing: (standing.total_s, standing.trains))
