"""The matrix of stages and tasks, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from luthier.evaluate.metrics import METRICS
from luthier.evaluate.stages import StageResult, stage_matrix
from luthier.types import Score

TASKS = ("a", "b", "c")


def stage(name: str, learned: str, **right: Sequence[float]) -> StageResult:
    """A stage with the values of each task's examples."""
    scores = {
        task: {metric: [Score(f"e{i}", metric, v) for i, v in enumerate(values)] for metric in ("accuracy", "loss")}
        for task, values in right.items()
    }
    return StageResult(name, tuple(learned), scores, {task: {} for task in right})


def chain() -> list[StageResult]:
    return [
        stage("before", "", a=[0, 0, 0, 1], b=[0, 0, 1, 0], c=[0, 1, 0, 0]),
        stage("one", "a", a=[1, 1, 1, 1], b=[0, 1, 1, 0], c=[0, 1, 0, 0]),
        stage("two", "b", a=[1, 1, 0, 1], b=[1, 1, 1, 0], c=[0, 1, 1, 1]),
        stage("three", "c", a=[1, 0, 0, 1], b=[1, 1, 1, 1], c=[1, 1, 1, 1]),
    ]


def test_the_matrix_and_what_follows_from_it():
    found = stage_matrix(chain(), dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    assert found["values"] == [[0.25, 0.25, 0.25], [1.0, 0.5, 0.25], [0.75, 0.75, 0.75], [0.5, 1.0, 1.0]]
    assert found["n"] == [4, 4, 4]
    assert [row["learned"] for row in found["rows"]] == [[], ["a"], ["b"], ["c"]]
    # Lopez-Paz and Ranzato (2017): the last row; a went from 1 to 0.5 and b from 0.75 to 1; b had 0.5 and c 0.75 when
    # their stages began, and 0.25 before all.
    assert found["average"]["value"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["backward_transfer"]["value"] == pytest.approx((-0.5 + 0.25) / 2)
    assert found["forward_transfer"]["value"] == pytest.approx((0.25 + 0.5) / 2)
    for figure in ("average", "backward_transfer", "forward_transfer"):
        assert found[figure]["low"] < found[figure]["value"] < found[figure]["high"]
    for row, low, high in zip(found["values"], found["low"], found["high"], strict=True):
        assert all(a <= v <= b for a, v, b in zip(low, row, high, strict=True))


def test_of_a_loss_less_is_a_gain():
    found = stage_matrix(chain(), dict.fromkeys(TASKS, METRICS["loss"]), "loss", 0)
    assert found["average"]["value"] == pytest.approx(2.5 / 3)
    assert found["backward_transfer"]["value"] == pytest.approx((0.5 - 0.25) / 2)
    assert found["forward_transfer"]["value"] == pytest.approx(-(0.25 + 0.5) / 2)


def test_a_task_learned_alone_at_the_end_is_no_earlier_one_and_one_learned_along_is():
    again = [*chain(), stage("four", "a", a=[1, 1, 1, 0], b=[1, 0, 1, 1], c=[1, 1, 1, 1])]
    found = stage_matrix(again, dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    assert found["backward_transfer"]["value"] == pytest.approx((0.0 + 0.0) / 2)  # b 0.75 → 0.75, c 1 → 1
    along = [*again[:4], StageResult("four", ("a", "c"), again[4].scores, again[4].answers)]
    with_a = stage_matrix(along, dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    assert with_a["backward_transfer"]["value"] == pytest.approx((-0.25 + 0.0 + 0.0) / 3)  # a 1 → 0.75
    assert found["forward_transfer"]["value"] == pytest.approx((0.25 + 0.5) / 2)
    assert found["average"]["tasks"] == 3


def test_a_step_behind_that_learns_nothing_makes_no_task_an_earlier_one():
    plain = stage_matrix(chain(), dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    behind = [*chain(), StageResult("interpolate", (), chain()[-1].scores, chain()[-1].answers)]
    found = stage_matrix(behind, dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    for figure in ("average", "backward_transfer", "forward_transfer"):
        assert found[figure] == plain[figure]


def test_a_task_that_gets_a_model_apart_at_the_end_is_no_earlier_one():
    stages = chain()
    together = stage("mixture", "abc", a=[1, 1, 1, 1], b=[0, 1, 1, 0], c=[0, 1, 0, 0])
    last = StageResult("route", ("a", "b"), stages[3].scores, stages[3].answers, apart=("a", "b"))
    metrics = dict.fromkeys(TASKS, METRICS["accuracy"])
    found = stage_matrix([stages[0], together, last], metrics, "answers", 0)
    assert found["backward_transfer"]["tasks"] == 1
    assert found["backward_transfer"]["value"] == pytest.approx(0.75)  # c alone is left to the model of before
    every = StageResult("route", ("a", "b", "c"), stages[3].scores, stages[3].answers, apart=("a", "b", "c"))
    assert stage_matrix([stages[0], together, every], metrics, "answers", 0)["backward_transfer"] is None


def test_one_task_transfers_to_nothing_and_scales_are_not_mixed():
    one = [stage("before", "", a=[0, 1], b=[0, 1]), stage("s", "a", a=[1, 1], b=[0, 0])]
    assert stage_matrix(one, dict.fromkeys("ab", METRICS["accuracy"]), "answers", 0)["average"] is None
    mixed = stage_matrix(chain(), {"a": METRICS["loss"], "b": METRICS["accuracy"]}, "answers", 0)
    assert mixed["backward_transfer"] is None
    assert mixed["values"][3] == [0.5, 1.0]


def test_what_no_stage_could_score_is_left_empty():
    unscored = [
        StageResult(name, learned, {"a": {"accuracy": [Score("e", "accuracy", None, "no number")]}}, {"a": {}})
        for name, learned in (("before", ()), ("s", ("a",)))
    ]
    found = stage_matrix(unscored, {"a": METRICS["accuracy"]}, "answers", 0)
    assert (found["values"], found["n"]) == ([[None], [None]], [0])


def test_a_mixture_is_learned_in_one_stage():
    stages = chain()
    mixed = [stages[0], stage("mixture", "abc", a=[1, 1, 1, 1], b=[0, 1, 1, 0], c=[0, 1, 0, 0]), stages[3]]
    found = stage_matrix(mixed, dict.fromkeys(TASKS, METRICS["accuracy"]), "answers", 0)
    # a fell from 1 to 0.5 and b rose from 0.5 to 1; c was learned again last. None had a stage of others before it.
    assert found["backward_transfer"]["value"] == pytest.approx((-0.5 + 0.5) / 2)
    assert found["forward_transfer"] is None
    assert found["average"]["tasks"] == 3
