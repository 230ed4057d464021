"""Which half of an approach that retrieves holds its score back: what finds passages, or what answers from them.

The same examples are answered without passages (closed book), with those that are found, with the right one alone
(oracle), and with the right one among others (oracle among distractors). From found to oracle among distractors is what
a perfect search could add; from there to the best possible score is what is left to whoever answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.evaluate.answer import Answer
from luthier.evaluate.columns import column_of, difference_of, interval_of
from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Difference
from luthier.types import Score

CONDITIONS = ("closed book", "retrieved", "oracle", "oracle among distractors")

# Of the best possible score; what is left below it is nothing to work on.
_NOTHING = 0.01


def diagnosis(
    scores: Mapping[str, Sequence[Score]], answers: Mapping[str, Sequence[Answer]], metric: Metric, seed: int
) -> dict[str, Any]:
    """The conditions' scores with intervals, the two gaps, and a sentence of advice.

    Args:
        scores: Condition → the deciding metric's scores, of the same examples in the same order.
        answers: Condition → the answers that they are of.

    Returns:
        `conditions` (name, mean, low, high, n), `search_gap` (oracle among distractors − retrieved) and `passage_gain`
        (retrieved − closed book) with 95% intervals, turned so that positive is better; `left` (the best possible score
        − oracle among distractors, null for metrics without one); `verdict` (`retriever`, `generator`, `passages`,
        `nothing`, `undecided`) and `advice`.
    """
    columns = {name: column_of(scores[name], answers[name], metric, name) for name in CONDITIONS}
    rows = []
    for name, column in columns.items():
        found = interval_of(column, metric, seed)
        rows.append({"name": name, "mean": found.mean, "low": found.low, "high": found.high, "n": found.n})

    def difference(a: str, b: str) -> Difference:
        return difference_of(columns[a], columns[b], metric, seed, f"{a} and {b}")

    gaps = {
        "search_gap": difference("oracle among distractors", "retrieved"),
        "passage_gain": difference("retrieved", "closed book"),
    }
    turn = 1 if metric.higher_is_better else -1
    entries = {
        name: {
            "value": turn * own.difference,
            "low": turn * (own.low if turn > 0 else own.high),
            "high": turn * (own.high if turn > 0 else own.low),
        }
        for name, own in gaps.items()
    }
    best = rows[3]["mean"]
    left = 1.0 - best if metric.bounded and metric.higher_is_better and isinstance(best, float) else None
    verdict, advice = _advice(entries["search_gap"], entries["passage_gain"], left, len(next(iter(answers.values()))))
    return {
        "metric": metric.name,
        "conditions": rows,
        **entries,
        "left": left,
        "verdict": verdict,
        "advice": advice,
    }


def _advice(search: Mapping[str, float], gain: Mapping[str, float], left: float | None, n: int) -> tuple[str, str]:
    """What holds the score back, and what to do about it."""
    found = f"by {search['value']:.3f} ({search['low']:.3f} to {search['high']:.3f})"
    change = f"{search['value']:+.3f} ({search['low']:+.3f} to {search['high']:+.3f})".replace("-", "−")
    if search["low"] > 0 and (left is None or search["value"] >= left):
        return "retriever", (
            f"Search holds the score back: with the right passage among the others it would be better {found}. Train "
            "the retriever, add a reranker, or try another k or chunk size."
        )
    beyond = "" if left is None else f", and {left:.3f} are still missing then"
    if search["low"] > 0:
        return "generator", (
            "Both halves hold the score back, the answering more: with the right passage among the others it would be "
            f"better {found}{beyond}. Train the generator on retrieved prompts (sft behind rag) first, then the "
            "retriever."
        )
    if left is not None and left < _NOTHING:
        return "nothing", "Nothing is left to gain on these examples: the answers are right with what is found."
    if gain["high"] <= 0:
        return "passages", (
            "Passages do not help: without any the score is no lower. Look at the questions and the documents, or at "
            "the wording of the prompt."
        )
    if search["high"] > (0.0 if left is None else left):
        return "undecided", (
            f"Which half holds the score back is not shown: with the right passage among the others the score changes "
            f"by {change} on {n} examples{beyond}. More validation examples would tell."
        )
    return "generator", (
        f"The answering holds the score back, not the search: with the right passage among the others the score "
        f"changes by {change}{beyond}. Train the generator on retrieved prompts (sft behind rag), or use a larger "
        "model."
    )
