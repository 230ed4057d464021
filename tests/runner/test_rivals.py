"""Rivals and floors in whole runs: unasked, cheap, and without a language model where none is needed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.errors import RunError, StudyError
from luthier.progress import Silent
from luthier.report.card import model_card
from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.export import export
from luthier.runner.folder import read_json, read_jsonl
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows
from luthier.study import build_study, quick_study

WITHOUT = {
    "nearest": [{"step": "nearest", "by": "bm25"}],
    "classifier": [{"step": "classifier", "features": "tfidf", "learning_curve": [6, 12]}],
}


def modelless(**changes: object):  # type: ignore[no-untyped-def]
    settings = tiny_study(Path("none"), approaches=WITHOUT).model_dump(exclude_unset=True)
    del settings["model"]
    return build_study(**{**settings, **changes})


def test_floors_are_measured_in_every_study(root: Path, tiny_model_folder: Path):
    result = run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    floors = {row["name"]: row for row in result.comparison["floors"]}
    assert set(floors) == {"most-frequent", "draw"}
    assert floors["most-frequent"]["mean"] == pytest.approx(1 / 3)  # eight of 24, of three labels
    rows = read_jsonl(root / "run" / "floors" / "most-frequent" / "predictions.jsonl")
    assert len({row["completion"] for row in rows}) == 1
    assert result.recommended is None  # a random model
    assert result.verdict.startswith("None is of use yet. The best approach, ")


def test_floors_of_written_answers_copy_the_most_frequent_and_the_nearest(root: Path, tiny_model_folder: Path):
    task = {
        "data": {"train": "train.csv", "test": "test.csv"},
        "split": {"validation": 6},
        "prompt": "{{ text }}",
        "completion": "{{ kind }}",
        "max_new_tokens": 4,
    }
    study = tiny_study(tiny_model_folder, task=task, approaches={"nearest": ["nearest"], "zero-shot": []})
    result = run(study, root / "run", root=root)
    floors = {row["name"]: row["mean"] for row in result.comparison["floors"]}
    assert floors["nearest-answer"] == 1.0  # the word tells the kind
    assert result.recommended == "nearest"


def test_a_study_without_a_language_model_runs_reports_answers_and_is_exported(root: Path):
    result = run(modelless(), root / "run", root=root)
    rows = {row["name"]: row for row in result.comparison["approaches"]}
    assert rows["classifier"]["mean"] == rows["nearest"]["mean"] == 1.0
    assert (rows["nearest"]["training"], rows["classifier"]["training"]) == ("none", "small model")
    assert rows["classifier"]["cost"]["trainable_parameters"] > 0
    assert write_report(root / "run").is_file()
    assert read_json(root / "run" / "run.json")["model_parameters"] is None
    for name in ("nearest", "classifier"):
        opened = open_run(root / "run", name)
        (answer,) = predict_rows(opened, [{"text": "hammer number 7"}])
        assert answer.text == "tool"
        assert answer.confidence is not None
        card = partial(model_card, root / "run", name)
        done = export(opened, root / f"{name}-out", merge=False, card=card, check=24, progress=Silent())
        assert (done.kind, done.checked, done.score) == ("files", 24, 1.0)


def test_a_second_run_computes_nothing_anew(root: Path):
    run(modelless(), root / "run", root=root)
    before = {file: file.stat().st_mtime_ns for file in (root / "run").rglob("predictions.jsonl")}
    result = run(modelless(), root / "run", root=root)
    assert {file: file.stat().st_mtime_ns for file in (root / "run").rglob("predictions.jsonl")} == before
    steps = read_json(root / "run" / "approaches" / "classifier" / "approach.json")["steps"]
    assert [step["reused"] for step in steps] == [True]
    assert result.comparison["approaches"][0]["mean"] == 1.0


def test_a_classifier_draws_its_learning_curve(root: Path):
    run(modelless(), root / "run", root=root)
    (curve,) = [read_json(f) for f in (root / "run" / "steps").rglob("learning-curve.json")]
    assert curve["x"] == [6, 12, 30]  # 36 rows, six of them kept for validation


def test_a_classifier_may_read_the_models_hidden_states(root: Path, tiny_model_folder: Path):
    study = tiny_study(tiny_model_folder, approaches={"states": [{"step": "classifier", "features": "hidden"}]})
    result = run(study, root / "run", root=root)
    choice = read_json(root / "run" / "approaches" / "states" / "approach.json")["choices"][0]
    assert {(one["settings"]["layer"], one["settings"]["pooling"]) for one in choice["tried"]} == {
        (layer, pooling) for layer in (1, 2) for pooling in ("mean", "last")
    }
    row = result.comparison["approaches"][0]
    assert row["mean"] > 0.5
    (one, *_), (other, *_) = (predict_rows(open_run(root / "run", "states"), [{"text": "cat 1"}]) for _ in range(2))
    assert one.label_logprobs == other.label_logprobs
    card = partial(model_card, root / "run", "states")
    done = export(open_run(root / "run", "states"), root / "out", merge=False, card=card, check=24, progress=Silent())
    assert (done.kind, done.checked, done.score) == ("files", 24, pytest.approx(row["mean"]))
    assert 'AutoModelForCausalLM.from_pretrained("model")' in (root / "out" / "README.md").read_text(encoding="utf-8")


def test_a_quick_run_trains_no_language_model_tries_no_prompts_and_says_so(root: Path, tiny_model_folder: Path):
    approaches = {**WITHOUT, "few": [{"step": "few-shot", "shots": {"choose": [2, 4]}}], "lora": ["sft"]}
    study = tiny_study(tiny_model_folder, approaches=approaches, latency_requests=20)
    result = run(study, root / "run", root=root, quick=True)
    assert {row["name"] for row in result.comparison["approaches"]} == {"nearest", "classifier", "few"}
    warning = read_json(root / "run" / "run.json")["warnings"][0]
    assert "Left out, as they train the language model: lora." in warning
    assert "Taken without trying others on validation: few (shots 4, by embedding)." in warning
    (step,) = read_json(root / "run" / "approaches" / "few" / "approach.json")["steps"]
    assert (step["settings"]["shots"], step["settings"]["by"]) == (4, "embedding")


def test_a_quick_run_asks_few_requests_one_by_one(tiny_model_folder: Path):
    study = tiny_study(tiny_model_folder, approaches=WITHOUT, latency_requests=20, seeds=3)
    narrowed = quick_study(study)
    assert narrowed.study.latency_requests == 5
    assert "one seed. Latencies are of 5 requests." in narrowed.given_up


@pytest.mark.parametrize(
    ("settings", "shots", "by"),
    [
        ({"shots": {"choose": [0, 2]}}, 2, "embedding"),
        ({"shots": 2, "by": {"choose": ["bm25", "embedding"]}}, 2, "embedding"),
        ({"shots": 2, "by": {"choose": ["spread", "bm25"]}}, 2, "spread"),
        ({"shots": 2, "by": "bm25"}, 2, "bm25"),
        ({"shots": 0}, 0, None),
    ],
)
def test_a_quick_run_keeps_shots_and_what_the_study_names(
    settings: dict[str, object], shots: int, by: str | None, tiny_model_folder: Path
):
    study = tiny_study(tiny_model_folder, approaches={"few": [{"step": "few-shot", **settings}]})
    (step,) = quick_study(study).study.approaches["few"].steps
    assert (step.shots, step.by) == (shots, by)


def test_a_quick_run_takes_nothing_out_of_a_full_one(root: Path, tiny_model_folder: Path):
    trained = {"step": "sft", "epochs": 0.5, "learning_rate": 1e-3, "evaluations": 1}
    study = tiny_study(tiny_model_folder, approaches={**WITHOUT, "lora": [trained]})
    run(study, root / "run", root=root, quick=True)
    full = run(study, root / "run", root=root)
    assert "lora" in {row["name"] for row in full.comparison["approaches"]}
    with pytest.raises(RunError, match="holds a full run of this study, with lora"):
        run(study, root / "run", root=root, quick=True)
    assert read_json(root / "run" / "comparison.json") == full.comparison


def test_a_quick_run_of_trainings_alone_is_refused(tiny_model_folder: Path):
    routed = [{"step": "route", "of": {"task": "lora"}}]
    study = tiny_study(tiny_model_folder, approaches={"lora": ["sft"], "routed": routed})
    with pytest.raises(StudyError, match="every approach trains the language model"):
        quick_study(study)


def test_another_task_is_not_answered_by_what_has_not_seen_it(root: Path):
    (root / "other.csv").write_text("text,kind\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)))
    task = modelless().tasks["task"].model_dump(exclude_unset=True)
    other = {**task, "data": "other.csv", "split": {"validation": 4, "test": 8}}
    study = modelless(tasks={"task": task, "other": other}, target="task")
    settings = study.model_dump(exclude_unset=True)
    settings.pop("task", None)
    result = run(build_study(**settings), root / "run", root=root)
    for row in result.comparison["approaches"]:
        assert row["scores"]["other"][0]["n"] == 0
    answers = read_jsonl(root / "run" / "approaches" / "nearest" / "predictions.jsonl")
    reasons = {answer["unserved"] for answer in answers if answer["task"] == "other"}
    assert reasons == {"nearest copies answers to task alone"}


def test_a_task_decided_by_a_loss_refuses_what_gives_no_probabilities(root: Path):
    task = {**modelless().tasks["task"].model_dump(exclude_unset=True), "metrics": ["loss"]}
    with pytest.raises(StudyError, match=r"approaches\.nearest: nearest gives no log-probability of the right answer"):
        run(modelless(tasks={"task": task}), root / "run", root=root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"approaches": {"a": []}}, "model is missing, and a needs a language model"),
        ({"approaches": {"a": ["nearest", "few-shot"]}}, "nearest answers in the language model's place"),
        ({"approaches": {"a": ["nearest"], "b": [{"step": "merge", "of": ["a"]}]}}, "gives no language model"),
    ],
)
def test_what_makes_no_sense_together_is_refused_before_anything_loads(changes: dict[str, object], message: str):
    with pytest.raises(StudyError, match=message):
        modelless(**changes)


def test_a_classifier_of_written_answers_is_refused(root: Path):
    task = modelless().tasks["task"].model_dump(exclude_unset=True)
    del task["labels"], task["answer"]
    with pytest.raises(StudyError, match="classifier chooses among labels, and task 'task' has none"):
        run(modelless(tasks={"task": task}), root / "run", root=root)


def test_a_classifier_gives_several_labels(root: Path):
    pairs = [("apple", "fruit"), ("hammer", "tool"), ("cat", "animal")]
    rows = [
        (f"{a} and {b} {n}", f"{x}; {y}") if a != b else (f"{a} alone {n}", x)
        for n in range(8)
        for a, x in pairs
        for b, y in pairs
    ]
    (root / "several.csv").write_text("text,kinds\n" + "".join(f"{text},{kinds}\n" for text, kinds in rows))
    task = {
        "data": "several.csv",
        "split": {"validation": 12, "test": 18},
        "prompt": "{{ text }}",
        "completion": "{{ kinds }}",
        "labels": "auto",
        "label_separator": "; ",
    }
    study = modelless(tasks={"task": task}, approaches={"classifier": ["classifier"], "nearest": ["nearest"]})
    result = run(study, root / "run", root=root)
    row = next(row for row in result.comparison["approaches"] if row["name"] == "classifier")
    assert row["mean"] == 1.0
    assert [score["metric"] for score in row["scores"]["task"]] == ["accuracy", "label_f1", "macro_f1"]
    opened = open_run(root / "run", "classifier")
    both, one = predict_rows(opened, [{"text": "cat and apple 99"}, {"text": "hammer alone 99"}])
    assert (set(both.text.split("; ")), one.text) == ({"animal", "fruit"}, "tool")
    card = partial(model_card, root / "run", "classifier")
    assert export(opened, root / "out", merge=False, card=card, check=18, progress=Silent()).score == 1.0
    assert write_report(root / "run").is_file()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"step": "few-shot", "shots": 1}, "nearest"], "nearest asks no language model, so few-shot before it"),
        ([{"step": "nearest", "threshold": 0.3}], "threshold is in the unit of the similarity"),
    ],
)
def test_steps_that_would_be_done_for_nothing_are_refused(steps: list[object], message: str):
    with pytest.raises(StudyError, match=message):
        modelless(model="some", approaches={"a": steps})
