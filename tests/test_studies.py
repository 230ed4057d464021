"""Every study that is shipped runs, at a tiny size; with the real model in the slow suite."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.folder import read_json
from luthier.study import Study, load_study

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))
SMALL = ("latency_requests=1", "seeds=1", "forgetting.probe=false", "device=cpu")
LIMITS = {"train": 24, "validation": 6, "test": 20}
SEVERAL_TASKS = {"train": 12, "validation": 2, "test": 4}
MANY_TASKS = {"train": 6, "validation": 2, "test": 3}


def small(file: Path, *sets: str) -> Study:
    """A shipped study with few examples of each task and short answers."""
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    tasks = {f"tasks.{name}": task for name, task in raw["tasks"].items()} if "tasks" in raw else {"task": raw["task"]}
    limits = [f"{place}.limit.{split}={count}" for place in tasks for split, count in _sizes(raw).items()]
    if "tasks" in raw or file.stem in ("adaptive", "retrieval"):  # a step or two of each training
        short = {"sft": ("epochs=0.5", "evaluations=1")}
        short["pretrain"] = ("epochs=0.01", "evaluations=1", "held_out=0.005", "block_tokens=64")
        short["interpolate"] = ("points=[0.5, 1.0]",)
        if len(raw.get("tasks", ())) > 5:
            short["few-shot"] = ("shots={choose: [1, 2]}", "by=random")
        for name, steps in raw["approaches"].items():
            for number, step in enumerate(_named(steps)):
                place = f"approaches.{name}.{number}"
                limits += [f"{place}.{setting}" for setting in short.get(step["step"], ())]
                limits += [f"{place}.each.{setting}" for setting in short["sft"] if "each" in step]
                limits += [f"{place}.replay.examples=4"] * ("replay" in step)
                limits += [f"{place}.data.examples=12"] * ("examples" in (step.get("data") or ()))
    if file.stem in ("adapters", "adapter_rates"):  # one rate is enough to see that each is trained
        of_each = ("epochs=0.5", "evaluations=1")
        trained = [name for name, steps in raw["approaches"].items() if steps and _named(steps)[0]["step"] == "sft"]
        limits += [f"approaches.{name}.0.{setting}" for name in trained for setting in of_each]
    if file.stem == "adapters":  # the tiny model has two layers
        limits += ["approaches.last-layers.0.adapter.count=1", "approaches.lora-upper-layers.0.adapter.layers=[1]"]
        limits += ["seeds=2", "finalists=1"]
    if file.stem == "adapter_rates":
        limits.append("finalists=1")
    if file.stem == "retrieval":
        limits += [f"approaches.retriever-rag-sft.0.{setting}=1" for setting in ("epochs", "negatives")]
    for name, steps in raw["approaches"].items():
        for number, step in enumerate(_named(steps)):
            place = f"approaches.{name}.{number}"
            limits += [f"{place}.learning_curve=[6]"] * ("learning_curve" in step)
            limits += [f"{place}.least_steps=1"] * ("least_steps" in step)
            # One rate is enough to see that it is trained.
            limits += [f"{place}.learning_rate=1e-3"] * (step["step"] == "sft")
            limits += [f"{place}.each.learning_rate=1e-3"] * ("each" in step)
    limits += [f"{place}.max_new_tokens=8" for place, task in tasks.items() if "max_new_tokens" in task]
    limits.append(f"stage_answers={min(4, raw.get('stage_answers', 4))}")
    return load_study(file, (*SMALL, *limits, *sets))


def _named(steps: Sequence[Any]) -> list[dict[str, Any]]:
    """Steps as mappings, those that are bare names too."""
    return [{"step": step} if isinstance(step, str) else step for step in steps]


def fewer_documents(root: Path, to: Path) -> Path:
    """The folder of studies with some of xquad's articles alone, and what is asked on them."""
    shutil.copytree(root / "data" / "xquad", to / "data" / "xquad")
    for rule in root.glob("*.py"):
        shutil.copy(rule, to)
    data = to / "data" / "xquad"
    learned, asked = (
        sorted({row["document"] for row in _rows(data / f"{s}.csv")})[:n] for s, n in (("train", 4), ("test", 2))
    )
    kept = {*learned, *asked, "super-bowl-50.md"}
    for file in data.glob("**/documents/*"):
        if file.name not in kept:
            file.unlink()
    for file in data.glob("**/*.csv"):
        rows = [row for row in _rows(file) if row["document"] in kept]
        with open(file, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return to


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _sizes(raw: Mapping[str, Any]) -> Mapping[str, int]:
    if "tasks" not in raw:
        return LIMITS
    return SEVERAL_TASKS if len(raw["tasks"]) < 5 else MANY_TASKS


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_shipped_study_runs(file: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    study = small(file, f"model={tiny_model_folder}", "precision=float32")
    root = fewer_documents(file.parent, tmp_path / "studies") if file.stem == "retrieval" else file.parent
    result = run(study, tmp_path / "run", root=root, allow_code=True)
    n = _sizes(yaml.safe_load(file.read_text(encoding="utf-8")))["test"] * len(study.targets)
    assert [row["n"] for row in result.comparison["approaches"]] == [n] * len(study.approaches)
    assert write_report(tmp_path / "run").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_shipped_study_runs_with_its_own_model(file: Path, tmp_path: Path) -> None:
    study = small(file)
    result = run(study, tmp_path / "run", root=file.parent, allow_code=True)
    means = {row["name"]: row["mean"] for row in result.comparison["approaches"]}
    assert set(means) == set(study.approaches)
    assert read_json(tmp_path / "run" / "run.json")["model_parameters"] == pytest.approx(135e6, rel=0.01)


def test_shots_by_embedding_come_from_the_shipped_embedder(tmp_path: Path, tiny_model_folder: Path) -> None:
    file = next(file for file in STUDIES if file.stem == "quickstart")
    study = small(file, f"model={tiny_model_folder}")
    settings = study.model_dump(exclude_unset=True)
    settings["approaches"] = {"similar": [{"step": "few-shot", "shots": 2, "by": "embedding"}]}
    result = run(type(study).model_validate(settings), tmp_path / "run", root=file.parent)
    assert result.comparison["approaches"][0]["n"] == 20
    predictor = read_json(tmp_path / "run" / "approaches" / "similar" / "predictor.json")
    assert predictor["shots"]["embedder"] == "minilm-l6"
