"""The main path, from a study to a finished run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_study, write_rows

from luthier.errors import DataError, RunError, StudyError
from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.folder import RunFolder, read_json, read_jsonl, write_json

COSTS = {
    "completion_tokens",
    "train_s",
    "search_s",
    "tokens_seen",
    "tokens_per_s",
    "peak_bytes",
    "trainable_parameters",
    "trainable_share",
    "stored_bytes",
    "prompt_tokens",
    "passage_tokens",
    "window_share",
    "latency_p50_s",
    "latency_p95_s",
    "throughput_per_s",
    "seconds_per_request",
}


class Interrupting:
    """Listens, and interrupts when a piece of work of this name begins."""

    def __init__(self, at: str) -> None:
        self.at = at

    def track(self, description: str, total: int):  # type: ignore[no-untyped-def]
        from luthier.progress import Silent

        if self.at in description:
            raise KeyboardInterrupt
        return Silent().track(description, total)

    def say(self, text: str) -> None:
        if self.at in text:
            raise KeyboardInterrupt


def written(folder: Path, pattern: str) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob(pattern)}


def means(comparison: dict) -> dict[str, float]:  # type: ignore[type-arg]
    return {row["name"]: row["mean"] for row in comparison["approaches"]}


def test_a_run_leaves_everything_that_the_run_folder_promises(root: Path, tiny_model_folder: Path) -> None:
    result = run(tiny_study(tiny_model_folder, forgetting={"probe": True}), root / "run", root=root)
    folder = RunFolder(root / "run")
    comparison = read_json(folder.comparison)
    assert comparison == dict(result.comparison)
    assert {row["name"] for row in comparison["approaches"]} == {"zero-shot", "few-shot", "lora", "full"}
    for row in comparison["approaches"]:
        assert row["n"] == 24
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
        assert set(row["cost"]) == COSTS
        assert ("forgotten" in row) == (row["name"] in ("lora", "full"))
        predictions = read_jsonl(folder.approach(row["name"]) / "predictions.jsonl")
        assert len(predictions) == 24
        assert row["mean"] == pytest.approx(sum(p["scores"]["accuracy"] for p in predictions) / 24)
    assert len(comparison["pairs"]) == 6
    assert comparison["split"] == "test"
    assert comparison["verdict"]
    about = read_json(folder.run)
    assert about["tasks"]["task"]["train"] == 30
    assert about["test_openings"] == 1
    assert read_json(folder.data)["task"]["tokens"]["train"]["max"] > 0
    assert write_report(folder.path).is_file()
    assert list(result.frame().index) == [row["name"] for row in comparison["approaches"]]


def test_training_costs_are_measured_and_untrained_approaches_have_none(root: Path, tiny_model_folder: Path) -> None:
    result = run(tiny_study(tiny_model_folder), root / "run", root=root)
    cost = {row["name"]: row["cost"] for row in result.comparison["approaches"]}
    assert cost["zero-shot"]["train_s"] == 0
    assert cost["zero-shot"]["trainable_parameters"] == 0
    assert cost["few-shot"]["search_s"] > 0
    assert cost["lora"]["train_s"] > 0
    assert 0 < cost["lora"]["trainable_share"] < cost["full"]["trainable_share"] == 1
    assert cost["few-shot"]["prompt_tokens"] > cost["zero-shot"]["prompt_tokens"] == cost["lora"]["prompt_tokens"]
    assert cost["full"]["stored_bytes"] > cost["lora"]["stored_bytes"] > 0


def test_the_same_study_again_computes_nothing(root: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder)
    first = run(study, root / "run", root=root)
    before = written(root / "run", "**/*.json*") | written(root / "run", "**/*.safetensors")
    second = run(study, root / "run", root=root)
    after = written(root / "run", "**/*.json*") | written(root / "run", "**/*.safetensors")
    rewritten = {name for name in before if before[name] != after[name]}
    assert not {name for name in rewritten if name.startswith("steps/") or "predictions" in name}
    assert dict(first.comparison) == dict(second.comparison)
    assert len(read_jsonl(root / "run" / "ledger.jsonl")) == 1


def test_an_edit_computes_only_what_it_changes(root: Path, tiny_model_folder: Path) -> None:
    run(tiny_study(tiny_model_folder), root / "run", root=root)
    before = written(root / "run", "approaches/*/predictions.jsonl")
    approaches = {
        "zero-shot": [],
        "few-shot": [{"step": "few-shot", "shots": {"choose": [1, 2]}, "by": "bm25"}],
        "lora": [{"step": "sft", "adapter": {"rank": 4, "dropout": 0.1}, "epochs": 1, "evaluations": 2}],
    }
    run(tiny_study(tiny_model_folder, approaches=approaches), root / "run", root=root)
    after = written(root / "run", "approaches/*/predictions.jsonl")
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"approaches/lora/predictions.jsonl"}


@pytest.mark.parametrize("at", ["few-shot: trying", "training", "full: answering", "lora: latency"])
def test_an_interrupted_run_goes_on_and_ends_alike(root: Path, tiny_model_folder: Path, at: str) -> None:
    study = tiny_study(tiny_model_folder)
    whole = run(study, root / "whole", root=root)
    with pytest.raises(KeyboardInterrupt):
        run(study, root / "cut", root=root, progress=Interrupting(at))
    resumed = run(study, root / "cut", root=root)
    assert means(resumed.comparison) == means(whole.comparison)
    for name in ("zero-shot", "few-shot", "lora", "full"):
        rows = [read_jsonl(root / kind / "approaches" / name / "predictions.jsonl") for kind in ("whole", "cut")]
        assert [row["label_logprobs"] for row in rows[0]] == [row["label_logprobs"] for row in rows[1]]


def test_two_approaches_that_begin_alike_share_their_steps(root: Path, tiny_model_folder: Path) -> None:
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
    approaches = {"a": [sft], "b": [sft, {"step": "few-shot", "shots": 1, "by": "spread"}]}
    run(tiny_study(tiny_model_folder, approaches=approaches), root / "run", root=root)
    kinds = [read_json(p)["step"] for p in (root / "run").glob("steps/*/step.json")]
    assert sorted(kinds) == ["few-shot", "sft"]
    steps = read_json(root / "run" / "approaches" / "b" / "approach.json")["steps"]
    assert [step["reused"] for step in steps] == [True, False]


def test_validation_only_leaves_the_test_closed(root: Path, tiny_model_folder: Path) -> None:
    result = run(
        tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root, validation_only=True
    )
    assert not (root / "run" / "ledger.jsonl").exists()
    assert result.comparison["split"] == "validation"
    assert result.comparison["approaches"][0]["n"] == 6


def test_each_opening_of_the_test_is_entered_and_shown(root: Path, tiny_model_folder: Path) -> None:
    run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    shots = [{"step": "few-shot", "shots": 1}]
    run(tiny_study(tiny_model_folder, approaches={"zero-shot": [], "one": shots}), root / "run", root=root)
    assert [row["approaches"] for row in read_jsonl(root / "run" / "ledger.jsonl")] == [["zero-shot"], ["one"]]
    assert read_json(root / "run" / "run.json")["test_openings"] == 2


def test_settings_tried_are_recorded_with_what_was_taken(root: Path, tiny_model_folder: Path) -> None:
    run(tiny_study(tiny_model_folder), root / "run", root=root)
    (choice,) = read_json(root / "run" / "approaches" / "few-shot" / "approach.json")["choices"]
    assert [tried["settings"]["shots"] for tried in choice["tried"]] == [1, 2]
    taken = [tried for tried in choice["tried"] if tried["taken"]]
    assert len(taken) == 1
    assert taken[0]["score"] == max(tried["score"] for tried in choice["tried"])


def test_a_folder_in_use_is_refused(root: Path, tiny_model_folder: Path) -> None:
    with RunFolder(root / "run").locked(), pytest.raises(RunError, match="in use"):
        run(tiny_study(tiny_model_folder), root / "run", root=root)


def test_a_full_disk_is_noticed_before_training(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.runner.apply.free_bytes", lambda folder: 1000)
    with pytest.raises(RunError, match="MB free"):
        run(tiny_study(tiny_model_folder), root / "run", root=root)


def test_a_damaged_file_is_named_with_the_remedy(root: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder, approaches={"lora": [{"step": "sft", "adapter": {"rank": 2}, "epochs": 1}]})
    run(study, root / "run", root=root)
    (record,) = (root / "run").glob("steps/*/step.json")
    record.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        run(study, root / "run", root=root)
    record.unlink()
    run(study, root / "run", root=root)


def test_a_test_split_of_three_runs_with_a_warning(root: Path, tiny_model_folder: Path) -> None:
    write_rows(root / "test.csv", 1, seed=3)
    result = run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    assert result.comparison["approaches"][0]["n"] == 3
    assert any("only 3 examples" in warning for warning in read_json(root / "run" / "run.json")["warnings"])


def test_one_label_only_stops_before_any_model_loads(root: Path) -> None:
    (root / "train.csv").write_text("text,kind\n" + "".join(f"apple {i},fruit\n" for i in range(30)))
    (root / "test.csv").write_text("text,kind\n" + "".join(f"pear {i},fruit\n" for i in range(30)))
    with pytest.raises(DataError, match="one label"):
        run(tiny_study(Path("no-such-model")), root / "run", root=root)


def test_steps_that_do_not_fit_the_task_are_named_before_any_model_loads(root: Path) -> None:
    approaches = {
        "few-shot": [{"step": "few-shot", "shots": 99}],
        "worded": [{"step": "prompt", "template": "{{ x }}"}],
    }
    with pytest.raises(StudyError, match=r"(?s)approaches\.few-shot: 99 shots.*approaches\.worded"):
        run(tiny_study(Path("no-such-model"), approaches=approaches), root / "run", root=root)


def test_a_prompt_longer_than_the_window_stops_the_run(root: Path, tiny_model_folder: Path) -> None:
    with open(root / "train.csv", "a", encoding="utf-8") as handle:
        handle.write("apple " * 20_000 + ",fruit\n")
    with pytest.raises(DataError, match="window"):
        run(tiny_study(tiny_model_folder), root / "run", root=root)


def test_several_tasks_are_scored_and_the_target_decides(root: Path, tiny_model_folder: Path) -> None:
    task = tiny_study(tiny_model_folder).tasks["task"].model_dump(exclude_unset=True)
    study = tiny_study(tiny_model_folder, approaches={"zero-shot": []}).model_copy(update={"tasks": {}, "target": None})
    assert study.tasks == {}
    settings = study.model_dump(exclude={"tasks", "target"}, exclude_unset=True)
    from luthier.study import build_study

    both = build_study(**settings, tasks={"first": task, "second": {**task, "metric": "accuracy"}}, target="second")
    result = run(both, root / "run", root=root)
    assert result.comparison["target"] == "second"
    assert set(result.comparison["approaches"][0]["scores"]) == {"first", "second"}


def test_the_resolved_study_is_kept(root: Path, tiny_model_folder: Path) -> None:
    run(
        tiny_study(tiny_model_folder, approaches={"zero-shot": []}),
        root / "run",
        root=root,
        study_text="# mine\nmodel: x\n",
    )
    assert (root / "run" / "study.yaml").read_text() == "# mine\nmodel: x\n"
    assert json.loads((root / "run" / "study.json").read_text())["margin"] == 0.02


def test_a_resumed_training_logs_every_step_once(root: Path, tiny_model_folder: Path) -> None:
    lora = [{"step": "sft", "adapter": {"rank": 2}, "epochs": 2, "evaluations": 4}]
    study = tiny_study(tiny_model_folder, approaches={"lora": lora})
    steps = iter(range(100))

    def cut(*_: object, **__: object) -> float:
        if next(steps) == 5:
            raise KeyboardInterrupt
        return float("inf")

    import torch

    original = torch.nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: (cut(), original(*a, **k))[1])
        with pytest.raises(KeyboardInterrupt):
            run(study, root / "run", root=root)
    run(study, root / "run", root=root)
    (file,) = (root / "run").glob("steps/*/metrics.jsonl")
    trained = [row["step"] for row in read_jsonl(file) if "train/loss" in row]
    assert trained == list(range(1, 9))


def test_a_finished_training_leaves_no_checkpoint(root: Path, tiny_model_folder: Path) -> None:
    lora = [{"step": "sft", "adapter": {"rank": 2}, "epochs": 1}]
    run(tiny_study(tiny_model_folder, approaches={"lora": lora}), root / "run", root=root)
    assert not list((root / "run").glob("steps/*/*checkpoint*"))


def test_a_training_killed_before_it_was_recorded_is_not_repeated(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tiny_model_folder, approaches={"lora": [{"step": "sft", "adapter": {"rank": 2}, "epochs": 1}]})
    with monkeypatch.context() as patch:
        patch.setattr("luthier.runner.apply.curves", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(study, root / "run", root=root)
    (metrics,) = (root / "run").glob("steps/*/metrics.jsonl")
    before = read_jsonl(metrics)
    run(study, root / "run", root=root)
    assert read_jsonl(metrics) == before


def test_what_was_deleted_is_computed_again(root: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder, approaches={"lora": [{"step": "sft", "adapter": {"rank": 2}, "epochs": 1}]})
    first = run(study, root / "run", root=root)
    (adapter,) = (root / "run").glob("steps/*/adapter")
    shutil.rmtree(adapter)
    (root / "run" / "approaches" / "lora" / "predictions.jsonl").unlink()
    second = run(study, root / "run", root=root)
    assert adapter.is_dir()
    assert means(first.comparison) == means(second.comparison)


def test_a_model_that_moved_and_a_file_that_was_renamed_change_nothing(root: Path, tiny_model_folder: Path) -> None:
    approaches = {
        "few-shot": [{"step": "few-shot", "shots": 1}],
        "lora": [{"step": "sft", "adapter": {"rank": 2}, "epochs": 1}],
    }
    shutil.copytree(tiny_model_folder, root / "here")
    run(tiny_study(root / "here", approaches=approaches), root / "run", root=root)
    before = written(root / "run", "steps/*/step.json")
    (root / "here").rename(root / "there")
    (root / "test.csv").rename(root / "new.csv")
    task = tiny_study(tiny_model_folder).tasks["task"].model_dump(exclude_unset=True)
    task["data"]["test"] = "new.csv"
    run(tiny_study(root / "there", approaches=approaches, task=task), root / "run", root=root)
    assert written(root / "run", "steps/*/step.json") == before
    assert read_json(root / "run" / "run.json")["test_openings"] == 1
    from luthier.runner.open import open_run
    from luthier.runner.predict import predict_rows

    assert predict_rows(open_run(root / "run", "lora"), [{"text": "apple"}])


def test_an_interrupted_edit_leaves_no_verdict_of_the_study_as_it_was(root: Path, tiny_model_folder: Path) -> None:
    run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    changed = tiny_study(tiny_model_folder, approaches={"one": [{"step": "few-shot", "shots": 1}]})
    with pytest.raises(KeyboardInterrupt):
        run(changed, root / "run", root=root, progress=Interrupting("one: answering"))
    assert not (root / "run" / "comparison.json").exists()


def test_answers_with_odd_line_ends_are_read_back(root: Path, tiny_model_folder: Path) -> None:
    with open(root / "test.csv", "a", encoding="utf-8") as handle:
        handle.write("apple\u2028and\u2029pear\u0085 0,fruit\n")
    result = run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    assert result.comparison["approaches"][0]["n"] == 25


def test_a_row_cut_off_while_it_was_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]
    (tmp_path / "b.jsonl").write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(RunError, match=r"b\.jsonl:1 is damaged"):
        read_jsonl(tmp_path / "b.jsonl")


def test_the_same_study_again_adds_up_its_time(root: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder, approaches={"zero-shot": []})
    run(study, root / "run", root=root)
    first = read_json(root / "run" / "run.json")["seconds"]
    run(study, root / "run", root=root)
    assert read_json(root / "run" / "run.json")["seconds"] > first


def test_shots_that_do_not_fit_are_counted_in_a_warning(root: Path, tiny_model_folder: Path) -> None:
    folder = root / "narrow"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    run(
        tiny_study(folder, approaches={"few-shot": [{"step": "few-shot", "shots": 5}]}),
        root / "run",
        root=root,
    )
    assert any("few-shot: shots that did not fit" in w for w in read_json(root / "run" / "run.json")["warnings"])


def test_another_metric_scores_the_same_answers_and_opens_nothing(root: Path, tiny_model_folder: Path) -> None:
    task = tiny_study(tiny_model_folder).tasks["task"].model_dump(exclude_unset=True)
    (root / "mine.py").write_text("def short(completion, references, fields):\n    return len(completion) > 3\n")
    run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    before = read_jsonl(root / "run" / "approaches" / "zero-shot" / "predictions.jsonl")
    more = {**task, "metrics": ["accuracy", "chrf", "loss", "mine.py:short"]}
    study = tiny_study(tiny_model_folder, approaches={"zero-shot": []}, task=more)
    result = run(study, root / "run", root=root, allow_code=True)
    scores = {score["metric"]: score for score in result.comparison["approaches"][0]["scores"]["task"]}
    assert list(scores) == ["accuracy", "chrf", "loss", "mine.py:short"]
    after = read_jsonl(root / "run" / "approaches" / "zero-shot" / "predictions.jsonl")
    assert [row["label_logprobs"] for row in after] == [row["label_logprobs"] for row in before]
    assert len(read_jsonl(root / "run" / "ledger.jsonl")) == 1
    # an edit of the metric scores again
    (root / "mine.py").write_text("def short(completion, references, fields):\n    return False\n")
    again = run(study, root / "run", root=root, allow_code=True)
    assert again.comparison["approaches"][0]["scores"]["task"][3]["mean"] == 0
    assert scores["mine.py:short"]["mean"] > 0


def test_more_latency_requests_measure_the_latency_alone(root: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder, approaches={"zero-shot": []})
    run(study, root / "run", root=root)
    before = written(root / "run", "approaches/*/predictions.jsonl")
    run(study.model_copy(update={"latency_requests": 5}), root / "run", root=root)
    assert written(root / "run", "approaches/*/predictions.jsonl") == before
    assert len(read_json(root / "run" / "approaches" / "zero-shot" / "measured.json")["latencies"]) == 5


def test_a_run_beside_other_work_says_whose_times_it_touches(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.busy.OtherWork.cores", 0.9)
    run(tiny_study(tiny_model_folder, approaches={"zero-shot": []}), root / "run", root=root)
    (said,) = [own for own in read_json(root / "run" / "run.json")["warnings"] if "other programs" in own]
    assert "about 0.9 of" in said
    assert "answering for zero-shot" in said


def test_the_cost_of_a_request_is_counted_and_no_timing_of_one_approach_moves_it(
    root: Path, tiny_model_folder: Path
) -> None:
    """As if the machine had been busy while one of them answered, and while its speed was taken."""
    study = tiny_study(tiny_model_folder)
    first = run(study, root / "run", root=root).comparison
    cost = {row["name"]: row["cost"] for row in first["approaches"]}
    assert cost["zero-shot"]["seconds_per_request"] > 0
    work = {
        name: read_json(RunFolder(root / "run").approach(name) / "measured.json")["work"]
        for name in ("zero-shot", "few-shot", "lora", "full")
    }
    counts = [{key: own[key] for key in own if key != "beside_s"} for own in work.values()]
    assert counts[0] == counts[2] == counts[3]
    assert counts[1]["tokens"] > counts[0]["tokens"] > 0 < counts[0]["predicted"]
    file = RunFolder(root / "run").approach("lora") / "measured.json"
    busy = read_json(file)
    busy["seconds"] *= 50
    busy["speed"] = {name: own * 1000 if name.endswith("_s") else own for name, own in busy["speed"].items()}
    write_json(file, busy)
    again = {row["name"]: row["cost"] for row in run(study, root / "run", root=root).comparison["approaches"]}
    assert again["lora"]["throughput_per_s"] < cost["lora"]["throughput_per_s"]
    # The median of four speeds may move to a neighbour, and it moves all of them alike.
    assert again["lora"]["seconds_per_request"] < 10 * cost["lora"]["seconds_per_request"]
    ratios = [own["few-shot"]["seconds_per_request"] / own["lora"]["seconds_per_request"] for own in (cost, again)]
    assert 0.5 < ratios[1] / ratios[0] < 2
