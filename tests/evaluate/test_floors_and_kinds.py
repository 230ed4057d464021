"""Floors in the comparison, and a verdict that knows what was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_comparison import approach, beside, compared, right

from luthier.evaluate.comparison import ApproachResult, FloorResult
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
    assert result["verdict"].startswith(
        "None is of use yet: the best approach, lora (7.0%), is not shown to be better than doing most-frequent (7.0%)"
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
    [("none", "Do not train: "), ("small model", "Do not train the language model: ")],
)
def test_what_need_not_be_trained_is_said(training: Training, first: str):
    other = replace(approach("other", right(160), per_request_s=0.001), training=training)
    result = compared(other, approach("lora", right(150), train_s=300))
    assert result["recommended"] == "other"
    assert result["verdict"].startswith(first)


def test_the_language_model_is_trained_only_if_that_beats_the_small_one():
    trained = approach("lora", right(164), train_s=310, per_request_s=0.4)
    shots = approach("few-shot", right(120), per_request_s=0.9)
    beats_shots = compared(trained, shots)
    assert beats_shots["recommended"] == "lora"
    beside_classifier = compared(trained, shots, small("classifier", right(162), train_s=2, per_request_s=0.001))
    assert beside_classifier["recommended"] == "classifier"
    assert "the best small model (classifier, 81.0%)" in beside_classifier["verdict"]


def test_a_small_model_competes_with_untrained_approaches_by_score_and_cost():
    """It is trained in seconds: nothing has to be shown before it may be taken."""
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
    assert any("the shorter answers of lora have paid" in reason for reason in result["reasons"])


def test_training_that_alone_beats_the_floor_is_not_said_to_have_no_rival():
    result = compared(
        approach("few-shot", beside(12, 4, 100)),
        approach("lora", right(180), train_s=300),
        floors=[floor("most-frequent", right(100))],
    )
    assert result["recommended"] == "lora"
    assert "few-shot (54.0%), is not shown to be better than doing most-frequent (50.0%)" in result["verdict"]
    assert "no approach to compare" not in result["verdict"]


def test_a_floor_with_partial_credit_is_compared_by_a_metric_of_the_users_own():
    whole = [float(n % 2) for n in range(200)]
    result = compared(
        approach("zero-shot", whole, metric="mine.py:credit"),
        floors=[floor("most-frequent", [0.5] * 100 + [0.0] * 100, metric="mine.py:credit")],
    )
    assert result["floors"][0]["mean"] == 0.25
