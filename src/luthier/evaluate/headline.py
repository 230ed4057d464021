"""The verdict in one short sentence: what to do, or that it cannot be told yet."""

from __future__ import annotations

from luthier.evaluate.recommendation import Recommendation, Standing, Table, advantage
from luthier.evaluate.verdict import size_text, value_text


def headline(table: Table, recommendation: Recommendation) -> str:
    """At most about fifteen words, which `verdict` then gives the evidence for."""
    chosen = recommendation.chosen
    if chosen is None:
        return "None is of use yet." if table.remembering else "None: every approach forgets too much."
    trained, other = table.best_trained, table.best_other
    if recommendation.training_helps is None or trained is None or other is None:
        return _of_one_kind(table, recommendation, chosen)
    if recommendation.training_helps:
        if chosen.trains:
            return f"Use {chosen.name}: {_score(table, chosen)} against {_score(table, other)} for {other.name}."
        return f"{_do_not(chosen)}: {chosen.name} is nearly as good, and cheaper."
    if chosen.trains:
        return f"Use {chosen.name}: as good as {other.name}, and cheaper."
    return _without_help(table, chosen, trained)


def _of_one_kind(table: Table, recommendation: Recommendation, chosen: Standing) -> str:
    start = _do_not(chosen) if not chosen.trains and any(own.trains for own in table.standings) else None
    if recommendation.tied:
        words = "none is shown to be better, or is clearly cheaper"
    elif len(table.standings) == 1:
        words = _score(table, chosen)
    else:
        words = f"{_score(table, chosen)}, of what is of use"
        if table.eligible == list(table.standings):
            words = f"{_score(table, chosen)}, of {len(table.standings)} approaches compared"
    return f"{start}: use {chosen.name} ({words})." if start else f"Use {chosen.name}: {words}."


def _without_help(table: Table, chosen: Standing, trained: Standing) -> str:
    """Training is not shown to help, and the best of the others is taken."""
    lead = advantage(table, trained, chosen)
    if lead.high < 0:
        return f"{_do_not(chosen)}: {chosen.name} is better, {_score(table, chosen)} against {_score(table, trained)}."
    if lead.high < table.margin:
        return f"{_do_not(chosen)}: it cannot be worth more than {size_text(table.metric, table.margin)}."
    return f"Cannot tell yet whether training helps: use {chosen.name} until then."


def _do_not(chosen: Standing) -> str:
    return "Do not train" if chosen.training == "none" else "Do not train the language model"


def _score(table: Table, standing: Standing) -> str:
    return value_text(table.metric, standing.interval.mean)
