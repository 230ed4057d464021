"""Models between two others: every weight a mean of theirs (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.model.virtual import count_virtual_tokens, virtual_tokens_of
from luthier.types import ModelRef


class Blend:
    """Weights on the line from one model to another of the same shape.

    Args:
        model: The model at the far end, whose weights are moved along the line.
        start: The model at the near end.

    Raises:
        ModelError: They differ by more than their weights.
    """

    def __init__(self, model: Any, start: Any) -> None:
        import torch

        own = dict(model.named_parameters())
        if virtual_tokens_of(model) is not None or hasattr(model, "peft_config"):
            raise ModelError(
                "between these two models there is no other: what was trained is no change of the model's own weights "
                "(virtual tokens, or an adapter that PEFT cannot merge)."
            )
        self.model = model
        with torch.no_grad():
            self._start = {name: start.get_parameter(name).detach().clone() for name in own}
            self._way = {name: parameter.detach() - self._start[name] for name, parameter in own.items()}

    def move(self, at: float) -> None:
        """Put the model's weights at a place on the line: 0 is the start, 1 the far end."""
        import torch

        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self._start[name] + at * self._way[name])


def scaled_adapters(ref: ModelRef, start: ModelRef, at: float, folder: Path) -> ModelRef | None:
    """The same place on the line by LoRA adapters with their updates scaled; None where that is not all of the way.

    It is where the model differs from its start by plain LoRA adapters alone: their updates add up, so a part of each
    is that part of the way.
    """
    added = ref.adapters[len(start.adapters) :]
    if ref.base != start.base or ref.adapters[: len(start.adapters)] != start.adapters:
        return None
    if not all(map(is_plain_lora, added)):
        return None
    from safetensors.torch import load_file, save_file

    made = []
    for number, source in enumerate(added, start=1):
        to = folder / (f"adapter-{number}" if len(added) > 1 else "adapter")
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(source, to)
        file = to / "adapter_model.safetensors"
        tensors = {k: t * at if ".lora_B." in k else t for k, t in load_file(Path(source) / file.name).items()}
        save_file(tensors, file)
        made.append(str(to))
    return ModelRef(ref.base, (*start.adapters, *made))


def is_plain_lora(folder: str) -> bool:
    """Whether a folder holds a LoRA adapter whose products A·B are all that it changes."""
    from safetensors import safe_open

    file = Path(folder) / "adapter_config.json"
    if not file.is_file() or count_virtual_tokens(folder):
        return False
    config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        return False
    # Not so with whole modules or tokens trained along (modules_to_save, trainable_token_indices), or an embedding.
    with safe_open(file.with_name("adapter_model.safetensors"), framework="pt") as weights:
        names = list(weights.keys())
    return all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
