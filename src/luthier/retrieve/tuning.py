"""Training an embedder or a cross-encoder on pairs, by sentence-transformers' own trainers; the best epoch is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luthier.model.embed import own_prompt
from luthier.model.sentence_trainer import (
    Tuned,
    TuningSettings,
    count_tokens,
    keeping_the_best,
    train_timed,
    trainer_arguments,
)
from luthier.progress import Advance
from luthier.retrieve.pairs import Pair

# Texts that go through the model at once; the batch that they are told apart in may be larger (Gao et al. 2021).
_AT_ONCE = 16
# Tokens of a question and a passage together that a cross-encoder reads.
_LONGEST_PAIR = 320


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
    tuned = Tuned(tokens=settings.epochs * count_tokens(model.tokenizer, columns, model.max_seq_length))
    with tempfile.TemporaryDirectory() as work:
        # As search will ask: questions and passages behind the prompts that the model has for them.
        prompts = {own: own_prompt(model, "query" if own == "anchor" else "document") for own in columns}
        arguments = Arguments(
            batch_sampler=BatchSamplers.NO_DUPLICATES, prompts=prompts, **trainer_arguments(work, settings)
        )
        tuned.scores.append(validate(model))
        watch = keeping_the_best(model, output, validate, tuned, advance)
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[watch]
        )
        train_timed(trainer, tuned, settings.device)
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
    tuned = Tuned(tokens=settings.epochs * count_tokens(model.tokenizer, texts, _LONGEST_PAIR))
    with tempfile.TemporaryDirectory() as work:
        arguments = Arguments(**trainer_arguments(work, settings))
        tuned.scores.append(validate(model) if pretrained else without)
        watch = keeping_the_best(model, output, validate, tuned, advance, without)
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[watch]
        )
        train_timed(trainer, tuned, settings.device)
    return tuned
