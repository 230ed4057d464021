"""What changes the output layer or the input embedding alone, in models in which both share their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.model.load import load_model
from luthier.types import ModelRef

IDS = [[5, 9, 17, 3, 11, 8]]
KINDS: dict[str, dict[str, Any]] = {
    "lora on the head": {"target_modules": ["lm_head"]},
    "lora on the embedding": {"target_modules": ["embed_tokens"]},
    "lora on the head and a layer": {"target_modules": ["lm_head", "q_proj"]},
    "the head trained along": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "the embedding trained along": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "neither": {"target_modules": ["q_proj", "down_proj"]},
}


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*tie")
def test_merged_it_predicts_what_it_does_as_an_adapter_also_when_saved_and_loaded(
    load_tiny: Callable[..., Any], tiny_model_folder: Path, tmp_path: Path, kind: str
):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    before = _logits(load_tiny())
    adapted = get_peft_model(load_tiny(), LoraConfig(r=2, task_type="CAUSAL_LM", **KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    wanted = _logits(adapted)
    assert (wanted - before).abs().max() > 0.1
    adapted.save_pretrained(tmp_path / "adapter")

    merged = load_model(
        ModelRef(str(tiny_model_folder), (str(tmp_path / "adapter"),)), device="cpu", precision="float32"
    )
    torch.testing.assert_close(_logits(merged), wanted, rtol=0, atol=1e-4)
    merged.save_pretrained(tmp_path / "whole")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(_logits(plain), wanted, rtol=0, atol=1e-4)
    shared = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert shared == (kind == "neither")
