"""A decision in words: templates over its values, and no rule of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from luthier.compare.decision import Decision, Question, Standing, Table, computes_less
from luthier.compare.power import Needed
from luthier.compare.quantities import (
    bare_text,
    count_text,
    duration,
    ends_text,
    listed,
    p_text,
    percent_text,
    price_text,
    rounded,
    size_text,
    value_text,
)
from luthier.evaluate.metrics import METRICS, Metric
from luthier.evaluate.statistics import Interval


def headline(table: Table, decision: Decision) -> str:
    """What to do, or that it cannot be told yet, in at most about fifteen words."""
    chosen, asked = decision.chosen, decision.question
    if chosen is None:
        return "None is of use yet." if decision.kind == "none of use" else "None: every approach forgets too much."
    start = _start(table, chosen)
    if asked is None:
        return f"{start} {chosen.name}: {_score(table, chosen)}."
    over = asked.over if chosen is asked.of else asked.of
    scores = f"{_score(table, chosen)} against {_score(table, over)}"
    margin = size_text(table.metric, table.margin)
    if decision.answer == "cannot tell":
        what = "Cannot tell yet, trainings are unstable" if asked.unstable else f"Cannot tell yet{_would(decision)}"
        return f"{what}: use {chosen.name} until then."
    if chosen not in (asked.of, asked.over):
        text = f"{start} {chosen.name}: neither {asked.of.name} nor {asked.over.name} is shown to be better."
    elif decision.answer == "as good and cheaper":
        text = f"{start} {chosen.name}: as good as {over.name}, and cheaper."
    elif decision.answer == "worth less than the margin":
        more = "is better by less than" if asked.lead.low > 0 else "cannot be worth more than"
        text = f"{start} {chosen.name}: {over.name} {more} {margin}."
    else:
        text = f"{start} {chosen.name}: {scores} for {over.name}."
    return f"{text[:-1]}; trainings are unstable." if asked.unstable and decision.answer == "better" else text


def _start(table: Table, chosen: Standing) -> str:
    if chosen.trains or not any(own.trains for own in table.standings):
        return "Use"
    return "Do not train, use" if chosen.training == "none" else "Do not train the language model, use"


def _would(decision: Decision) -> str:
    return "" if decision.needed is None else f", {_needed(decision.needed)} would"


def _needed(own: Needed) -> str:
    parts = []
    if own.examples:
        parts.append(f"about {count_text(rounded(own.examples), 'more test example')}")
    if own.trainings:
        parts.append(count_text(own.trainings, "more training") if own.trainings <= 20 else "many more trainings")
    return " and ".join(parts)


def evidence(table: Table, decision: Decision) -> str:
    """What the decision rests on: the question that decides, with its interval, what else was asked, and the floor."""
    chosen = decision.chosen
    if chosen is None:
        return _none_is_of_use(table) if decision.kind == "none of use" else _all_forget(table)
    sentences = []
    if decision.question is not None:
        sentences += [_answered(table, own) for own in (decision.question, *decision.behind_it)]
    sentences += [_useless(table, own) for own in decision.useless]
    handed = chosen.handed_over
    which = f"{chosen.name}, as it is handed over," if handed else chosen.name
    score = _with_interval(table.metric, handed or chosen.interval)
    sentences.append(f"{which} has {score}{_above_floor(table, chosen)}.")
    return " ".join(sentences)


def _answered(table: Table, asked: Question) -> str:
    """ "lora (84.0%, mean of 3 trainings) is 8.0 points (1.3 to 14.5) better than few-shot (76.0%) on 180 examples,
    p = 0.01."."""
    lead, metric = asked.lead, table.metric
    one, other = (f"{own.name} ({_score(table, own)}{_trainings(asked, own)})" for own in (asked.of, asked.over))
    if lead.difference == 0:
        text = f"{one} and {other} score the same (difference {ends_text(metric, lead.low, lead.high)})"
    else:
        low, high = (lead.low, lead.high) if lead.difference > 0 else (-lead.high, -lead.low)
        size, word = size_text(metric, abs(lead.difference)), "better" if lead.difference > 0 else "worse"
        text = f"{one} is {size} ({ends_text(metric, low, high)}) {word} than {other}"
    text += f" on {count_text(lead.n, 'example')}, {p_text(lead.p)}"
    if asked.unstable:
        text += f"; {asked.behind} of its {len(lead.each)} trainings {'is' if asked.behind == 1 else 'are'} no better"
    if lead.low > 0 and asked.of_model <= 0:
        text += "; but the model that would be handed over is not better"
    return f"{text}."


def _trainings(asked: Question, own: Standing) -> str:
    count = asked.lead.counts[own is asked.over]
    if count > 1:
        return f", mean of {count} trainings"
    return ", this one model" if own.trains else ""


def _none_is_of_use(table: Table) -> str:
    """The approach that is best on the test is not shown to beat the best floor."""
    best = table.remembering[0]
    floor = best.floor
    assert floor is not None, "without a floor every approach is of use"
    ends = ends_text(table.metric, floor.lead.low, floor.lead.high)
    return (
        f"The best approach, {_named(table, best)}, is not shown to be better than {floor.words} "
        f"({value_text(table.metric, floor.mean)}): difference {ends} on {count_text(floor.lead.n, 'example')}, "
        f"{p_text(floor.lead.p)}. What can help: a larger model, more training examples, or a task that the prompt "
        "says more about."
    )


def _all_forget(table: Table) -> str:
    what = "; ".join(f"{own.name}: {own.forgot}" for own in table.standings)
    return f"Every approach forgets more than the limit of {percent_text(table.forgetting_limit)} ({what})."


def _useless(table: Table, own: Standing) -> str:
    assert own.floor is not None
    return (
        f"{_named(table, own)} is not shown to be better than {own.floor.words} "
        f"({value_text(table.metric, own.floor.mean)})."
    )


def _above_floor(table: Table, own: Standing) -> str:
    if own.floor is None:
        return ""
    lead = own.floor.lead
    return (
        f", {size_text(table.metric, lead.difference)} ({ends_text(table.metric, lead.low, lead.high)}) above the best "
        f"floor ({own.floor.name}, {value_text(table.metric, own.floor.mean)})"
    )


def reasons(table: Table, decision: Decision, break_even: Sequence[Mapping[str, object]]) -> list[str]:
    """One line each for cost, for what is forgotten and for what would change the answer, and what else is to know."""
    chosen, asked = decision.chosen, decision.question
    lines = []
    if chosen is not None:
        lines.append(_costs(table, chosen, asked, break_even))
        lines.append(_forgets(chosen))
        lines.append(_would_change(table, decision))
    return [*filter(None, lines), *_left_out(table), *_elected(table, asked)]


def _costs(table: Table, chosen: Standing, asked: Question | None, break_even: Sequence[Mapping[str, object]]) -> str:
    named = [chosen] if asked is None else [chosen, *(own for own in (asked.of, asked.over) if own is not chosen)]
    shown = [
        f"{own.name} {duration(own.total_s)}{_price(table, own)} ({_before(own)}"
        f"{duration(own.cost.seconds_per_request)} each)"
        for own in named
    ]
    return f"Cost of {count_text(table.requests, 'request')}: {'; '.join(shown)}.{_paid(asked, break_even)}"


def _price(table: Table, own: Standing) -> str:
    return "" if table.hour_price is None else f", a price of {price_text(own.total_s, table.hour_price)}"


def _paid(asked: Question | None, break_even: Sequence[Mapping[str, object]]) -> str:
    """Whether shorter requests pay for the training of the language model, where it was asked about."""
    if asked is None or not asked.of.trains or asked.over.trains:
        return ""
    trained, other = asked.of, asked.over
    requests = next(
        own["requests"] for own in break_even if (own["trained"], own["untrained"]) == (trained.name, other.name)
    )
    if isinstance(requests, int):
        after = count_text(requests, "request")
        return f" The shorter {_shorter(trained, other)} of {trained.name} have paid for its training after {after}."
    if computes_less(trained, other):
        return f" The {_shorter(trained, other)} of {trained.name} are shorter, but saved no time."
    return f" {trained.name} computes no less for a request, so its training does not pay for itself in time."


def _before(own: Standing) -> str:
    return f"{duration(own.cost.train_s)} before the first, then " if own.cost.train_s > 0 else ""


def _forgets(chosen: Standing) -> str:
    if not chosen.trains:
        return f"Forgetting: {chosen.name} leaves the language model as it is."
    return f"Forgetting: with {chosen.name}, {chosen.changed}." if chosen.changed else ""


def _would_change(table: Table, decision: Decision) -> str:
    """What would change the answer."""
    asked, metric = decision.question, table.metric
    if asked is None or decision.chosen is None:
        return ""
    lead, parts = asked.lead, []
    if decision.answer == "cannot tell" and decision.needed is not None:
        wanted = size_text(metric, max(abs(lead.difference), table.margin))
        parts.append(f"{_needed(decision.needed)}, to see a difference of {wanted} (80% power)")
    if asked.of.trains and lead.trainings == 1:
        parts.append("further trainings (seeds: 3), since one speaks of its model and not of this way of training")
    if decision.answer == "better":
        margin = size_text(metric, table.margin)
        parts.append(f"to take up to {size_text(metric, lead.high)} for no difference (margin, now {margin})")
    if decision.answer in ("worth less than the margin", "as good and cheaper") and table.margin > 0:
        parts.append(f"a smaller margin than {size_text(metric, table.margin)}")
    if decision.answer == "worse":
        parts.append("another model, other settings, or more training examples")
    return f"What would change this: {', or '.join(parts)}." if parts else ""


def _shorter(one: Standing, other: Standing) -> str:
    """Which part of a request is shorter: prompts, answers, or both."""
    parts = {
        "prompts": one.cost.prompt_tokens < 0.99 * other.cost.prompt_tokens,
        "answers": one.cost.completion_tokens < 0.99 * other.cost.completion_tokens,
    }
    return " and ".join(part for part, shorter in parts.items() if shorter)


def _left_out(table: Table) -> list[str]:
    left_out = [f"{own.name} is left out: {own.forgot}" for own in table.standings if own.forgot]
    lines = [f"{'; '.join(left_out)}; the limit is {percent_text(table.forgetting_limit)}."] if left_out else []
    by_floor: dict[str, list[str]] = {}
    for own in table.remembering:
        if own.floor is not None and not own.of_use:
            what = f"{own.floor.words} ({value_text(table.metric, own.floor.mean)})"
            by_floor.setdefault(what, []).append(_named(table, own))
    return lines + [f"Not shown to be better than {what}: {listed(names)}." for what, names in by_floor.items()]


def _elected(table: Table, asked: Question | None) -> list[str]:
    """How the two came to be asked about; and what scores higher without having been asked about."""
    if asked is None:
        return []
    pair = [asked.of, asked.over]
    sign = 1 if table.metric.higher_is_better else -1
    shown = [
        f"{own.name} ({value_text(table.metric, sign * own.validation)})" for own in pair if own.validation is not None
    ]
    lines = [f"Chosen on validation, before the test was opened: {listed(shown)}."] if shown else []
    most = max(sign * own.interval.mean for own in pair)
    higher = [_named(table, own) for own in table.remembering if own.of_use and sign * own.interval.mean > most]
    if higher:
        lines.append(f"Better on the test, but not asked about: {listed(higher)}.")
    return lines


def _score(table: Table, own: Standing) -> str:
    return value_text(table.metric, own.interval.mean)


def _named(table: Table, own: Standing) -> str:
    return f"{own.name} ({_score(table, own)})"


def _with_interval(metric: Metric, interval: Interval) -> str:
    name = metric.name.replace("_", " ") if metric.name in METRICS else metric.name
    if not math.isfinite(interval.low):
        return f"{name} {value_text(metric, interval.mean)}"
    ends = f"{bare_text(metric, interval.low)}–{bare_text(metric, interval.high)}"
    return f"{name} {value_text(metric, interval.mean)} ({ends})"
