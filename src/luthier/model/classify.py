"""A classification head: a linear layer over the hidden state of a prompt's last token, in the place of the layer that
gives the next token.

Its outputs stand where those of the vocabulary stood, so that label number `i` is predicted as token `i` would be: the
token tree, the training loop and the choice among labels need not know of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.errors import ModelError

_WEIGHT, _LABELS = "head.safetensors", "labels.json"


def attach_head(model: Any, labels: Sequence[str]) -> None:
    """Put a head for these labels, all zeros, float32 and trainable, in the place of the model's own."""
    import torch

    base = _base_of(model)
    own = base.get_output_embeddings()
    place = own.weight.device
    head = torch.nn.Linear(own.weight.shape[1], len(labels), bias=False, device=place, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    base.luthier_own_head = [own]  # in a list, so that it is no part of the model meanwhile
    base.luthier_labels = tuple(labels)
    base.set_output_embeddings(head)


def detach_head(model: Any) -> None:
    """Give the model its own layer back."""
    base = _base_of(model)
    base.set_output_embeddings(base.luthier_own_head[0])
    del base.luthier_own_head, base.luthier_labels


def labels_of(model: Any) -> tuple[str, ...] | None:
    """The labels that a model's head tells apart; None where it has the head that gives the next token."""
    return getattr(_base_of(model), "luthier_labels", None)


def save_head(model: Any, folder: Path) -> None:
    """Write the model's head and its labels."""
    from safetensors.torch import save_file

    base = _base_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    weight = base.get_output_embeddings().weight.detach().float().cpu().contiguous()
    save_file({"weight": weight}, folder / _WEIGHT)
    (folder / _LABELS).write_text(json.dumps(base.luthier_labels, ensure_ascii=False), encoding="utf-8")


def saved_labels(folder: str | Path) -> tuple[str, ...]:
    """The labels of a head that was saved.

    Raises:
        ModelError: There is none.
    """
    try:
        return tuple(json.loads((Path(folder) / _LABELS).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no classification head ({_LABELS} is missing).") from error


def load_head(model: Any, folder: str | Path) -> None:
    """Put a head that was saved into the model it was trained with.

    Raises:
        ModelError: It is of another model.
    """
    import torch
    from safetensors.torch import load_file

    attach_head(model, saved_labels(folder))
    head = _base_of(model).get_output_embeddings()
    weight = load_file(Path(folder) / _WEIGHT)["weight"]
    if weight.shape != head.weight.shape:
        raise ModelError(
            f"the classification head in {folder} has the shape {tuple(weight.shape)}, and this model needs "
            f"{tuple(head.weight.shape)}: it was trained with another model."
        )
    with torch.no_grad():
        head.weight.copy_(weight)


def as_sequence_classifier(model: Any) -> Any:
    """The model as transformers' own class for classifying sequences, with the same weights.

    Raises:
        ModelError: transformers has none for this family.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    base = _base_of(model)
    labels = base.luthier_labels
    config = type(base.config).from_dict(base.config.to_dict())
    config.num_labels = len(labels)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    try:
        made = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(f"transformers has no model for classifying sequences of this family: {error}") from error
    prefix, own = made.base_model_prefix, base.get_decoder()
    getattr(made, prefix).load_state_dict(own.state_dict())
    with torch.no_grad():
        made.score.weight.copy_(base.get_output_embeddings().weight)
    return made.eval()


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
