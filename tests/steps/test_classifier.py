"""The classifier: features and heads beside plain scikit-learn, training of the embedder, bad input."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from colours import make_example, make_task
from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.progress import Silent
from luthier.simple import head as head_module
from luthier.simple.classifier import Classifier
from luthier.simple.contrastive import label_pairs, nearest_mean_accuracy
from luthier.simple.head import STRENGTHS, _compact, chosen_labels, fit_head, fit_head_of_several, fits_logistic
from luthier.steps import ClassifierStep
from luthier.steps.base import StepContext, StepOutcome
from luthier.steps.lesson import Lesson
from luthier.types import Nothing, Task


class Letters:
    """An embedder that counts the letters a to j."""

    folder = Path("/letters")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[1e-3 + text.count(letter) for letter in "abcdefghij"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def too_long(self, texts: Sequence[str]) -> int:
        return 0

    def unknown_share(self, texts: Sequence[str]) -> float:
        return float(all(text.isascii() is False for text in texts))


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of random words, told apart by one of them."""
    draw = np.random.default_rng(seed)
    words = ["abc", "bcd", "cde", "def", "efg", "fgh"]
    marks = {"one": "aaaj", "two": "bbbi", "three": "ccch"}
    labels = [list(marks)[i % 3] for i in range(count)]
    return [(f"{' '.join(draw.choice(words, 3))} {marks[label]} {n}", label) for n, label in enumerate(labels)]


def task_of(train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]]) -> Task:
    examples = [make_example(n, text, label, label=label) for n, (text, label) in enumerate([*train, *validation])]
    labels = tuple(dict.fromkeys(label for _, label in train))
    cut = len(train)
    return replace(make_task(), train=tuple(examples[:cut]), validation=tuple(examples[cut:]), test=(), labels=labels)


def fit(step: ClassifierStep, task: Task, folder: Path) -> tuple[StepOutcome, Engine]:
    engine = Engine("cpu", "float32", lambda name: Letters())
    context = StepContext(
        lesson=Lesson((task,), (METRICS["accuracy"],), task.name),
        start=None,
        engine=engine,
        folder=folder,
        seed=0,
        progress=Silent(),
        log=lambda row: None,
    )
    return step.fit(Nothing(), context), engine


@pytest.mark.parametrize("count", [2, 3])
def test_tfidf_gives_what_plain_scikit_learn_gives(tmp_path: Path, count: int):
    from scipy.sparse import hstack

    known = [row for row in rows(60, 1) if row[1] != "three" or count == 3]
    held = [row for row in rows(30, 2) if row[1] != "three" or count == 3]
    task = task_of(known, held)
    outcome, engine = fit(ClassifierStep(features="tfidf"), task, tmp_path)
    strength = outcome.facts["heads"][task.name]["strength"]
    prompts = [example.prompt for example in task.validation]
    answers = engine.answer(outcome.predictor, prompts, task.labels)
    vectorizers = [
        TfidfVectorizer(analyzer="word", ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    ]
    texts, labels = zip(*known, strict=True)
    seen = hstack([own.fit_transform(texts) for own in vectorizers]).tocsr()
    asked = hstack([own.transform([text for text, _ in held]) for own in vectorizers]).tocsr()
    plain = LogisticRegression(C=strength, max_iter=1000).fit(seen, labels)
    wanted = plain.predict_proba(asked)
    for answer, row in zip(answers, wanted, strict=True):
        assert answer.label_logprobs is not None
        found = [np.exp(answer.label_logprobs[label]) for label in plain.classes_]
        assert found == pytest.approx(row, abs=1e-4)
        assert answer.text == plain.classes_[row.argmax()]
        assert answer.confidence == pytest.approx(row.max(), abs=1e-4)


def test_embeddings_give_what_plain_scikit_learn_gives(tmp_path: Path):
    task = task_of(rows(60, 1), rows(30, 2))
    outcome, engine = fit(ClassifierStep(features="embedding"), task, tmp_path)
    strength = outcome.facts["heads"][task.name]["strength"]
    embed = Letters().embed
    known = [(example.prompt.messages[-1].content, example.completion) for example in task.train]
    plain = LogisticRegression(C=strength, max_iter=1000).fit(embed([t for t, _ in known]), [own for _, own in known])
    prompts = [example.prompt for example in task.validation]
    wanted = plain.predict_proba(embed([prompt.messages[-1].content for prompt in prompts]))
    for answer, row in zip(engine.answer(outcome.predictor, prompts, task.labels), wanted, strict=True):
        assert answer.label_logprobs is not None
        assert [np.exp(answer.label_logprobs[own]) for own in plain.classes_] == pytest.approx(row, abs=1e-4)


def test_features_are_taken_on_validation_and_what_was_tried_is_told(tmp_path: Path):
    outcome, _ = fit(ClassifierStep(), task_of(rows(60, 1), rows(30, 2)), tmp_path)
    assert [one.settings["features"] for one in outcome.tried] == ["tfidf", "embedding"]
    best = max(outcome.tried, key=lambda one: one.score)
    assert [one for one in outcome.tried if one.taken] == [best]
    assert outcome.trainable_parameters > 0


def test_the_same_seed_gives_the_same_classifier(tmp_path: Path):
    task = task_of(rows(60, 1), rows(30, 2))
    found = []
    for name in ("a", "b"):
        outcome, engine = fit(ClassifierStep(), task, tmp_path / name)
        answers = engine.answer(outcome.predictor, [example.prompt for example in task.validation], task.labels)
        found.append([answer.label_logprobs for answer in answers])
    assert found[0] == found[1]


def test_what_was_exported_answers_alike_by_the_lines_on_its_card(tmp_path: Path):
    task = task_of(rows(60, 1), rows(30, 2))
    outcome, engine = fit(ClassifierStep(features="tfidf"), task, tmp_path / "step")
    predictor = outcome.predictor
    assert isinstance(predictor, Classifier)
    (tmp_path / "out").mkdir()
    exported = predictor.export(tmp_path / "out", engine)
    (program,) = re.findall(r"```python\n(.*?)```", exported.usage(), re.DOTALL)
    text = task.validation[0].prompt.messages[-1].content
    program = program.replace("your text", text)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (answer,) = engine.answer(exported, [task.validation[0].prompt], task.labels)
    label, probability = run.stdout.split()
    assert (label, float(probability)) == (answer.text, pytest.approx(answer.confidence, abs=1e-3))


def test_below_the_threshold_a_label_is_kept_back(tmp_path: Path):
    task = task_of(rows(60, 1), rows(30, 2))
    outcome, engine = fit(ClassifierStep(features="tfidf", threshold=1.1, otherwise="unsure"), task, tmp_path)
    answers = engine.answer(outcome.predictor, [example.prompt for example in task.validation], task.labels)
    assert {(answer.text, answer.stopped) for answer in answers} == {("unsure", "abstained")}


def test_a_label_with_one_example_and_one_label_in_all_are_no_obstacle(tmp_path: Path):
    lonely = [*rows(30, 1), ("jjj alone", "lonely")]
    outcome, engine = fit(ClassifierStep(features="tfidf"), task_of(lonely, rows(9, 2)), tmp_path / "lonely")
    prompt = replace(make_example(1, "jjj alone", "lonely").prompt)
    assert engine.answer(outcome.predictor, [prompt], ("lonely",))[0].text == "lonely"
    single = [(text, "one") for text, _ in rows(12, 1)]
    outcome, engine = fit(ClassifierStep(features="tfidf"), task_of(single, single[:3]), tmp_path / "single")
    assert engine.answer(outcome.predictor, [prompt], ("one",))[0].text == "one"


def test_a_language_that_the_embedder_does_not_know_is_left_to_words(tmp_path: Path):
    foreign = [(text.replace("a", "ä").replace("b", "ß") + "é", label) for text, label in rows(30, 1)]
    outcome, _ = fit(ClassifierStep(), task_of(foreign, foreign[:6]), tmp_path)
    assert outcome.facts["features"] == "tfidf"
    assert "Words alone are compared where" in outcome.warnings[0]


def test_too_many_labels_for_logistic_regression_are_told_apart_by_their_means(tmp_path: Path, monkeypatch):  # type: ignore[no-untyped-def]
    assert fits_logistic((10_000, 400), 77)
    assert not fits_logistic((50_000, 400), 10_000)
    monkeypatch.setattr("luthier.simple.head._MOST_NUMBERS", 10)
    task = task_of(rows(60, 1), rows(30, 2))
    outcome, engine = fit(ClassifierStep(), task, tmp_path)
    assert "too many for logistic regression" in outcome.warnings[0]
    answers = engine.answer(outcome.predictor, [example.prompt for example in task.validation], task.labels)
    right = sum(a.text == e.completion for a, e in zip(answers, task.validation, strict=True))
    assert right == 30  # each label has a word of its own
    (tmp_path / "out").mkdir()
    assert isinstance(outcome.predictor, Classifier)
    exported = outcome.predictor.export(tmp_path / "out", engine)
    again = engine.answer(exported, [example.prompt for example in task.validation], task.labels)
    assert [answer.text for answer in again] == [answer.text for answer in answers]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_strength_is_the_one_that_does_best_in_cross_validation():
    """Of unit vectors that lie close together, as a sentence embedder's do, with many labels: a fit that begins where
    another strength ended, and stops where little changes, tells them all alike."""
    draw = np.random.default_rng(0)
    targets = np.repeat(np.arange(77), 20)
    features = _unit(draw.normal(size=(77, 128))[targets] + 3.0 * draw.normal(size=(len(targets), 128)))
    features = _unit(0.35 * features + 0.94 * np.eye(128)[0])
    right = dict.fromkeys(STRENGTHS, 0)
    for train, held in StratifiedKFold(5, shuffle=True, random_state=0).split(features, targets):
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=1000).fit(features[train], targets[train])
            right[strength] += int((model.predict(features[held]) == targets[held]).sum())
    best = max(right.values())
    assert right[STRENGTHS[0]] < best - 8
    head = fit_head(features, [str(own) for own in targets], 0)
    assert head.strength is not None
    assert right[head.strength] >= best - 8  # the examples are drawn in another order


def test_cross_validation_on_inner_products_predicts_what_it_does_on_many_sparse_features():
    draw = np.random.default_rng(1)
    targets = np.repeat(np.arange(6), 12)
    features = csr_matrix(
        (draw.random((len(targets), 400)) < 0.01 + 0.08 * (np.arange(400) % 6 == targets[:, None])) * 1.0
    )
    compact = _compact(features)
    assert compact.shape == (len(targets), len(targets))
    train, held = np.arange(len(targets)) % 3 > 0, np.arange(len(targets)) % 3 == 0
    for strength in STRENGTHS:
        scores = [
            LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
            .fit(rows[train], targets[train])
            .predict_log_proba(rows[held])
            for rows in (features, compact)
        ]
        assert np.abs(scores[0] - scores[1]).max() < 1e-3


def test_many_examples_with_many_labels_are_fitted_in_few_passes_and_told_apart_as_well(monkeypatch):  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(2)
    targets = np.repeat(np.arange(20), 60)
    marks = 0.004 + 0.05 * (np.arange(1000) % 20 == targets[:, None])
    features = csr_matrix((draw.random(marks.shape) < marks) * 1.0)
    train, held = np.arange(len(targets)) % 3 > 0, np.arange(len(targets)) % 3 == 0
    labels = np.array([f"{own:02}" for own in targets])

    def right() -> tuple[int, dict[str, object]]:
        head = fit_head(features[train], list(labels[train]), 0)
        guessed = np.array(head.labels)[head.log_probabilities(features[held]).argmax(1)]
        return int((guessed == labels[held]).sum()), head_module._solving(features[train], 20, 0)

    whole, plain = right()
    monkeypatch.setattr(head_module, "_MANY", 800 * 20)
    few, solving = right()
    assert (plain, solving["solver"]) == ({"max_iter": 1000}, "saga")
    assert whole >= 0.5 * held.sum()
    assert few >= whole - 8  # of 400


def test_several_labels_are_each_decided_by_itself():
    features = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [1, 1]] * 4, float)
    answers = [("a",), ("a",), ("b",), ("b",), ("a", "b"), ("a", "b")] * 4
    head = fit_head_of_several(features, answers, 0)
    logs = head.log_probabilities(np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert chosen_labels(head, logs[0])[0] == ("a", "b")
    assert len(chosen_labels(head, logs[1])[0]) == 1  # one at least
    both = np.exp(logs[0]).prod()
    assert chosen_labels(head, logs[0])[1] == pytest.approx(both)


def test_probabilities_of_one_label_an_answer_sum_to_one():
    draw = np.random.default_rng(0)
    head = fit_head(draw.normal(size=(40, 5)), ["a", "b", "c", "d"] * 10, 0)
    assert np.exp(head.log_probabilities(draw.normal(size=(7, 5)))).sum(1) == pytest.approx(np.ones(7))


def test_pairs_to_learn_from_are_half_of_one_label_and_none_comes_twice():
    labels = ["a"] * 6 + ["b"] * 6 + ["lonely"]
    pairs = label_pairs(labels, 20, 0)
    assert label_pairs(labels, 20, 0) == pairs
    assert len({(pair.one, pair.other) for pair in pairs}) == len(pairs) == 20
    assert all(pair.same == (labels[pair.one] == labels[pair.other]) for pair in pairs)
    assert sum(pair.same for pair in pairs) == 10
    assert not any(pair.same for pair in label_pairs(["a", "b", "c"], 20, 0))
    assert all(pair.same for pair in label_pairs(["a", "a", "a"], 20, 0))


def test_an_embedder_is_judged_by_the_nearest_mean():
    known = np.array([[1, 0], [0.8, 0.6], [0, 1]], float)
    asked = np.array([[0.9, 0.436], [0.1, 0.995]])
    assert nearest_mean_accuracy(known, ["a", "a", "b"], asked, [("", "a"), ("", "b")]) == 1.0
    assert nearest_mean_accuracy(known, ["a", "a", "b"], asked, [("", "b"), ("", "b")]) == 0.5


def test_settings_that_contradict_each_other_are_refused(tiny_task: Task):
    with pytest.raises(ValidationError, match="tune: contrastive trains the embedder"):
        ClassifierStep(features="tfidf", tune="contrastive")
    assert ClassifierStep(examples=13).check(tiny_task) == [
        "13 training examples are asked for; task 'colours' has 12."
    ]


@pytest.mark.slow
def test_training_the_embedder_on_labels_brings_them_apart(tmp_path: Path):
    """With the built-in embedder: kept only where validation says so, the same again with the same seed."""
    from luthier.runner import run
    from luthier.runner.folder import read_json
    from luthier.study import load_study

    file = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
    study = load_study(file, ("latency_requests=1",))
    step = {"step": "classifier", "features": "embedding", "tune": "contrastive"}
    settings = study.model_dump(exclude_unset=True, exclude={"approaches", "model"})
    scores = []
    for name in ("a", "b"):
        one = type(study).model_validate({**settings, "approaches": {"tuned": [step]}})
        result = run(one, tmp_path / name, root=file.parent)
        scores.append(result.comparison["approaches"][0]["mean"])
        (table,) = [read_json(own) for own in (tmp_path / name / "steps").rglob("tuning.json")]
        assert [row[2] for row in table["rows"]].count("used") == 1
    assert scores[0] == scores[1] > 0.85
