"""The recommendation in words: the verdict, and the reasons under it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from luthier.evaluate.forgetting import worsening
from luthier.evaluate.metrics import METRICS, Metric
from luthier.evaluate.power import n_needed, smoothed_discordance
from luthier.evaluate.recommendation import (
    Advantage,
    AgainstFloor,
    Recommendation,
    Standing,
    Table,
    advantage,
    cheapest,
    computes_less,
    costs_alike,
    within_margin,
)


def verdict(table: Table, recommendation: Recommendation) -> str:
    """One to three sentences: what to do, by how much, on how many examples, and at what cost."""
    chosen, trained, untrained = recommendation.chosen, table.best_trained, table.best_other
    if chosen is None:
        return _none(table)
    if recommendation.tied:
        text = _tied(table, chosen)
    elif trained is None or untrained is None:
        text = _one_kind(table, chosen)
    elif recommendation.training_helps:
        text = _helpful(table, chosen, trained, untrained)
    else:
        text = _not_shown(table, chosen, trained, untrained)
    return text + _better_but_forgetful(table, chosen)


def _none(table: Table) -> str:
    if table.remembering:
        return _none_is_of_use(table)
    what = "; ".join(f"{standing.name}: {standing.forgot}" for standing in table.standings)
    limit = _percent(table.forgetting_limit)
    return f"No approach is recommended: every one forgets more than the limit of {limit} ({what})."


def _none_is_of_use(table: Table) -> str:
    """The best approach is not shown to beat the best floor."""
    best = table.remembering[0]
    floor = best.floor
    assert floor is not None, "without a floor every approach is of use"
    lead = _turned(table, floor)
    text = (
        f"None is of use yet: the best approach, {_named(table, best)}, is not shown to be better than {floor.words} "
        f"({value_text(table.metric, floor.mean)}): difference {_ends(table.metric, lead)}, {_p(lead.p)}, with n = "
        f"{_examples(best.interval.n)}. "
    )
    if lead.mean > 0:
        text += f"Perhaps it is, by a little: {_needed(table, lead)}. "
    return text + "What can help: a larger model, more training examples, or a task that the prompt says more about."


def _turned(table: Table, floor: AgainstFloor) -> Advantage:
    """The difference to a floor with positive as better."""
    found = floor.difference
    if table.metric.higher_is_better:
        return Advantage(found.difference, found.low, found.high, floor.p_holm, found)
    return Advantage(-found.difference, -found.high, -found.low, floor.p_holm, found)


def _tied(table: Table, chosen: Standing) -> str:
    eligible = table.eligible
    best, other = _ends_of_tie(table, chosen)
    lead = advantage(table, best, other)
    names = ", ".join(standing.name for standing in eligible)
    among = f"between {best.name} and {other.name}"
    if len(eligible) > 2:
        among = f"among the {len(eligible)} approaches ({names})"
    kind = "untrained " if chosen.training == "none" and _some_train(table) else ""
    return (
        f"{_no_difference(lead)} {among}: {_stands(table, best, lead, other)}; {_needed(table, lead)}. "
        f"Use {chosen.name}: {_score(table, chosen)}. {_why_cheapest(table, chosen)} {kind}approach: "
        f"{duration(chosen.total_s)} for {_requests(table.requests)}."
    )


def _why_cheapest(table: Table, chosen: Standing) -> str:
    least = min(table.eligible, key=lambda own: own.total_s)
    if least.name == chosen.name or not costs_alike(least.total_s, chosen.total_s):
        return "It is the cheapest"
    return f"It is hardly dearer than {least.name} ({duration(least.total_s)}), the cheapest"


def _ends_of_tie(table: Table, chosen: Standing) -> tuple[Standing, Standing]:
    """The best, and what was chosen instead; the second best where the best was."""
    best, second = table.eligible[:2]
    return best, second if chosen.name == best.name else chosen


def _one_kind(table: Table, chosen: Standing) -> str:
    best = table.eligible[0]
    near = ""
    if chosen.name != best.name:
        near = f", {_near(table, chosen, best, 'best')}: {_totals(table, chosen, best)}"
    if chosen.trains:
        return f"Use {chosen.name}: {_score(table, chosen)}{near}; {_price(chosen)}. {_beside_nothing_of_use(table)}"
    start, subject = (_do_not(chosen), chosen.name) if _some_train(table) else (f"Use {chosen.name}", "it")
    if near:
        return f"{start}: {subject} has {_score(table, chosen)}{near}."
    if len(table.standings) == 1:
        return f"{start}: {_score(table, chosen)}; there is no other approach to compare it with."
    text = f"{start}: {subject} scores best of what is of use, with {_score(table, chosen)}"
    if table.eligible == list(table.standings):
        text = text.replace(" of what is of use", "")
    if len(table.eligible) == 1:
        return f"{text}, of the approaches that stay under the limit of forgetting and are of use."
    return f"{text}; the next best approach, {_worse(table, table.eligible[1], chosen)}."


def _beside_nothing_of_use(table: Table) -> str:
    """Why training is compared with nothing that leaves the language model as it is."""
    others = [standing for standing in table.remembering if not standing.trains]
    if not others:
        return "The study has no approach to compare it with that leaves the language model as it is."
    best = others[0]
    assert best.floor is not None, "without a floor every approach is of use"
    return (
        f"The best that leaves the language model as it is, {_named(table, best)}, is not shown to be better than "
        f"{best.floor.words} ({value_text(table.metric, best.floor.mean)})."
    )


def _helpful(table: Table, chosen: Standing, trained: Standing, untrained: Standing) -> str:
    """Training is shown to help, and `trained` is the best of all."""
    text = _score(table, chosen)
    if chosen.name != trained.name:
        text += f", {_near(table, chosen, trained, 'best')}: {_totals(table, chosen, trained)}"
    if not chosen.trains:
        return f"{_do_not(chosen)}: {chosen.name} has {text}."
    lead = advantage(table, trained, untrained)
    found = (
        f"{_better(table, lead)} than {_best_of_others(table, untrained)} ({untrained.name}, "
        f"{value_text(table.metric, untrained.interval.mean)}){_over_trainings(lead)}, {_p(lead.p)}"
    )
    beside = f"({untrained.name}: {duration(untrained.cost.seconds_per_request)})"
    if chosen.name == trained.name:
        return f"Use {chosen.name}: {text}, {found}; {_price(chosen)} {beside}."
    return f"Use {chosen.name}: {text}. {trained.name} is {found}; {_price(chosen, chosen.name)} {beside}."


def _not_shown(table: Table, chosen: Standing, trained: Standing, untrained: Standing) -> str:
    """Training is not shown to help, so `untrained` is what the others are measured by."""
    lead = advantage(table, trained, untrained)
    worse, text = lead.high < 0, ""
    if lead.low > 0:  # of the trainings together, and not of the model that is handed over
        text = (
            f"{_stands(table, trained, lead, untrained)}, but the model that would be handed over is not better "
            f"({value_text(table.metric, trained.interval.mean)} against "
            f"{value_text(table.metric, untrained.interval.mean)}). "
        )
    elif not worse:
        text = (
            f"{_no_difference(lead)} between {_named(table, trained)} and {_best_of_others(table, untrained)} "
            f"({untrained.name}, {value_text(table.metric, untrained.interval.mean)}): "
            f"{_stands(table, trained, lead, untrained)}; {_needed(table, lead)}. "
        )
    score = _score(table, chosen)
    if chosen.name != untrained.name:
        included = ", its training included" if chosen.trains else ""
        near = _near(table, chosen, untrained, _best_of_others(table, untrained).removeprefix("the "))
        score += f", {near}{included}: {_totals(table, chosen, untrained)}"
    if chosen.trains:
        return f"{text}Use {chosen.name}: {score}."
    if not worse:
        return f"{text}{_do_not(chosen)}: use {chosen.name}, with {score}."
    best = "the best training of the language model"
    if next(own for own in table.eligible if own.trains).name != trained.name:
        best = "the training of the language model that did best on validation"
    rival = f"{best}, {_worse(table, trained, untrained)}"
    if chosen.name == untrained.name:
        how = "scores best, with" if chosen.name == table.eligible[0].name else "has"
        return f"{_do_not(chosen)}: {chosen.name} {how} {score}; {rival}."
    return f"{_do_not(chosen)}: {chosen.name} has {score}; {rival}."


def _do_not(chosen: Standing) -> str:
    """What is not to be done where the language model need not be trained."""
    return "Do not train" if chosen.training == "none" else "Do not train the language model"


def _best_of_others(table: Table, other: Standing) -> str:
    """The approach that stands for those that leave the language model as it is."""
    kind = "untrained approach" if other.training == "none" else "small model"
    best = next(own for own in table.eligible if not own.trains)
    return f"the best {kind}" if best.name == other.name else f"the {kind} that did best on validation"


def _some_train(table: Table) -> bool:
    return any(standing.trains for standing in table.standings)


def _no_difference(lead: Advantage) -> str:
    return f"No difference found with n = {_examples(lead.difference.n)}"


def _worse(table: Table, one: Standing, other: Standing) -> str:
    """ "full (30.0%), is 50.0 points (42.9 to 56.8) worse than zero-shot, p < 0.001"."""
    lead = advantage(table, other, one)
    size, ends = size_text(table.metric, lead.mean), _ends(table.metric, lead)
    return f"{_named(table, one)}, is {size} ({ends}) worse than {other.name}{_over_trainings(lead)}, {_p(lead.p)}"


def _named(table: Table, standing: Standing) -> str:
    return f"{standing.name} ({value_text(table.metric, standing.interval.mean)})"


def _price(chosen: Standing, subject: str = "it") -> str:
    request = duration(chosen.cost.seconds_per_request)
    return f"{subject} costs {duration(chosen.cost.train_s)} of training and {request} a request"


def _totals(table: Table, one: Standing, other: Standing) -> str:
    return f"{duration(one.total_s)} against {duration(other.total_s)} for {_requests(table.requests)}"


def _better_but_forgetful(table: Table, chosen: Standing) -> str:
    sign = 1 if table.metric.higher_is_better else -1
    left_out = [
        standing.name
        for standing in table.standings
        if standing.forgot and sign * (standing.interval.mean - chosen.interval.mean) > 0
    ]
    if not left_out:
        return ""
    names, limit = listed(left_out), _percent(table.forgetting_limit)
    if len(left_out) == 1:
        return f" {names} scores better but forgets more than the limit of {limit}."
    return f" {names} score better but forget more than the limit of {limit}."


def reasons(
    table: Table,
    recommendation: Recommendation,
    break_even: Sequence[Mapping[str, object]],
) -> list[str]:
    """What the verdict rests on, at most six sentences: forgetting, the pairs that decided, cost, break-even.

    The report's tables hold the rest.
    """
    lines = _left_out(table)
    chosen = recommendation.chosen
    if chosen is None:
        return lines
    lines += [_found(table, recommendation, a, b) for a, b in _deciding(table, recommendation, chosen)]
    lines += _elected(table)
    lines.append(_costs(table, chosen))
    rival = table.best_other if chosen.trains else table.best_trained
    if rival is not None:
        trained, untrained = (chosen, rival) if chosen.trains else (rival, chosen)
        names = (trained.name, untrained.name)
        requests = next(pair["requests"] for pair in break_even if (pair["trained"], pair["untrained"]) == names)
        lines.append(_paid(trained, untrained, requests))
    return lines


def _left_out(table: Table) -> list[str]:
    left_out = [f"{standing.name} is left out: {standing.forgot}" for standing in table.standings if standing.forgot]
    lines = [f"{'; '.join(left_out)}; the limit is {_percent(table.forgetting_limit)}."] if left_out else []
    useless = [own for own in table.remembering if own.floor is not None and not own.floor.above]
    by_floor: dict[str, list[str]] = {}
    for own in useless:
        assert own.floor is not None
        what = f"{own.floor.words} ({value_text(table.metric, own.floor.mean)})"
        by_floor.setdefault(what, []).append(_named(table, own))
    return lines + [f"Not shown to be better than {what}: {listed(names)}." for what, names in by_floor.items()]


def _elected(table: Table) -> list[str]:
    """How the pair came to be asked about, where there was a choice; and what scores higher without having been asked
    about."""
    pair = [own for own in (table.best_trained, table.best_other) if own is not None]
    if len(pair) < 2:
        return []
    sign = 1 if table.metric.higher_is_better else -1
    lines = []
    shown = [
        f"{own.name} ({value_text(table.metric, sign * own.validation)})" for own in pair if own.validation is not None
    ]
    if shown:
        lines.append(f"Chosen on validation, of what is of use, before the test was opened: {listed(shown)}.")
    most = max(sign * own.interval.mean for own in pair)
    higher = [_named(table, own) for own in table.eligible if sign * own.interval.mean > most]
    if higher:
        lines.append(f"Better on the test, but not asked about: {listed(higher)}.")
    return lines


def _deciding(table: Table, recommendation: Recommendation, chosen: Standing) -> list[tuple[Standing, Standing]]:
    """At most three pairs: training against none, and against the measure what was chosen and what is cheapest."""
    if len(table.eligible) < 2:
        return []
    if recommendation.measure is None:
        return [_ends_of_tie(table, chosen)]
    measure = recommendation.measure
    pairs = []
    if table.best_trained and table.best_other:
        pairs.append((table.best_trained, table.best_other))
    rivals = (chosen, cheapest(table.eligible)) if recommendation.training_helps is None else (chosen,)
    pairs += [(measure, other) for other in rivals if other.name != measure.name]
    distinct: dict[frozenset[str], tuple[Standing, Standing]] = {}
    for a, b in pairs or [(table.eligible[0], table.eligible[1])]:
        distinct.setdefault(frozenset((a.name, b.name)), (a, b))
    return list(distinct.values())


def _found(table: Table, recommendation: Recommendation, a: Standing, b: Standing) -> str:
    text = _stands(table, a, advantage(table, a, b), b)
    if table.best_trained in (a, b) and table.best_other in (a, b):
        text += f": training the language model is {'' if recommendation.training_helps else 'not '}shown to help"
    measure = recommendation.measure
    if measure not in (a, b) or measure is None:
        return f"{text}."
    other = b if measure == a else a
    if recommendation.training_helps is False and other.trains and other.total_s >= measure.total_s:
        return f"{text}."  # it is not cheaper, so within the margin or not it is not taken
    shown = "is" if within_margin(table, other, measure) else "is not shown to be"
    return f"{text}; {other.name} {shown} within the margin of {size_text(table.metric, table.margin)}."


def _costs(table: Table, chosen: Standing) -> str:
    """Of the recommended, the best and the cheapest."""
    named = {standing.name: standing for standing in (chosen, table.eligible[0], cheapest(table.eligible))}
    costs = [
        f"{name} {duration(standing.total_s)} ({_training(standing)}{duration(standing.cost.seconds_per_request)} each)"
        for name, standing in named.items()
    ]
    return f"Cost of {_requests(table.requests)}: {'; '.join(costs)}."


def _training(standing: Standing) -> str:
    return f"{duration(standing.cost.train_s)} before the first, then " if standing.cost.train_s > 0 else ""


def _paid(trained: Standing, untrained: Standing, requests: object) -> str:
    if isinstance(requests, int):
        return (
            f"Against {untrained.name}, the shorter {_shorter(trained, untrained)} of {trained.name} have paid for its "
            f"training in time after {_requests(requests)}."
        )
    if computes_less(trained, untrained):
        return (
            f"The {_shorter(trained, untrained)} of {trained.name} are shorter than those of {untrained.name}, but "
            "saved no time, so its training does not pay for itself in time."
        )
    return (
        f"{trained.name} computes no less for a request than {untrained.name}, so its training does not pay for itself "
        "in time."
    )


def _shorter(one: Standing, other: Standing) -> str:
    """Which part of a request is shorter: prompts, answers, or both."""
    parts = {
        "prompts": one.cost.prompt_tokens < 0.99 * other.cost.prompt_tokens,
        "answers": one.cost.completion_tokens < 0.99 * other.cost.completion_tokens,
    }
    return " and ".join(part for part, shorter in parts.items() if shorter)


def forgot_text(change: Mapping[str, object]) -> str:
    """How much worse a probe got: "loss on general_text rose by 12.0% (3.1 → 3.472)"."""
    before, after, much = change["before"], change["after"], worsening(change)
    low, high = change.get("low"), change.get("high")
    shown = not (isinstance(low, float) and isinstance(high, float) and low <= 0 <= high)
    chance = "" if shown else "; its 95% interval includes no change"
    if change["higher_is_better"]:
        much_of, digits = f"fell by {100 * much:.1f} points", ".3g"
    else:
        much_of, digits = f"rose by {100 * much:.1f}%", ".4g"
    return f"{change['metric']} on {change['probe']} {much_of} ({before:{digits}} → {after:{digits}}{chance})"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: "12 ms", "1.5 s", "4.2 min", "3.1 h"."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def _score(table: Table, standing: Standing) -> str:
    metric, interval = table.metric, standing.interval
    examples = _examples(interval.n)
    name = metric.name.replace("_", " ") if metric.name in METRICS else metric.name
    if not math.isfinite(interval.low):
        return f"{name} {value_text(metric, interval.mean)} on {examples}"
    ends = f"{bare_text(metric, interval.low)}–{bare_text(metric, interval.high)}"
    return f"{name} {value_text(metric, interval.mean)} ({ends}) on {examples}"


def _near(table: Table, chosen: Standing, measure: Standing, what: str) -> str:
    lead, mean = advantage(table, measure, chosen), value_text(table.metric, measure.interval.mean)
    margin, ends = size_text(table.metric, table.margin), _ends(table.metric, lead)
    price = "about as cheap" if costs_alike(chosen.total_s, measure.total_s) else "cheaper"
    return f"within the margin of {margin} of the {what} ({measure.name}, {mean}; difference {ends}) and {price}"


def _needed(table: Table, lead: Advantage) -> str:
    """How many examples it takes to see the difference that was observed, or the margin where that is greater."""
    wanted, found = max(abs(lead.mean), table.margin), lead.difference
    if lead.trainings > 1:
        return "more trainings and more examples would tell"
    if wanted == 0:
        return "the scores do not differ at all"
    size = size_text(table.metric, wanted)
    if table.metric.proportion:
        needed = n_needed(min(wanted, 1.0), discordance=smoothed_discordance(found.discordance or 0.0, found.n))
    elif found.sd > 0:
        needed = n_needed(wanted, sd=found.sd)
    else:
        return "the scores do not vary enough to say how many examples it would take to see one"
    if needed <= found.n:
        return f"a difference of {size} would probably have been seen"
    return f"to see a difference of {size} you would need about {_rounded(needed):,} examples"


def _rounded(number: int) -> int:
    """To two digits: a number of examples needed is never known better."""
    return round(number, 2 - len(str(number))) if number >= 100 else number


def _stands(table: Table, one: Standing, lead: Advantage, other: Standing) -> str:
    """ "b is 3.5 points (−5.4 to 12.3) better than a, p = 0.51"."""
    if lead.mean == 0:
        return f"{one.name} and {other.name} score the same (difference {_ends(table.metric, lead)}), {_p(lead.p)}"
    return f"{one.name} is {_better(table, lead)} than {other.name}{_over_trainings(lead)}, {_p(lead.p)}"


def _over_trainings(lead: Advantage) -> str:
    return f" in the mean of {lead.trainings} trainings" if lead.trainings > 1 else ""


def _better(table: Table, lead: Advantage) -> str:
    word = "worse" if lead.mean < 0 else "better"
    if lead.mean < 0:
        lead = Advantage(-lead.mean, -lead.high, -lead.low, lead.p, lead.difference, lead.trainings)
    return f"{size_text(table.metric, lead.mean)} ({_ends(table.metric, lead)}) {word}"


def _ends(metric: Metric, lead: Advantage) -> str:
    if not math.isfinite(lead.low):
        return "no interval from one example"
    return f"{bare_text(metric, lead.low)} to {bare_text(metric, lead.high)}"


def value_text(metric: Metric, value: float) -> str:
    return f"{bare_text(metric, value)}%" if metric.proportion else bare_text(metric, value)


def size_text(metric: Metric, difference: float) -> str:
    """A difference in the metric's unit: "2.0 points", "0.013"."""
    return f"{bare_text(metric, difference)} points" if metric.proportion else bare_text(metric, difference)


def bare_text(metric: Metric, value: float) -> str:
    text = f"{100 * value:.1f}" if metric.proportion else f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _percent(limit: float | None) -> str:
    return "" if limit is None else f"{100 * limit:.3g}%"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"


def _examples(number: int) -> str:
    return "1 example" if number == 1 else f"{number:,} examples"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
