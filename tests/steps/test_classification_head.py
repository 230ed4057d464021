"""`sft` with `head: classify`: the language model with a classification head on its last token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from luthier.errors import StudyError
from luthier.evaluate.metrics import METRICS
from luthier.model.classify import saved_labels
from luthier.model.load import load_model
from luthier.progress import Silent
from luthier.report.card import model_card
from luthier.runner import run
from luthier.runner.export import export
from luthier.runner.open import open_run
from luthier.steps import SftStep
from luthier.steps.base import StepContext
from luthier.steps.validate import validation_metrics
from luthier.study import build_study
from luthier.types import Decoding, ModelRef, PromptedModel, Task


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("generate"))


ADAPTERS = ["lora", "none", "prompt-tuning", {"kind": "last-layers", "count": 1}]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_it_learns_the_labels_and_answers_alike_once_saved(
    adapter: object, base: PromptedModel, context: StepContext, rows: list[Mapping[str, float]]
):
    step = SftStep(head="classify", adapter=adapter, epochs=20, evaluations=4, patience=0, learning_rate=1e-2)  # type: ignore[arg-type]
    outcome = step.fit(base, context)
    task, after = context.task, outcome.predictor
    assert isinstance(after, PromptedModel)
    assert after.decoding.answer == "choose"
    assert after.model.head is not None
    assert saved_labels(after.model.head) == task.labels
    found = validation_metrics(context.engine, after, task, METRICS["accuracy"])
    assert (found["accuracy"], -found["loss"]) == pytest.approx(outcome.facts["best_score"], abs=1e-4)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[0] == pytest.approx(math.log(3), abs=1e-5)  # three labels, told apart by nothing yet
    assert min(losses) < (0.1 if adapter in ("lora", "none") else 1.0)
    answer = context.engine.answer(after, [task.validation[0].prompt], task.labels)[0]
    assert answer.label_logprobs is not None
    assert sum(torch.tensor(list(answer.label_logprobs.values())).exp()) == pytest.approx(1.0, abs=1e-5)


def test_its_loss_is_the_cross_entropy_of_the_labels(base: PromptedModel, context: StepContext):
    """As transformers' own classes for sequences compute it: the last token's hidden state through a linear layer."""
    after = SftStep(head="classify", epochs=2, evaluations=1).fit(base, context).predictor
    assert isinstance(after, PromptedModel)
    task = context.task
    model = load_model(after.model, device="cpu", precision="float32")
    weight = model.get_output_embeddings().weight
    logprobs = context.engine.reference_logprobs(after, task.validation)
    for example, found in zip(task.validation, logprobs, strict=True):
        ids = torch.tensor([context.engine.render(after, [example.prompt], reserve=0)[0].ids])
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, -1]
        logits = weight @ hidden
        assert found.tokens == 1
        wanted = logits.log_softmax(0)[task.labels.index(example.completion)].item()
        assert found.nats == pytest.approx(wanted, abs=1e-4)


def test_other_tasks_are_asked_of_the_model_that_writes(base: PromptedModel, context: StepContext, open_task: Task):
    after = SftStep(head="classify", epochs=1, evaluations=1).fit(base, context).predictor
    assert isinstance(after, PromptedModel)
    other = after.serving("another", Decoding("generate", max_new_tokens=3), context.task.name)
    assert other.model.head is None
    assert other.model.adapters == after.model.adapters
    (answer,) = context.engine.answer(other, [open_task.validation[0].prompt])
    assert answer.stopped in ("end", "length")


def test_what_needs_a_model_that_writes_is_refused(tiny_task: Task, open_task: Task):
    for beside in ({"loss_on": "all"}, {"replay": {"examples": 3}}, {"keep": 0.1}):
        with pytest.raises(ValidationError, match="head: classify leaves none"):
            SftStep(head="classify", **beside)  # type: ignore[arg-type]
    assert SftStep(head="classify").check(tiny_task) == []
    assert "head: classify needs labels" in SftStep(head="classify").check(open_task)[0]


@pytest.mark.parametrize(
    ("approaches", "message"),
    [
        ({"a": [{"step": "sft", "head": "classify"}, {"step": "sft"}]}, "leaves a model that only classifies"),
        (
            {"a": [{"step": "sft", "head": "classify"}], "b": [{"step": "merge", "of": ["a", "c"]}], "c": ["sft"]},
            "gives no language model to work on",
        ),
    ],
)
def test_nothing_works_on_a_model_that_only_classifies(approaches: dict[str, object], message: str):
    task = {"data": "x.csv", "prompt": "{{ text }}", "completion": "{{ kind }}", "labels": "auto"}
    with pytest.raises(StudyError, match=message):
        build_study(model="some", task=task, approaches=approaches)


def test_an_export_is_what_transformers_classifies_sequences_with(tiny_model_folder: Path, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = "text,kind\n" + "".join(f"{word} {n},{kind}\n" for n in range(8) for word, kind in PAIRS)
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    study = build_study(
        name="heads",
        model=str(tiny_model_folder),
        task={
            "data": "rows.csv",
            "split": {"validation": 4, "test": 8},
            "prompt": "{{ text }}",
            "completion": "{{ kind }}",
            "labels": "auto",
            "answer": "choose",
        },
        approaches={"head": [{"step": "sft", "head": "classify", "epochs": 2, "evaluations": 1}]},
        device="cpu",
        precision="float32",
        latency_requests=1,
        forgetting={"probe": False},
    )
    run(study, tmp_path / "run", root=tmp_path)
    opened = open_run(tmp_path / "run", "head")
    to = tmp_path / "exported"
    card = partial(model_card, tmp_path / "run", "head")
    done = export(opened, to, merge=False, card=card, check=8, progress=Silent())
    assert (done.kind, done.checked, done.score) == ("classifier", 8, done.score_in_run)
    assert "AutoModelForSequenceClassification" in (to / "README.md").read_text(encoding="utf-8")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    messages = [{"role": "user", "content": "apple 3"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        found = model.config.id2label[int(model(**inputs).logits.argmax())]
    assert found in ("fruit", "tool")


PAIRS = [("apple", "fruit"), ("pear", "fruit"), ("saw", "tool"), ("drill", "tool")]
