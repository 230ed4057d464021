"""How well search ranks the right passages, by `ir-measures`: what is trusted in the field, one value a question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ir_measures
from ir_measures import RR, R, Success, nDCG


def ranking_values(
    right: Mapping[str, Collection[str]], ranking: Mapping[str, Sequence[str]], k: int
) -> dict[str, dict[str, float]]:
    """Measure → question → value from 0 to 1; higher is better.

    `recall@k` is the share of a question's right passages among the first `k`; `found@k` whether any is (Success@k);
    `ndcg@10` (Järvelin and Kekäläinen 2002, right or wrong) and `mrr@10`, the reciprocal rank of the first right one.

    Args:
        right: Question → ids of the right passages; at least one.
        ranking: Question → ids of passages, best first.
    """
    measures: dict[str, Any] = {
        f"recall@{k}": R @ k,
        f"found@{k}": Success @ k,
        "ndcg@10": nDCG @ 10,
        "mrr@10": RR @ 10,
    }
    qrels = {question: dict.fromkeys(own, 1) for question, own in right.items()}
    run = {
        question: {own: float(len(ranking[question]) - rank) for rank, own in enumerate(ranking[question])}
        for question in right
    }
    found = {name: dict.fromkeys(right, 0.0) for name in measures}  # an empty ranking finds nothing
    names = {str(measure): name for name, measure in measures.items()}
    for one in ir_measures.iter_calc(list(measures.values()), qrels, run):
        found[names[str(one.measure)]][one.query_id] = float(one.value)
    return found
