from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_run import write_run

from luthier.errors import RunError
from luthier.report.card import model_card


def _parts(card: str) -> tuple[dict[str, Any], str]:
    _, header, body = card.split("---\n", 2)
    return yaml.safe_load(header), body


def test_card_begins_with_a_yaml_header(run_dir: Path) -> None:
    header, _ = _parts(model_card(run_dir, "lora", "adapter"))
    assert header["base_model"] == "example/small-model"
    assert header["library_name"] == "peft"
    assert header["tags"] == ["luthier", "sft", "lora"]
    assert "license" not in header


def test_card_holds_the_comparison_with_intervals_and_n(run_dir: Path) -> None:
    _, body = _parts(model_card(run_dir, "lora", "adapter"))
    comparison = json.loads((run_dir / "comparison.json").read_text())
    assert comparison["verdict"] in body
    for row in comparison["approaches"]:
        assert f"{100 * row['mean']:.1f}%" in body
        assert f"{100 * row['low']:.1f} to {100 * row['high']:.1f}%" in body
    assert "200 test examples" in body
    assert "What it forgot" in body
    assert "| general_text | 40 | 0.0312 | 0.0287 to 0.0345 |" in body
    assert "one test set" in body


@pytest.mark.parametrize("approach", ["zero-shot", "few-shot", "lora", "full", "few-shot+lora"])
def test_card_code_is_python(run_dir: Path, approach: str) -> None:
    card = model_card(run_dir, approach, "adapter" if "lora" in approach else "model")
    code = card.split("```python\n")[1].split("\n```")[0]
    ast.parse(code)
    assert ("PeftModel" in code) == ("lora" in approach)


def test_card_of_a_fully_tuned_model_loads_the_tuned_model(run_dir: Path) -> None:
    header, body = _parts(model_card(run_dir, "full", "model"))
    assert header["library_name"] == "transformers"
    assert 'from_pretrained("path/to/this/folder")' in body


def test_card_names_no_folder_of_the_machine_as_base_model(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    about = json.loads((run / "run.json").read_text()) | {"model": "/home/someone/models/small"}
    (run / "run.json").write_text(json.dumps(about))
    header, body = _parts(model_card(run, "lora", "adapter"))
    assert "base_model" not in header
    assert 'from_pretrained("path/to/the/base/model")' in body


def test_card_tables_survive_odd_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    comparison = json.loads((run / "comparison.json").read_text())
    comparison["approaches"][0]["forgotten"][0]["probe"] = "a | b\n<script>"
    (run / "comparison.json").write_text(json.dumps(comparison))
    card = model_card(run, comparison["approaches"][0]["name"], "model")
    assert "| a \\| b \\<script\\> |" in card


def test_card_of_an_unknown_approach_names_the_known_ones(run_dir: Path) -> None:
    with pytest.raises(RunError, match=r"no approach 'sft'.*few-shot\+lora"):
        model_card(run_dir, "sft", "model")


def test_card_of_a_validation_only_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    comparison = json.loads((run / "comparison.json").read_text()) | {"split": "validation"}
    (run / "comparison.json").write_text(json.dumps(comparison))
    _, body = _parts(model_card(run, "lora", "adapter"))
    assert "On 10 validation examples it reaches" in body
    assert "same 10 validation examples" in body
    assert "where settings were chosen too" in body
    assert "test example" not in body
    assert "test set" not in body


def test_card_leaves_out_settings_without_a_value(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    path = run / "approaches" / "lora" / "approach.json"
    approach = json.loads(path.read_text())
    approach["steps"][0]["settings"] |= {"step": "sft", "alpha": None}
    path.write_text(json.dumps(approach))
    card = model_card(run, "lora", "adapter")
    assert "rank: `16`" in card
    assert "alpha" not in card
    assert "step: `sft`" not in card


def test_card_sets_floors_below_the_approaches(run_dir: Path) -> None:
    card = model_card(run_dir, "lora", "adapter")
    assert "| *most-frequent* (floor) | 14.0% | 9.2 to 18.8% | 200 |" in card
    assert card.index("| zero-shot |") < card.index("| *most-frequent* (floor) |")
    assert "- *draw*: drawing labels by their frequency." in card
    assert "Not shown to beat" not in card


def test_card_of_what_does_not_beat_its_floor_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    comparison = json.loads((run / "comparison.json").read_text())
    for row in comparison["approaches"]:
        row["floor"]["above"] = row["name"] != "lora"
    (run / "comparison.json").write_text(json.dumps(comparison))
    assert "- It is not shown to beat a simple rule, most-frequent" in model_card(run, "lora", "adapter")
    assert "- It is not shown to beat" not in model_card(run, "full", "model")
    assert "Not shown to beat *most-frequent*: lora." in model_card(run, "full", "model")


def test_card_of_a_run_without_a_language_model(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["classifier", "nearest"], examples=40)
    header, body = _parts(model_card(run, "classifier", "files", "How to load it."))
    assert "base_model" not in header
    assert "made by classifier without a language model" in body
    assert "| 2.9 s, small model | 4 ms | none | 2.1 kB |" in body
    assert "A small model of 4.62 k parameters was trained" in body
    assert "None" not in body


def test_card_of_a_classifier_beside_a_language_model_does_not_name_that(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "classifier"], examples=40)
    assert "made by classifier without a language model" in model_card(run, "classifier", "files", "How to load it.")
