"""Approaches that are made of others: merged, or one for each task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_stages import WORDS, chained, write_tasks

from luthier.errors import RunError, StudyError
from luthier.progress import Silent
from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.estimate import forecast
from luthier.runner.export import export
from luthier.runner.folder import read_json, read_jsonl
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows
from luthier.runner.prepare import prepare
from luthier.runner.show import training_examples
from luthier.runner.survey import survey
from luthier.study import Study

pytestmark = pytest.mark.usefixtures("few_probes")

SFT: dict[str, Any] = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "batch_size": 4, "evaluations": 1}
FULL = {**SFT, "adapter": "none"}
SOFT = {"step": "sft", "adapter": "prompt-tuning"}
TASKS = ("colours", "sizes")  # the second is the target
SPECIALISTS = {"colours": [{**SFT, "data": "colours"}], "sizes": [SFT]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tasks(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage would be most of what these runs take."""
    monkeypatch.setattr("luthier.infer.engine.release_memory", lambda: None)


def made(model: Path, approaches: dict[str, Any], tasks: Sequence[str] = TASKS, **changes: Any) -> Study:
    """A study of some of the tasks with these approaches."""
    known = chained(model).model_dump(exclude_unset=True)["tasks"]
    own = {task: known[task] for task in tasks}
    return chained(model, approaches=approaches, tasks=own, latency_requests=1, **changes)


def step_of(folder: Path, name: str) -> dict[str, Any]:
    """The last step of an approach, as it was entered."""
    return read_json(folder / "approaches" / name / "approach.json")["steps"][-1]  # type: ignore[no-any-return]


def record_of(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / "steps" / step_of(folder, name)["hash"] / "step.json")  # type: ignore[no-any-return]


def costs(result: Any) -> dict[str, dict[str, float]]:
    return {row["name"]: row["cost"] for row in result.comparison["approaches"]}


def answers(folder: Path, name: str, task: str) -> list[dict[str, Any]]:
    rows = read_jsonl(folder / "approaches" / name / "predictions.jsonl")
    return [{k: row[k] for k in ("id", "completion", "label_logprobs")} for row in rows if row["task"] == task]


def test_what_is_needed_is_done_first_and_a_common_beginning_is_paid_once(tiny_model_folder: Path, root: Path) -> None:
    colours = {**SFT, "data": "colours"}
    approaches = {
        "merged": [{"step": "merge", "of": ["a", "b"]}],
        "a": [colours, SFT],
        "b": [colours, {**SFT, "learning_rate": 1e-2}],
    }
    study = made(tiny_model_folder, approaches)
    assert study.fold_order[-1] == "merged"
    result = run(study, root / "run", root=root)
    folder, cost = root / "run", costs(result)
    first = [read_json(folder / "approaches" / name / "approach.json")["steps"][0] for name in "ab"]
    assert first[0]["hash"] == first[1]["hash"]
    steps = [read_json(folder / "steps" / first[0]["hash"] / "step.json")]
    steps += [record_of(folder, name) for name in ("a", "b", "merged")]
    for figure, key in (("train_s", "train_s"), ("tokens_seen", "trained_tokens"), ("stored_bytes", "stored_bytes")):
        assert cost["merged"][figure] == pytest.approx(sum(step[key] for step in steps))
    assert cost["merged"]["trainable_parameters"] == cost["a"]["trainable_parameters"]
    assert result.comparison["matrix"].keys() == {"a", "b"}
    # Two adapters of two steps each: four times rank 2.
    assert steps[-1]["facts"]["rank"] == 8
    ((a, b, cosine, opposite),) = read_json(
        folder / "steps" / step_of(folder, "merged")["hash"] / "results/agreement.json"
    )["rows"]
    assert (a, b) == ("a", "b")
    assert 0 < cosine < 1  # their first adapter is the same
    assert 0 < opposite < 0.5
    assert "changes agree" in write_report(folder).read_text(encoding="utf-8")


def test_a_changed_parent_changes_what_is_made_of_it_and_nothing_else(tiny_model_folder: Path, root: Path) -> None:
    approaches = {
        **SPECIALISTS,
        "m": [{"step": "merge", "of": ["colours", "sizes"]}],
        "other": [{"step": "route", "of": {"colours": "sizes"}}],
    }
    run(made(tiny_model_folder, approaches), root / "run", root=root)
    approaches["colours"] = [{**SFT, "data": "colours", "learning_rate": 1e-2}]
    run(made(tiny_model_folder, approaches), root / "run", root=root)
    reused = {name: step_of(root / "run", name)["reused"] for name in approaches}
    assert reused == {"colours": False, "sizes": True, "m": False, "other": True}


def test_tasks_are_answered_by_the_approaches_that_they_are_routed_to(tiny_model_folder: Path, root: Path) -> None:
    few = {"step": "few-shot", "shots": 1}
    approaches = {
        "colours": [{**SFT, "data": "colours"}],
        "full": [FULL],
        "of": [{"step": "route", "of": {"colours": "colours"}, "otherwise": "full"}],
        "late": [SFT, {"step": "route", "of": {"colours": "colours"}}],
        "shots": [few, SFT],
        "routed-shots": [few, {"step": "route", "of": {"sizes": "shots"}}],
        "base": [],
    }
    study = made(tiny_model_folder, approaches, forgetting={"probe": True})
    result = run(study, root / "run", root=root)
    folder, cost = root / "run", costs(result)
    expected = {("of", "colours"): "colours", ("of", "sizes"): "full"}
    expected |= {("routed-shots", "colours"): "base", ("routed-shots", "sizes"): "shots"}
    for (name, task), own in expected.items():
        assert answers(folder, name, task) == answers(folder, own, task)
    assert answers(folder, "of", "colours") != answers(folder, "full", "colours")
    for figure in ("train_s", "tokens_seen", "stored_bytes"):
        assert cost["of"][figure] == pytest.approx(cost["colours"][figure] + cost["full"][figure])
    (loss, _) = result.comparison["matrix"]["late"]
    assert [row["name"] for row in loss["rows"]] == ["before training", "1: sft on sizes", "2: route on colours"]
    assert loss["values"][2][0] < loss["values"][1][0]
    assert loss["values"][2][1] == loss["values"][1][1]
    # The probes belong to no task: the model for all others answers them.
    forgotten = {row["name"]: row.get("forgotten") for row in result.comparison["approaches"]}
    assert not forgotten["routed-shots"]
    assert [row["after"] for row in forgotten["of"]] == [row["after"] for row in forgotten["full"]]
    assert run(study, folder, root=root).comparison == result.comparison


def test_each_task_gets_a_specialist_which_is_trained_once(tiny_model_folder: Path, root: Path) -> None:
    approaches = {
        **SPECIALISTS,
        "each": [{"step": "route", "each": SFT}],
        "merged": [{"step": "merge", "of": ["each"], "method": "task-arithmetic"}],
    }
    result = run(made(tiny_model_folder, approaches), root / "run", root=root)
    folder, cost = root / "run", costs(result)
    for task in TASKS:
        assert answers(folder, "each", task) == answers(folder, task, task)
    parts = step_of(folder, "each")["parts"]
    assert [part["step"] for part in parts] == ["sft for colours", "sft for sizes"]
    assert [part["hash"] for part in parts] == [step_of(folder, task)["hash"] for task in TASKS]
    assert all(part["reused"] for part in parts)
    for figure in ("train_s", "tokens_seen", "stored_bytes"):  # and is paid in full
        assert cost["each"][figure] == pytest.approx(sum(cost[task][figure] for task in TASKS))
    assert record_of(folder, "merged")["facts"]["models"] == ["each, colours", "each, sizes"]
    assert "sft for colours" in write_report(folder).read_text(encoding="utf-8")

    opened = open_run(folder, "each")
    label = predict_rows(opened, [{"text": "whale test 0"}])[0].text
    assert label == answers(folder, "sizes", "sizes")[0]["completion"]
    for task in TASKS:  # what is exported is the task's own model
        done = export(
            open_run(folder, "each", task),
            root / task,
            merge=False,
            card=lambda kind, usage: kind,
            check=4,
            progress=Silent(),
        )
        assert (done.kind, done.checked) == ("adapter", 4)


def test_a_lost_specialist_is_trained_again(tiny_model_folder: Path, root: Path) -> None:
    study = made(tiny_model_folder, {"each": [{"step": "route", "each": {**SFT, "epochs": 0.5}}]})
    run(study, root / "run", root=root)
    lost = root / "run/steps" / step_of(root / "run", "each")["parts"][0]["hash"] / "adapter"
    shutil.rmtree(lost)
    with pytest.raises(RunError, match="is gone, which this approach needs"):
        open_run(root / "run", "each")
    run(study, root / "run", root=root)
    assert lost.is_dir()
    assert [part["reused"] for part in step_of(root / "run", "each")["parts"]] == [False, True]


def test_open_settings_are_tried_on_validation(tiny_model_folder: Path, root: Path) -> None:
    approaches = {
        "each": [{"step": "route", "each": {**SFT, "learning_rate": {"choose": [1e-6, 1e-2]}}}],
        "merged": [
            {"step": "merge", "of": ["each"], "weights": {"choose": [[0, 1], [1, 0]]}, "data": "colours"},
        ],
    }
    result = run(made(tiny_model_folder, approaches), root / "run", root=root)
    tried = {
        name: read_json(root / f"run/approaches/{name}/approach.json")["choices"][0]["tried"] for name in approaches
    }
    assert {name: [one["metric"] for one in own] for name, own in tried.items()} == {
        "each": ["mean"] * 2,
        "merged": ["accuracy"] * 2,
    }
    for name in approaches:
        (taken,) = [one for one in tried[name] if one["taken"]]
        assert taken["score"] == max(one["score"] for one in tried[name])
    validated = {
        row["settings"]["weights"][1]: read_json(file.parent / "validation.json")["metrics"]
        for file in (root / "run/steps").glob("*/step.json")
        if (row := read_json(file))["step"] == "merge" and row["settings"]["data"] == "colours"
    }
    assert validated[0]["loss"] < validated[1]["loss"]  # weight 1 on the specialist, or on the other
    cost = costs(result)
    assert 0 < cost["each"]["search_s"] < cost["each"]["train_s"]
    assert cost["merged"]["search_s"] > cost["each"]["search_s"]  # that of what is merged is paid as well
    assert cost["merged"]["tokens_seen"] == cost["each"]["tokens_seen"]


def test_a_merge_that_was_killed_ends_with_the_same_bits(tiny_model_folder: Path, root: Path) -> None:
    approaches = {**SPECIALISTS, "m": [{"step": "merge", "of": ["colours", "sizes"], "method": "dare-ties"}]}
    study = made(tiny_model_folder, approaches)
    run(study, root / "run", root=root)
    folder = root / "run/steps" / step_of(root / "run", "m")["hash"]
    adapter = folder / "adapter/adapter_model.safetensors"
    whole = adapter.read_bytes()
    (folder / "step.json").unlink()
    adapter.write_bytes(whole[: len(whole) // 2])
    run(study, root / "run", root=root)
    assert adapter.read_bytes() == whole
    assert not step_of(root / "run", "m")["reused"]


def _parameters(study: Study, root: Path) -> int:
    found = survey(study, root).parameters
    assert found is not None
    return found


def test_a_forecast_counts_what_is_done_for_the_tasks_and_the_merging(tiny_model_folder: Path, root: Path) -> None:
    approaches = {
        "one": [SFT],
        "each": [{"step": "route", "each": SFT}],
        "routed": [{"step": "route", "of": {"sizes": "one"}}],
        "full": [FULL],
        "merged": [{"step": "merge", "of": ["one", "each"], "method": "ties"}],
        "merged-full": [{"step": "merge", "of": ["one", "full"], "weights": {"choose": [[0.5, 0.5], [0.1, 0.9]]}}],
    }
    study = made(tiny_model_folder, approaches)
    found = forecast(prepare(study, root))
    seconds = {one.name: one.seconds for one in found.approaches}
    assert seconds["each"] > seconds["one"] > seconds["routed"] > 0
    assert seconds["merged"] > seconds["routed"]
    # Rank 2 on 464 rows and columns of each of the two layers: one such adapter, one for each of two tasks, and as much
    # as these three when they are merged; and three whole models.
    weights, adapter = _parameters(study, root) * 4, 2 * 464 * 2 * 4
    assert found.stored_bytes == 6 * adapter + 3 * weights
    assert found.peak_bytes >= 3 * weights
    shown = training_examples(study, root, 2, "each")
    assert [one.training for one in shown] == [f"1: for {task} on {task}" for task in TASKS for _ in range(2)]


def test_a_forecast_counts_a_common_beginning_once_and_further_seeds(tiny_model_folder: Path, root: Path) -> None:
    shots = {"step": "few-shot", "shots": 1, "by": "spread"}
    alone = forecast(prepare(made(tiny_model_folder, {"one": [SFT]}), root))
    study = made(tiny_model_folder, {"one": [SFT], "more": [SFT, shots], "full": [FULL]})
    found = forecast(prepare(study, root))
    assert (
        found.stored_bytes == alone.stored_bytes + _parameters(study, root) * 4
    )  # the adapter once, and the whole model
    seeded = forecast(prepare(study.model_copy(update={"seeds": 3, "finalists": "all"}), root))
    assert seeded.stored_bytes == 3 * found.stored_bytes
    # each forecast times the model anew, so that seconds of two of them do not compare
    again = [sum(own.again_s for own in every.approaches) for every in (found, seeded)]
    assert again[0] == 0 < again[1]
    finalist = forecast(prepare(study.model_copy(update={"seeds": 3, "finalists": 1}), root))
    assert finalist.stored_bytes == found.stored_bytes + 2 * found.stored_bytes / 3
    (said,) = [note for note in finalist.notes if "trained 3 times" in note]
    assert "each further one takes about" in said
    assert not any("trained" in note for note in found.notes)


@pytest.mark.parametrize(
    ("approaches", "said"),
    [
        ({"m": [{"step": "merge", "of": ["a", "c"]}]}, r"approaches\.m\.0: 'c' is no approach of this study"),
        (
            {"m": [{"step": "merge", "of": ["n", "a"]}], "n": [{"step": "merge", "of": ["m", "a"]}]},
            r"approaches\.\w: '(m|n)' needs '(m|n)' needs '\w'; an approach cannot be made of itself",
        ),
        ({"m": [{"step": "merge", "of": ["a", "m"]}]}, r"approaches\.m: 'm' needs 'm'"),
        ({"m": [{"step": "merge", "of": ["a"]}]}, r"approaches\.m\.0\.of: a is one model; name two or more"),
        ({"m": [{"step": "merge", "of": ["a", "a"]}]}, "of names a twice"),
        ({"m": [{"step": "merge", "of": ["a", "b"], "density": 0.5}]}, "density has no meaning with method: linear"),
        (
            {"m": [{"step": "merge", "of": ["a", "b"], "weights": [1, 2, 3], "method": "ties"}]},
            r"approaches\.m\.0\.weights: 3 are given, and there are 2 models",
        ),
        (
            {"m": [{"step": "merge", "of": ["a", "b"], "weights": {"choose": [[0.5, 0.5], [0.5, 0.6]]}}]},
            r"weights: those of a mean sum to 1, and these to 1\.1; with method: task-arithmetic they are free",
        ),
        (
            {"soft": [{"step": "sft", "adapter": "prompt-tuning"}], "m": [{"step": "merge", "of": ["a", "soft"]}]},
            r"of: 'soft' trains virtual tokens, which are no weights of the model, so it cannot be merged",
        ),
        (
            {"far": {"model": "other", "steps": ["sft"]}, "m": [{"step": "merge", "of": ["a", "far"]}]},
            r"approaches\.m\.0: 'far' begins at another model \(other\) than 'm'",
        ),
        (
            {"m": [{"step": "sft", "epochs": 1}, {"step": "merge", "of": ["a", "b"]}]},
            r"m\.1\.of: 'a' does not begin with the training steps that stand before merge here",
        ),
        ({"m": [{"step": "merge", "of": ["a", "b"], "data": "shapes"}]}, r"m\.0\.data: 'shapes' is no task"),
        ({"r": [{"step": "route"}]}, "give of .* or each .* and not both"),
        ({"r": [{"step": "route", "of": {"sizes": "a"}, "each": {"step": "sft"}}]}, "and not both"),
        ({"r": [{"step": "route", "each": {"step": "sft", "data": "sizes"}}]}, "leave data out of it"),
        ({"r": [{"step": "route", "of": {"sizes": "a"}, "tasks": ["sizes"]}]}, "tasks goes with each"),
        ({"r": [{"step": "route", "of": {"shapes": "a"}}]}, r"approaches\.r\.0\.of: 'shapes' is no task of this study"),
        ({"r": [{"step": "route", "each": "sft", "tasks": ["shapes"]}]}, r"r\.0\.tasks: 'shapes' is no task"),
        ({"r": [{"step": "route", "of": {"sizes": "c"}}]}, r"approaches\.r\.0: 'c' is no approach"),
        ({"r": [{"step": "route", "each": "sft"}, "sft"]}, "behind route stand several models"),
        (
            {"few": ["few-shot", "sft"], "r": [{"step": "route", "of": {"sizes": "few"}}]},
            r"r\.0\.of: 'few' words the target's prompts in steps of its own; put the same steps before route",
        ),
        (
            {"few": ["few-shot", "sft"], "r": [{"step": "route", "of": {"colours": "a"}, "otherwise": "few"}]},
            r"r\.0\.otherwise: 'few' words the target's prompts",
        ),
        ({"r": [{"step": "route", "each": {"step": "sft", "epoch": 1}}]}, r"each\.epoch: unknown key; did you mean"),
        ({"q": ["sft", {"step": "sft", "adapter": "qlora"}]}, r"q\.1\.adapter: qlora \(bits\) begins at a model as it"),
        (
            {"p": [{"step": "sft", "adapter": "prefix-tuning"}, {"step": "sft", "adapter": "prompt-tuning"}]},
            r"p\.1\.adapter: the model has virtual tokens already",
        ),
        (
            {"p": [SOFT, {"step": "route", "each": SOFT}]},
            r"p\.1\.each\.adapter: the model has virtual tokens already",
        ),
        ({"i": ["few-shot", "interpolate"]}, r"i\.1\.step: interpolate goes back from what was trained, and no step"),
        (
            {"i": [{"step": "sft", "adapter": "prompt-tuning"}, "interpolate"]},
            r"i\.1\.step: step 1 of the approach trains virtual tokens, .* so interpolate finds no way back from it",
        ),
    ],
)
def test_what_cannot_be_is_named(approaches: dict[str, Any], said: str, tiny_model_folder: Path) -> None:
    with pytest.raises(StudyError, match=said):
        chained(tiny_model_folder, approaches={"a": [SFT], "b": [SFT], **approaches})


def test_a_resolved_study_says_on_which_tasks(tiny_model_folder: Path) -> None:
    study = chained(tiny_model_folder, approaches={"r": [{"step": "route", "each": "sft"}]})
    step = json.loads(study.model_dump_json())["approaches"]["r"]["steps"][0]
    assert step["tasks"] == list(WORDS)
    assert type(study).model_validate(study.model_dump(mode="json")) == study
    assert set(study.learned_tasks) == set(WORDS)
