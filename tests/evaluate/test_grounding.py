"""What is measured of retrieval: rankings, support, the diagnosis, answers after a revision."""

from __future__ import annotations

from math import log2

import pytest

from luthier.evaluate.answer import Answer
from luthier.evaluate.diagnosis import CONDITIONS, diagnosis
from luthier.evaluate.metrics import METRICS
from luthier.evaluate.ranking import ranking_values
from luthier.evaluate.revision import RevisedAnswer, revision_rates
from luthier.evaluate.support import Shown, support_values
from luthier.types import Score


def test_rankings_are_scored_by_hand() -> None:
    right = {"one": {"a", "b"}, "two": {"c"}, "none": {"z"}}
    ranking = {"one": ["x", "a", "y", "b"], "two": ["c"], "none": []}
    found = ranking_values(right, ranking, 2)
    assert found["recall@2"] == {"one": 0.5, "two": 1.0, "none": 0.0}
    assert found["found@2"] == {"one": 1.0, "two": 1.0, "none": 0.0}
    assert found["mrr@10"] == {"one": 0.5, "two": 1.0, "none": 0.0}
    ideal = 1 + 1 / log2(3)
    assert found["ndcg@10"]["one"] == pytest.approx((1 / log2(3) + 1 / log2(5)) / ideal)
    assert found["ndcg@10"]["none"] == 0.0


def test_support_of_an_answer_that_stands_in_the_passage_it_names() -> None:
    shown = Shown("The Eiffel Tower!", ["Nothing.", "It is the eiffel tower in Paris."], [False, True], [2])
    assert support_values(shown) == {
        "abstained": 0.0,
        "string_support": 1.0,
        "ngram_support": 1.0,
        "cited": 1.0,
        "citation_exists": 1.0,
        "citation_supports": 1.0,
        "citation_right": 1.0,
    }


def test_support_of_an_answer_made_up_in_part() -> None:
    shown = Shown("built in the year 1920 by Romans", ["It was built in the year 1920."], [None], [1, 7])
    found = support_values(shown)
    assert found["string_support"] == 0.0
    assert found["ngram_support"] == pytest.approx(4 / 6)  # built in year 1920, without the article
    assert found["citation_exists"] == 0.5
    assert found["citation_supports"] == 0.0
    assert "citation_right" not in found


def test_an_answer_that_was_not_told_to_cite_is_not_judged_by_it() -> None:
    assert set(support_values(Shown("Paris", ["Paris."], [True], None))) == {
        "abstained", "string_support", "ngram_support",
    }  # fmt: skip


def test_an_answer_in_a_script_without_spaces_is_looked_for_by_its_letters() -> None:
    found = support_values(Shown("公园", ["我们去公园玩。"], [True], None))
    assert (found["string_support"], found["ngram_support"]) == (1.0, 1.0)


def test_an_answer_that_abstains_is_judged_by_nothing_else() -> None:
    shown = Shown("Not in the documents.", ["x"], [True], [1], absent="not in the documents")
    assert support_values(shown) == {"abstained": 1.0}


def test_a_word_that_holds_the_absent_one_is_an_answer() -> None:
    assert support_values(Shown("Canada", [], [], [], absent="N/A"))["abstained"] == 0.0


def diagnosed(**values: list[float]) -> dict[str, object]:
    scores = {name: [Score(str(n), "token_f1", value) for n, value in enumerate(values[name.split()[0]])]
              for name in ("closed book", "retrieved", "oracle")}  # fmt: skip
    scores["oracle among distractors"] = [Score(str(n), "token_f1", value) for n, value in enumerate(values["among"])]
    answers = {name: [Answer("x", ("x",))] * len(scores[name]) for name in CONDITIONS}
    return diagnosis(scores, answers, METRICS["token_f1"], seed=0)


def test_search_is_named_where_the_right_passage_would_help() -> None:
    half = [0.0, 1.0] * 15
    found = diagnosed(closed=[0.0] * 30, retrieved=half, oracle=[1.0] * 30, among=[1.0] * 30)
    assert found["verdict"] == "retriever"
    assert found["search_gap"]["value"] == pytest.approx(0.5)  # type: ignore[index]
    assert found["left"] == 0.0


def test_answering_is_named_where_a_perfect_search_adds_nothing() -> None:
    weak = [0.0, 0.4] * 15
    found = diagnosed(closed=[0.0] * 30, retrieved=weak, oracle=weak, among=weak)
    assert found["verdict"] == "generator"
    assert found["left"] == pytest.approx(0.8)


def test_nothing_is_named_where_nothing_is_left() -> None:
    found = diagnosed(closed=[0.0] * 30, retrieved=[1.0] * 30, oracle=[1.0] * 30, among=[1.0] * 30)
    assert found["verdict"] == "nothing"


def test_neither_half_is_named_where_few_examples_leave_both_open() -> None:
    some, more = [0.0, 1.0, 1.0, 1.0] * 2, [1.0, 1.0, 1.0, 0.0] * 2
    more[0] = 1.0
    found = diagnosed(closed=[0.0] * 8, retrieved=some, oracle=more, among=[*more[:7], 1.0])
    assert found["search_gap"]["low"] <= 0 < found["search_gap"]["high"]  # type: ignore[index]
    assert found["verdict"] == "undecided"
    assert "on 8 examples" in str(found["advice"])


def test_passages_are_named_where_they_do_not_help() -> None:
    found = diagnosed(closed=[0.5] * 30, retrieved=[0.1, 0.2] * 15, oracle=[0.1, 0.2] * 15, among=[0.1, 0.2] * 15)
    assert found["verdict"] == "passages"


def test_rates_after_a_revision() -> None:
    answers = [
        RevisedAnswer("It is 1975.", "1975", "1968", False),
        RevisedAnswer("1968", "1975", "1968", False),
        RevisedAnswer("1968 or 1975", "1975", "1968", False),
        RevisedAnswer("not in the documents", "", "Ann Lee", True),
        RevisedAnswer("Ann Lee did", "", "Ann Lee", False),
    ]
    found = revision_rates(answers)
    assert found["revised"]["n"] == 3
    assert found["revised"]["new"]["mean"] == pytest.approx(1 / 3)
    assert found["revised"]["old"]["mean"] == pytest.approx(1 / 3)
    assert found["removed"]["absent"]["mean"] == 0.5
    assert found["removed"]["old"]["mean"] == 0.5
    longer = [RevisedAnswer("Monday and Tuesday", "Monday and Tuesday", "Monday", False)]
    assert revision_rates(longer)["revised"]["new"]["mean"] == 1.0
    assert revision_rates(longer)["revised"]["old"]["mean"] == 0.0
    assert revision_rates(answers[:1])["removed"] == {"n": 0, "old": None, "absent": None}
