"""Adapters: what is trained, how far it moved, and that it comes back as it was saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.errors import ModelError
from luthier.model.adapter import adapter_movement, add_lora, full_movement, movement_matrix, save_adapter, save_full
from luthier.model.load import count_parameters, load_model, load_tokenizer
from luthier.types import ModelRef

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def with_lora(model: Any, seed: int = 0, **settings: Any) -> Any:
    return add_lora(model, **{"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", **settings}, seed=seed)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def moved_by_hand(model: Any) -> Any:
    """Set every second LoRA matrix, which begins at 0, to something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def test_lora_trains_every_linear_layer_but_the_head_in_float32(load_tiny: Callable[..., Any]):
    model = with_lora(load_tiny().to(torch.bfloat16))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainable}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    # A layer of rank 2 has 2 × (inputs + outputs): q, o 32→32; k, v 32→16; gate, up 32→48; down 48→32.
    assert sum(p.numel() for p in trainable.values()) == 2 * 2 * (2 * 64 + 2 * 48 + 3 * 80)


def test_a_new_adapter_changes_nothing(load_tiny: Callable[..., Any]):
    before = logits(load_tiny())
    model = with_lora(load_tiny())
    assert torch.equal(logits(model), before)
    assert set(adapter_movement(model).values()) == {0.0}


def test_an_adapter_begins_as_its_seed_says(load_tiny: Callable[..., Any]):
    def first(seed: int) -> torch.Tensor:
        model = with_lora(load_tiny(), seed)
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_targets_that_are_no_layers_are_refused_with_those_that_are(load_tiny: Callable[..., Any]):
    with pytest.raises(ModelError, match=r"\{'query'\}\) does not fit .* linear layers: .*q_proj"):
        with_lora(load_tiny(), targets=["query"])


def test_a_saved_adapter_merged_gives_the_same_logits(
    load_tiny: Callable[..., Any], tiny_model_folder: Path, tmp_path: Path
):
    model = moved_by_hand(with_lora(load_tiny()))
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter")
    ref = ModelRef(str(tiny_model_folder), (str(tmp_path / "adapter"),))
    merged = load_model(ref, device="cpu", precision="float32")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(expected, logits(load_tiny()), atol=1e-2)


def test_adapters_are_merged_one_after_the_other(
    load_tiny: Callable[..., Any], tiny_model_folder: Path, tmp_path: Path
):
    first = moved_by_hand(with_lora(load_tiny()))
    save_adapter(first, tmp_path / "first")
    one = ModelRef(str(tiny_model_folder), (str(tmp_path / "first"),))
    second = moved_by_hand(with_lora(load_model(one, device="cpu", precision="float32")))
    save_adapter(second, tmp_path / "second")
    both = ModelRef(str(tiny_model_folder), (str(tmp_path / "first"), str(tmp_path / "second")))
    got = load_model(both, device="cpu", precision="float32")
    torch.testing.assert_close(logits(got), logits(second), rtol=0, atol=1e-4)


def test_an_adapter_of_another_model_is_refused(load_tiny: Callable[..., Any], tiny_model_folder: Path, tmp_path: Path):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    save_adapter(with_lora(transformers.LlamaForCausalLM(config)), tmp_path / "other")
    ref = ModelRef(str(tiny_model_folder), (str(tmp_path / "other"),))
    with pytest.raises(ModelError, match=r"the adapter in .*other does not fit"):
        load_model(ref, device="cpu", precision="float32")
    with pytest.raises(ModelError, match=r"nowhere holds no adapter in safetensors"):
        load_model(ModelRef(ref.base, (str(tmp_path / "nowhere"),)), device="cpu", precision="float32")


def test_an_adapter_moves_a_weight_by_its_scaled_product(load_tiny: Callable[..., Any]):
    model = moved_by_hand(with_lora(load_tiny()))
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    change = 8.0 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = float((change.norm() / layer.base_layer.weight.norm()).detach())
    assert adapter_movement(model)["model.layers.1.self_attn.q_proj"] == pytest.approx(expected, rel=1e-5)


def test_full_training_moves_a_weight_by_the_norm_of_its_change(load_tiny: Callable[..., Any]):
    base, model = load_tiny(), load_tiny()
    assert set(full_movement(model, base).values()) == {0.0}
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.25)
    moved = full_movement(model, base)
    assert moved.pop("model.layers.0.mlp.up_proj") == pytest.approx(0.25, rel=1e-4)
    assert set(moved.values()) == {0.0}


def test_movements_are_laid_out_by_layer_and_kind():
    matrix = movement_matrix(
        {
            "model.embed_tokens": 0.5,
            "model.layers.0.self_attn.q_proj": 0.1,
            "model.layers.0.mlp.up_proj": 0.2,
            "model.layers.10.self_attn.q_proj": 0.3,
            "model.layers.9.self_attn.q_proj": 0.4,
        }
    )
    assert matrix["kind"] == "matrix"
    assert matrix["rows"] == ["0", "9", "10", "embed_tokens"]
    assert matrix["columns"] == ["—", "self_attn.q_proj", "mlp.up_proj"]
    assert matrix["values"] == [[None, 0.1, 0.2], [None, 0.4, None], [None, 0.3, None], [0.5, None, None]]


def test_a_whole_model_is_saved_for_plain_transformers(load_tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = load_tiny()
    save_full(model, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


def test_tied_weights_are_counted_once(load_tiny: Callable[..., Any], tokenizer: Any):
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert count_parameters(load_tiny()) == len(tokenizer) * 32 + 2 * layer + 32


def test_a_tokenizer_without_template_or_padding_gets_both(tokenizer: Any, tmp_path: Path):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == loaded.eos_token
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    assert loaded.apply_chat_template(turns, tokenize=False) == f"Hello.\n\nGood day.{loaded.eos_token}\n\n"


def test_a_tokenizer_without_end_token_is_refused(tokenizer: Any, tmp_path: Path):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.eos_token = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="names no end token"):
        load_tokenizer(tmp_path)
