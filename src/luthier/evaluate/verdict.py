"""The recommendation in words: the verdict, and the reasons under it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from luthier.evaluate.forgetting import worsening
from luthier.evaluate.metrics import METRICS, Metric
from luthier.evaluate.power import n_needed, smoothed_discordance
from luthier.evaluate.recommendation import Advantage, Recommendation, Standing, Table, advantage, within_margin


def verdict(table: Table, recommendation: Recommendation) -> str:
    """One to three sentences: what to do, by how much, on how many examples, and at what cost."""
    chosen = recommendation.chosen
    if chosen is None:
        return _none(table)
    if recommendation.tied:
        text = _tied(table, chosen)
    elif chosen.trains:
        text = _train(table, chosen)
    else:
        text = _do_not_train(table, chosen)
    return text + _better_but_forgetful(table, chosen)


def _none(table: Table) -> str:
    what = "; ".join(f"{standing.name}: {standing.forgot}" for standing in table.standings)
    limit = _percent(table.forgetting_limit)
    return f"No approach is recommended: every one forgets more than the limit of {limit} ({what})."


def _tied(table: Table, chosen: Standing) -> str:
    eligible = table.eligible
    best = eligible[0]
    other = chosen if chosen.name != best.name else eligible[1]
    lead = advantage(table, best, other)
    among = (
        f"between {best.name} and {other.name}"
        if len(eligible) == 2
        else f"among the {len(eligible)} approaches ({', '.join(standing.name for standing in eligible)})"
    )
    return (
        f"No difference found with n = {lead.difference.n:,} examples {among}: "
        f"{_stands(table, best, lead, other)}; {_needed(table, lead)}. "
        f"Use {chosen.name}: {_score(table, chosen)}. {_why_cheap(table, chosen)}"
    )


def _why_cheap(table: Table, chosen: Standing) -> str:
    total = f"{duration(chosen.total_s)} for {_requests(table)}"
    if chosen.trains and any(not standing.trains for standing in table.eligible):
        return (
            f"It is within the margin of {_size(table.metric, table.margin)} of the cheapest untrained approach and "
            f"cheaper, its training included: {total}."
        )
    kind = "" if chosen.trains or not any(standing.trains for standing in table.eligible) else "untrained "
    return f"It is the cheapest {kind}approach: {total}."


def _train(table: Table, chosen: Standing) -> str:
    best = table.eligible[0]
    untrained = next((standing for standing in table.eligible if not standing.trains), None)
    text = f"Use {chosen.name}: {_score(table, chosen)}"
    if chosen.name != best.name:
        text += f", {_near(table, chosen, best)}"
    request_s = chosen.cost.seconds_per_request
    cost = f"it costs {duration(chosen.cost.train_s)} of training and {duration(request_s)} a request"
    if untrained is None:
        return f"{text}; {cost}. The study has no untrained approach to compare it with."
    cost += f" ({untrained.name}: {duration(untrained.cost.seconds_per_request)})"
    lead = advantage(table, chosen, untrained)
    if lead.p < table.alpha:
        named = f"the best untrained approach ({untrained.name}, {_value(table.metric, untrained.interval.mean)})"
        return f"{text}, {_better(table, lead)} than {named}, {_p(lead.p)}; {cost}."
    return (
        f"No difference found with n = {lead.difference.n:,} examples between {chosen.name} and the best untrained "
        f"approach: {_stands(table, chosen, lead, untrained)}; {_needed(table, lead)}. {text}; {cost}. "
        f"{_why_not(table, untrained, chosen)}"
    )


def _why_not(table: Table, untrained: Standing, chosen: Standing) -> str:
    """Why a trained approach is chosen that was not found to be better."""
    if within_margin(table, untrained, table.eligible[0]):
        return f"It is cheaper than {untrained.name}, its training included: {_totals(table, chosen, untrained)}."
    return f"{untrained.name} is not shown to be within the margin of {_size(table.metric, table.margin)} of the best."


def _totals(table: Table, one: Standing, other: Standing) -> str:
    return f"{duration(one.total_s)} against {duration(other.total_s)} for {_requests(table)}"


def _do_not_train(table: Table, chosen: Standing) -> str:
    eligible, some_train = table.eligible, any(standing.trains for standing in table.standings)
    best = eligible[0]
    start = "Do not train" if some_train else f"Use {chosen.name}"
    subject = chosen.name if some_train else "it"
    if chosen.name != best.name:
        return (
            f"{start}: {subject} has {_score(table, chosen)}, {_near(table, chosen, best)}: "
            f"{_totals(table, chosen, best)}."
        )
    if len(table.standings) == 1:
        return f"{start}: {_score(table, chosen)}; there is no other approach to compare it with."
    rival = next((standing for standing in eligible[1:] if standing.trains == some_train), None)
    text = f"{start}: {subject} scores best, with {_score(table, chosen)}"
    if rival is None:
        return f"{text}, of the approaches that stay under the limit of forgetting."
    kind = "best trained approach" if some_train else "next best approach"
    lead = advantage(table, chosen, rival)
    return (
        f"{text}; the {kind}, {rival.name} ({_value(table.metric, rival.interval.mean)}), is "
        f"{_size(table.metric, lead.mean)} ({_ends(table.metric, lead)}) worse, {_p(lead.p)}."
    )


def _better_but_forgetful(table: Table, chosen: Standing) -> str:
    sign = 1 if table.metric.higher_is_better else -1
    left_out = [
        standing.name
        for standing in table.standings
        if standing.forgot and sign * (standing.interval.mean - chosen.interval.mean) > 0
    ]
    if not left_out:
        return ""
    names, limit = " and ".join(left_out), _percent(table.forgetting_limit)
    if len(left_out) == 1:
        return f" {names} scores better but forgets more than the limit of {limit}."
    return f" {names} score better but forget more than the limit of {limit}."


def reasons(
    table: Table,
    recommendation: Recommendation,
    break_even: Sequence[Mapping[str, object]],
) -> list[str]:
    """What the verdict rests on, a sentence each: forgetting, the margin, cost, break-even."""
    lines = [_left_out(table, standing) for standing in table.standings if standing.forgot]
    eligible = table.eligible
    lines += [_against_best(table, standing, eligible[0]) for standing in eligible[1:]]
    lines += [
        f"{standing.name} costs {duration(standing.total_s)} in all: {duration(standing.cost.train_s)} before the "
        f"first request, and {duration(standing.cost.seconds_per_request)} for each of {_requests(table)}."
        for standing in eligible
    ]
    chosen = recommendation.chosen
    lines += [_paid(entry) for entry in break_even if chosen and chosen.name in (entry["trained"], entry["untrained"])]
    return lines


def _left_out(table: Table, standing: Standing) -> str:
    return f"{standing.name} is left out: {standing.forgot}; the limit is {_percent(table.forgetting_limit)}."


def _against_best(table: Table, standing: Standing, best: Standing) -> str:
    shown = "is" if within_margin(table, standing, best) else "is not shown to be"
    found = _stands(table, best, advantage(table, best, standing), standing)
    return f"{found}; {standing.name} {shown} within the margin of {_size(table.metric, table.margin)}."


def _paid(entry: Mapping[str, object]) -> str:
    trained, untrained, requests = entry["trained"], entry["untrained"], entry["requests"]
    if not isinstance(requests, int):
        return f"{trained} is no faster a request than {untrained}, so its training never pays for itself in time."
    return f"Against {untrained}, the training of {trained} has paid for itself in time after {requests:,} requests."


def forgot_text(change: Mapping[str, object]) -> str:
    """How much worse a probe got: "loss on general_text rose by 12.0% (3.1 → 3.472)"."""
    before, after, much = change["before"], change["after"], worsening(change)
    if change["higher_is_better"]:
        return f"{change['metric']} on {change['probe']} fell by {100 * much:.1f} points ({before:.3g} → {after:.3g})"
    return f"{change['metric']} on {change['probe']} rose by {100 * much:.1f}% ({before:.4g} → {after:.4g})"


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
    examples = "1 example" if interval.n == 1 else f"{interval.n:,} examples"
    name = metric.name.replace("_", " ") if metric.name in METRICS else metric.name
    if not math.isfinite(interval.low):
        return f"{name} {_value(metric, interval.mean)} on {examples}"
    ends = f"{_bare(metric, interval.low)}–{_bare(metric, interval.high)}"
    return f"{name} {_value(metric, interval.mean)} ({ends}) on {examples}"


def _near(table: Table, chosen: Standing, best: Standing) -> str:
    lead, best_mean = advantage(table, best, chosen), _value(table.metric, best.interval.mean)
    margin, ends = _size(table.metric, table.margin), _ends(table.metric, lead)
    return f"within the margin of {margin} of the best ({best.name}, {best_mean}; difference {ends}) and cheaper"


def _needed(table: Table, lead: Advantage) -> str:
    """How many examples it takes to see the difference that was observed, or the margin where that is greater."""
    wanted, found = max(abs(lead.mean), table.margin), lead.difference
    if wanted == 0:
        return "the scores do not differ at all"
    size = _size(table.metric, wanted)
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
    return f"{one.name} is {_better(table, lead)} than {other.name}, {_p(lead.p)}"


def _better(table: Table, lead: Advantage) -> str:
    word = "worse" if lead.mean < 0 else "better"
    if lead.mean < 0:
        lead = Advantage(-lead.mean, -lead.high, -lead.low, lead.p, lead.difference)
    return f"{_size(table.metric, lead.mean)} ({_ends(table.metric, lead)}) {word}"


def _ends(metric: Metric, lead: Advantage) -> str:
    if not math.isfinite(lead.low):
        return "no interval from one example"
    return f"{_bare(metric, lead.low)} to {_bare(metric, lead.high)}"


def _value(metric: Metric, value: float) -> str:
    return f"{_bare(metric, value)}%" if metric.proportion else _bare(metric, value)


def _size(metric: Metric, difference: float) -> str:
    return f"{_bare(metric, difference)} points" if metric.proportion else _bare(metric, difference)


def _bare(metric: Metric, value: float) -> str:
    text = f"{100 * value:.1f}" if metric.proportion else f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _percent(limit: float | None) -> str:
    return "" if limit is None else f"{100 * limit:.3g}%"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def _requests(table: Table) -> str:
    return "1 request" if table.requests == 1 else f"{table.requests:,} requests"
