"""Approaches that learn one task after another."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_study

from luthier.data.split import subsample
from luthier.errors import RunError, StudyError
from luthier.evaluate import forgetting
from luthier.infer.engine import Engine
from luthier.report.comparing import forgotten_by
from luthier.report.html import write_report
from luthier.runner.estimate import forecast
from luthier.runner.folder import read_json
from luthier.runner.main import run
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows
from luthier.runner.prepare import prepare
from luthier.runner.show import token_tree, training_examples
from luthier.runner.survey import survey
from luthier.study import Study, build_study
from luthier.types import PromptedModel

WORDS = {
    "colours": {"red": "cherry", "green": "leaf"},
    "sounds": {"moo": "cow", "woof": "dog"},
    "sizes": {"big": "whale", "small": "mouse"},
}


def write_tasks(root: Path) -> None:
    for task, words in WORDS.items():
        for split, rows in (("train", 8), ("test", 6)):
            with open(root / f"{task}-{split}.csv", "w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle)
                writer.writerow(["text", "answer"])
                writer.writerows(
                    (f"{thing} {split} {n}", answer) for n in range(rows // 2) for answer, thing in words.items()
                )


def chained(model: Path, **changes: Any) -> Study:
    tasks = {
        task: {
            "data": {"train": f"{task}-train.csv", "test": f"{task}-test.csv"},
            "split": {"validation": 2},
            "prompt": "{{ text }}",
            "completion": "{{ answer }}",
            "labels": "auto",
            "answer": "choose",
        }
        for task in WORDS
    }
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 2, "batch_size": 4, "evaluations": 1}
    approaches = {
        "base": [],
        "direct": [sft],
        "chain": [{**sft, "data": "colours"}, {**sft, "data": "sounds"}, sft],
        "prefix-of-chain": [{**sft, "data": "colours"}, {**sft, "adapter": "none"}],
    }
    settings = tiny_study(model).model_dump(exclude_unset=True)
    settings |= {"tasks": tasks, "target": "sizes", "approaches": approaches, "stage_answers": 4}
    return build_study(**{**settings, **changes})


def test_every_stage_is_scored_on_every_task(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, pairs = forgetting.general_text()[:4], forgetting.minimal_pairs()[:4]
    monkeypatch.setattr(forgetting, "general_text", lambda: texts)
    monkeypatch.setattr(forgetting, "minimal_pairs", lambda: pairs)
    write_tasks(tmp_path)
    study = chained(tiny_model_folder, forgetting={"probe": True})
    result = run(study, tmp_path / "run", root=tmp_path)
    assert set(result.comparison["matrix"]) == {"chain", "prefix-of-chain"}
    loss, answers = result.comparison["matrix"]["chain"]
    assert [row["learned"] for row in loss["rows"]] == [[], ["colours"], ["sounds"], ["sizes"]]
    assert [column["task"] for column in loss["columns"]] == ["colours", "sounds", "sizes"]
    assert (loss["measure"], loss["n"], answers["measure"], answers["n"]) == ("loss", [6] * 3, "answers", [4] * 3)
    for stage, task in enumerate(range(3), start=1):  # each stage learned its own task
        assert loss["values"][stage][task] < loss["values"][stage - 1][task]
    for figure in ("average", "backward_transfer", "forward_transfer"):
        assert loss[figure]["low"] <= loss[figure]["value"] <= loss[figure]["high"]
    # The last row is the approach itself: its own losses and answers.
    rows = [json.loads(line) for line in (tmp_path / "run/approaches/chain/predictions.jsonl").read_text().splitlines()]
    examples = [SimpleNamespace(**row) for row in rows if row["task"] == "sounds"]
    drawn = subsample(examples, 4, study.seed, "stages")
    assert sorted(own.label for own in drawn) == ["moo", "moo", "woof", "woof"]
    assert answers["values"][3][1] == sum(own.scores["accuracy"] for own in drawn) / 4
    # Both chains begin with the same step, which was done once; the target's task was not.
    chains = [
        json.loads((tmp_path / f"run/approaches/{n}/approach.json").read_text()) for n in result.comparison["matrix"]
    ]
    assert chains[0]["steps"][0]["hash"] == chains[1]["steps"][0]["hash"]
    assert chains[1]["steps"][0]["reused"]

    # What became of the other tasks: since the step that learned them, or since the base, as the matrix has it.
    rows = {row["name"]: row for row in result.comparison["approaches"]}
    chain, direct = ({own["probe"]: own for own in rows[name]["other_tasks"]} for name in ("chain", "direct"))
    assert set(chain) == set(direct) == {"colours", "sounds"}
    for stage, task in enumerate(("colours", "sounds")):
        assert chain[task]["since"] == "sft on it"
        assert direct[task]["since"] == "the base model"
        assert chain[task]["before"] == pytest.approx(loss["values"][stage + 1][stage], abs=1e-4)
        assert chain[task]["after"] == pytest.approx(loss["values"][3][stage], abs=1e-4)
        assert direct[task]["before"] == pytest.approx(loss["values"][0][stage], abs=1e-4)
        assert chain[task]["low"] <= chain[task]["difference"] <= chain[task]["high"]
    assert "other_tasks" not in rows["base"]
    assert rows["prefix-of-chain"]["cost"]["trainable_share"] == 1.0

    again = run(study, tmp_path / "run", root=tmp_path)
    assert again.comparison["matrix"] == result.comparison["matrix"]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Stage after stage" in page
    assert "The other tasks" in page
    assert "Backward transfer" in page
    assert page.count("Another task of the study beside the target") == 2
    assert "colours: accuracy (worse to the left)" in page
    # What its own earlier steps had learned counts among what the chain forgot, what it never learned does not.
    assert [own["probe"] for own in forgotten_by(rows["chain"])][-2:] == ["colours", "sounds"]
    general = {"general_text", "minimal_pairs", "truthful_answers"}
    assert {own["probe"] for own in forgotten_by(rows["direct"])} == general


def test_stages_answer_also_where_the_loss_decides_and_none_answers_twice(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(tmp_path)
    open_ended = {"labels": None, "answer": "generate", "max_new_tokens": 4, "metrics": ["loss", "token_f1"]}
    settings = chained(tiny_model_folder).model_dump(exclude_unset=True)
    del settings["approaches"]["prefix-of-chain"]
    study = build_study(
        **settings | {"tasks": {name: {**own, **open_ended} for name, own in settings["tasks"].items()}}
    )
    asked: list[int] = []
    answer = Engine.answer

    def counted(engine: Engine, predictor: PromptedModel, prompts: Any, *given: Any, **more: Any) -> Any:
        asked.append(len(prompts))
        return answer(engine, predictor, prompts, *given, **more)

    monkeypatch.setattr(Engine, "answer", counted)
    loss, answers = run(study, tmp_path / "run", root=tmp_path).comparison["matrix"]["chain"]
    assert {column["metric"] for column in loss["columns"]} == {"loss"}
    assert {column["metric"] for column in answers["columns"]} == {"token_f1"}
    # Before training it is `base`, after the last step the chain itself, whose answers are there.
    assert asked.count(4) == 2 * len(WORDS)


def test_a_step_learns_what_its_task_says(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
    approaches = {"a": [{**sft, "data": "colours"}], "b": [sft], "c": [{**sft, "data": "sizes"}]}
    result = run(chained(tiny_model_folder, approaches=approaches), tmp_path / "run", root=tmp_path)
    assert result.comparison["matrix"] == {}
    steps = {
        name: json.loads((tmp_path / f"run/approaches/{name}/approach.json").read_text())["steps"][0]["hash"]
        for name in approaches
    }
    assert steps["a"] != steps["b"]
    tokens = {name: json.loads((tmp_path / f"run/steps/{key}/step.json").read_text()) for name, key in steps.items()}
    assert tokens["b"]["facts"]["tokens"] == tokens["c"]["facts"]["tokens"]


def test_another_task_s_data_change_only_what_learned_from_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
    study = chained(tiny_model_folder, approaches={"chain": [{**sft, "data": "colours"}, sft], "direct": [sft]})
    run(study, tmp_path / "run", root=tmp_path)
    with open(tmp_path / "colours-train.csv", "a", encoding="utf-8") as handle:
        handle.write("poppy train 9,red\n")
    run(study, tmp_path / "run", root=tmp_path)
    reused = {
        name: [
            step["reused"]
            for step in json.loads((tmp_path / f"run/approaches/{name}/approach.json").read_text())["steps"]
        ]
        for name in study.approaches
    }
    assert reused == {"chain": [False, False], "direct": [True]}


def test_a_further_metric_asks_the_stages_for_answers(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    settings = chained(tiny_model_folder).model_dump(exclude_unset=True)
    settings["approaches"] = {"chain": settings["approaches"]["chain"]}
    open_ended = {"labels": None, "answer": "generate", "max_new_tokens": 4}
    for metrics, matrices in ((["loss"], 1), (["loss", "token_f1"], 2)):
        tasks = {name: {**own, **open_ended, "metrics": metrics} for name, own in settings["tasks"].items()}
        result = run(build_study(**settings | {"tasks": tasks}), tmp_path / "run", root=tmp_path)
        assert len(result.comparison["matrix"]["chain"]) == matrices


def test_the_target_by_its_name_and_a_longer_curve_are_the_same_training(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
    approaches = {"a": [{**sft, "learning_curve": [2]}], "b": [{**sft, "data": "sizes", "learning_curve": [2, 4]}]}
    run(chained(tiny_model_folder, approaches=approaches), tmp_path / "run", root=tmp_path)
    steps = [json.loads((tmp_path / f"run/approaches/{n}/approach.json").read_text())["steps"][0] for n in "ab"]
    assert steps[0]["hash"] == steps[1]["hash"]
    folder = tmp_path / "run/steps" / steps[0]["hash"]
    assert {file.name for file in (folder / "curve").iterdir()} == {"0", "2", "4"}
    curve = json.loads((folder / "results/learning-curve.json").read_text())
    assert curve["x"] == [0, 2, 4, 6]


def test_steps_do_not_choose_by_a_mean_that_says_nothing(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    settings = chained(tiny_model_folder).model_dump(exclude_unset=True)
    settings["tasks"]["sounds"] = {**settings["tasks"]["sounds"], "metrics": ["loss"]}
    settings["approaches"] = {"both": [{"step": "sft", "data": {"tasks": ["colours", "sounds"]}}]}
    with pytest.raises(StudyError, match=r"approaches\.both: sft would keep .* \(colours: accuracy, sounds: loss\)"):
        prepare(build_study(**settings), tmp_path)


def test_an_unknown_task_is_named(tiny_model_folder: Path) -> None:
    with pytest.raises(
        StudyError, match=r"approaches\.a\.0\.data: 'colors' is no task of this study \(there are: colo"
    ):
        chained(tiny_model_folder, approaches={"a": [{"step": "sft", "data": "colors"}]})


def test_a_forecast_counts_all_tasks(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    found = forecast(prepare(chained(tiny_model_folder), tmp_path))
    seconds = {one.name: one.seconds for one in found.approaches}
    assert seconds["chain"] > seconds["direct"] > seconds["base"] > 0


def test_test_prompts_that_another_task_trains_on_are_counted(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    with open(tmp_path / "colours-train.csv", "a", encoding="utf-8") as handle:
        handle.write("Whale  TEST 0,red\nmouse test 1,green\n")
    said = [w for w in survey(chained(tiny_model_folder), tmp_path).warnings if "which an approach learns from" in w]
    assert said == [
        "sizes: 2 of 6 test prompts stand in the training or validation split of 'colours', which an approach learns "
        "from; its scores on sizes are too good by them"
    ]
    alone = chained(tiny_model_folder, approaches={"direct": [{"step": "sft"}]})
    assert not [w for w in survey(alone, tmp_path).warnings if "which an approach learns from" in w]


def test_a_mixture_and_then_the_target(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    mixed = {"step": "sft", "data": {"tasks": ["colours", "sounds", "sizes"], "by": "temperature"}, "epochs": 1}
    approaches = {
        "multi": [mixed],
        "then": [mixed, {"step": "sft", "epochs": 1, "learning_rate": {"choose": [1e-3, 1e-4]}}],
    }
    study = chained(tiny_model_folder, approaches=approaches)
    assert token_tree(study, tmp_path).sequences == 8
    result = run(study, tmp_path / "run", root=tmp_path)
    loss, _ = result.comparison["matrix"]["then"]
    assert [row["name"] for row in loss["rows"]] == [
        "before training",
        "1: sft on colours + sounds + sizes",
        "2: sft on sizes",
    ]
    assert loss["backward_transfer"]["tasks"] == 2
    assert loss["forward_transfer"] is None
    assert {task for row in result.comparison["approaches"] for task in row["scores"]} == set(WORDS)


def test_weights_of_a_mixture_are_chosen_on_validation(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    weights = [{"sizes": 1, "colours": 9}, {"sizes": 1, "colours": 1}, {"sizes": 9, "colours": 1}]
    data = {"tasks": ["sizes", "colours"], "by": "weights", "weights": {"choose": weights}, "examples": 20}
    sft = {"step": "sft", "adapter": {"rank": 2}, "data": data, "epochs": 2, "batch_size": 4, "evaluations": 1}
    settings = chained(tiny_model_folder, approaches={"mixed": [{**sft, "learning_rate": 1e-2}]}).model_dump(
        exclude_unset=True
    )
    tasks = {name: {**own, "metrics": ["loss"]} for name, own in settings["tasks"].items()}
    study = build_study(**settings | {"tasks": tasks, "stage_answers": 0})
    result = run(study, tmp_path / "run", root=tmp_path)
    (choice,) = read_json(tmp_path / "run" / "approaches" / "mixed" / "approach.json")["choices"]
    assert [one["settings"]["data"]["weights"] for one in choice["tried"]] == weights
    taken = [one for one in choice["tried"] if one["taken"]]
    assert len(taken) == 1
    scores = [one["score"] for one in choice["tried"]]
    assert len(set(scores)) == 3  # they learned from different mixtures
    assert taken[0]["score"] == max(scores)  # losses are negative in a mean over tasks
    (row,) = result.comparison["approaches"]
    assert row["cost"]["search_s"] > 0


def test_going_back_a_part_of_the_way(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pairs = forgetting.general_text()[:4], forgetting.minimal_pairs()[:4]
    monkeypatch.setattr(forgetting, "general_text", lambda: texts)
    monkeypatch.setattr(forgetting, "minimal_pairs", lambda: pairs)
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 2, "batch_size": 4, "evaluations": 1}
    approaches = {"all": [sft], "back": [sft, {"step": "interpolate", "at": 0.5}]}
    study = chained(tiny_model_folder, approaches=approaches)
    longer = {"step": "interpolate", "at": 0.5, "points": [n / 40 for n in range(41)]}
    with_longer = chained(tiny_model_folder, approaches=approaches | {"longer": [sft, longer]})
    foreseen = forecast(prepare(with_longer, tmp_path))
    seconds = {one.name: one.seconds for one in foreseen.approaches}
    assert set(seconds) == {"all", "back", "longer"}
    assert seconds["longer"] > seconds["back"]
    result = run(study, tmp_path / "run", root=tmp_path)
    loss, _ = result.comparison["matrix"]["back"]
    assert [(row["name"], row["learned"]) for row in loss["rows"]] == [
        ("before training", []),
        ("1: sft on sizes", ["sizes"]),
        ("2: interpolate", []),
    ]
    before, after, back = (row[2] for row in loss["values"])
    assert after < back < before
    cost = {row["name"]: row["cost"] for row in result.comparison["approaches"]}
    assert cost["back"]["train_s"] > cost["all"]["train_s"]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Gain against forgetting on general text, from the model before training (0) to the trained one (1)" in page


def test_a_verdict_on_the_mean_over_several_tasks(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 3, "batch_size": 4, "evaluations": 1}
    approaches = {
        "zero-shot": [],
        "few-shot": [{"step": "few-shot", "shots": {"choose": [1, 2]}, "by": "random"}],
        "all": [sft],
        "mixture": [{**sft, "data": {"tasks": ["colours", "sounds"], "by": "equal", "examples": 8}}],
    }
    study = chained(tiny_model_folder, approaches=approaches, target=["sounds", "sizes"])
    assert {one.name for one in forecast(prepare(study, tmp_path)).approaches} == set(approaches)
    assert token_tree(study, tmp_path, "zero-shot").sequences == 2
    result = run(study, tmp_path / "run", root=tmp_path)
    comparison = result.comparison
    assert (comparison["targets"], comparison["metric"], comparison["n"]) == (["sounds", "sizes"], "mean", 12)
    for row in comparison["approaches"]:
        own = [row["scores"][task][0]["mean"] for task in ("sounds", "sizes")]
        assert row["mean"] == pytest.approx(sum(own) / 2)
    assert len(comparison["by_task"]) == 6
    # Shots are the task's own, and `all` learned all examples of both targets.
    rows = [
        json.loads(line) for line in (tmp_path / "run/approaches/few-shot/predictions.jsonl").read_text().splitlines()
    ]
    shown = {row["task"]: {m["content"] for m in row["messages"] if m["role"] == "assistant"} for row in rows}
    assert shown["sounds"] <= set(WORDS["sounds"])
    assert shown["sizes"] <= set(WORDS["sizes"])
    assert shown["colours"] == set()
    step = json.loads((tmp_path / "run/approaches/all/approach.json").read_text())["steps"][0]["hash"]
    facts = json.loads((tmp_path / f"run/steps/{step}/step.json").read_text())["facts"]
    assert facts["examples_of_tasks"] == {"sounds": 6, "sizes": 6}
    unseen = "mixture: training holds not all examples, and never sees the others: 4 of 6 of colours, 4 of 6 of sounds"
    assert unseen in read_json(tmp_path / "run/run.json")["warnings"]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Task by task" in page
    with pytest.raises(RunError, match="--task: colours, sounds, sizes"):
        open_run(tmp_path / "run", "few-shot")
    opened = open_run(tmp_path / "run", "few-shot", "sounds")
    assert predict_rows(opened, [{"text": "cow"}])[0].text in WORDS["sounds"]


def test_a_mean_target_refuses_what_serves_one_task(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    study = chained(
        tiny_model_folder, target="mean", approaches={"worded": [{"step": "prompt", "system": "Be brief."}]}
    )
    assert study.targets == ("colours", "sounds", "sizes")
    with pytest.raises(StudyError, match=r"approaches\.worded: prompt serves one task"):
        run(study, tmp_path / "run", root=tmp_path)
    tasks = {name: task.model_dump(exclude_unset=True) for name, task in study.tasks.items()}
    tasks["sizes"] |= {"metrics": ["loss"]}
    mixed = chained(tiny_model_folder, target="mean", tasks=tasks, approaches={"base": []})
    with pytest.raises(StudyError, match=r"a mean over these metrics says nothing \(colours: accuracy, .*sizes: loss"):
        run(mixed, tmp_path / "run", root=tmp_path)
    with pytest.raises(StudyError, match=r"target: found \[sizes, sizes\]; name at least one task, and each once"):
        chained(tiny_model_folder, target=["sizes", "sizes"])


def test_a_task_is_learned_in_several_phrasings_and_asked_in_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    study = chained(tiny_model_folder, approaches={"direct": [{"step": "sft"}]})
    tasks = {name: task.model_dump(exclude_unset=True) for name, task in study.tasks.items()}
    ways = ["How big is a {{ text }}?", "Say how big is a {{ prompt }}."]
    tasks["sizes"]["phrasings"] = ways
    several = chained(tiny_model_folder, approaches={"direct": [{"step": "sft"}]}, tasks=tasks)
    plain, worded = (training_examples(one, tmp_path, 6) for one in (study, several))
    texts = ["".join(text for text, _, _ in shown.pieces) for shown in worded]
    assert [p.place for p in plain] == [w.place for w in worded]
    assert any("ow big is a" in text for text in texts)
    prepared = prepare(several, tmp_path)
    assert not any("ow big" in e.prompt.messages[-1].content for e in prepared.targets[0].test)
    assert prepared.base("direct").key != prepare(study, tmp_path).base("direct").key  # what is learned has changed
    tasks["sizes"]["phrasings"] = ["How big is a {{ txt }}?"]
    wrong = chained(tiny_model_folder, approaches={"direct": []}, tasks=tasks)
    with pytest.raises(StudyError, match=r"tasks\.sizes\.phrasings: the wording .* names txt"):
        prepare(wrong, tmp_path)
