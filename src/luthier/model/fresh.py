"""Weights drawn anew: what a model of this architecture is before it has learned anything."""

from __future__ import annotations

from typing import Any


def draw_weights(model: Any, seed: int) -> None:
    """Replace all weights of a model by random ones, drawn as its family draws them before pre-training."""
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
        for name, own in model.named_parameters():
            if name in drawn:
                own.copy_(drawn[name])
