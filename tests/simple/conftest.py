"""A tiny encoder with random weights, kept as a sentence-transformers folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from marked import FILL, MARKS, Fit

from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.model.embed import SentenceEmbedder
from luthier.progress import Silent
from luthier.steps import ClassifierStep
from luthier.steps.base import StepContext, StepOutcome
from luthier.steps.lesson import Lesson
from luthier.types import Nothing, Task


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT of two layers with a token for each word, the mean over tokens behind it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-embedder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILL, *(word for own in MARKS.values() for word in own)]
    (folder / "words").mkdir()
    (folder / "words" / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder / "words" / "vocab.txt"), model_max_length=24)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"))
    whole = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "mean"), Normalize()])
    whole.save_pretrained(str(folder / "embedder"), create_model_card=False)
    return folder / "embedder"


@pytest.fixture
def fit(tiny_embedder: Path, tmp_path: Path) -> Fit:
    """Fits a classifier whose embedder and encoder are the tiny one."""

    def run(task: Task, tune: str, folder: str = "step", **settings: object) -> tuple[StepOutcome, Engine]:
        named = {"encoder": str(tiny_embedder)} if tune in ("full", "lora") else {"features": "embedding"}
        step = ClassifierStep(tune=tune, embedder=str(tiny_embedder), **{**named, **settings})  # type: ignore[arg-type]
        assert step.check(task) == []
        engine = Engine("cpu", "float32", lambda name: SentenceEmbedder.named(name, Path(), "cpu"))
        (tmp_path / folder).mkdir(exist_ok=True)
        context = StepContext(
            lesson=Lesson((task,), (METRICS["accuracy"],), task.name),
            start=None,
            engine=engine,
            folder=tmp_path / folder,
            seed=0,
            progress=Silent(),
            log=lambda row: None,
        )
        return step.fit(Nothing(), context), engine

    return run
