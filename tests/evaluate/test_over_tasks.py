"""The mean over several tasks, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from luthier.compare.comparison import ApproachResult, compare
from luthier.evaluate.answer import Answer
from luthier.evaluate.metrics import METRICS
from luthier.evaluate.over_tasks import have_common_scale
from luthier.types import Cost, Score

LARGE, SMALL = [1.0] * 60 + [0.0] * 40, [1.0] * 5 + [0.0] * 5


def approach(name: str, values: Mapping[str, Sequence[float | None]], metric: str = "accuracy") -> ApproachResult:
    scores = {
        task: {metric: [Score(f"{task}{i}", metric, v, "no label" if v is None else None) for i, v in enumerate(own)]}
        for task, own in values.items()
    }
    cost = Cost(0, 0, 0, None, 1, 0, 0, 0, 10, 0.1, 0.1, 0.1, 10, 0.1)
    return ApproachResult(name, "none", scores, dict.fromkeys(values, metric), cost)


def compared(*approaches: ApproachResult, targets: Sequence[str] = ("large", "small")) -> dict[str, Any]:
    return compare(approaches, targets=targets, requests=10, margin=0.02, forgetting_limit=None, seed=0)


def test_every_task_weighs_the_same_however_many_examples_it_has():
    (row,) = compared(approach("a", {"large": LARGE, "small": SMALL}))["approaches"]
    assert row["mean"] == pytest.approx((0.6 + 0.5) / 2)
    assert (row["n"], row["metric"]) == (110, "mean")
    # Standard error of the mean of two independent proportions: 1/2 √(0.6·0.4/100 + 0.5·0.5/10) = 0.083.
    assert row["low"] == pytest.approx(0.55 - 1.96 * 0.083, abs=0.03)
    assert row["high"] == pytest.approx(0.55 + 1.96 * 0.083, abs=0.03)


def test_tasks_that_are_no_target_do_not_count():
    result = compared(approach("a", {"large": LARGE, "small": SMALL, "other": [0.0] * 9}))
    assert result["approaches"][0]["mean"] == pytest.approx(0.55)
    assert set(result["approaches"][0]["scores"]) == {"large", "small", "other"}


def test_of_several_approaches_the_difference_is_that_of_the_means():
    better = approach("better", {"large": [1.0] * 70 + [0.0] * 30, "small": SMALL * 4})
    result = compared(approach("a", {"large": LARGE, "small": SMALL * 4}), better)
    (pair,) = result["pairs"]
    assert (pair["a"], pair["b"], pair["difference"]) == ("better", "a", pytest.approx(0.05))
    assert pair["low"] < 0.05 < pair["high"]
    assert pair["p"] < 0.05  # ten of a hundred changed, all of them for the better


def test_an_answer_without_a_score_is_left_out_of_its_own_task_alone():
    (row,) = compared(approach("a", {"large": LARGE, "small": [1.0, 0.0, None, None]}))["approaches"]
    assert row["mean"] == pytest.approx((0.6 + 0.5) / 2)
    assert row["unscored"] == 2


def test_tasks_won_and_lost_are_counted():
    one = approach("one", {"large": [1.0] * 90 + [0.0] * 10, "small": [1.0] * 4 + [0.0] * 6})
    (found,) = compared(one, approach("other", {"large": LARGE, "small": SMALL}))["by_task"]
    assert (found["a"], found["b"]) == ("one", "other")
    assert (found["higher"], found["lower"], found["better"], found["worse"]) == (1, 1, 1, 0)
    large, small = found["tasks"]
    assert (large["task"], large["difference"]) == ("large", pytest.approx(0.3))
    assert small["difference"] == pytest.approx(-0.1)
    assert small["p_holm"] == 1.0


def test_a_metric_of_a_whole_test_set_keeps_its_meaning_in_the_mean():
    labels, texts = ("x", "y"), ["x", "x", "x", "y"]
    right = ["x", "x", "y", "y"]
    answers = [Answer(text, (own,), own, labels) for text, own in zip(texts, right, strict=True)]
    scores = [Score(str(i), "macro_f1", float(a == b)) for i, (a, b) in enumerate(zip(texts, right, strict=True))]
    cost = Cost(0, 0, 0, None, 1, 0, 0, 0, 10, 0.1, 0.1, 0.1, 10, 0.1)
    tasks = ("large", "small")
    result = ApproachResult(
        "a",
        "none",
        {task: {"macro_f1": scores} for task in tasks},
        dict.fromkeys(tasks, "macro_f1"),
        cost,
        dict.fromkeys(tasks, answers),
    )
    (row,) = compared(result)["approaches"]
    assert row["mean"] == pytest.approx((0.8 + 2 / 3) / 2)  # F1 of x: 2·2/(3+2); of y: 2·1/(1+2); the same twice


def test_of_losses_a_lower_mean_is_better():
    one = approach("one", {"large": [1.0, 2.0] * 20, "small": [3.0, 1.0]}, "loss")
    other = approach("other", {"large": [1.5, 2.5] * 20, "small": [3.0, 1.0]}, "loss")
    result = compared(one, other)
    assert [row["name"] for row in result["approaches"]] == ["one", "other"]
    assert result["metric"] == "mean loss"  # which no report takes for a share
    (found,) = result["by_task"]
    assert found["tasks"][0]["difference"] == pytest.approx(0.5)  # turned: positive is better
    assert found["better"] == 1


@pytest.mark.parametrize(
    ("names", "common"),
    [(("accuracy", "rouge_l"), True), (("loss", "loss"), True), (("accuracy", "loss"), False)],
)
def test_a_mean_needs_a_common_scale(names: tuple[str, ...], common: bool):
    assert have_common_scale([METRICS[name] for name in names]) is common
