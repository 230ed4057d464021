"""Weights drawn anew: what a model of this architecture is before it has learned anything."""

from __future__ import annotations

from typing import Any

from luthier.errors import ModelError


def draw_weights(model: Any, seed: int) -> None:
    """Replace all weights of a model by random ones, drawn as its family draws them before pre-training.

    Raises:
        ModelError: It has weights that its family does not, which would stay as they were learned.
    """
    import torch
    from transformers import AutoModelForCausalLM

    parameter = next(model.parameters())
    if parameter.device.type == "meta":
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config, dtype=parameter.dtype, trust_remote_code=False)
    with torch.no_grad():
        drawn = dict(fresh.named_parameters())
        if strange := [name for name, _ in model.named_parameters() if name not in drawn]:
            raise ModelError(
                f"start: random draws the weights of {type(fresh).__name__}, and this model has others beside them "
                f"({', '.join(strange[:3])}); let the approach begin with this step."
            )
        for name, own in model.named_parameters():
            own.copy_(drawn[name])
