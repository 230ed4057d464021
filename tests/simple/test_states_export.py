"""A classifier on hidden states is exported with the language model, and its card's program gives the same answers."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from marked import sentences, task_of

from luthier.errors import RunError
from luthier.infer.engine import Engine
from luthier.simple.classifier import Classifier, write_classifier
from luthier.simple.features import Hidden
from luthier.simple.head import fit_head
from luthier.types import Decoding, Message, ModelRef, Prompt, PromptedModel, Shots, Wording

_CHOOSE = Decoding(answer="choose")


def _prompts(before: str, behind: str) -> tuple[list[Prompt], list[str]]:
    task = task_of(sentences(24, 0), sentences(6, 1))
    system = Message("system", "Name the kind.")
    examples = (*task.train, *task.validation)
    prompts = [
        replace(own.prompt, messages=(system, Message("user", f"{before}{own.prompt.messages[-1].content}{behind}")))
        for own in examples
    ]
    return prompts, [own.label or "" for own in examples]


def _fitted(model: PromptedModel, layer: int, pooling: int, prompts: list[Prompt], labels: list[str], folder: Path):  # type: ignore[no-untyped-def]
    engine = Engine("cpu", "float32")
    states = engine.hidden(model, prompts, [layer])[:, 0, pooling]
    features = Hidden.fitted(model, layer, pooling, states, prompts)
    write_classifier(folder, features, fit_head(features.scaled(states), labels, 0))
    return Classifier({prompts[0].task: str(folder)}, "none", model), engine


@pytest.mark.parametrize("pooling", [0, 1])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_program_on_the_card_gives_the_same_probabilities(
    tiny_model_folder: Path, tmp_path: Path, layer: int, pooling: int
):
    model = PromptedModel(ModelRef(str(tiny_model_folder)), _CHOOSE, Wording(system="Name it."))
    prompts, labels = _prompts("What is ", " for you?")
    predictor, engine = _fitted(model, layer, pooling, prompts[:24], labels[:24], tmp_path / "head")
    (tmp_path / "out").mkdir()
    exported = predictor.export(tmp_path / "out", engine)
    assert exported.models == (ModelRef(str(tmp_path / "out" / "model")),)
    (answer,) = engine.answer(exported, [prompts[-1]])
    assert engine.answer(predictor, [prompts[-1]])[0].label_logprobs == answer.label_logprobs

    (program,) = re.findall(r"```python\n(.*?)```", exported.usage(), re.DOTALL)
    text = prompts[-1].messages[-1].content.removeprefix("What is ").removesuffix(" for you?")
    program = program.replace("your text", text)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    label, probability = run.stdout.split()
    assert (label, float(probability)) == (answer.text, pytest.approx(answer.confidence, abs=1e-4))


def test_what_a_folder_cannot_put_into_the_prompts_is_said(tiny_model_folder: Path, tmp_path: Path):
    task = task_of(sentences(6, 0), ())
    prompts, labels = _prompts("", "")
    shown = PromptedModel(ModelRef(str(tiny_model_folder)), _CHOOSE, shots=Shots(task.train, 1, "random"))
    predictor, engine = _fitted(shown, 1, 0, prompts, labels, tmp_path / "head")
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="those of prompts with worked examples"):
        predictor.export(tmp_path / "out", engine)
