"""Which approach to take: the rule, without words.

1. An approach that made a general probe worse by more than the study's limit is out.
2. Training must be shown to help: the best trained approach scores better than the best untrained one, with p after
   Holm below alpha. Where it is not, the best untrained approach is the measure. Where it is, or where only one kind of
   approach is left, the best of all by its mean is the measure.
3. Whatever is shown to lie within the margin of the measure (the paired 95% interval of the difference stays above
   -margin) qualifies, and so does the measure itself. The cheapest that qualifies is recommended: seconds of training,
   and of answering the number of requests that the study names. So training that is not shown to help is still
   recommended where it qualifies, its prompts are shorter than the measure's, and it is cheaper than every untrained
   approach that qualifies.
4. Where only one kind is left and no difference was found within it, nothing speaks for more than the cheapest.
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

    @property
    def best_trained(self) -> Standing | None:
        return next((standing for standing in self.eligible if standing.trains), None)

    @property
    def best_untrained(self) -> Standing | None:
        return next((standing for standing in self.eligible if not standing.trains), None)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The approach to take, and by which part of the rule.

    Attributes:
        chosen: None where all forget too much.
        measure: What the others had to be within the margin of; None where nothing was measured so (`tied`, or no
            choice).
        training_helps: Whether that was shown; None where only one kind of approach is left.
        tied: Only one kind is left, and no difference was found within it.
    """

    chosen: Standing | None
    measure: Standing | None = None
    training_helps: bool | None = None
    tied: bool = False


def recommend(table: Table) -> Recommendation:
    """Apply the rule at the top of this module."""
    eligible = table.eligible
    if not eligible:
        return Recommendation(None)
    helps = _training_helps(table)
    if helps is None and _tied(table, eligible):
        return Recommendation(cheapest(eligible), tied=True)
    untrained = table.best_untrained
    measure = untrained if helps is False and untrained else eligible[0]
    # Training that is not shown to help can only pay by a shorter prompt: anything else is noise in the timing.
    qualified = [
        standing
        for standing in eligible
        if within_margin(table, standing, measure)
        and (helps is not False or not standing.trains or has_shorter_prompts(standing, measure))
    ]
    return Recommendation(cheapest(qualified), measure, helps)


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


def cheapest(standings: Sequence[Standing]) -> Standing:
    """By total seconds; of equals the untrained, then the better one."""
    return min(standings, key=lambda standing: (standing.total_s, standing.trains))


def has_shorter_prompts(one: Standing, other: Standing) -> bool:
    """Whether its mean prompt has fewer tokens; less than 1% does not count."""
    return one.cost.prompt_tokens < 0.99 * other.cost.prompt_tokens


def _training_helps(table: Table) -> bool | None:
    trained, untrained = table.best_trained, table.best_untrained
    if trained is None or untrained is None:
        return None
    lead = advantage(table, trained, untrained)
    return lead.mean > 0 and lead.p < table.alpha


def _tied(table: Table, eligible: Sequence[Standing]) -> bool:
    names = {standing.name for standing in eligible}
    pairs = [pair for pair in table.pairs if {pair.a, pair.b} <= names]
    return bool(pairs) and all(pair.p_holm >= table.alpha for pair in pairs)
