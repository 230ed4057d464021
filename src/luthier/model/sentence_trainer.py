"""Training a sentence-transformers model by that library's own trainers; the best epoch is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.model.device import peak_bytes, reset_peak
from luthier.progress import Advance


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
        seconds: Of the training, validations left out.
        tokens: Texts' tokens that went through the training.
        parameters: Those that are trained; `all_parameters` are those of the whole model.
        peak_bytes: Highest memory meanwhile.
    """

    scores: list[float] = field(default_factory=list)
    kept: int = 0
    seconds: float = 0.0
    tokens: int = 0
    parameters: int = 0
    all_parameters: int = 0
    peak_bytes: int = 0


def total_steps(examples: int, settings: TuningSettings) -> int:
    """Optimizer steps of a training."""
    return settings.epochs * -(-examples // settings.batch_size)


def trainer_arguments(work: str, settings: TuningSettings) -> dict[str, Any]:
    """The arguments of a trainer that writes nothing by itself."""
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
        "dataloader_pin_memory": settings.device == "cuda",
    }


def keeping_the_best(
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
            started = time.perf_counter()
            was_training = model.training
            model.eval()
            score = validate(model)
            model.train(was_training)
            if score > max(least, *tuned.scores):
                tuned.kept = len(tuned.scores)
                model.save_pretrained(str(output), create_model_card=False)
            tuned.scores.append(score)
            tuned.seconds -= time.perf_counter() - started

    return Watch()


def train_timed(trainer: Any, tuned: Tuned, device: str) -> None:
    """Run a trainer that trains all of its model, and note what it took; what `keeping_the_best` does is left out."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    tuned.parameters = tuned.all_parameters = sum(own.numel() for own in trainer.model.parameters())
    reset_peak(device)
    started = time.perf_counter()
    trainer.train()
    tuned.seconds += time.perf_counter() - started
    tuned.peak_bytes = peak_bytes(device)


def count_tokens(tokenizer: Any, columns: Mapping[str, Sequence[str]], longest: int) -> int:
    """Tokens of all texts, each cut at `longest`."""
    texts = [text for own in columns.values() for text in own]
    return sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"])
