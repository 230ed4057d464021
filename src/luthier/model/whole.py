"""Writing a model with all that was trained of it as one folder, which plain transformers loads."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import ModelError
from luthier.model.load import load_model, load_tokenizer
from luthier.model.virtual import count_virtual_tokens
from luthier.types import ModelRef


def write_whole(ref: ModelRef, folder: Path) -> ModelRef:
    """Write a model in float32, its adapters merged, and its tokenizer.

    Raises:
        ModelError: Something that was trained cannot become a part of the weights.
    """
    if any(map(count_virtual_tokens, ref.adapters)):
        raise ModelError("its virtual tokens are no part of a model's weights and cannot be merged into them")
    model = load_model(ref, device="cpu", precision="float32")
    if hasattr(model, "get_base_model"):  # PEFT wraps it still
        raise ModelError("PEFT cannot merge this kind of adapter into the weights")
    model.save_pretrained(folder)
    load_tokenizer(ref.base).save_pretrained(folder)
    return ModelRef(str(folder))
