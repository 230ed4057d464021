"""Tasks of lm-evaluation-harness as probes of what training made a model forget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny import tiny_study

from luthier.errors import DataError, StudyError
from luthier.report.html import write_report
from luthier.runner import run
from luthier.runner.harness import _result, load_harness
from luthier.study import Study

FACTS = [("apple number", "fruit", "tool"), ("hammer number", "tool", "fruit"), ("cat number", "animal", "tool")] * 4
TASK = {
    "task": "facts",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "facts.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_target": 0,
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
SFT = {"step": "sft", "adapter": {"rank": 2}, "epochs": 2, "evaluations": 1, "learning_rate": 2e-2}


@pytest.fixture
def facts(root: Path) -> Path:
    rows = [{"question": f"{q} {n}", "choices": choices} for n, (q, *choices) in enumerate(FACTS)]
    (root / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (root / "facts.yaml").write_text(yaml.safe_dump(TASK), encoding="utf-8")
    return root


def harnessed(model: Path, **changes: object) -> Study:
    forgetting = {"lm_eval": ["facts.yaml"], "lm_eval_limit": 10, **changes}
    return tiny_study(model, approaches={"zero-shot": [], "lora": [SFT]}, forgetting=forgetting)


def test_a_task_is_asked_before_and_after_and_compared_in_pairs(facts: Path, tiny_model_folder: Path) -> None:
    result = run(harnessed(tiny_model_folder, limit=1.0), facts / "run", root=facts)
    rows = {row["name"]: row for row in result.comparison["approaches"]}
    found = {probe["probe"]: probe for probe in rows["lora"]["forgotten"]}
    assert list(found) == ["general_text", "minimal_pairs", "truthful_answers", "lm-eval facts"]
    probe = found["lm-eval facts"]
    assert (probe["n"], probe["metric"], probe["higher_is_better"]) == (10, "acc", True)
    before, after = _accuracies(facts, tiny_model_folder)
    assert (probe["before"], probe["after"]) == (before, after)
    assert probe["difference"] == pytest.approx(after - before)
    assert probe["low"] <= probe["difference"] <= probe["high"]
    assert "forgotten" not in rows["zero-shot"]
    assert "lm-eval facts" in write_report(facts / "run").read_text(encoding="utf-8")
    kept = {file: file.stat().st_mtime_ns for file in (facts / "run" / "probes").iterdir()}
    assert len(kept) == 4
    run(harnessed(tiny_model_folder, limit=1.0), facts / "run", root=facts)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def _accuracies(root: Path, base: Path) -> list[float]:
    """How often the right choice is likelier, from the models as transformers and PEFT load them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    (adapter,) = (root / "run").glob("steps/*/adapter")
    found = []
    for asked in (model, PeftModel.from_pretrained(model, adapter)):
        right = 0
        for number, (question, *choices) in enumerate(FACTS[:10]):
            nats = []
            for choice in choices:
                before = tokenizer(f"{question} {number}")["input_ids"]
                ids = tokenizer(f"{question} {number} {choice}")["input_ids"]
                with torch.no_grad():
                    logprobs = asked(torch.tensor([ids])).logits[0].log_softmax(-1)
                nats.append(sum(float(logprobs[at - 1, ids[at]]) for at in range(len(before), len(ids))))
            right += nats[0] > nats[1]
        found.append(right / 10)
    return found


@pytest.mark.parametrize(
    ("changes", "name", "error", "said"),
    [
        ({}, "no_such_task", StudyError, "has no task or group 'no_such_task'"),
        ({}, "missing.yaml", StudyError, r"missing\.yaml cannot be read"),
        ({"task": None}, "facts.yaml", None, ""),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, "facts.yaml", DataError, "cannot be loaded"),
    ],
)
def test_a_task_that_cannot_be_had_is_named_with_the_reason(
    facts: Path, changes: dict[str, object], name: str, error: type[Exception] | None, said: str
) -> None:
    config = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
    (facts / "facts.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(error or StudyError, match=said or "has no `task:`"):
        load_harness([name], 10, facts)


def test_perplexity_of_single_examples_is_their_loss() -> None:
    rows = [{"filter": "none", "doc_id": n, "metrics": ["perplexity", "acc"], "perplexity": -3.0 - n} for n in range(2)]
    found = _result("words", rows, {"perplexity": False})
    assert (found.metric, found.higher_is_better, found.values) == ("loss", False, (3.0, 4.0))
    with_accuracy = _result("words", [{**row, "acc": 1.0} for row in rows], {"perplexity": False, "acc": True})
    assert (with_accuracy.metric, with_accuracy.values) == ("acc", (1.0, 1.0))


def test_a_task_of_one_number_for_all_texts_is_refused(facts: Path) -> None:
    rolling = {**TASK, "output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}", "doc_to_text": ""}
    rolling |= {"metric_list": [{"metric": "word_perplexity"}]}
    del rolling["doc_to_choice"]
    (facts / "rolling.yaml").write_text(yaml.safe_dump(rolling), encoding="utf-8")
    with pytest.raises(StudyError, match="gives one number for all its texts together"):
        load_harness(["rolling.yaml"], 5, facts)


def test_code_in_a_task_file_is_not_run(facts: Path) -> None:
    text = yaml.safe_dump(TASK) + "process_docs: !function evil.run\n"
    (facts / "facts.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match="names Python code"):
        load_harness(["facts.yaml"], 10, facts)


def test_without_the_harness_it_is_said_how_to_install_it(facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.runner.harness.find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"pip install 'luthier\[lm-eval\]'"):
        load_harness(["hellaswag"], 10, facts)


def test_virtual_tokens_are_refused_before_anything_runs(facts: Path, tiny_model_folder: Path) -> None:
    approaches = {"soft": [{**SFT, "adapter": "prompt-tuning"}]}
    study = tiny_study(tiny_model_folder, approaches=approaches, forgetting={"lm_eval": ["facts.yaml"]})
    with pytest.raises(StudyError, match="cannot put the virtual tokens of soft"):
        run(study, facts / "run", root=facts)
