"""Training an embedder or a cross-encoder on pairs, by sentence-transformers' own trainers; the best epoch is kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.progress import Advance
from luthier.retrieve.pairs import Pair

# Texts that go through the model at once; the batch that they are told apart in may be larger (Gao et al. 2021).
_AT_ONCE = 16
# Tokens of a question and a passage together that a cross-encoder reads.
_LONGEST_PAIR = 320


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """How is trained; the field's names."""

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    seed: int
    device: str


@dataclass(slots=True)
class Tuned:
    """What a training came to.

    Attributes:
        scores: What validation gave before the training and after each epoch.
        kept: The number of the epoch whose weights are kept, from 1; 0 where none was better than before.
        tokens: Texts' tokens that went through the training.
        parameters: Of the model, all of which are trained.
    """

    scores: list[float] = field(default_factory=list)
    kept: int = 0
    seconds: float = 0.0
    tokens: int = 0
    parameters: int = 0


def tune_embedder(
    folder: Path,
    pairs: Sequence[Pair],
    settings: TuningSettings,
    output: Path,
    validate: Callable[[Any], float],
    advance: Advance = lambda done: None,
) -> Tuned:
    """Train a sentence embedder to put questions near their passages: multiple-negatives ranking with hard negatives
    and cached large batches (Henderson et al. 2017; Gao et al. 2021).

    Args:
        folder: Of the embedder to begin with.
        output: Where the best weights are written, if an epoch is better than what it began with.
        validate: The score of a model (a SentenceTransformer) on what is kept apart; higher is better.
        advance: Called with the optimizer steps done since the last call.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    model = SentenceTransformer(str(folder), device=settings.device)
    count = min(len(pair.negatives) for pair in pairs)
    columns = {"anchor": [pair.query for pair in pairs], "positive": [pair.positive for pair in pairs]}
    columns |= {f"negative_{n + 1}": [pair.negatives[n] for pair in pairs] for n in range(count)}
    model.model_card_data.widget = [{"text": ""}]  # or examples of the data would be worked out for it
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=_AT_ONCE)
    tuned = Tuned(tokens=settings.epochs * _tokens(model.tokenizer, columns, model.max_seq_length))
    with tempfile.TemporaryDirectory() as work:
        arguments = Arguments(batch_sampler=BatchSamplers.NO_DUPLICATES, **_arguments(work, settings))
        tuned.scores.append(validate(model))
        watch = _watch(model, output, validate, tuned, advance)
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[watch]
        )
        _timed(trainer, tuned)
    return tuned


def tune_reranker(
    folder: Path,
    pairs: Sequence[Pair],
    settings: TuningSettings,
    output: Path,
    validate: Callable[[Any], float],
    without: float,
    advance: Advance = lambda done: None,
    *,
    pretrained: bool = False,
) -> Tuned:
    """Train a cross-encoder to tell right passages from wrong ones (binary cross-entropy; Nogueira and Cho 2019).

    Args:
        folder: Of the model to begin with: a cross-encoder, or an embedder, whose body then gets a new head.
        output: Where the best weights are written, if an epoch is better than what it began with, and than none.
        validate: The score of a model (a CrossEncoder) on what is kept apart; higher is better.
        without: The score of the order without one.
        pretrained: Whether it begins with a cross-encoder, whose score then is the first; else that is `without`.
        advance: Called with the optimizer steps done since the last call.
    """
    import torch
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments as Arguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    torch.manual_seed(settings.seed)  # the new head
    model = CrossEncoder(str(folder), num_labels=1, device=settings.device, max_length=_LONGEST_PAIR)
    model.model_card_data.widget = [{"text": ""}]  # or examples of the data would be worked out for it
    rows = [(p.query, p.positive, 1.0) for p in pairs] + [(p.query, own, 0.0) for p in pairs for own in p.negatives]
    columns: dict[str, list[Any]] = {
        "query": [row[0] for row in rows],
        "passage": [row[1] for row in rows],
        "label": [row[2] for row in rows],
    }
    wrong = sum(len(pair.negatives) for pair in pairs) / max(len(pairs), 1)
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(max(wrong, 1.0)))
    texts = {name: columns[name] for name in ("query", "passage")}
    tuned = Tuned(tokens=settings.epochs * _tokens(model.tokenizer, texts, _LONGEST_PAIR))
    with tempfile.TemporaryDirectory() as work:
        arguments = Arguments(**_arguments(work, settings))
        tuned.scores.append(validate(model) if pretrained else without)
        watch = _watch(model, output, validate, tuned, advance, without)
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[watch]
        )
        _timed(trainer, tuned)
    return tuned


def total_steps(examples: int, settings: TuningSettings) -> int:
    """Optimizer steps of a training."""
    return settings.epochs * -(-examples // settings.batch_size)


def _arguments(work: str, settings: TuningSettings) -> dict[str, Any]:
    return {
        "output_dir": work,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup,
        "seed": settings.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": settings.device == "cpu",
    }


def _watch(
    model: Any,
    output: Path,
    validate: Callable[[Any], float],
    tuned: Tuned,
    advance: Advance,
    least: float = -math.inf,
) -> Any:
    """Validates after each epoch, and keeps the weights that are better than all before, and than `least`."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            advance(1)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            was_training = model.training
            model.eval()
            score = validate(model)
            model.train(was_training)
            if score > max(least, *tuned.scores):
                tuned.kept = len(tuned.scores)
                model.save_pretrained(str(output), create_model_card=False)
            tuned.scores.append(score)

    return Watch()


def _timed(trainer: Any, tuned: Tuned) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    tuned.parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    started = time.perf_counter()
    trainer.train()
    tuned.seconds = time.perf_counter() - started


def _tokens(tokenizer: Any, columns: dict[str, list[str]], longest: int) -> int:
    texts = [text for own in columns.values() for text in own]
    return sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"])
