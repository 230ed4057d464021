"""The finalists trained with further seeds: what is repeated, what is not, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from tiny import tiny_study

from luthier.errors import StudyError
from luthier.evaluate import forgetting
from luthier.record import load_predictor
from luthier.report.card import model_card
from luthier.report.console import comparison_table
from luthier.report.html import write_report
from luthier.runner import repeats, run
from luthier.runner.apply import Workshop
from luthier.runner.fitted import Fitted
from luthier.runner.folder import read_json, read_jsonl
from luthier.runner.prepare import Prepared
from luthier.study import Study
from luthier.types import prompted

LORA = {"step": "sft", "adapter": {"rank": 2, "dropout": 0.1}, "epochs": 2, "evaluations": 2, "learning_rate": 1e-2}
OPEN = {**LORA, "adapter": "ia3", "learning_rate": {"choose": [1e-6, 2e-2]}}

CHARGED = ("train_s", "search_s", "tokens_seen", "trainable_parameters", "stored_bytes")


def seeded(model: Path, **changes: object) -> Study:
    return tiny_study(
        model,
        **{"approaches": {"zero-shot": [], "lora": [LORA], "ia3": [OPEN]}, "seeds": 3, "finalists": "all", **changes},
    )


def test_what_trains_is_trained_with_every_seed_and_the_spread_is_shown(root: Path, tiny_model_folder: Path) -> None:
    result = run(seeded(tiny_model_folder), root / "run", root=root)
    seeds = result.comparison["seeds"]
    assert [row["name"] for row in seeds["approaches"]] == ["lora", "ia3"]
    rows = {row["name"]: row for row in result.comparison["approaches"]}
    for row in seeds["approaches"]:
        assert [own["seed"] for own in row["seeds"]] == [0, 1, 2]
        (handed,) = (one for one in row["seeds"] if one["seed"] == row["handed_over"])
        assert handed["mean"] == rows[row["name"]]["handed_over"]["mean"]
        assert (rows[row["name"]]["mean"], rows[row["name"]]["trainings"]) == (pytest.approx(row["mean"]), 3)
        own = [one["mean"] for one in row["seeds"]]
        assert (row["least"], row["most"]) == (min(own), max(own))
        assert row["mean"] == pytest.approx(sum(own) / 3)
        assert row["sd"] == pytest.approx((sum((one - row["mean"]) ** 2 for one in own) / 2) ** 0.5)
    (pair,) = seeds["pairs"]
    assert pair["a_better"] + pair["b_better"] <= pair["of"] == 3
    (lora, _) = seeds["approaches"]
    other = next(seed for seed in (0, 1, 2) if seed != lora["handed_over"])
    of_handed, of_other = (
        read_jsonl(root / "run" / "approaches" / "lora" / at / "predictions.jsonl") for at in ("", f"seeds/{other}")
    )
    assert [row["id"] for row in of_handed] == [row["id"] for row in of_other]
    assert [row["label_logprobs"] for row in of_handed] != [row["label_logprobs"] for row in of_other]
    assert any("Trained with 3 seeds" in reason for reason in result.comparison["reasons"])
    page = write_report(root / "run").read_text(encoding="utf-8")
    assert "Over seeds" in page
    assert page.count("mean of 3 trainings</small>") == 2
    assert page.count("seed 2") >= 2
    console = Console(width=120, record=True)
    console.print(comparison_table(result.comparison))
    assert "means of 3 trainings: lora" in console.export_text()


def test_what_every_training_forgot_stands_beside_its_score(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = forgetting.general_text()[:3]
    monkeypatch.setattr(forgetting, "general_text", lambda: texts)
    study = seeded(tiny_model_folder, approaches={"zero-shot": [], "lora": [LORA]}, forgetting={"probe": True})
    result = run(study, root / "run", root=root)
    (row,) = result.comparison["seeds"]["approaches"]
    changes = [one["forgotten"]["general_text"] for one in row["seeds"]]
    (own,) = (one for one in result.comparison["approaches"] if one["name"] == "lora")
    assert own["forgotten"][0]["difference"] == changes[row["handed_over"]]  # seeds 0, 1 and 2
    assert len(set(changes)) == 3
    page = write_report(root / "run").read_text(encoding="utf-8")
    assert "Forgotten: mean (least to most)" in page
    assert "general text" in page.split('id="seeds"')[1]


def test_only_the_settings_that_were_taken_are_repeated_and_nothing_is_charged(
    root: Path, tiny_model_folder: Path
) -> None:
    once = run(seeded(tiny_model_folder, seeds=1, finalists=1), root / "run", root=root)
    again = run(seeded(tiny_model_folder), root / "run", root=root)
    assert once.comparison["seeds"] is None
    records = [read_json(file) for file in (root / "run" / "steps").glob("*/step.json")]
    rates = [(row["settings"]["learning_rate"], row["seed"]) for row in records]
    assert sorted(rates) == [(1e-6, 0), (1e-2, 0), (1e-2, 1), (1e-2, 2), (2e-2, 0), (2e-2, 1), (2e-2, 2)]
    costs = [
        {row["name"]: {k: row["cost"][k] for k in CHARGED} for row in one.comparison["approaches"]}
        for one in (once, again)
    ]
    assert costs[0] == costs[1]
    # The test was answered by new models, which is another opening.
    handed = {row["name"]: row["handed_over"] for row in again.comparison["seeds"]["approaches"]}
    assert [row["approaches"] for row in read_jsonl(root / "run" / "ledger.jsonl")] == [
        ["zero-shot", "lora", "ia3"],
        [name for name, seed in handed.items() if seed != 0]
        + [f"{name}, seed {other}" for name, seed in handed.items() for other in (0, 1, 2) if other != seed],
    ]


def test_finalists_are_those_that_do_best_on_validation(root: Path, tiny_model_folder: Path) -> None:
    approaches = {"still": [{**LORA, "learning_rate": 1e-9}], "lora": [LORA], "zero-shot": []}
    study = seeded(tiny_model_folder, approaches=approaches, seeds=2, finalists=1)
    result = run(study, root / "run", root=root)
    assert [row["name"] for row in result.comparison["seeds"]["approaches"]] == ["lora"]
    assert result.comparison["seeds"]["pairs"] == []
    assert len(list((root / "run" / "steps").glob("*/validation.json"))) == 3  # both, and lora's second training


def test_by_default_the_best_training_of_each_kind_is_done_three_times(root: Path, tiny_model_folder: Path) -> None:
    assert (Study.model_fields["seeds"].default, Study.model_fields["finalists"].default) == (3, 1)
    approaches = {
        "still": [{**LORA, "learning_rate": 1e-9}],
        "lora": [LORA],
        "classifier": [{"step": "classifier", "features": "tfidf"}],
        "zero-shot": [],
    }
    result = run(seeded(tiny_model_folder, approaches=approaches, finalists=1), root / "run", root=root)
    assert [row["name"] for row in result.comparison["seeds"]["approaches"]] == ["lora", "classifier"]
    asked = result.comparison["decision"]["questions"][0]
    assert (asked["of"], asked["trainings"], len(asked["each"])) == ("lora", 3, 3)


def test_the_training_that_does_best_on_validation_is_handed_over(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_is_best(prepared: Prepared, own: Fitted, shop: Workshop, name: str) -> tuple[float, ...]:
        return (float(name.endswith("seed 1")),)

    monkeypatch.setattr(repeats, "target_score", second_is_best)
    study = seeded(tiny_model_folder, approaches={"zero-shot": [], "lora": [LORA]})
    result = run(study, root / "run", root=root)
    (row,) = result.comparison["seeds"]["approaches"]
    assert row["handed_over"] == 1
    assert [one["seed"] for one in row["seeds"]] == [0, 1, 2]
    records = {read_json(file)["seed"]: file.parent for file in (root / "run" / "steps").glob("*/step.json")}
    answering = load_predictor(root / "run" / "approaches" / "lora" / "predictor.json", root / "run")
    assert Path(prompted(answering).model.adapters[0]).is_relative_to(records[1].resolve())
    assert sorted(p.name for p in (root / "run" / "approaches" / "lora" / "seeds").iterdir()) == ["0", "2"]
    means = {one["seed"]: one["mean"] for one in row["seeds"]}
    (own,) = (one for one in result.comparison["approaches"] if one["name"] == "lora")
    assert own["handed_over"]["mean"] == means[1]
    (asked,) = result.comparison["decision"]["questions"]
    assert len(asked["each"]) == 3
    card = model_card(root / "run", "lora", "adapter")
    assert "It was trained 3 times, each with another seed; this is the training with seed 1, which" in card
    assert "handed over" in write_report(root / "run").read_text(encoding="utf-8").split('id="seeds"')[1]


def test_what_an_approach_is_made_of_is_trained_with_the_same_seed(root: Path, tiny_model_folder: Path) -> None:
    other = {**LORA, "learning_rate": 5e-3}
    approaches = {"a": [LORA], "b": [other], "both": [{"step": "merge", "of": ["a", "b"]}]}
    result = run(seeded(tiny_model_folder, approaches=approaches, seeds=2), root / "run", root=root)
    assert [row["name"] for row in result.comparison["seeds"]["approaches"]] == ["a", "b", "both"]
    records = [read_json(file) for file in (root / "run" / "steps").glob("*/step.json")]
    assert sorted((row["step"], row["seed"]) for row in records) == [
        ("merge", 0),
        ("merge", 1),
        *[("sft", seed) for seed in (0, 0, 1, 1)],
    ]


def test_finalists_without_seeds_are_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(StudyError, match="give seeds: 3, or leave it out"):
        seeded(tiny_model_folder, seeds=1, finalists=2)


def test_the_pair_is_elected_on_validation_once(root: Path, tiny_model_folder: Path) -> None:
    """Of each side with more than one approach, and not again when the study is run again."""
    approaches = {
        "zero-shot": [],
        "nearest": [{"step": "nearest", "by": "bm25"}],
        "lora": [{**LORA, "learning_rate": 5e-3}],
    }
    study = tiny_study(tiny_model_folder, approaches=approaches)
    run(study, root / "run", root=root)
    files = {file: file.stat().st_mtime_ns for file in (root / "run" / "steps").glob("*/validation*.json")}
    assert len(files) == 2  # the only training stands unopposed
    run(study, root / "run", root=root)
    assert {f: f.stat().st_mtime_ns for f in (root / "run" / "steps").glob("*/validation*.json")} == files
