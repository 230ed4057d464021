"""Training a sentence embedder on labels, so that texts of one label come near each other and others apart: the first
half of SetFit (Tunstall et al. 2022). The library setfit (1.2.0 runs with what we use) keeps its head as a pickle, so
the loss and the trainer are those of sentence-transformers."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.model.sentence_trainer import (
    Tuned,
    TuningSettings,
    count_tokens,
    keeping_the_best,
    total_steps,
    train_timed,
    trainer_arguments,
)

EPOCHS, BATCH, RATE, WARMUP = 3, 16, 2e-5, 0.1
# Pairs that an epoch learns at most, half of them of one label.
MOST_PAIRS = 1024
# Training examples that a label's mean is taken over, when an epoch is validated.
MOST_COMPARED = 1000


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two texts by their numbers, and whether they have the same label."""

    one: int
    other: int
    same: bool


def label_pairs(labels: Sequence[str], most: int, seed: int) -> list[LabelPair]:
    """Different pairs, half of them of one label as far as there are so many, every label in its turn.

    A label with a single example has no pair of its own and stands only beside others.
    """
    draw = random.Random(seed)
    members: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[label].append(number)
    together = [own for own in members.values() if len(own) > 1]
    found: dict[tuple[int, int], bool] = {}
    for turn in range(most * 4):
        if sum(found.values()) >= most // 2 or not together:
            break
        one, other = draw.sample(together[turn % len(together)], 2)
        found.setdefault((min(one, other), max(one, other)), True)
    alike = len(found)
    for turn in range(most * 4):
        if len(found) - alike >= max(alike, 1) or len(members) < 2:
            break
        one, other = turn % len(labels), draw.randrange(len(labels))
        if labels[one] != labels[other]:
            found.setdefault((min(one, other), max(one, other)), False)
    pairs = [LabelPair(one, other, same) for (one, other), same in found.items()]
    draw.shuffle(pairs)
    return pairs


def tune_on_labels(
    folder: Path,
    texts: Sequence[str],
    labels: Sequence[str],
    held: Sequence[tuple[str, str]],
    output: Path,
    seed: int,
    device: str,
    track: Callable[[int], Any],
) -> Tuned:
    """Train an embedder; its best epoch is written to `output`, if one is better than the embedder was.

    Args:
        folder: Of the embedder to begin with.
        held: Texts and labels of validation: an epoch is as good as the share of them whose label's mean is nearest.
        track: Given the number of steps, a context that shows progress and gives `advance`.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    settings = TuningSettings(EPOCHS, BATCH, RATE, WARMUP, seed, device)
    pairs = label_pairs(labels, MOST_PAIRS, seed)
    model = SentenceTransformer(str(folder), device=device)
    model.model_card_data.widget = [{"text": ""}]  # or examples of the data would be worked out for it
    columns = {"one": [texts[pair.one] for pair in pairs], "other": [texts[pair.other] for pair in pairs]}
    tuned = Tuned(tokens=EPOCHS * count_tokens(model.tokenizer, columns, model.max_seq_length))
    data = Dataset.from_dict({**columns, "label": [float(pair.same) for pair in pairs]})

    compared = random.Random(seed).sample(range(len(texts)), min(len(texts), MOST_COMPARED))

    def validate(live: Any) -> float:
        return nearest_mean_accuracy(
            _embedded(live, [texts[i] for i in compared]),
            [labels[i] for i in compared],
            _embedded(live, [text for text, _ in held]),
            held,
        )

    with tempfile.TemporaryDirectory() as work, track(total_steps(len(pairs), settings)) as advance:
        tuned.scores.append(validate(model))
        watch = keeping_the_best(model, output, validate, tuned, advance)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=Arguments(**trainer_arguments(work, settings)),
            train_dataset=data,
            loss=CosineSimilarityLoss(model),
            callbacks=[watch],
        )
        train_timed(trainer, tuned, settings.device)
    return tuned


def nearest_mean_accuracy(
    known: np.ndarray, labels: Sequence[str], asked: np.ndarray, held: Sequence[tuple[str, str]]
) -> float:
    """The share of held texts whose label's mean vector is the nearest.

    Args:
        known, asked: Unit length, (N, D) and (M, D).
    """
    names = sorted(set(labels))
    means = np.stack([known[[own == name for own in labels]].mean(0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    best = (asked @ means.T).argmax(1)
    return sum(names[int(i)] == label for i, (_, label) in zip(best, held, strict=True)) / len(held)


def _embedded(model: Any, texts: Sequence[str]) -> np.ndarray:
    found: np.ndarray = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return found
