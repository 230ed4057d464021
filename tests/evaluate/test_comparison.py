"""The comparison: ranking, pairs, the recommendation and its words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from luthier.errors import EvaluationError
from luthier.evaluate import Answer, ApproachResult, LogProb, compare
from luthier.evaluate.columns import agreeing
from luthier.evaluate.seeds import seeds_reasons
from luthier.evaluate.statistics import Difference
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
        "target", "targets", "metric", "n", "requests", "margin", "forgetting_limit", "minimum_detectable",
        "approaches", "floors", "pairs", "by_task",
        "break_even", "recommended", "headline", "verdict", "reasons",
    }  # fmt: skip
    lora, few_shot = result["approaches"]
    assert set(few_shot) == {
        "name", "n", "metric", "mean", "low", "high", "interval", "scores", "unscored", "cost", "total_s",
        "training", "floor",
    }  # fmt: skip
    assert set(lora) - set(few_shot) == {"forgotten", "other_tasks"}
    assert set(result["pairs"][0]) == {
        "a",
        "b",
        "difference",
        "low",
        "high",
        "p",
        "p_holm",
        "test",
        "asked",
        "trainings",
    }
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
    assert result["verdict"].startswith("Use lora: accuracy 82.0% (76.1–86.7) on 200 examples, 22.0 points (")
    assert "better than the best untrained approach (few-shot, 60.0%), p < 0.001" in result["verdict"]
    assert result["verdict"].endswith("it costs 5.2 min of training and 400 ms a request (few-shot: 900 ms).")


def test_pairs_are_the_better_minus_the_worse_and_adjusted_for_their_number():
    result = compared(approach("a", right(100)), approach("b", right(110)), approach("c", right(112)))
    assert [(pair["a"], pair["b"]) for pair in result["pairs"]] == [("c", "b"), ("c", "a"), ("b", "a")]
    by_name = {(pair["a"], pair["b"]): pair for pair in result["pairs"]}
    assert by_name["c", "a"]["difference"] == pytest.approx(0.06)
    assert by_name["c", "a"]["p"] == pytest.approx(2 / 2**12)
    assert by_name["c", "a"]["p_holm"] == pytest.approx(3 * 2 / 2**12)
    assert by_name["b", "a"]["p_holm"] == pytest.approx(2 * 2 / 2**10)
    assert by_name["c", "b"]["p_holm"] == pytest.approx(2 / 2**2)


def test_no_difference_found_recommends_the_cheapest_untrained_and_says_how_many_examples_it_takes():
    few_shot = [1.0] * 100 + [1.0] * 20 + [0.0] * 24 + [0.0] * 56
    lora = [1.0] * 100 + [0.0] * 20 + [1.0] * 24 + [0.0] * 56
    result = compared(
        approach("few-shot", few_shot, per_request_s=0.5), approach("lora", lora, train_s=100, per_request_s=0.5)
    )
    assert result["recommended"] == "few-shot"
    assert result["verdict"].startswith(
        "No difference found with n = 200 examples between lora (62.0%) and the best untrained approach (few-shot, "
        "60.0%): lora is 2.0 points (−4.7 to 8.6) better than few-shot, p = 0.56; "
    )
    # Connor's formula for 0.02 with (44 + 1) / 202 discordant: about 4,400
    assert "to see a difference of 2.0 points you would need about 4,400 examples" in result["verdict"]
    assert result["verdict"].endswith("Do not train: use few-shot, with accuracy 60.0% (53.1–66.5) on 200 examples.")


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
    assert min(pair["p_holm"] for pair in result["pairs"]) < 0.05
    assert result["recommended"] == "zero-shot"
    assert result["verdict"].startswith(
        "No difference found with n = 200 examples between lora (82.0%) and the best untrained approach (zero-shot, "
        "80.0%): lora is 2.0 points ("
    )
    assert result["verdict"].endswith("Do not train: use zero-shot, with accuracy 80.0% (73.9–85.0) on 200 examples.")


def test_only_the_pair_that_was_asked_about_is_turned_into_advice():
    """A third approach, which is cheaper and within the margin on the test, is not: it would be picked by its luck."""
    result = compared(
        approach("zero-shot", right(1590, 2000), per_request_s=0.3),
        approach("few-shot", right(1600, 2000), per_request_s=0.9),
        approach("lora", beside(120, 100, 1600, 2000), train_s=100),
    )
    assert [entry["name"] for entry in result["approaches"]] == ["lora", "few-shot", "zero-shot"]
    assert result["recommended"] == "few-shot"
    assert result["verdict"].startswith("No difference found with n = 2,000 examples between lora (81.0%) and the best")
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
    assert asked["p"] == asked["p_holm"]
    assert result["recommended"] == "lora"
    assert (
        "Chosen on validation, of what is of use, before the test was opened: lora (80.0%) and few-shot (70.0%)."
        in result["reasons"]
    )
    assert "Better on the test, but not asked about: full (80.0%)." in result["reasons"]
    assert "the untrained approach that did best on validation (few-shot, 60.0%)" in result["verdict"]


def test_where_it_was_trained_again_the_verdict_is_on_the_mean_of_the_trainings():
    """One lucky training is shown to be better, three of them are not, and each says what it speaks of."""
    other, lucky = approach("few-shot", right(160)), approach("lora", beside(24, 2), train_s=10)
    alone = compared(other, lucky)
    assert alone["recommended"] == "lora"
    again = tuple(approach("lora", values, train_s=10) for values in (beside(10, 12), beside(6, 14)))
    result = compared(other, replace(lucky, trainings=again))
    assert result["recommended"] == "few-shot"
    assert "lora is 2.0 points (" in result["verdict"]
    assert "better than few-shot in the mean of 3 trainings, p = " in result["verdict"]
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
            "Do not train: few-shot is better, 80.0% against 30.0%.",
        ),
        (
            [approach("few-shot", right(160)), approach("lora", beside(24, 20), train_s=10)],
            "Cannot tell yet whether training helps: use few-shot until then.",
        ),
        (
            [approach("few-shot", right(1600, 2000)), approach("lora", beside(4, 4, 1600, 2000), train_s=10)],
            "Do not train: it cannot be worth more than 2.0 points.",
        ),
        (
            [
                approach("few-shot", right(1580, 2000), per_request_s=0.1),
                approach("lora", right(1600, 2000), train_s=5000, per_request_s=0.5),
            ],
            "Do not train: few-shot is nearly as good, and cheaper.",
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
            "Use few-shot: 80.0%, of 2 approaches compared.",
        ),
        (
            [approach("few-shot", right(160)), approach("nearest", beside(24, 20), per_request_s=0.1)],
            "Use nearest: none is shown to be better, or is clearly cheaper.",
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
    assert "lora is 3.2 points (" in result["verdict"]
    assert "but the model that would be handed over is not better (79.5% against 80.0%)" in result["verdict"]
    assert "worse" not in result["verdict"]


def test_what_never_varies_is_not_certain_from_two_examples():
    one, other = (
        approach(name, [value] * 2, train_s=s, metric="loss") for name, value, s in (("a", 2.0, 0), ("b", 1.0, 9))
    )
    result = compared(one, other)
    assert "No difference found" in result["verdict"]
    assert result["recommended"] == "a"


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
    assert "No difference found" in str(result["verdict"])


@pytest.mark.parametrize(
    ("low", "high", "p", "ends", "found"),
    [
        (0.1, 0.3, 0.2, (0.0, 0.3), False),
        (-0.3, -0.1, 0.2, (-0.3, 0.0), False),
        (-0.1, 0.3, 0.01, (-0.1, 0.3), False),
        (0.1, 0.3, 0.01, (0.1, 0.3), True),
    ],
)
def test_interval_and_test_made_apart_are_made_to_agree(
    low: float, high: float, p: float, ends: tuple[float, float], found: bool
):
    difference = Difference((low + high) / 2, low, high, 50, p, "permutation", "bootstrap BCa", 1.0, None)
    agreed = agreeing(difference)
    assert (agreed.low, agreed.high) == ends
    assert (agreed.p < 0.05) is found


def test_the_interval_never_contradicts_the_words():
    """Of the pair that is asked about, over many outcomes near the limit, and beside many other approaches."""
    others = [approach(f"other-{k}", right(100 + k)) for k in range(4)]
    for gained in range(4, 30):
        result = compared(approach("few-shot", right(160)), approach("lora", beside(gained, 6), train_s=10), *others)
        (asked,) = [pair for pair in result["pairs"] if pair["asked"]]
        better = asked["low"] > 0 if asked["a"] == "lora" else asked["high"] < 0
        assert better == ("No difference found" not in result["verdict"])
        assert better == (asked["p"] < 0.05 and gained > 6)
        assert (result["recommended"] == "lora") == better


def test_one_kind_of_approach_without_a_difference_recommends_the_cheapest():
    result = compared(
        approach("zero-shot", right(160), per_request_s=0.3), approach("few-shot", beside(24, 20), per_request_s=0.9)
    )
    assert result["recommended"] == "zero-shot"
    assert result["verdict"].startswith("No difference found with n = 200 examples between few-shot and zero-shot: few")
    assert result["verdict"].endswith(
        "Use zero-shot: accuracy 80.0% (73.9–85.0) on 200 examples. It is the cheapest approach: 5.0 min for 1,000 "
        "requests."
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


def test_two_that_cost_alike_are_said_to():
    result = compared(
        approach("zero-shot", right(160), per_request_s=0.31), approach("few-shot", beside(24, 20), per_request_s=0.3)
    )
    assert result["recommended"] == "few-shot"
    assert "It is the cheapest approach: 5.0 min for 1,000 requests." in result["verdict"]


def test_of_several_trainings_the_best_is_asked_about():
    result = compared(
        approach("few-shot", right(1400, 2000), per_request_s=0.9),
        approach("lora", right(1590, 2000), train_s=100, per_request_s=0.4),
        approach("full", right(1600, 2000), train_s=900, per_request_s=0.4),
    )
    assert result["recommended"] == "full"  # which of those that train is decided on validation, not by their costs
    assert result["verdict"].startswith("Use full: accuracy 80.0% (78.2–81.7) on 2,000 examples, 10.0 points (")


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
    assert result["verdict"].startswith("Do not train: few-shot has accuracy 79.0%")
    assert "within the margin of 2.0 points of the best (lora, 80.0%; difference 0.5 to 1.5)" in result["verdict"]
    assert result["verdict"].endswith("and cheaper: 8.3 min against 91.7 min for 1,000 requests.")


def test_many_requests_make_the_trained_approach_the_cheaper_one():
    approaches = [
        approach("few-shot", right(1600, 2000), per_request_s=0.9, prompt_tokens=400),
        approach("lora", right(1590, 2000), train_s=5000, per_request_s=0.2, prompt_tokens=50),
    ]
    assert compared(*approaches)["recommended"] == "few-shot"
    result = compared(*approaches, requests=100_000)
    assert result["recommended"] == "lora"
    assert result["verdict"] == (
        "Use lora: accuracy 79.5% (77.7–81.2) on 2,000 examples, within the margin of 2.0 points of the best untrained "
        "approach (few-shot, 80.0%; difference 0.2 to 0.8) and cheaper, its training included: 6.9 h against 25.0 h "
        "for 100,000 requests."
    )


def test_shorter_prompts_pay_for_the_training_after_a_number_of_requests():
    result = compared(
        approach("few-shot", right(120), per_request_s=0.9, prompt_tokens=400),
        approach("lora", right(164), train_s=5000, per_request_s=0.2, prompt_tokens=50),
    )
    assert result["break_even"] == [{"trained": "lora", "untrained": "few-shot", "requests": 7143}]
    assert (
        "Against few-shot, the shorter prompts of lora have paid for its training in time after 7,143 requests."
        in result["reasons"]
    )


@pytest.mark.parametrize("tokens", [99.5, 100.0, 150.0])
def test_equal_or_longer_prompts_never_pay_for_the_training_whatever_the_timing(tokens: float):
    result = compared(
        approach("zero-shot", right(120), per_request_s=0.41, prompt_tokens=100),
        approach("lora", right(164), train_s=50, per_request_s=0.40, prompt_tokens=tokens),
    )
    assert result["break_even"] == [{"trained": "lora", "untrained": "zero-shot", "requests": None}]
    assert (
        "lora computes no less for a request than zero-shot, so its training does not pay for itself in time."
    ) in result["reasons"]


def test_shorter_prompts_that_saved_no_time_do_not_pay_for_the_training():
    result = compared(
        approach("few-shot", right(120), per_request_s=0.4, prompt_tokens=400),
        approach("lora", right(164), train_s=50, per_request_s=0.4, prompt_tokens=50),
    )
    assert result["break_even"][0]["requests"] is None
    assert any("shorter than those of few-shot, but saved no time" in line for line in result["reasons"])


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
        "lora is 22.0 points (15.9 to 27.7) better than few-shot, p < 0.001: training the language model is shown "
        "to help; few-shot is not shown to be within the margin of 2.0 points.",
        "Cost of 1,000 requests: lora 11.8 min (5.2 min before the first, then 400 ms each); zero-shot 5.0 min (300 ms "
        "each).",
        "Against few-shot, the shorter prompts of lora have paid for its training in time after 620 requests.",
        "lora, dora and full changed weights and were not probed, so what they forgot is not known.",
    ]


def test_training_that_makes_things_worse_is_not_recommended():
    result = compared(
        approach("few-shot", right(160)), approach("full", right(60), train_s=100, per_request_s=0.1), margin=0.0
    )
    assert result["recommended"] == "few-shot"
    assert result["verdict"].startswith("Do not train: few-shot scores best, with accuracy 80.0%")
    assert "the best training of the language model, full (30.0%), is 50.0 points (" in result["verdict"]
    assert result["verdict"].endswith("worse than few-shot, p < 0.001.")


def test_an_approach_that_forgets_too_much_is_left_out_and_named():
    result = compared(
        approach("few-shot", right(120)),
        approach("lora", right(180), train_s=10, forgotten=[loss_rise(3.1)]),
        approach("full", right(190), train_s=10, forgotten=[loss_rise(3.6)]),
    )
    assert result["recommended"] == "lora"
    assert result["verdict"].endswith("full scores better but forgets more than the limit of 5%.")
    assert "full is left out: loss on general_text rose by 20.0% (3 → 3.6); the limit is 5%." in result["reasons"]
    unsure = {**loss_rise(3.6), "low": -0.1, "high": 1.3}
    result = compared(approach("few-shot", right(120)), approach("full", right(190), train_s=10, forgotten=[unsure]))
    assert any("(3 → 3.6; its 95% interval includes no change)" in reason for reason in result["reasons"])


def test_nothing_is_recommended_where_every_approach_forgets_too_much():
    result = compared(approach("full", right(190), train_s=10, forgotten=[loss_rise(3.6)]))
    assert result["recommended"] is None
    assert result["verdict"].startswith("No approach is recommended: every one forgets more than the limit of 5%")


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
    assert result["verdict"].endswith("there is no other approach to compare it with.")


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


def test_one_training_speaks_of_its_model_alone():
    (said,) = seeds_reasons([], once=True)
    assert "not about the way of training" in said
    assert seeds_reasons([], once=False) == []
