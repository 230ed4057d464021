"""Which approach to take: the rule, without words.

1. An approach that made a general probe worse by more than the study's limit is out.
2. Of the rest validation chooses, before the test is opened, the best of each kind: untrained, a small model trained,
   the language model trained. Few questions are asked of them. *Is training the language model worth it*: the one that
   trains it against the best of the others on validation. *Is anything trained worth it*: the small model against the
   untrained one, and the language model too, where its rival was the small one. Where all are of one kind, the best
   against the cheapest. Beside them stands, for each of the chosen, whether it is of use at all: against the best
   floor. The intervals of all these hold together.
3. What is not shown to beat the best floor is not taken, and where none is, nothing is.
4. An answer is read off its interval. All above zero: the first is better. All below: worse. All below the margin: it
   cannot be worth more than that. All above minus the margin: it is as good, and is taken where it is the cheaper one
   and computes less. Else it cannot be told yet, and the second, which needs less training, is used until then. What is
   better, but by less than the margin, gives way to what is cheaper. Where the language model need not be trained, the
   small model and the untrained one are weighed in the same way, and of two that cannot be told apart the cheaper is
   used.
5. Cost is seconds of training, and of answering the number of requests that the study names; times within a tenth of
   each other are alike. All other pairs are shown, and turned into no advice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthier.compare.contrasts import Contrast
from luthier.compare.power import Needed, needed
from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Interval
from luthier.types import TRAININGS, Cost, Training

# How many times the chance of a wrong claim the first question gets, beside each of the others.
FIRST = 6.0
# Of a time: differences below it are those of one timing from the next.
TIE = 0.1

About = Literal["language model", "small model", "anything trained", "the dearer"]
Answer = Literal["better", "worse", "worth less than the margin", "as good and cheaper", "cannot tell"]
Kind = Literal["answered", "only one left", "none of use", "all forget"]


@dataclass(frozen=True, slots=True)
class AgainstFloor:
    """An approach beside the best floor that it has to beat.

    Attributes:
        name, words, mean: Of the floor.
        lead: How much better the approach is; positive is better.
    """

    name: str
    words: str
    mean: float
    lead: Contrast

    @property
    def above(self) -> bool:
        """Whether the approach is shown to be better."""
        return self.lead.low > 0


@dataclass(frozen=True, slots=True)
class Standing:
    """An approach as it came out.

    Attributes:
        interval: What it scores; of what was trained several times the mean of the trainings.
        total_s: Seconds of training and of answering the study's number of requests.
        forgot: What it forgot beyond the limit, in words; None where nothing.
        changed: What it forgot most of all that was probed, in words; None where nothing was.
        floor: How it stands beside the best floor; None where there is none.
        validation: What it scored on validation, more is better; None where it was not asked.
        place: In the study.
        handed_over: What the model that is handed over scores, one of several trainings; None where there was one.
    """

    name: str
    training: Training
    interval: Interval
    cost: Cost
    total_s: float
    forgot: str | None = None
    changed: str | None = None
    floor: AgainstFloor | None = None
    validation: float | None = None
    place: int = 0
    handed_over: Interval | None = None

    @property
    def trains(self) -> bool:
        """Whether the language model was trained for it."""
        return self.training == "language model"

    @property
    def of_use(self) -> bool:
        return self.floor is None or self.floor.above


@dataclass(frozen=True, slots=True)
class Asked:
    """Two approaches that validation chose to be asked about: is the first worth more than the second?"""

    about: About
    of: str
    over: str


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, and what the test says.

    Attributes:
        lead: How much better `of` is than `over`: positive is better, whatever the metric's direction.
    """

    about: About
    of: Standing
    over: Standing
    lead: Contrast

    @property
    def behind(self) -> int:
        """With how many of the trainings the first does not score higher than the second."""
        return sum(own <= 0 for own in self.lead.each)

    @property
    def unstable(self) -> bool:
        """Whether trainings of the first lie on both sides of the second."""
        return 0 < self.behind < len(self.lead.each)

    @property
    def of_model(self) -> float:
        """How much better the model that is handed over scores, in one training."""
        return self.lead.each[0]


@dataclass(frozen=True, slots=True)
class Table:
    """All that a decision is made from; `standings` best first.

    Attributes:
        hour_price: Of the machine; for the words alone.
    """

    metric: Metric
    standings: Sequence[Standing]
    questions: Sequence[Question]
    requests: int
    margin: float
    forgetting_limit: float | None
    hour_price: float | None = None

    @property
    def remembering(self) -> list[Standing]:
        """Those that forgot no more than the limit."""
        return [standing for standing in self.standings if standing.forgot is None]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and by which part of the rule.

    Attributes:
        chosen: None where all forget too much, or none is shown to beat the best floor.
        question: The one whose answer decides; None where there was none to ask.
        answer: To that question.
        behind_it: What else was asked.
        needed: What would tell, where it cannot be told yet.
        useless: Of those that validation chose, what is not shown to beat the best floor.
    """

    kind: Kind
    chosen: Standing | None
    question: Question | None = None
    answer: Answer | None = None
    behind_it: Sequence[Question] = ()
    needed: Needed | None = None
    useless: Sequence[Standing] = ()

    def content(self, table: Table) -> dict[str, Any]:
        """As `comparison.json` has it."""
        own = self.question
        return {
            "kind": self.kind,
            "recommended": None if self.chosen is None else self.chosen.name,
            "about": None if own is None else own.about,
            "of": None if own is None else own.of.name,
            "over": None if own is None else own.over.name,
            "answer": self.answer,
            "unstable": own is not None and own.unstable,
            "needed": None if self.needed is None else self.needed.content(),
            "questions": [question_content(q) for q in table.questions],
            "margin": table.margin,
            "requests": table.requests,
        }


def question_content(own: Question) -> dict[str, Any]:
    """As `comparison.json` has it."""
    lead = own.lead
    return {
        "about": own.about,
        "of": own.of.name,
        "over": own.over.name,
        "difference": lead.difference,
        "low": _finite(lead.low),
        "high": _finite(lead.high),
        "p": lead.p,
        "n": lead.n,
        "trainings": lead.trainings,
        "each": list(lead.each),
        "variance_of_examples": _finite(lead.of_examples),
        "variance_of_trainings": lead.of_trainings,
    }


def elect(standings: Sequence[Standing]) -> tuple[Mapping[Training, Standing], list[Asked]]:
    """The best of each kind on validation, and what is asked of them: known before the test is opened.

    Args:
        standings: What may be chosen from, best on the test first, which counts only where validation was not asked.
    """
    kept = [own for own in standings if own.forgot is None]
    best: dict[Training, Standing] = {}
    for training in ("none", "small model", "language model"):
        found = _best_on_validation([own for own in kept if own.training == training])
        if found is not None:
            best[training] = found
    language_model = best.get("language model")
    small, untrained = best.get("small model"), best.get("none")
    other = _best_on_validation([own for own in kept if own in (untrained, small)])
    trained = _best_on_validation([own for own in kept if own in (language_model, small)])
    asked: list[Asked] = []
    if language_model and other:
        asked.append(Asked("language model", language_model.name, other.name))
    if small and untrained:
        asked.append(Asked("small model", small.name, untrained.name))
    if language_model and untrained and trained is language_model and other is not untrained:
        asked.append(Asked("anything trained", language_model.name, untrained.name))
    if len(best) == 1 and len(kept) > 1:
        asked += _the_dearer(next(iter(best.values())), kept)
    return best, asked


def _the_dearer(best: Standing, kept: Sequence[Standing]) -> list[Asked]:
    """Of one kind of approach: the best on validation against the cheapest, or the next best where it is that."""
    least = min(kept, key=lambda own: (own.total_s, own.place))
    if costs_alike(best.total_s, least.total_s):
        least = best
    rest = least if least is not best else _best_on_validation([own for own in kept if own is not best])
    return [Asked("the dearer", best.name, rest.name)] if rest else []


def _best_on_validation(standings: Sequence[Standing]) -> Standing | None:
    """Of equals the first in the study; the first given where some were not asked on validation."""
    if any(own.validation is None for own in standings):
        return next(iter(standings), None)
    return max(standings, key=lambda own: (own.validation or 0.0, -own.place), default=None)


def decide(table: Table) -> Decision:
    """Apply the rule at the top of this module."""
    if not table.remembering:
        return Decision("all forget", None)
    best, _ = elect(table.standings)
    useless = tuple(own for own in best.values() if not own.of_use)
    # Without a question about what is left, nothing speaks for more than what trains least.
    kept = [own for own in table.standings if own in best.values() and own.of_use]
    chosen = min(kept, key=lambda own: TRAININGS.index(own.training), default=None)
    if chosen is None:
        return Decision("none of use", None, useless=useless)
    questions = [own for own in table.questions if own.of.of_use and own.over.of_use]
    if not questions:
        return Decision("only one left", chosen, useless=useless)
    (main, *rest), tells = questions, None
    answer = _answer(table, main)
    chosen = _taken(main, answer)
    small = next((own for own in rest if own.about == "small model"), None)
    if small is not None and chosen is main.over:
        other = _answer(table, small)
        chosen = _taken(small, other)
        if chosen is not main.over and other != "cannot tell" and answer != "cannot tell":
            rest = [own for own in questions if own is not small]
            main, answer = small, other
    if answer == "cannot tell":
        tells = needed(main.lead, max(abs(main.lead.difference), table.margin))
    return Decision("answered", chosen, main, answer, tuple(rest), tells, useless)


def _answer(table: Table, asked: Question) -> Answer:
    lead, margin = asked.lead, table.margin
    # A way of training that helps in the mean is no reason to hand over a model that does not.
    if lead.low > 0 and asked.of_model > 0:
        dearer = cheapest([asked.of, asked.over]) is asked.over
        return "worth less than the margin" if lead.high < margin and dearer else "better"
    if lead.low >= -margin and asked.of_model >= -margin and _pays(asked.of, asked.over):
        return "as good and cheaper"
    if lead.high < 0:
        return "worse"
    if asked.about == "the dearer" and cheapest([asked.of, asked.over]) is asked.of:
        return "cannot tell"  # which is no dearer, and so needs no reason
    return "worth less than the margin" if lead.high < margin else "cannot tell"


def _taken(asked: Question, answer: Answer) -> Standing:
    if answer in ("better", "as good and cheaper"):
        return asked.of
    if answer == "cannot tell" and not asked.of.trains:
        return cheapest([asked.of, asked.over])
    return asked.over


def _pays(one: Standing, other: Standing) -> bool:
    """Whether one is cheaper than the other. Training the language model can only pay by computing less for a request:
    anything else is noise in the timing."""
    if costs_alike(one.total_s, other.total_s) or one.total_s > other.total_s:
        return False
    return not one.trains or computes_less(one, other)


def cheapest(standings: Sequence[Standing]) -> Standing:
    """By total seconds; of those that take hardly more than the least what trained least, and of these the first."""
    least = min(own.total_s for own in standings)
    return min(
        (own for own in standings if costs_alike(own.total_s, least)), key=lambda own: TRAININGS.index(own.training)
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


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None
