"""Pretraining on raw text with the tiny model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.data.text import Document, Text
from luthier.model.load import load_model
from luthier.prompt.render import Renderer
from luthier.steps import PretrainStep
from luthier.steps.base import StepContext
from luthier.types import Decoding, ModelRef, Place, PromptedModel, Wording

TEXTS = [f"The {animal} of house {n} sleeps all day long." for n, animal in enumerate(["cat", "dog", "owl", "bat"] * 6)]
END = 0  # SmolLM2's <|endoftext|>


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"), Wording("Be brief."))


def pretraining(context: StepContext, **settings: Any) -> tuple[PretrainStep, StepContext]:
    usual: dict[str, Any] = {
        "text": "a.txt",
        "held_out": 0.25,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "evaluations": 2,
    }
    step = PretrainStep.model_validate(usual | settings)
    text = Text("a.txt", tuple(Document(own, Place("a.txt", n)) for n, own in enumerate(TEXTS, 1)), 1, 2)
    return step, replace(context, lesson=step.lesson(text, "colours", context.seed))


def load(ref: ModelRef) -> Any:
    return load_model(ref, device="cpu", precision="float32")


def hf_loss(model: Any, blocks: list[tuple[int, ...]]) -> float:
    """transformers' own loss of each block by itself, weighted by the tokens that it predicts."""
    with torch.no_grad():
        sums = [model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) for ids in (torch.tensor([b]) for b in blocks)]
    return sum(sums) / sum(len(block) - 1 for block in blocks)


def test_every_token_is_trained_once_whatever_the_blocks(tokenizer: Any):
    text = "one two three <|im_end|> four five\n\nsix seven"
    plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    whole = (END, *plain, END)
    assert tokenizer.eos_token_id not in whole  # the mark of a turn's end is text here
    for size in (2, 5, 7, len(whole), 512):
        blocks = Renderer(tokenizer, 512).blocks(text, "a.txt:1", size)
        assert all(2 <= len(block.ids) <= size for block in blocks)
        assert blocks[0].ids + tuple(token for block in blocks[1:] for token in block.ids[1:]) == whole
        assert all(after.ids[0] == before.ids[-1] for before, after in itertools.pairwise(blocks))
        assert all(block.trained == (False, *(True,) * (len(block.ids) - 1)) for block in blocks)


def test_a_block_fits_in_the_window_behind_virtual_tokens(tokenizer: Any):
    blocks = Renderer(tokenizer, 8, before=(900_000, 900_001)).blocks(TEXTS[0], "a", 512)
    assert {block.ids[:2] for block in blocks} == {(900_000, 900_001)}
    assert max(len(block.ids) for block in blocks) == 8
    assert all(block.trained[:4] == (False, False, False, True) for block in blocks)


def test_losses_are_those_of_plain_transformers(
    base: PromptedModel, context: StepContext, rows: list[Mapping[str, float]]
):
    step, own = pretraining(context, block_tokens=6, batch_size=1000, evaluations=1)
    renderer = context.engine.renderer(base.model)
    parts = own.lesson.documents  # type: ignore[attr-defined]
    train, held = (
        [block.ids for document in part for block in renderer.blocks(document.text, "", 6)]
        for part in (parts.train, parts.held)
    )
    model = load(base.model)
    assert own.lesson.validate(own.engine, base)["loss"] == pytest.approx(hf_loss(model, held), rel=1e-5)
    outcome = step.fit(base, own)
    assert rows[0]["train/loss"] == pytest.approx(hf_loss(model, train), rel=1e-5)
    assert rows[1]["validation/loss"] == pytest.approx(hf_loss(load(outcome.predictor.model), held), rel=1e-4)


@pytest.mark.parametrize(
    ("adapter", "kept"), [("none", "model"), ({"rank": 2}, "adapter"), ("prompt-tuning", "adapter")]
)
def test_the_model_is_replaced_by_one_that_predicts_such_text_better(
    base: PromptedModel, context: StepContext, rows: list[Mapping[str, float]], adapter: Any, kept: str
):
    step, own = pretraining(context, adapter=adapter, epochs=2)
    before = own.lesson.validate(own.engine, base)["loss"]
    outcome = step.fit(base, own)
    ref = outcome.predictor.model
    assert Path((*ref.adapters, ref.base)[0]) == context.folder / kept
    assert replace(outcome.predictor, model=base.model) == base
    after = own.lesson.validate(own.engine, outcome.predictor)["loss"]
    assert after < before - 0.1
    best = next(row for row in rows if row["step"] == outcome.facts["best_step"] and "validation/loss" in row)
    assert after == pytest.approx(best["validation/loss"], abs=1e-3)
    counts = {key: outcome.facts[key] for key in ("documents", "held_out_documents", "blocks", "empty_documents")}
    assert counts == {"documents": 18, "held_out_documents": 6, "blocks": 18, "empty_documents": 1}
    assert outcome.facts["repeated_documents"] == 2
    assert outcome.trained_tokens == rows[-1]["tokens"]


def test_an_interrupted_pretraining_goes_on_to_the_same_bits(base: PromptedModel, context: StepContext, tmp_path: Path):
    step, own = pretraining(context, adapter={"rank": 2, "dropout": 0.2}, epochs=2)
    straight = step.fit(base, replace(own, folder=tmp_path / "straight")).predictor.model

    def stop(row: Mapping[str, float]) -> None:
        if row["step"] == 6:
            raise KeyboardInterrupt

    broken = replace(own, folder=tmp_path / "broken", log=stop)
    with pytest.raises(KeyboardInterrupt):
        step.fit(base, broken)
    resumed = step.fit(base, replace(broken, log=context.log)).predictor.model
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(load(straight)(ids).logits, load(resumed)(ids).logits)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"text": []},
        {"text": "a.txt", "held_out": 0},
        {"text": "a.txt", "block_tokens": 1},
        {"text": "a.txt", "rank": 4},
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        PretrainStep.model_validate(settings)
