"""Rules that every approach has to beat."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from colours import make_task
from luthier.infer.engine import Engine
from luthier.prompt.similar import Reading
from luthier.simple.floors import (
    DrawByFrequency,
    FirstSentences,
    MostFrequent,
    most_frequent,
    sentences_of,
    sentences_that_fit,
)
from luthier.types import Message, Predictor, Prompt


def asked(count: int, text: str = "What?") -> list[Prompt]:
    return [Prompt(f"p{n}", "task", (Message("user", text),), {}, f"p{n}") for n in range(count)]


def texts(rule: Predictor, prompts: list[Prompt]) -> list[str]:
    return [answer.text for answer in Engine("cpu", "float32").answer(rule, prompts, ("a", "b"))]


def test_the_most_frequent_answer_is_given_to_all():
    assert most_frequent(["b", "a", "a", "b", "c"]) == "b"  # of equals the first
    assert texts(MostFrequent({"task": "b"}), asked(3)) == ["b", "b", "b"]


def test_labels_are_drawn_as_often_as_they_are_and_the_same_again():
    rule = DrawByFrequency({"task": {"a": 3, "b": 1}}, 0)
    drawn = texts(rule, asked(2000))
    assert Counter(drawn)["a"] == pytest.approx(1500, abs=80)
    assert texts(rule, asked(2000)) == drawn
    assert texts(DrawByFrequency({"task": {"a": 3, "b": 1}}, 1), asked(2000)) != drawn


def test_first_sentences_are_as_many_as_come_nearest_to_the_answers():
    text = "One is here. Two is there! Is three? Yes."
    assert sentences_of(text) == ["One is here.", "Two is there!", "Is three?", "Yes."]
    assert sentences_of("第一句。第二句！") == ["第一句。", "第二句！"]
    assert sentences_of("no end") == ["no end"]
    assert sentences_that_fit([text] * 3, ["twenty-six letters or more"] * 3) == 2
    rule = FirstSentences({"task": 2}, {"task": Reading("Sum up: ", "")})
    assert texts(rule, asked(1, f"Sum up: {text}")) == ["One is here. Two is there!"]


def test_a_rule_declines_other_tasks(tmp_path: Path):
    assert MostFrequent({"task": "b"}).declines("other")
    assert not MostFrequent({"task": "b"}).declines("task")
    assert make_task().name == "colours"
