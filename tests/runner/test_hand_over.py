"""Answering with a finished run, and exporting from it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from tiny import tiny_study

import luthier
from luthier.errors import DataError, RunError
from luthier.progress import Silent
from luthier.report.card import model_card
from luthier.runner import run
from luthier.runner.export import export
from luthier.runner.folder import read_json, read_jsonl, write_json
from luthier.runner.open import open_run
from luthier.runner.predict import Unanswered, as_row, predict_file, predict_rows, reply
from luthier.types import Completion, Message


@pytest.fixture
def finished(root: Path, tiny_model_folder: Path) -> Path:
    run(tiny_study(tiny_model_folder), root / "run", root=root)
    return root / "run"


def test_a_model_that_was_exchanged_under_the_same_path_is_not_opened(root: Path, tiny_model_folder: Path) -> None:
    """It would answer otherwise than was measured, and an export would agree with itself."""
    base = root / "base"
    shutil.copytree(tiny_model_folder, base)
    run(tiny_study(base), root / "run", root=root)
    weights = base / "model.safetensors"
    before = weights.read_bytes()
    assert open_run(root / "run", "lora").name == "lora"
    weights.write_bytes(before[:-4] + b"\x00\x11\x22\x33")  # of the same size
    for name in ("lora", "zero-shot"):
        with pytest.raises(RunError, match=f"base is not what '{name}' was made with"):
            open_run(root / "run", name)
    weights.write_bytes(before)  # written anew, and the same
    assert open_run(root / "run", "lora").name == "lora"
    for beside in ("README.md", ".gitattributes", "pytorch_model.bin"):  # laid beside it by others
        (base / beside).write_text("x")
    assert open_run(root / "run", "lora").name == "lora"
    (base / "config.json").rename(base / "other.json")
    with pytest.raises(RunError, match=r"\(config.json is gone\)"):
        open_run(root / "run", "lora")


def test_an_adapter_that_was_exchanged_is_not_opened(finished: Path) -> None:
    (adapter,) = (finished / "steps").glob("*/adapter/adapter_model.safetensors")
    content = adapter.read_bytes()
    adapter.write_bytes(content[:-4] + b"\x00\x11\x22\x33")
    with pytest.raises(RunError, match="adapter is not what 'lora' was made with"):
        open_run(finished, "lora")
    assert open_run(finished, "zero-shot").name == "zero-shot"


def test_a_run_that_was_moved_is_opened(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere")
    assert open_run(tmp_path / "elsewhere", "lora").name == "lora"


def test_new_rows_are_answered_with_labels(finished: Path) -> None:
    opened = open_run(finished, "lora")
    answers = predict_rows(opened, [{"text": "a new apple"}, {"text": "a new saw", "kind": "unknown"}])
    assert len(answers) == 2
    assert all(answer.text in ("animal", "fruit", "tool") for answer in answers)


def test_the_test_rows_are_answered_as_in_the_run(finished: Path, root: Path) -> None:
    for name in ("few-shot", "full"):
        opened = open_run(finished, name)
        found = [answer for _, answer in predict_file(opened, root / "test.csv", Silent())]
        answers = [answer.text for answer in found if isinstance(answer, Completion)]
        known = read_jsonl(finished / "approaches" / name / "predictions.jsonl")
        assert answers == [row["completion"] for row in known]


@pytest.mark.parametrize("approach", ["zero-shot", "few-shot", "lora"])
def test_a_row_beyond_the_window_keeps_no_other_from_its_answer(finished: Path, root: Path, approach: str) -> None:
    texts = ["apple", "saw", "word " * 600, "cat", "pear", "word " * 700]
    (root / "new.csv").write_text("text\n" + "\n".join(texts) + "\n", encoding="utf-8")
    opened = open_run(finished, approach)
    answers = [answer for _, answer in predict_file(opened, root / "new.csv", Silent())]
    assert [isinstance(answer, Unanswered) for answer in answers] == [False, False, True, False, False, True]
    assert [as_row(a)["prediction"] for a in answers] == [
        a.text if isinstance(a, Completion) else None for a in answers
    ]
    refused = answers[2]
    assert isinstance(refused, Unanswered)
    assert (refused.place.file, refused.place.line) == (str(root / "new.csv"), 4)
    assert "the model's window is 512" in str(as_row(refused)["unanswered"])
    alone = predict_rows(opened, [{"text": text} for text in texts if len(text) < 100])
    assert [own.text for own in alone] == [a.text for a in answers if isinstance(a, Completion)]


def test_of_rows_in_memory_the_one_that_is_too_long_is_named_by_its_number(finished: Path) -> None:
    with pytest.raises(DataError, match=r"^rows:2: the prompt takes \d+ tokens"):
        predict_rows(open_run(finished, "lora"), [{"text": "apple"}, {"text": "word " * 600}])


def test_a_row_without_the_column_of_the_prompt_is_named(finished: Path) -> None:
    with pytest.raises(DataError, match="txt"):
        predict_rows(open_run(finished, "lora"), [{"txt": "apple"}])


def test_a_conversation_is_answered(finished: Path) -> None:
    assert reply(open_run(finished, "zero-shot"), [Message("user", "apple")]).text in ("animal", "fruit", "tool")


def test_without_a_recommendation_an_approach_must_be_named(finished: Path) -> None:
    comparison = read_json(finished / "comparison.json")
    write_json(finished / "comparison.json", {**comparison, "recommended": None})
    with pytest.raises(RunError, match="--approach"):
        open_run(finished)
    assert open_run(finished, "lora").name == "lora"


def test_an_unknown_approach_or_an_unfinished_run_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="zero-shot"):
        open_run(finished, "lorra")
    with pytest.raises(RunError, match="luthier run"):
        open_run(tmp_path / "nothing")


def test_a_moved_run_still_answers(finished: Path) -> None:
    moved = finished.rename(finished.with_name("moved"))
    assert predict_rows(open_run(moved, "full"), [{"text": "apple"}])


@pytest.mark.parametrize(("name", "merge"), [("lora", False), ("lora", True), ("full", False), ("few-shot", False)])
def test_an_export_loads_with_plain_libraries_and_answers_alike(finished: Path, name: str, merge: bool) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    opened = open_run(finished, name)
    to = finished.parent / "exported"
    done = export(opened, to, merge=merge, card=partial(model_card, finished, name), check=24, progress=Silent())
    assert done.checked == 24
    assert done.score == done.score_in_run
    assert done.kind == ("adapter" if name == "lora" and not merge else "model")
    assert (to / "README.md").read_text().startswith("---\n")
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert tokenizer.chat_template
    if done.kind == "adapter":
        named = json.loads((to / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), to)
    else:
        model = AutoModelForCausalLM.from_pretrained(to)
    ids = torch.tensor([tokenizer("apple number 7")["input_ids"]])
    ours = opened.engine.load(opened.predictor.model)
    with torch.inference_mode():
        assert torch.allclose(model.eval()(ids).logits, ours(ids).logits, atol=1e-4)


def test_an_export_never_overwrites(finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "full-folder"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        export(open_run(finished, "lora"), to, merge=False, card=lambda kind, usage: kind, check=1, progress=Silent())
    assert (to / "mine.txt").read_text() == "mine"


def test_an_export_that_answers_differently_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.model import whole as module

    original = module.load_model

    def spoilt(*args: object, **kwargs: object) -> object:
        import torch

        model = original(*args, **kwargs)
        with torch.no_grad():
            model.get_input_embeddings().weight.normal_()
        return model

    monkeypatch.setattr(module, "load_model", spoilt)
    with pytest.raises(RunError, match="another answer"):
        export(
            open_run(finished, "lora"),
            tmp_path / "out",
            merge=True,
            card=lambda kind, usage: kind,
            check=24,
            progress=Silent(),
        )
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_the_same_is_three_lines_of_python(root: Path, tiny_model_folder: Path) -> None:
    study = luthier.build_study(**tiny_study(tiny_model_folder).model_dump(mode="json", exclude_unset=True))
    result = luthier.run(study, root / "run", root=root)
    assert luthier.predict_rows(luthier.open_run(root / "run", "zero-shot"), [{"text": "apple"}])
    assert result.frame().loc["lora", "n"] == 24
