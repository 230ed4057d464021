"""General probes: what ships, how they are scored, and what counts as worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

import pytest

from luthier.errors import EvaluationError
from luthier.evaluate import (
    LogProb,
    ProbeResult,
    compare_probes,
    general_loss,
    general_text,
    general_text_validation,
    mean_divergence,
    measure_probes,
    minimal_pairs,
    truthful_answers,
    worsening,
)


def by_length(texts: Sequence[str]) -> list[LogProb]:
    """A model that gives every character 1 nat and takes every word for a token."""
    return [LogProb(-float(len(text)), len(text.split())) for text in texts]


def change(before: float, after: float, higher_is_better: bool) -> dict[str, object]:
    return {"probe": "p", "before": before, "after": after, "higher_is_better": higher_is_better}


def test_the_probes_ship_with_their_source_and_licence():
    texts, pairs = general_text(), minimal_pairs()
    assert len(texts) == len(set(texts)) == 100
    assert len(pairs) == len(set(pairs)) == 100
    assert pairs[0] == ("Susan revealed herself.", "Susan revealed themselves.")
    answers = truthful_answers()
    assert len(answers) == len(set(answers)) == 100
    assert answers[0][0].endswith("watermelon seeds?\nA: The watermelon seeds pass through your digestive system")
    assert answers[0][1].endswith("watermelon seeds?\nA: You grow watermelons in your stomach")
    assert all(true.split("\nA: ")[0] == false.split("\nA: ")[0] for true, false in answers)
    source = (files("luthier.evaluate") / "probes" / "SOURCE.md").read_text(encoding="utf-8")
    assert "ShareAlike 3.0" in source
    assert "Attribution 4.0" in source
    assert "TruthfulQA" in source


@pytest.mark.parametrize("texts", [general_text(), general_text_validation()], ids=["probe", "choices"])
def test_general_text_is_written_as_people_write(texts: list[str]):
    assert all(25 <= len(text.split()) <= 160 for text in texts)
    assert not any(mark in text for text in texts for mark in ("<unk>", "@", " ,", " .", " 's", " ' ", '" "', "  "))
    assert all(text[0].isupper() or text[0] in '"0123456789' for text in texts)
    assert all(text.endswith((".", "!", "?")) and text.count('"') % 2 == 0 for text in texts)


def test_probes_are_scored_by_nats_per_token_and_by_which_sentence_is_likelier():
    text, pairs, answers = measure_probes(by_length)
    first = general_text()[0]
    assert (text.metric, text.higher_is_better) == ("loss", False)
    assert text.values[0] == pytest.approx(len(first) / len(first.split()))
    assert (pairs.metric, pairs.higher_is_better) == ("accuracy", True)
    assert pairs.values == tuple(float(len(good) < len(bad)) for good, bad in minimal_pairs())
    assert (answers.metric, answers.higher_is_better) == ("accuracy", True)
    assert answers.values == tuple(float(len(true) < len(false)) for true, false in truthful_answers())


def test_choices_are_made_on_general_text_that_no_probe_holds():
    texts = general_text_validation()
    assert len(texts) == len(set(texts)) == 80
    assert not set(texts) & set(general_text())
    expected = [len(text) / len(text.split()) for text in texts]
    assert general_loss(by_length) == pytest.approx(sum(expected) / 80)


def test_a_divergence_is_the_mean_over_texts_of_nats_a_token():
    found = mean_divergence([2.0, 9.0, 1.0], [10, 30, 10], seed=0)
    assert (found["n"], found["mean"]) == (3, pytest.approx(0.2))
    assert 0.1 <= found["low"] <= 0.2 <= found["high"] <= 0.3
    assert mean_divergence([2.0], [10], seed=0) == {"n": 1, "mean": 0.2, "low": None, "high": None}


def test_a_model_that_cannot_tell_the_sentences_apart_gets_no_point():
    _, pairs, answers = measure_probes(lambda texts: [LogProb(-1.0, 1) for _ in texts])
    assert sum(pairs.values) == sum(answers.values) == 0


@pytest.mark.parametrize("bad", [LogProb(-math.inf, 3), LogProb(2.0, 3), LogProb(-2.0, 0)])
def test_a_log_probability_that_cannot_be_is_refused(bad: LogProb):
    with pytest.raises(EvaluationError, match="probe text"):
        measure_probes(lambda texts: [bad for _ in texts])
    with pytest.raises(EvaluationError, match="came back"):
        measure_probes(lambda texts: [])


def test_change_is_after_minus_before_with_a_paired_interval():
    before = [ProbeResult("text", "loss", False, (2.0, 3.0, 4.0)), ProbeResult("pairs", "accuracy", True, (1.0,) * 20)]
    after = [
        ProbeResult("text", "loss", False, (2.1, 3.3, 4.2)),
        ProbeResult("pairs", "accuracy", True, (1.0,) * 15 + (0.0,) * 5),
    ]
    loss, accuracy = compare_probes(before, after, seed=0)
    assert list(loss) == ["probe", "metric", "higher_is_better", "n", "before", "after", "difference", "low", "high"]
    assert loss["difference"] == pytest.approx(0.2)
    assert (loss["before"], loss["n"]) == (3.0, 3)
    assert (accuracy["before"], accuracy["after"]) == (1.0, 0.75)
    assert accuracy["difference"] == -0.25
    assert -0.5 < accuracy["low"] < -0.25 < accuracy["high"] < 0


def test_different_probes_are_not_compared():
    text, pairs, _ = measure_probes(by_length)
    with pytest.raises(EvaluationError, match="different probes"):
        compare_probes([text], [pairs], seed=0)


def test_worsening_is_points_of_accuracy_and_a_share_of_loss():
    assert worsening(change(0.90, 0.85, True)) == pytest.approx(0.05)
    assert worsening(change(0.85, 0.90, True)) == pytest.approx(-0.05)
    assert worsening(change(3.0, 3.3, False)) == pytest.approx(0.1)
    assert worsening(change(3.0, 2.7, False)) == pytest.approx(-0.1)
    assert worsening(change(0.0, 0.1, False)) == math.inf
