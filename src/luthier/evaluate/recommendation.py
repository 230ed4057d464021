"""Which approach to take: the rule, without words.

1. An approach that made a general probe worse by more than the study's limit is out. So is one that is not shown to
   beat the best floor, and where none is, nothing is recommended.
2. One question is asked, about two approaches that were chosen on validation before the test was opened: of those that
   train the language model the best, and the best of all others, untrained ones and small models, which are trained in
   seconds. Training must be shown to help: the interval of the difference lies above zero. Where it does, the trained
   one is the measure, where not, the other.
3. Of the two, what is shown to lie within the margin of the measure (the interval of the difference stays above
   -margin) qualifies, and so does the measure itself. The cheapest that qualifies is recommended: seconds of training,
   and of answering the number of requests that the study names. So training that is not shown to help is still
   recommended where it qualifies, it computes less for a request than the measure does (a shorter prompt, or a shorter
   answer), and it is cheaper. Times within a tenth of each other are alike; then what trained least is taken, and of
   these what scores best. All other pairs are shown, and turned into no advice.
4. Where only one kind is left, the best of all by its mean is the measure, and all of them may qualify; where no
   difference was found within it, nothing speaks for more than the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Difference, Interval
from luthier.types import TRAININGS, Cost, Training

# Of a time: differences below it are those of one timing from the next.
TIE = 0.1


@dataclass(frozen=True, slots=True)
class AgainstFloor:
    """An approach beside the best floor that it has to beat.

    Attributes:
        name, words, mean: Of the floor.
        difference: The approach minus the floor, paired.
        p_holm: Adjusted for the number of approaches.
        above: Whether the approach is shown to be better.
    """

    name: str
    words: str
    mean: float
    difference: Difference
    p_holm: float
    above: bool

    def entry(self) -> dict[str, object]:
        """As `comparison.json` has it."""
        found = self.difference
        low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
        return {
            "name": self.name,
            "difference": found.difference,
            "low": low,
            "high": high,
            "p_holm": self.p_holm,
            "above": self.above,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """An approach as it came out.

    Attributes:
        total_s: Seconds of training and of answering the study's number of requests.
        forgot: What it forgot beyond the limit, in words; None where nothing.
        floor: How it stands beside the best floor; None where there is none.
        validation: What it scored on validation, more is better; None where it was not asked.
        place: In the study.
    """

    name: str
    training: Training
    interval: Interval
    cost: Cost
    total_s: float
    forgot: str | None = None
    floor: AgainstFloor | None = None
    validation: float | None = None
    place: int = 0

    @property
    def trains(self) -> bool:
        """Whether the language model was trained for it."""
        return self.training == "language model"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two approaches on the same examples: a - b, and the p adjusted for the number of pairs.

    Attributes:
        asked: Whether it is the pair that was asked about beforehand, whose p is not adjusted.
        trainings: How many trainings of the language model the difference is the mean of.
        of_model: Of the asked pair, the difference of the models that are handed over.
    """

    a: str
    b: str
    difference: Difference
    p_holm: float
    asked: bool = False
    trainings: int = 1
    of_model: Difference | None = None


@dataclass(frozen=True, slots=True)
class Advantage:
    """How much better one approach is than another: positive is better, whatever the metric's direction.

    Attributes:
        trainings: How many trainings it is the mean of.
    """

    mean: float
    low: float
    high: float
    p: float
    difference: Difference
    trainings: int = 1


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
    def remembering(self) -> list[Standing]:
        """Those that forgot no more than the limit."""
        return [standing for standing in self.standings if standing.forgot is None]

    @property
    def eligible(self) -> list[Standing]:
        """Of these, those that are shown to beat the best floor."""
        return _of_use(self.standings)

    @property
    def best_trained(self) -> Standing | None:
        """By validation, of those that train the language model."""
        return _best_on_validation([standing for standing in self.eligible if standing.trains])

    @property
    def best_other(self) -> Standing | None:
        """By validation, of those that leave the language model as it is."""
        return _best_on_validation([standing for standing in self.eligible if not standing.trains])


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The approach to take, and by which part of the rule.

    Attributes:
        chosen: None where all forget too much, or none is shown to beat the best floor.
        measure: What the others had to be within the margin of; None where nothing was measured so (`tied`, or no
            choice).
        training_helps: Whether that was shown of the language model; None where only one kind of approach is left.
        tied: Only one kind is left, and no difference was found within it.
    """

    chosen: Standing | None
    measure: Standing | None = None
    training_helps: bool | None = None
    tied: bool = False


def asked_beforehand(standings: Sequence[Standing]) -> tuple[str, str] | None:
    """The pair that the study asks about, known before the test was opened but for what is out: of the approaches that
    train the language model the best on validation, and the best of all others. None where one side is empty."""
    kept = _of_use(standings)
    trained = _best_on_validation([own for own in kept if own.trains])
    other = _best_on_validation([own for own in kept if not own.trains])
    return None if trained is None or other is None else (trained.name, other.name)


def _of_use(standings: Sequence[Standing]) -> list[Standing]:
    """Those that forgot no more than the limit and are shown to beat the best floor."""
    return [own for own in standings if own.forgot is None and (own.floor is None or own.floor.above)]


def _best_on_validation(standings: Sequence[Standing]) -> Standing | None:
    """Of equals the first in the study; the first given where some were not asked on validation."""
    if any(own.validation is None for own in standings):
        return next(iter(standings), None)
    return max(standings, key=lambda own: (own.validation or 0.0, -own.place), default=None)


def recommend(table: Table) -> Recommendation:
    """Apply the rule at the top of this module."""
    eligible = table.eligible
    if not eligible:
        return Recommendation(None)
    helps = _training_helps(table)
    if helps is None and _tied(table, eligible):
        return Recommendation(cheapest(eligible), tied=True)
    trained, other = table.best_trained, table.best_other
    if helps is None or trained is None or other is None:
        measure, rivals = eligible[0], eligible
    else:
        # The pair that was asked about, and nothing else: any other would be picked by its luck on the test.
        measure, rivals = (trained, [trained, other]) if helps else (other, [other, trained])
    # Training that is not shown to help can only pay by computing less: anything else is noise in the timing.
    qualified = [
        standing
        for standing in rivals
        if within_margin(table, standing, measure)
        and (helps is not False or not standing.trains or computes_less(standing, measure))
    ]
    return Recommendation(cheapest(qualified), measure, helps)


def within_margin(table: Table, candidate: Standing, measure: Standing) -> bool:
    """Whether the candidate is shown to be no more than the margin worse than the measure."""
    if candidate.name == measure.name:
        return True
    if advantage(table, candidate, measure).low < -table.margin:
        return False
    # Where trainings were repeated, the model that is handed over must be no worse than that by itself.
    return _of_model(table, candidate, measure) >= -table.margin


def advantage(table: Table, of: Standing, over: Standing) -> Advantage:
    """How much better `of` is than `over`, by the pair that compares them."""
    pair = _pair_of(table, of, over)
    found = pair.difference
    if (pair.a == of.name) == table.metric.higher_is_better:
        return Advantage(found.difference, found.low, found.high, pair.p_holm, found, pair.trainings)
    return Advantage(-found.difference, -found.high, -found.low, pair.p_holm, found, pair.trainings)


def _pair_of(table: Table, one: Standing, other: Standing) -> Pair:
    return next(pair for pair in table.pairs if {pair.a, pair.b} == {one.name, other.name})


def _of_model(table: Table, of: Standing, over: Standing) -> float:
    """How much better the model that is handed over is on the test, in one training."""
    pair = _pair_of(table, of, over)
    found = (pair.of_model or pair.difference).difference
    return found if (pair.a == of.name) == table.metric.higher_is_better else -found


def cheapest(standings: Sequence[Standing]) -> Standing:
    """By total seconds; where some take hardly more than the least, what trained least, and of these the best.

    Args:
        standings: The best first.
    """
    return min(
        (own for own in standings if costs_alike(own.total_s, min(one.total_s for one in standings))),
        key=lambda own: TRAININGS.index(own.training),
    )


def costs_alike(one_s: float, other_s: float) -> bool:
    """Whether two times are too near each other to be told apart by one timing."""
    return max(one_s, other_s) <= (1 + TIE) * min(one_s, other_s)


def computes_less(one: Standing, other: Standing) -> bool:
    """Whether its mean request has fewer tokens, in the prompt or in the answer, and not more in the other of them; a
    difference of less than 1% does not count."""
    ours, theirs = ((s.cost.prompt_tokens, s.cost.completion_tokens) for s in (one, other))
    fewer = any(a < 0.99 * b for a, b in zip(ours, theirs, strict=True))
    return fewer and all(a <= 1.01 * b for a, b in zip(ours, theirs, strict=True))


def _training_helps(table: Table) -> bool | None:
    trained, untrained = table.best_trained, table.best_other
    if trained is None or untrained is None:
        return None
    # A way of training that helps in the mean is no reason to hand over a model that does not.
    return advantage(table, trained, untrained).low > 0 and _of_model(table, trained, untrained) > 0


def _tied(table: Table, eligible: Sequence[Standing]) -> bool:
    names = {standing.name for standing in eligible}
    pairs = [pair for pair in table.pairs if {pair.a, pair.b} <= names]
    return bool(pairs) and all(pair.p_holm >= table.alpha for pair in pairs)
