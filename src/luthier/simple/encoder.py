"""Training an encoder with a head on labels, wholly or by LoRA: AdamW, the rate rising and then falling in a line, the
best epoch kept (Devlin et al. 2019; the many epochs for few examples of Mosbach et al. 2021)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import TrainingError
from luthier.model.device import peak_bytes, reset_peak
from luthier.model.encoder import LabelEncoder, start_encoder
from luthier.model.sentence_trainer import Tuned, TuningSettings, total_steps
from luthier.progress import Advance

BATCH, WARMUP = 16, 0.1
# Learning rates that validation chooses among, of all weights (the lowest for large encoders) and of LoRA's.
RATES = {"full": (3e-5, 1e-4, 2e-4), "lora": (5e-4, 1e-3, 2e-3)}
# Of few examples so many epochs as give about so many steps, at most and at least so many.
_WANTED_STEPS, _MOST_EPOCHS, _LEAST_EPOCHS = 240, 20, 3
_DECAY, _CLIP = 0.01, 1.0
# Batches that are cut from the same examples in order of their length, so that little is padded.
_SORTED = 8


def epochs_for(examples: int) -> int:
    """Passes over so many examples."""
    steps = -(-examples // BATCH)
    return min(_MOST_EPOCHS, max(_LEAST_EPOCHS, -(-_WANTED_STEPS // steps)))


def tune_encoder(
    folder: Path,
    texts: Sequence[str],
    labels: Sequence[str],
    held: Sequence[tuple[str, str]],
    output: Path,
    settings: TuningSettings,
    track: Callable[[int], AbstractContextManager[Advance]],
    *,
    lora: bool,
) -> tuple[Tuned, float]:
    """Train an encoder with a new head, and write its best epoch.

    Args:
        folder: Of the encoder to begin with.
        held: Texts and labels of validation: an epoch is as good as the share of them that it answers rightly, and of
            equals the one is better that gives the right labels the higher probabilities.
        output: Where it is written, as `luthier.model.encoder` reads it.
        track: Given the number of steps, a context that shows progress and gives `advance`.

    Returns:
        What it came to, and the mean logarithm of the right labels' probabilities in the epoch that is kept.

    Raises:
        TrainingError: Its scores are no numbers any more.
    """
    import torch

    names = sorted(set(labels))
    epochs = settings.epochs if len(names) > 1 else 0  # nothing to tell apart
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        encoder = start_encoder(folder, names, settings.device, lora=lora)
        lengths = encoder.lengths(texts)
        parameters = [own for own in encoder.model.parameters() if own.requires_grad]
        tuned = Tuned(
            tokens=epochs * sum(min(length, encoder.longest) for length in lengths),
            parameters=sum(own.numel() for own in parameters),
            all_parameters=sum(own.numel() for own in encoder.model.parameters()),
        )
        reset_peak(settings.device)
        best = _judged(encoder, held)
        tuned.scores.append(best[0])
        kept: list[Any] = []
        step = _stepper(encoder, parameters, settings, total_steps(len(texts), settings))
        draw = random.Random(settings.seed)
        with track(epochs * -(-len(texts) // settings.batch_size)) as advance:
            for epoch in range(1, epochs + 1):
                started = time.perf_counter()
                for batch in batches(lengths, settings.batch_size, draw):
                    step([texts[i] for i in batch], [names.index(labels[i]) for i in batch])
                    advance(1)
                tuned.seconds += time.perf_counter() - started
                score = _judged(encoder, held)
                tuned.scores.append(score[0])
                if not kept or score > best:
                    best, tuned.kept = score, epoch
                    kept = [own.detach().clone() for own in parameters]
        tuned.peak_bytes = peak_bytes(settings.device)
        with torch.no_grad():
            for own, value in zip(parameters, kept, strict=True) if kept else ():
                own.copy_(value)
    encoder.save(output)
    return tuned, best[1]


def batches(lengths: Sequence[int], size: int, draw: random.Random) -> list[list[int]]:
    """The examples' numbers in batches, in an order that is drawn, those of like length together."""
    order = list(range(len(lengths)))
    draw.shuffle(order)
    found = []
    for start in range(0, len(order), size * _SORTED):
        own = sorted(order[start : start + size * _SORTED], key=lengths.__getitem__)
        found += [own[at : at + size] for at in range(0, len(own), size)]
    draw.shuffle(found)
    return found


def _stepper(
    encoder: LabelEncoder, parameters: Sequence[Any], settings: TuningSettings, steps: int
) -> Callable[[Sequence[str], Sequence[int]], None]:
    """What learns from a batch: texts, and the numbers of their labels."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    groups = [
        {"params": [own for own in parameters if own.ndim > 1], "weight_decay": _DECAY},
        {"params": [own for own in parameters if own.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * settings.warmup), steps)

    def step(texts: Sequence[str], wanted: Sequence[int]) -> None:
        logits = encoder.logits(texts)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(wanted, device=logits.device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step


def _judged(encoder: LabelEncoder, held: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """The share of the held texts that are answered rightly, and the mean logarithm of the right label's probability,
    labels left out that no training example has."""
    encoder.model.eval()
    scores = encoder.scores([text for text, _ in held]).astype(np.float64)
    encoder.model.train()
    if not np.isfinite(scores).all():
        raise TrainingError("the encoder's scores are no numbers any more: it cannot be trained so; try tune: lora.")
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    names = encoder.labels
    right = [names[int(row.argmax())] == label for row, (_, label) in zip(logs, held, strict=True)]
    known = [float(row[names.index(label)]) for row, (_, label) in zip(logs, held, strict=True) if label in names]
    return sum(right) / len(held), sum(known) / max(len(known), 1)
