"""The figures of a study's run as bench/RESULTS.md shows them are those of the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_stages import chained, write_tasks
from tiny import tiny_study

from luthier.runner import run

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import studies

pytestmark = pytest.mark.usefixtures("few_probes")
SFT = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1, "learning_rate": 1e-2}


def test_the_tables_hold_scores_probes_seeds_and_curves(root: Path, tiny_model_folder: Path) -> None:
    approaches = {"zero-shot": [], "lora": [{**SFT, "learning_curve": [6]}], "ia3": [{**SFT, "adapter": "ia3"}]}
    study = tiny_study(tiny_model_folder, approaches=approaches, seeds=2, forgetting={"probe": True})
    comparison = run(study, root / "run", root=root).comparison
    kept = json.loads(json.dumps(studies.kept_of(root / "run")))
    page = studies.sections([{**kept, "said": "What is said of it."}])
    assert "### studies/tiny.yaml" in page
    assert "task: 30 training, 6 validation, 24 test" in page
    assert "What is said of it." in page
    assert str(comparison["verdict"]) in page
    for row in comparison["approaches"]:
        of_several = f", mean of {row['trainings']}" if row["trainings"] > 1 else ""
        assert f"| {100 * row['mean']:.1f}% [{100 * row['low']:.1f}, {100 * row['high']:.1f}]{of_several} |" in page
    assert ", mean of 2 |" in page
    (lora,) = [row for row in comparison["approaches"] if row["name"] == "lora"]
    assert f"{lora['forgotten'][0]['difference']:+.3f} [".replace("-", "−") in page
    assert "| lora | " in page.partition("over seeds")[2]
    assert "by training examples:\n\n|  | 0 | 6 | 30 |" in page


def test_stages_and_several_targets_are_shown(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_tasks(tmp_path)
    sft = {**SFT, "batch_size": 4}
    approaches = {"both": [sft], "chain": [{**sft, "data": "colours"}, {**sft, "data": "sizes"}]}
    study = chained(tiny_model_folder, approaches=approaches, target="mean")
    comparison = run(study, tmp_path / "run", root=tmp_path).comparison
    page = studies.sections([{**studies.kept_of(tmp_path / "run"), "said": ""}])
    assert "chain, stage after stage, loss (n: colours 6, sounds 6, sizes 6)" in page
    assert f"| 1: sft on colours | {comparison['matrix']['chain'][0]['values'][1][0]:.3f} [" in page
    assert "backward transfer" in page
    both = next(row for row in comparison["approaches"] if row["name"] == "both")
    assert f"{100 * both['scores']['sounds'][0]['mean']:.1f}%" in page
