"""An encoder with a head that gives each label a score: transformers' own class for classifying sequences. It is made
of any encoder, trained elsewhere, kept as safetensors, and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.model.embed import unknown_share
from luthier.model.load import load_config, window_of

if TYPE_CHECKING:
    import numpy as np

# Tokens of a text that are read at most: what most encoders were trained on. Longer ones cost by their square.
LONGEST = 512
# Rank and scale of LoRA, on every linear layer (Hu et al. 2022).
_RANK, _ALPHA = 16, 32
# Texts that are scored at once.
_AT_ONCE = 32


@dataclass(frozen=True)
class LabelEncoder:
    """A model with its tokenizer.

    Attributes:
        model: Of transformers' classes for classifying sequences, or PEFT's around one.
        longest: Tokens that are read of a text, those around it among them; what is behind them is cut.
    """

    model: Any
    tokenizer: Any
    longest: int

    @property
    def labels(self) -> tuple[str, ...]:
        names = self.model.config.id2label
        return tuple(names[number] for number in range(len(names)))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those around it among them, nothing cut."""
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]

    def logits(self, texts: Sequence[str]) -> Any:
        """A tensor with the labels' scores of a few texts, with gradients where the model is trained. (N, K)"""
        inputs = self.tokenizer(
            list(texts), truncation=True, max_length=self.longest, padding=True, return_tensors="pt", verbose=False
        )
        return self.model(**inputs.to(self.model.device)).logits.float()

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """The labels' scores of any number of texts, those of like length together. (N, K)"""
        import numpy as np
        import torch

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found = np.zeros((len(texts), len(self.labels)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), _AT_ONCE):
                own = order[start : start + _AT_ONCE]
                found[own] = self.logits([texts[number] for number in own]).cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write the whole model, LoRA merged into it (which ends its training), for plain transformers to load."""
        whole = self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model
        whole.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


def how_read(folder: Path, texts: Sequence[str]) -> tuple[int, float]:
    """How many of the texts are longer than the folder's encoder reads, and the share of their words that it has no
    token for. No weights are loaded for it."""
    tokenizer = _tokenizer(folder)
    longest = _longest(tokenizer, load_config(folder))
    ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    return sum(len(own) > longest for own in ids), unknown_share(tokenizer, texts)


def start_encoder(folder: Path, labels: Sequence[str], device: str, *, lora: bool) -> LabelEncoder:
    """An encoder with a new head for these labels, in training mode. What is new is drawn by torch's own state.

    Args:
        lora: Train adapters and what is new, in place of all weights.

    Raises:
        ModelError: The folder holds no encoder that transformers can put such a head on.
    """
    tokenizer = _tokenizer(folder)
    names = dict(enumerate(labels))
    model, found = _model(
        folder,
        num_labels=len(labels),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        ignore_mismatched_sizes=True,  # a head for other labels
    )
    new = {*found["missing_keys"], *(own[0] for own in found["mismatched_keys"])}
    body = [name for name in new if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name]
    if body:
        raise ModelError(
            f"{folder} has no weights for {len(body)} parts of the encoder ({', '.join(sorted(body)[:3])}): it is "
            "incomplete, or of another kind. Name an encoder such as BERT or MiniLM with encoder."
        )
    longest = _longest(tokenizer, model.config)
    tokenizer.model_max_length = longest  # so that others who load it cut texts where it was trained to
    model = model.to(device)
    if lora:
        from peft import LoraConfig, get_peft_model

        parts = sorted({name.rpartition(".")[0] for name in new})
        model = get_peft_model(
            model,
            LoraConfig(
                task_type="SEQ_CLS",
                r=_RANK,
                lora_alpha=_ALPHA,
                target_modules="all-linear",
                exclude_modules=parts,
                modules_to_save=parts,
            ),
        )
    return LabelEncoder(model.train(), tokenizer, longest)


@lru_cache(maxsize=2)
def load_encoder(folder: str, device: str) -> LabelEncoder:
    """What `LabelEncoder.save` wrote, to be asked.

    Raises:
        ModelError: The folder holds nothing of the kind.
    """
    tokenizer = _tokenizer(Path(folder))
    model, _ = _model(Path(folder))
    return LabelEncoder(model.to(device).eval(), tokenizer, int(tokenizer.model_max_length))


def _longest(tokenizer: Any, config: Any) -> int:
    return min(LONGEST, int(tokenizer.model_max_length), window_of(config))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder} has no tokenizer that transformers can read: {error}") from error
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer in {folder} names no padding token; an encoder (BERT, MiniLM) has one.")
    return tokenizer


def _model(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """The model in float32, and which of its weights the folder has not."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    try:
        found: tuple[Any, Any] = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **changes,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{folder} cannot be loaded as an encoder that classifies: {error}") from error
    return found
