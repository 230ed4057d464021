"""The comparison: ranking, pairs, the recommendation and its words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from luthier.compare import ApproachResult, compare
from luthier.compare.comparison import FloorResult
from luthier.errors import EvaluationError
from luthier.evaluate import Answer, LogProb
from luthier.types import Cost, Score


def cost(train_s: float, per_request_s: float, prompt_tokens: float = 10.0) -> Cost:
    return Cost(
        train_s, 0.0, 0, None, 0, 0, 0.0, 0, prompt_tokens, 0.1, per_request_s, per_request_s, 1 / per_request_s,
        per_request_s,
    )  # fmt: skip


def approach(
    name: str,
    values: Sequence[float | None],
    *,
    train_s: float = 0.0,
    per_request_s: float = 1.0,
    prompt_tokens: float = 10.0,
    metric: str = "accuracy",
    forgotten: Sequence[Mapping[str, object]] = (),
    answers: Sequence[Answer] = (),
) -> ApproachResult:
    scores = [
        Score(str(number), metric, value, None if value is not None else "no number in the reference")
        for number, value in enumerate(values)
    ]
    return ApproachResult(
        name,
        "language model" if train_s > 0 else "none",
        {"task": {metric: scores}},
        {"task": metric},
        cost(train_s, per_request_s, prompt_tokens),
        {"task": answers} if answers else {},
        forgotten,
    )


def right(first: int, n: int = 200) -> list[float]:
    """The first so many of n answers are right."""
    return [1.0] * first + [0.0] * (n - first)


def beside(gained: int, lost: int, first: int = 160, n: int = 200) -> list[float]:
    """As `right(first, n)`, but for so many more that are right and so many fewer."""
    return [0.0] * lost + [1.0] * (first - lost + gained) + [0.0] * (n - first - gained)


def compared(*approaches: ApproachResult, **settings: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "targets": ["task"],
        "requests": 1000,
        "margin": 0.02,
        "forgetting_limit": 0.05,
        "seed": 0,
        **settings,
    }
    result = compare(approaches, **given)
    json.dumps(result, allow_nan=False)  # it is written as JSON
    return result


def loss_rise(after: float) -> dict[str, object]:
    return {
        "probe": "general_text",
        "metric": "loss",
        "higher_is_better": False,
        "n": 40,
        "before": 3.0,
        "after": after,
        "difference": after - 3.0,
        "low": after - 3.1,
        "high": after - 2.9,
    }


def test_result_has_the_keys_of_the_run_folder_page():
    result = compared(approach("few-shot", right(120)), approach("lora", right(164), train_s=300, per_request_s=0.5))
    assert set(result) == {
        "target", "targets", "metric", "n", "requests", "hour_price", "margin", "forgetting_limit",
        "minimum_detectable", "approaches", "floors", "pairs", "by_task",
        "break_even", "decision", "recommended", "headline", "verdict", "reasons",
    }  # fmt: skip
    lora, few_shot = result["approaches"]
    assert set(few_shot) == {
        "name", "n", "metric", "mean", "low", "high", "interval", "trainings", "handed_over", "scores", "unscored",
        "cost", "total_s", "training", "floor",
    }  # fmt: skip
    assert set(lora) - set(few_shot) == {"forgotten", "other_tasks"}
    assert set(result["pairs"][0]) == {
        "a",
        "b",
        "difference",
        "low",
        "high",
        "p",
        "asked",
        "trainings",
        "n",
        "spread",
    }
    assert set(result["decision"]) == {
        "kind", "recommended", "about", "of", "over", "answer", "unstable", "needed", "questions", "margin", "requests",
    }  # fmt: skip
    assert result["n"] == 200
    assert lora["total_s"] == 300 + 1000 * 0.5


def test_another_task_that_got_worse_counts_for_the_limit():
    lost = {**loss_rise(3.6), "probe": "mathematics", "since": "the base model"}
    trained = replace(approach("lora", right(164), train_s=300), other_tasks=[lost])
    result = compared(approach("few-shot", right(120)), trained)
    assert result["recommended"] == "few-shot"
    assert any("loss on mathematics rose by 20.0%" in reason for reason in result["reasons"])
    assert compared(approach("few-shot", right(120)), trained, forgetting_limit=0.3)["recommended"] == "lora"


def test_a_trained_approach_that_is_clearly_better_is_recommended_with_its_price():
    result = compared(
        approach("zero-shot", right(60), per_request_s=0.3),
        approach("few-shot", right(120), per_request_s=0.9),
        approach("lora", right(164), train_s=310, per_request_s=0.4),
    )
    assert [entry["name"] for entry in result["approaches"]] == ["lora", "few-shot", "zero-shot"]
    assert result["recommended"] == "lora"
    assert result["headline"] == "Use lora: 82.0% against 60.0% for few-shot."
    assert result["verdict"].startswith("lora (82.0%, this one model) is 22.0 points (")
    assert "better than few-shot (60.0%) on 200 examples, p < 0.001" in result["verdict"]
    assert result["verdict"].endswith("lora has accuracy 82.0% (76.1–86.7).")
    assert result["reasons"][0].startswith(
        "Cost of 1,000 requests: lora 11.8 min (5.2 min before the first, then 400 ms each); few-shot 15.0 min"
    )


def test_pairs_are_the_better_minus_the_worse_and_their_intervals_hold_together():
    result = compared(approach("a", right(100)), approach("b", right(110)), approach("c", right(112)))
    assert [(pair["a"], pair["b"]) for pair in result["pairs"]] == [("c", "b"), ("c", "a"), ("b", "a")]
    by_name = {(pair["a"], pair["b"]): pair for pair in result["pairs"]}
    found = by_name["b", "a"]
    assert not found["asked"]
    assert found["difference"] == pytest.approx(0.05)
    values = np.array([1.0] * 10 + [0.0] * 190 + [1.0, -1.0])  # with the two pseudo-examples
    error = values.std(ddof=1) / np.sqrt(202)
    alone = t.ppf(0.975, 201) * error
    assert 1.1 * alone < (found["high"] - found["low"]) / 2 < 1.25 * alone
    by_itself = 2 * t.sf(values.mean() / error, 201)
    assert by_itself < found["p"] < 3 * by_itself


def test_what_cannot_be_told_says_what_would_tell_and_what_to_use_until_then():
    few_shot = [1.0] * 100 + [1.0] * 20 + [0.0] * 24 + [0.0] * 56
    lora = [1.0] * 100 + [0.0] * 20 + [1.0] * 24 + [0.0] * 56
    result = compared(
        approach("few-shot", few_shot, per_request_s=0.5), approach("lora", lora, train_s=100, per_request_s=0.5)
    )
    assert (result["recommended"], result["decision"]["answer"]) == ("few-shot", "cannot tell")
    assert result["verdict"].startswith(
        "lora (62.0%, this one model) is 2.0 points (−4.7 to 8.6) better than few-shot (60.0%) on 200 examples, "
        "p = 0.56."
    )
    # (1.96 + 0.84)² × 0.227 / 0.02², less the 200 that there are
    assert result["decision"]["needed"] == {"examples": pytest.approx(4260, abs=60), "trainings": 0}
    assert result["headline"] == "Cannot tell yet, about 4,200 more test examples would: use few-shot until then."
    assert any("4,200 more test examples, to see a difference of 2.0 points" in line for line in result["reasons"])


@pytest.mark.parametrize(
    "irrelevant",
    [
        approach("one-shot", right(60)),
        approach("one-shot", right(60), per_request_s=0.1),
        approach("full", right(60), train_s=10),
    ],
)
def test_an_irrelevant_approach_does_not_flip_the_verdict(irrelevant: ApproachResult):
    two = [approach("zero-shot", right(160)), approach("lora", beside(24, 20), train_s=100)]
    assert compared(*two)["recommended"] == "zero-shot"
    result = compared(*two, irrelevant)
    assert min(pair["p"] for pair in result["pairs"]) < 0.05
    assert (result["recommended"], result["decision"]["answer"]) == ("zero-shot", "cannot tell")
    assert result["headline"] == compared(*two)["headline"]


def test_only_the_pair_that_was_asked_about_is_turned_into_advice():
    """A third approach, which is cheaper and within the margin on the test, is not: it would be picked by its luck."""
    result = compared(
        approach("zero-shot", right(1590, 2000), per_request_s=0.3),
        approach("few-shot", right(1600, 2000), per_request_s=0.9),
        approach("lora", beside(120, 100, 1600, 2000), train_s=100),
    )
    assert [entry["name"] for entry in result["approaches"]] == ["lora", "few-shot", "zero-shot"]
    assert result["recommended"] == "few-shot"
    assert result["decision"]["answer"] == "cannot tell"
    assert [(pair["a"], pair["b"]) for pair in result["pairs"] if pair["asked"]] == [("lora", "few-shot")]


def test_the_pair_is_chosen_on_validation_and_not_by_its_luck_on_the_test():
    def on_validation(one: ApproachResult, score: float) -> ApproachResult:
        return replace(one, validation=score)

    result = compared(
        on_validation(approach("few-shot", right(120)), 0.70),
        on_validation(approach("nearest", right(126)), 0.65),
        on_validation(approach("lora", right(150), train_s=10), 0.80),
        on_validation(approach("full", right(160), train_s=10), 0.80),  # of equals the first in the study
    )
    (asked,) = [pair for pair in result["pairs"] if pair["asked"]]
    assert (asked["a"], asked["b"]) == ("lora", "few-shot")
    assert result["recommended"] == "lora"
    assert "Chosen on validation, before the test was opened: lora (80.0%) and few-shot (70.0%)." in result["reasons"]
    assert "Better on the test, but not asked about: full (80.0%)." in result["reasons"]


def test_what_was_trained_again_stands_in_the_table_by_the_mean_of_its_trainings():
    lucky, other = approach("lora", right(176)), approach("few-shot", right(170))
    again = (approach("lora", right(156)), approach("lora", right(160)))
    result = compared(other, replace(lucky, trainings=again))
    first, second = result["approaches"]
    assert (first["name"], first["trainings"], first["mean"]) == ("few-shot", 1, 0.85)
    assert (second["name"], second["trainings"], second["mean"]) == ("lora", 3, pytest.approx(0.82))
    assert second["handed_over"]["mean"] == second["scores"]["task"][0]["mean"] == 0.88
    assert first["handed_over"] == {key: first[key] for key in ("mean", "low", "high")}
    pair = result["pairs"][0]
    assert pair["difference"] == pytest.approx(first["mean"] - second["mean"])
    alone = compared(other, lucky)["approaches"][0]
    assert second["high"] - second["low"] > 2 * (alone["high"] - alone["low"])


def test_where_it_was_trained_again_the_verdict_is_on_the_mean_of_the_trainings():
    """One lucky training is shown to be better, three of them are not, and each says what it speaks of."""
    other, lucky = approach("few-shot", right(160)), approach("lora", beside(24, 2), train_s=10)
    alone = compared(other, lucky)
    assert alone["recommended"] == "lora"
    again = tuple(approach("lora", values, train_s=10) for values in (beside(10, 12), beside(6, 14)))
    result = compared(other, replace(lucky, trainings=again))
    assert result["recommended"] == "few-shot"
    assert "lora (82.0%, mean of 3 trainings) is 2.0 points (" in result["verdict"]
    assert "2 of its 3 trainings are no better" in result["verdict"]
    assert result["decision"]["unstable"]
    assert result["headline"] == "Cannot tell yet, trainings are unstable: use few-shot until then."
    (asked,) = [pair for pair in result["pairs"] if pair["asked"]]
    assert (asked["trainings"], abs(asked["difference"])) == (3, pytest.approx(4 / 200))
    steady = replace(lucky, trainings=(lucky, lucky))
    assert compared(other, steady)["recommended"] == "lora"


@pytest.mark.parametrize(
    ("approaches", "headline"),
    [
        (
            [approach("few-shot", right(120)), approach("lora", right(164), train_s=10)],
            "Use lora: 82.0% against 60.0% for few-shot.",
        ),
        (
            [approach("few-shot", right(160)), approach("lora", right(60), train_s=10)],
            "Do not train, use few-shot: 80.0% against 30.0% for lora.",
        ),
        (
            [approach("few-shot", right(160)), approach("lora", beside(24, 20), train_s=10)],
            "Cannot tell yet, about 4,200 more test examples would: use few-shot until then.",
        ),
        (
            [approach("few-shot", right(1600, 2000)), approach("lora", beside(4, 4, 1600, 2000), train_s=10)],
            "Do not train, use few-shot: lora cannot be worth more than 2.0 points.",
        ),
        (
            [
                approach("few-shot", right(1580, 2000), per_request_s=0.1),
                approach("lora", right(1600, 2000), train_s=5000, per_request_s=0.5),
            ],
            "Do not train, use few-shot: lora is better by less than 2.0 points.",
        ),
        (
            [
                approach("few-shot", right(1600, 2000), per_request_s=0.9, prompt_tokens=400),
                approach("lora", right(1595, 2000), train_s=10, per_request_s=0.2, prompt_tokens=50),
            ],
            "Use lora: as good as few-shot, and cheaper.",
        ),
        ([approach("few-shot", right(160))], "Use few-shot: 80.0%."),
        (
            [approach("few-shot", right(160)), approach("nearest", right(60))],
            "Use few-shot: 80.0% against 30.0% for nearest.",
        ),
        (
            [approach("few-shot", right(160)), approach("nearest", beside(24, 20), per_request_s=0.1)],
            "Cannot tell yet, about 4,200 more test examples would: use nearest until then.",
        ),
    ],
)
def test_the_headline_says_in_a_few_words_what_to_do(approaches: Sequence[ApproachResult], headline: str):
    result = compared(*approaches)
    assert result["headline"] == headline
    assert len(headline.split()) <= 15


def test_a_way_of_training_that_helps_in_the_mean_hands_over_no_model_that_does_not():
    other, unlucky = approach("few-shot", right(1600, 2000)), approach("lora", right(1590, 2000), train_s=10)
    again = tuple(approach("lora", right(first, 2000), train_s=10) for first in (1680, 1684, 1682, 1686))
    result = compared(other, replace(unlucky, trainings=again))
    (asked,) = [pair for pair in result["pairs"] if pair["asked"]]
    assert asked["trainings"] == 5
    assert result["recommended"] == "few-shot"
    assert "lora (83.2%, mean of 5 trainings) is 3.2 points (" in result["verdict"]
    assert "but the model that would be handed over is not better" in result["verdict"]
    assert "worse" not in result["verdict"]


def test_what_never_varies_is_not_certain_from_two_examples():
    one, other = (
        approach(name, [value] * 2, train_s=s, metric="loss") for name, value, s in (("a", 2.0, 0), ("b", 1.0, 9))
    )
    result = compared(one, other)
    assert (result["decision"]["answer"], result["recommended"]) == ("cannot tell", "a")


def test_ends_stay_within_what_is_possible():
    result = compared(approach("few-shot", [0.0]), approach("lora", [1.0], train_s=10))
    (pair,) = result["pairs"]
    assert -1 <= pair["low"] <= pair["high"] <= 1


def test_a_tie_on_validation_is_decided_by_the_study_and_not_by_the_test():
    rule, nearest = (replace(approach(n, right(k)), validation=0.7) for n, k in (("rule", 120), ("nearest", 130)))
    lora = approach("lora", right(40), train_s=10)
    (asked,) = [pair for pair in compared(rule, nearest, lora)["pairs"] if pair["asked"]]
    assert {asked["a"], asked["b"]} == {"rule", "lora"}


def test_over_several_tasks_interval_and_words_agree_and_a_small_task_claims_nothing():
    """200 examples without a difference, and three of another task on which the two differ."""

    def both(name: str, large: Sequence[float], small: Sequence[float], train_s: float = 0.0) -> ApproachResult:
        tasks = {task: approach(name, values).scores["task"] for task, values in (("a", large), ("b", small))}
        kind = "language model" if train_s else "none"
        return ApproachResult(name, kind, tasks, {"a": "accuracy", "b": "accuracy"}, cost(train_s, 1.0))

    same = right(160)
    result = compare(
        [both("few-shot", same, [0.0] * 3), both("lora", same, [1.0] * 3, 10.0)],
        targets=["a", "b"], requests=100, margin=0.02, forgetting_limit=None, seed=0,
    )  # fmt: skip
    (pair,) = result["pairs"]  # type: ignore[misc]
    assert pair["low"] <= 0
    assert result["decision"]["answer"] == "cannot tell"  # type: ignore[index]


def test_the_interval_never_contradicts_the_words():
    """Of the pair that is asked about, over many outcomes near the limit, and beside many other approaches."""
    others = [approach(f"other-{k}", right(100 + k)) for k in range(4)]
    for gained in range(4, 30):
        result = compared(approach("few-shot", right(160)), approach("lora", beside(gained, 6), train_s=10), *others)
        (asked,) = [pair for pair in result["pairs"] if pair["asked"]]
        better = asked["low"] > 0 if asked["a"] == "lora" else asked["high"] < 0
        assert better == (result["decision"]["answer"] == "better")
        assert better == (asked["p"] < 0.05 and gained > 6)
        assert (result["recommended"] == "lora") == better


def test_with_the_price_of_an_hour_costs_stand_there_in_money():
    both = (approach("zero-shot", right(160), per_request_s=0.3), approach("few-shot", right(80), per_request_s=0.9))
    result = compared(*both, hour_price=1.5)
    assert (
        result["reasons"][0]
        == "Cost of 1,000 requests: zero-shot 5.0 min, a price of 0.12 (300 ms each); few-shot 15.0 min, "
        "a price of 0.38 (900 ms each)."
    )
    assert result["hour_price"] == 1.5
    assert compared(*both)["hour_price"] is None


def test_one_kind_of_approach_without_a_difference_recommends_the_cheapest():
    result = compared(
        approach("zero-shot", right(160), per_request_s=0.3), approach("few-shot", beside(24, 20), per_request_s=0.9)
    )
    assert result["recommended"] == "zero-shot"
    assert result["decision"]["about"] == "the dearer"
    assert result["verdict"].startswith("few-shot (82.0%) is 2.0 points (−4.7 to 8.6) better than zero-shot (80.0%) on")
    assert (
        result["reasons"][0]
        == "Cost of 1,000 requests: zero-shot 5.0 min (300 ms each); few-shot 15.0 min (900 ms each)."
    )


@pytest.mark.parametrize("noise", [0.96, 1.0, 1.04])
def test_a_difference_of_one_timing_from_the_next_decides_nothing(noise: float):
    """Of two that cost alike the untrained one is taken, and of two untrained ones the better."""
    few, zero = approach("few-shot", right(800, 1000), per_request_s=0.3), approach("zero-shot", right(798, 1000))
    zero = replace(zero, cost=replace(zero.cost, seconds_per_request=0.3 * noise))
    assert compared(few, zero)["recommended"] == "few-shot"
    lora = approach("lora", right(801, 1000), train_s=10.0, per_request_s=0.28 * noise, prompt_tokens=5.0)
    result = compared(few, lora)
    assert result["recommended"] == "few-shot"


def test_of_two_that_cost_alike_the_better_on_validation_is_used():
    result = compared(
        approach("zero-shot", right(160), per_request_s=0.31), approach("few-shot", beside(24, 20), per_request_s=0.3)
    )
    assert result["recommended"] == "few-shot"


def test_of_several_trainings_the_best_is_asked_about():
    result = compared(
        approach("few-shot", right(1400, 2000), per_request_s=0.9),
        approach("lora", right(1590, 2000), train_s=100, per_request_s=0.4),
        approach("full", right(1600, 2000), train_s=900, per_request_s=0.4),
    )
    assert result["recommended"] == "full"  # which of those that train is decided on validation, not by their costs
    assert result["headline"] == "Use full: 80.0% against 70.0% for few-shot."


def test_equal_scores_recommend_the_cheaper_trained_one_only_where_it_is_shown_to_be_as_good():
    def study(n: int, shots_tokens: float = 90.0) -> dict[str, Any]:
        return compared(
            approach("few-shot", right(n // 2, n), per_request_s=0.9, prompt_tokens=shots_tokens),
            approach("lora", right(n // 2, n), train_s=100, per_request_s=0.4),
        )

    assert study(40)["recommended"] == "few-shot"
    assert study(1000)["recommended"] == "lora"
    assert study(1000, shots_tokens=10.0)["recommended"] == "few-shot"  # faster by noise in the timing alone
    assert "score the same" in study(1000)["verdict"]


def test_an_untrained_approach_within_the_margin_is_recommended_where_it_is_cheaper():
    result = compared(
        approach("zero-shot", right(200, 2000), per_request_s=0.2),
        approach("few-shot", right(1580, 2000), per_request_s=0.5),
        approach("lora", right(1600, 2000), train_s=5000, per_request_s=0.5),
    )
    assert result["recommended"] == "few-shot"
    assert result["decision"]["answer"] == "worth less than the margin"
    assert result["headline"] == "Do not train, use few-shot: lora is better by less than 2.0 points."
    assert "lora 91.7 min (83.3 min before the first, then 500 ms each)" in result["reasons"][0]


def test_many_requests_make_the_trained_approach_the_cheaper_one():
    approaches = [
        approach("few-shot", right(1600, 2000), per_request_s=0.9, prompt_tokens=400),
        approach("lora", right(1590, 2000), train_s=5000, per_request_s=0.2, prompt_tokens=50),
    ]
    assert compared(*approaches)["recommended"] == "few-shot"
    result = compared(*approaches, requests=100_000)
    assert result["recommended"] == "lora"
    assert result["headline"] == "Use lora: as good as few-shot, and cheaper."
    assert "lora 6.9 h (83.3 min before the first, then 200 ms each); few-shot 25.0 h" in result["reasons"][0]


def test_shorter_prompts_pay_for_the_training_after_a_number_of_requests():
    result = compared(
        approach("few-shot", right(120), per_request_s=0.9, prompt_tokens=400),
        approach("lora", right(164), train_s=5000, per_request_s=0.2, prompt_tokens=50),
    )
    assert result["break_even"] == [{"trained": "lora", "untrained": "few-shot", "requests": 7143}]
    assert result["reasons"][0].endswith("The shorter prompts of lora have paid for its training after 7,143 requests.")


@pytest.mark.parametrize("tokens", [99.5, 100.0, 150.0])
def test_equal_or_longer_prompts_never_pay_for_the_training_whatever_the_timing(tokens: float):
    result = compared(
        approach("zero-shot", right(120), per_request_s=0.41, prompt_tokens=100),
        approach("lora", right(164), train_s=50, per_request_s=0.40, prompt_tokens=tokens),
    )
    assert result["break_even"] == [{"trained": "lora", "untrained": "zero-shot", "requests": None}]
    assert result["reasons"][0].endswith(
        "lora computes no less for a request, so its training does not pay for itself in time."
    )


def test_shorter_prompts_that_saved_no_time_do_not_pay_for_the_training():
    result = compared(
        approach("few-shot", right(120), per_request_s=0.4, prompt_tokens=400),
        approach("lora", right(164), train_s=50, per_request_s=0.4, prompt_tokens=50),
    )
    assert result["break_even"][0]["requests"] is None
    assert result["reasons"][0].endswith("The prompts of lora are shorter, but saved no time.")


def test_the_reasons_of_a_large_study_stay_few():
    result = compared(
        approach("zero-shot", right(20), per_request_s=0.3),
        approach("one-shot", right(60), per_request_s=0.4),
        approach("few-shot", right(120), per_request_s=0.9, prompt_tokens=400),
        approach("lora", right(164), train_s=310, per_request_s=0.4),
        approach("dora", right(162), train_s=400, per_request_s=0.4),
        approach("full", right(150), train_s=900, per_request_s=0.4),
    )
    assert result["reasons"] == [
        "Cost of 1,000 requests: lora 11.8 min (5.2 min before the first, then 400 ms each); few-shot 15.0 min (900 ms "
        "each). The shorter prompts of lora have paid for its training after 620 requests.",
        "What would change this: further trainings (seeds: 3), since one speaks of its model and not of this way of "
        "training, or to take up to 27.7 points for no difference (margin, now 2.0 points).",
        "lora, dora and full changed weights and were not probed, so what they forgot is not known.",
    ]


def test_training_that_makes_things_worse_is_not_recommended():
    result = compared(
        approach("few-shot", right(160)), approach("full", right(60), train_s=100, per_request_s=0.1), margin=0.0
    )
    assert result["recommended"] == "few-shot"
    assert result["headline"] == "Do not train, use few-shot: 80.0% against 30.0% for full."
    assert result["verdict"].startswith("full (30.0%, this one model) is 50.0 points (")


def test_an_approach_that_forgets_too_much_is_left_out_and_named():
    result = compared(
        approach("few-shot", right(120)),
        approach("lora", right(180), train_s=10, forgotten=[loss_rise(3.1)]),
        approach("full", right(190), train_s=10, forgotten=[loss_rise(3.6)]),
    )
    assert result["recommended"] == "lora"
    assert result["reasons"][1].startswith("Forgetting: with lora, loss on general_text rose by 3.3% (3 → 3.1; its")
    assert "full is left out: loss on general_text rose by 20.0% (3 → 3.6); the limit is 5%." in result["reasons"]
    unsure = {**loss_rise(3.6), "low": -0.1, "high": 1.3}
    result = compared(approach("few-shot", right(120)), approach("full", right(190), train_s=10, forgotten=[unsure]))
    assert any("(3 → 3.6; its 95% interval includes no change)" in reason for reason in result["reasons"])


def test_nothing_is_recommended_where_every_approach_forgets_too_much():
    result = compared(approach("full", right(190), train_s=10, forgotten=[loss_rise(3.6)]))
    assert result["recommended"] is None
    assert result["headline"] == "None: every approach forgets too much."
    assert result["verdict"].startswith("Every approach forgets more than the limit of 5%")


def test_a_trained_approach_that_was_not_probed_is_named():
    result = compared(approach("full", right(190), train_s=10))
    assert "full changed weights and was not probed, so what it forgot is not known." in result["reasons"]


def test_without_a_limit_forgetting_excludes_nothing():
    forgetful = approach("full", right(190), train_s=10, forgotten=[loss_rise(9.0)])
    assert compared(forgetful, forgetting_limit=None)["recommended"] == "full"


def test_lower_loss_ranks_first_and_is_worded_as_better():
    high = [2.0 + 0.01 * (number % 7) for number in range(60)]
    low = [value - 0.5 - 0.01 * (number % 3) for number, value in enumerate(high)]
    result = compared(
        approach("prompt", high, metric="loss"), approach("lora", low, metric="loss", train_s=60), margin=0.05
    )
    assert [entry["name"] for entry in result["approaches"]] == ["lora", "prompt"]
    assert result["pairs"][0]["difference"] == pytest.approx(-0.51)
    assert result["recommended"] == "lora"
    assert "loss 1.5" in result["verdict"]
    assert "0.510 (0.50" in result["verdict"]
    assert "points" not in result["verdict"]


def test_unscored_answers_are_counted_and_pairs_use_what_both_scored():
    a: list[float | None] = [None, 1.0, 1.0, 0.0, 1.0, 1.0]
    b: list[float | None] = [1.0, None, 0.0, 0.0, 0.0, 1.0]
    result = compared(approach("a", a), approach("b", b))
    first, second = result["approaches"]
    assert (first["name"], first["n"], first["mean"], first["unscored"]) == ("a", 5, 0.8, 1)
    assert (second["name"], second["n"], second["mean"], second["unscored"]) == ("b", 5, 0.4, 1)
    assert result["n"] == 6
    assert result["pairs"][0]["difference"] == pytest.approx(0.5)  # on examples 2 to 5
    assert (
        "Left out of the means, for they could not be scored: 1 of 6 answers of a (no number in the reference); 1 of 6 "
        "answers of b (no number in the reference)."
    ) in result["reasons"]


def test_an_approach_without_any_score_has_no_mean():
    with pytest.raises(EvaluationError, match="'b' has no example that accuracy could score"):
        compared(approach("a", [1.0, 0.0]), approach("b", [None, None]))


def test_a_metric_beside_the_deciding_one_may_have_no_score():
    scores = {
        "task": {
            "rouge_l": [Score("0", "rouge_l", None, "why"), Score("1", "rouge_l", None, "why")],
            "exact_match": [Score("0", "exact_match", 1.0), Score("1", "exact_match", 0.0)],
        }
    }
    result = compared(ApproachResult("a", "none", scores, {"task": "exact_match"}, cost(0, 1)))
    listed = result["approaches"][0]["scores"]["task"]
    assert [entry["metric"] for entry in listed] == ["exact_match", "rouge_l"]
    assert listed[1] == {"metric": "rouge_l", "n": 0, "mean": None, "low": None, "high": None}


def test_corpus_metrics_are_computed_from_all_answers_together():
    labels = ("yes", "no")
    wanted = ["yes"] * 30 + ["no"] * 10

    def answered(name: str, texts: list[str], train_s: float = 0.0) -> ApproachResult:
        answers = [Answer(text, (label,), label, labels) for text, label in zip(texts, wanted, strict=True)]
        values = [float(text == label) for text, label in zip(texts, wanted, strict=True)]
        return approach(name, values, metric="macro_f1", answers=answers, train_s=train_s)

    result = compared(answered("always-yes", ["yes"] * 40), answered("lora", wanted, train_s=5))
    lora, always = result["approaches"]
    assert (lora["name"], lora["mean"]) == ("lora", 1.0)
    assert always["mean"] == pytest.approx((2 * 30 / 70 + 0) / 2)
    assert lora["interval"] == "no variation seen"
    assert 0.9 < lora["low"] < 1
    assert result["pairs"][0]["p"] < 0.05


def test_perplexity_is_weighted_by_tokens():
    answers = [Answer("", ("x",), logprob=LogProb(-6.0, 3)), Answer("", ("x",), logprob=LogProb(-1.0, 7))]
    result = compared(approach("a", [7.39, 1.15], metric="perplexity", answers=answers))
    assert result["approaches"][0]["mean"] == pytest.approx(2.01375, abs=1e-4)


def test_a_corpus_metric_without_its_answers_is_an_error():
    with pytest.raises(EvaluationError, match="computed from all answers together"):
        compared(approach("a", [0.5, 0.5], metric="bleu"))


def test_a_user_metric_of_zeros_and_ones_is_a_proportion():
    yes_no = compared(approach("a", [1.0, 0.0, 1.0], metric="mine.py:judge"))
    assert yes_no["approaches"][0]["interval"] == "Wilson"
    graded = compared(approach("a", [1.0, 0.0, 0.7], metric="mine.py:judge"))
    assert graded["approaches"][0]["interval"] == "bootstrap BCa"


def test_one_example_of_an_unbounded_metric_has_no_interval_and_shows_nothing():
    result = compared(approach("a", [2.0], metric="loss"), approach("b", [1.0], metric="loss", train_s=5))
    assert (result["approaches"][0]["low"], result["pairs"][0]["low"]) == (None, None)
    assert result["recommended"] == "a"
    assert "inf" not in result["verdict"]


def test_only_one_approach_is_reported_without_a_comparison():
    result = compared(approach("prompt", right(120)))
    assert (result["recommended"], result["pairs"]) == ("prompt", [])
    assert (result["headline"], result["decision"]["kind"]) == ("Use prompt: 60.0%.", "only one left")


def test_minimum_detectable_difference_comes_from_the_two_best():
    result = compared(approach("a", right(100)), approach("b", right(150)), approach("c", right(10)))
    # 50 of 200 discordant, (50 + 1) / 202 after smoothing: near the 9.8 points of a quarter
    assert result["minimum_detectable"] == pytest.approx(0.099, abs=5e-4)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (approach("a", [1.0, 0.0]), "same name"),
        (approach("b", [1.0]), "not scored on the same examples"),
        (approach("b", [1.0, 0.0], metric="exact_match"), "other tasks or metrics"),
    ],
)
def test_approaches_that_cannot_be_compared_are_refused(other: ApproachResult, message: str):
    with pytest.raises(EvaluationError, match=message):
        compared(approach("a", [1.0, 0.0]), other)


def test_an_unknown_target_is_named():
    with pytest.raises(EvaluationError, match="'other' was not scored"):
        compared(approach("a", [1.0]), targets=["other"])
    with pytest.raises(EvaluationError, match="no approach"):
        compare([], targets=["task"], requests=1, margin=0, forgetting_limit=None, seed=0)


def test_one_training_speaks_of_its_model_alone_and_several_of_the_way_of_training():
    other, lora = approach("few-shot", right(120)), approach("lora", right(164), train_s=10)
    alone = compared(other, lora)
    assert "this one model" in alone["verdict"]
    assert any("one speaks of its model and not of this way of training" in line for line in alone["reasons"])
    three = compared(other, replace(lora, trainings=(lora, approach("lora", right(160), train_s=10))))
    assert "mean of 3 trainings" in three["verdict"]
    assert "one model" not in json.dumps(three)


def test_all_that_was_asked_pays_for_itself_alone_where_the_rest_is_plain():
    """The floor is far below, so that the question is asked as if alone, beside ten other approaches."""
    two = [approach("few-shot", right(160)), approach("lora", beside(20, 6), train_s=10)]
    others = [approach(f"other-{k}", right(100 + k)) for k in range(10)]
    floor = FloorResult("most frequent answer", "saying x", approach("most-frequent", right(20)))
    one, many = compared(*two), compared(*two, *others, floors=[floor])
    for found in (one, many):
        (asked,) = found["decision"]["questions"]
        assert (asked["of"], asked["over"]) == ("lora", "few-shot")
    keys = ("difference", "low", "high", "p")
    first, second = (found["decision"]["questions"][0] for found in (one, many))
    assert [first[key] for key in keys] == pytest.approx([second[key] for key in keys])


def test_lower_is_better_turns_questions_and_floors_too():
    low, high = [1.0 + 0.01 * (k % 5) for k in range(40)], [2.0 + 0.01 * (k % 7) for k in range(40)]
    floor = FloorResult(
        "most frequent answer", "saying x", approach("floor", [3.0 - 0.01 * (k % 3) for k in range(40)], metric="loss")
    )
    result = compared(
        approach("a", high, metric="loss"), approach("lora", low, metric="loss", train_s=9), floors=[floor]
    )
    (asked,) = result["decision"]["questions"]
    assert asked["difference"] == pytest.approx(1.01, abs=0.01)
    assert result["recommended"] == "lora"
    lora = result["approaches"][0]
    assert lora["floor"]["above"]
    assert lora["floor"]["difference"] == pytest.approx(1.97, abs=0.02)
    (pair,) = result["pairs"]
    assert (pair["a"], pair["b"], pair["asked"]) == ("lora", "a", True)
    assert pair["difference"] == pytest.approx(-asked["difference"])
    assert (pair["low"], pair["high"]) == pytest.approx((-asked["high"], -asked["low"]))


def test_what_would_tell_is_further_trainings_where_these_scatter_more_than_examples():
    def training(first: int) -> ApproachResult:
        return approach("lora", right(first, 4000), train_s=10)

    lora = replace(training(3400), trainings=(training(3100), training(3300)))
    result = compared(approach("few-shot", right(3160, 4000)), lora)
    needed = result["decision"]["needed"]
    assert result["decision"]["answer"] == "cannot tell"
    assert (needed["examples"], needed["trainings"] > 0) == (0, True)
    assert "more trainings" in result["reasons"][1] or "more trainings" in result["reasons"][2]
