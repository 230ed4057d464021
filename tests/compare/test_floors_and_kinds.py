"""Floors in the comparison, and a verdict that knows what was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_comparison import approach, beside, compared, right

from luthier.compare.comparison import ApproachResult, FloorResult
from luthier.types import Training


def floor(name: str, values: list[float], kind: str = "most frequent answer", **more: Any) -> FloorResult:
    return FloorResult(kind, f"doing {name}", approach(name, values, **more))


def small(name: str, values: list[float], **more: Any) -> ApproachResult:
    return replace(approach(name, values, **more), training="small model", kind="classifier")


def test_floors_stand_apart_best_first_and_every_approach_is_compared_with_the_best():
    result = compared(
        approach("few-shot", right(120)), floors=[floor("draw", right(10)), floor("most-frequent", right(30))]
    )
    assert [row["name"] for row in result["floors"]] == ["most-frequent", "draw"]
    assert [row["name"] for row in result["approaches"]] == ["few-shot"]
    against = result["approaches"][0]["floor"]
    assert (against["name"], against["above"]) == ("most-frequent", True)
    assert against["difference"] == pytest.approx((120 - 30) / 200)
    assert result["floors"][0]["mean"] == pytest.approx(0.15)


def test_where_nothing_beats_the_best_floor_none_is_of_use():
    """Arithmetic at 5.5% and 7%, beside the most frequent answer: the better of two useless approaches is no winner."""
    result = compared(
        approach("zero-shot", right(11)),
        approach("lora", right(14), train_s=300),
        floors=[floor("most-frequent", beside(10, 10, 14))],
    )
    assert result["recommended"] is None
    assert (result["headline"], result["decision"]["kind"]) == ("None is of use yet.", "none of use")
    assert result["verdict"].startswith(
        "The best approach, lora (7.0%), is not shown to be better than doing most-frequent (7.0%)"
    )
    assert "a larger model" in result["verdict"]
    assert result["reasons"][0].startswith("Not shown to be better than doing most-frequent (7.0%): lora (7.0%) and")


def test_an_approach_below_the_floor_is_not_taken_for_its_price():
    result = compared(
        approach("cheap", right(52), per_request_s=0.01),
        approach("dear", right(130), per_request_s=1.0),
        floors=[floor("most-frequent", right(50))],
        margin=0.9,
    )
    assert result["recommended"] == "dear"
    assert any(
        "Not shown to be better than doing most-frequent (25.0%): cheap (26.0%)." in r for r in result["reasons"]
    )


def test_an_approach_need_not_beat_the_floor_that_does_what_it_does():
    copying = replace(approach("nearest", right(150)), kind="nearest")
    same, frequent = floor("nearest-answer", right(150), "nearest"), floor("most-frequent", right(20))
    result = compared(copying, approach("lora", right(152), train_s=100), floors=[same, frequent])
    rows = {row["name"]: row["floor"] for row in result["approaches"]}
    assert (rows["nearest"]["name"], rows["nearest"]["above"]) == ("most-frequent", True)
    assert (rows["lora"]["name"], rows["lora"]["above"]) == ("nearest-answer", False)
    assert result["recommended"] == "nearest"


def test_a_floor_without_a_score_is_left_out():
    unscored = floor("most-frequent", [None] * 200)  # type: ignore[list-item]
    result = compared(approach("few-shot", right(120)), floors=[unscored])
    assert result["floors"] == []
    assert result["approaches"][0]["floor"] is None


@pytest.mark.parametrize(
    ("training", "first"),
    [("none", "Do not train, use other: "), ("small model", "Do not train the language model, use other: ")],
)
def test_what_need_not_be_trained_is_said(training: Training, first: str):
    other = replace(approach("other", right(160), per_request_s=0.001), training=training)
    result = compared(other, approach("lora", right(150), train_s=300))
    assert result["recommended"] == "other"
    assert result["headline"] == f"{first}80.0% against 75.0% for lora."


def test_the_language_model_is_trained_only_if_that_beats_the_small_one():
    trained = approach("lora", right(164), train_s=310, per_request_s=0.4)
    shots = approach("few-shot", right(120), per_request_s=0.9)
    beats_shots = compared(trained, shots)
    assert beats_shots["recommended"] == "lora"
    beside_classifier = compared(trained, shots, small("classifier", right(162), train_s=2, per_request_s=0.001))
    assert beside_classifier["recommended"] == "classifier"
    assert (beside_classifier["decision"]["of"], beside_classifier["decision"]["over"]) == ("lora", "classifier")


def test_a_small_model_as_good_as_the_best_untrained_approach_is_taken_where_it_is_cheaper():
    result = compared(
        approach("few-shot", beside(4, 1), per_request_s=0.2),
        small("classifier", right(160), train_s=3, per_request_s=0.005),
        margin=0.06,
    )
    assert result["approaches"][0]["name"] == "few-shot"
    assert result["recommended"] == "classifier"


def test_shorter_answers_pay_for_training_too():
    def answering(own: ApproachResult, tokens: float) -> ApproachResult:
        return replace(own, cost=replace(own.cost, completion_tokens=tokens))

    long = answering(approach("zero-shot", right(120), per_request_s=0.519, prompt_tokens=100), 64)
    short = answering(approach("lora", right(164), train_s=310, per_request_s=0.091, prompt_tokens=100), 8)
    result = compared(long, short)
    assert result["break_even"] == [{"trained": "lora", "untrained": "zero-shot", "requests": 725}]  # 310 / 0.428
    assert any("The shorter answers of lora have paid" in reason for reason in result["reasons"])


def test_training_that_alone_beats_the_floor_is_not_said_to_have_no_rival():
    result = compared(
        approach("few-shot", beside(12, 4, 100)),
        approach("lora", right(180), train_s=300),
        floors=[floor("most-frequent", right(100))],
    )
    assert result["recommended"] == "lora"
    assert result["headline"] == "Use lora: 90.0%."
    assert "few-shot (54.0%) is not shown to be better than doing most-frequent (50.0%)" in result["verdict"]


def test_a_floor_with_partial_credit_is_compared_by_a_metric_of_the_users_own():
    whole = [float(n % 2) for n in range(200)]
    result = compared(
        approach("zero-shot", whole, metric="mine.py:credit"),
        floors=[floor("most-frequent", [0.5] * 100 + [0.0] * 100, metric="mine.py:credit")],
    )
    assert result["floors"][0]["mean"] == 0.25


def test_where_the_language_model_need_not_be_trained_the_small_one_is_weighed_against_the_untrained_one():
    """Whichever of the two validation put first as its rival, what is used is the same."""
    lora = replace(approach("lora", right(150), train_s=300), validation=0.5)

    def used(nearest: list[float], fitted: list[float], first: str) -> dict[str, Any]:
        one = replace(approach("nearest", nearest, per_request_s=0.01), validation=0.8 + 0.1 * (first == "nearest"))
        other = replace(small("classifier", fitted, train_s=9, per_request_s=0.01), validation=0.85)
        return compared(lora, one, other)

    for first in ("nearest", "classifier"):
        alike = used(right(184), beside(8, 6, 184), first)
        assert alike["recommended"] == "nearest"
        better = used(right(160), right(184), first)
        assert better["recommended"] == "classifier"
        worse = used(right(184), right(160), first)
        assert worse["recommended"] == "nearest"
    alike = used(right(184), beside(8, 6, 184), "classifier")
    assert alike["headline"] == "Do not train, use nearest: neither lora nor classifier is shown to be better."
    assert [own["about"] for own in alike["decision"]["questions"]] == ["language model", "small model"]
    assert "classifier (93.0%) is 1.0 points" in alike["verdict"]


def test_the_best_training_is_asked_about_beside_what_trains_nothing_too():
    result = compared(
        replace(approach("lora", right(184), train_s=300), validation=0.9),
        replace(small("classifier", right(170), train_s=9), validation=0.8),
        replace(approach("nearest", right(150)), validation=0.7),
    )
    asked = [(own["about"], own["of"], own["over"]) for own in result["decision"]["questions"]]
    assert asked == [
        ("language model", "lora", "classifier"),
        ("small model", "classifier", "nearest"),
        ("anything trained", "lora", "nearest"),
    ]
    assert result["headline"] == "Use lora: 92.0% against 85.0% for classifier."


def test_what_was_not_asked_about_is_not_picked_by_its_luck_on_the_test():
    """The rival that validation chose is of no use, and about the two that are left nothing was asked."""
    result = compared(
        replace(approach("lora", right(180), train_s=300), validation=0.6),
        replace(small("classifier", right(101), train_s=9), validation=0.9),
        replace(approach("few-shot", right(150)), validation=0.8),
        floors=[floor("most-frequent", right(100))],
    )
    assert [own["over"] for own in result["decision"]["questions"]] == ["classifier", "few-shot"]
    assert (result["decision"]["kind"], result["recommended"]) == ("only one left", "few-shot")
