"""Fused modules give the values and gradients of the modules' own forward; what differs in any way is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from luthier.model.device import autocast
from luthier.model.fused import fuse, unfuse
from separate import largest_error, relative_error, with_lora

SINGLE = 1e-6


class Layer(torch.nn.Module):
    """A linear layer, a norm and a gated block as in Llama; by a name of its own each, so that PEFT can tell them."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=2)
        self.norm = LlamaRMSNorm(24, eps=1e-5)
        self.linear = torch.nn.Linear(24, 24, bias=bias)
        self.mlp = LlamaMLP(config)
        torch.nn.init.normal_(self.norm.weight, 1.0, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.linear(self.norm(x)))


def adapted(layer: torch.nn.Module, **changes: Any) -> Any:
    settings = {"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "init_lora_weights": False}
    return get_peft_model(layer, LoraConfig(**(settings | changes)))


def outcome(model: Any, x: torch.Tensor, precision: str = "float32") -> dict[str, torch.Tensor]:
    """The output and all gradients, that of the input included."""
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    with autocast("cpu", precision):
        out = model(x)
    generator = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=generator).to(out.dtype))
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": out.detach(), "input": x.grad, **gradients}


INPUT = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))


def test_norm_linear_and_gated_block_of_a_full_model():
    layer = Layer()
    wanted = outcome(layer, INPUT)
    assert fuse(layer) == 2
    found = outcome(layer, INPUT)
    assert len(found) == 2 + 6
    error, name = largest_error(found, wanted)
    assert 0 < error < SINGLE, name  # other operations, the same numbers


@pytest.mark.parametrize("base_trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora(bias: bool, base_trained: bool, rslora: bool):
    model = adapted(Layer(bias=bias), use_rslora=rslora)
    if base_trained:
        model.requires_grad_(True)
    wanted = outcome(model, INPUT)
    assert fuse(model) == 2 + 4
    error, name = largest_error(outcome(model, INPUT), wanted)
    assert error < SINGLE, name


@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 3, 4, 24)])
def test_inputs_of_any_shape(shape: tuple[int, ...]):
    model = adapted(Layer())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    wanted = outcome(model, x)
    fuse(model)
    error, name = largest_error(outcome(model, x), wanted)
    assert error < SINGLE, name


@pytest.mark.parametrize("masters", [True, False], ids=["float32 weights", "bfloat16 weights"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_bfloat16_rounds_much_as_the_modules_own(kind: str, masters: bool):
    model: Any = Layer() if kind == "full" else adapted(Layer())
    exact = outcome(model, INPUT)
    if not masters:
        for name, parameter in model.named_parameters():
            if "lora" not in name:  # adapters stay in float32, as PEFT keeps them
                parameter.data = parameter.data.bfloat16()
    wanted = outcome(model, INPUT, "bfloat16")
    fuse(model)
    found = outcome(model, INPUT, "bfloat16")
    assert found.keys() == exact.keys()
    for name, own in found.items():
        assert own.dtype == wanted[name].dtype, name
        rounding = relative_error(wanted[name], exact[name])
        assert relative_error(own, exact[name]) < max(2 * rounding, 0.005), name


def test_parts_that_are_not_trained_get_no_gradient():
    layer = Layer()
    layer.norm.weight.requires_grad_(False)
    fuse(layer)
    found = outcome(layer, INPUT)
    assert "norm.weight" not in found
    with torch.no_grad():
        torch.testing.assert_close(layer(INPUT), found["output"])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_not_lost(training: bool):
    model = adapted(Layer(), lora_dropout=0.5).train(training)
    torch.manual_seed(3)
    wanted = outcome(model, INPUT)
    fuse(model)
    torch.manual_seed(3)
    found = outcome(model, INPUT)
    error, name = largest_error(found, wanted)
    assert error < SINGLE, name
    torch.manual_seed(4)
    assert torch.equal(outcome(model, INPUT)["output"], found["output"]) != training


def test_adapters_that_are_off_merged_or_several_are_left_to_peft():
    model = adapted(Layer())
    model.add_adapter("other", LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False))

    def outputs() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            for names in (["default"], ["other"], ["default", "other"]):
                model.base_model.set_adapter(names)
                found.append(model(INPUT))
            model.base_model.set_adapter(["default"])
            with model.disable_adapter():
                found.append(model(INPUT))
            model.merge_adapter()
            found.append(model(INPUT))
            model.unmerge_adapter()
        return found

    wanted = outputs()
    fuse(model)
    for found, own in zip(outputs(), wanted, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted[0], wanted[2])
    assert not torch.allclose(wanted[0], wanted[3])


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_lora_are_left_to_peft(changes: dict[str, Any]):
    model = adapted(Layer(), target_modules=["linear"], **changes)
    wanted = outcome(model, INPUT)
    fuse(model)
    error, name = largest_error(outcome(model, INPUT), wanted)
    assert error < SINGLE, name


@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
def test_norms_that_add_one_and_gelu_blocks_are_left_alone(make_tiny: Callable[..., Any], family: str):
    assert fuse(make_tiny(family)) == 0


@pytest.mark.parametrize(
    ("family", "number"),
    [
        ("llama", 2 * 3 + 1),  # two norms and a gated block a layer, a last norm
        ("qwen3", 2 * 5 + 1),  # two more: of queries and of keys
        ("starcoder2", 0),
        ("gpt2", 0),
    ],
)
def test_what_is_fused_of_a_family(make_tiny: Callable[..., Any], family: str, number: int):
    assert fuse(make_tiny(family)) == number


def gated_block(family: str, **changes: Any) -> Any:
    """The feed-forward block of a family, by the same names of parts as in Llama, that does more than Llama's."""
    from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP
    from transformers.models.seed_oss.modeling_seed_oss import SeedOssMLP

    torch.manual_seed(0)
    made = {"FalconH1": FalconH1MLP, "SeedOss": SeedOssMLP}[family]
    config = getattr(transformers, f"{family}Config")(
        hidden_size=24, intermediate_size=40, num_attention_heads=2, **changes
    )
    return torch.nn.ModuleList([made(config)])


@pytest.mark.parametrize(
    ("family", "changes"), [("FalconH1", {"mlp_multipliers": [0.5, 2.0]}), ("SeedOss", {"residual_dropout": 0.5})]
)
def test_gated_blocks_that_do_more_are_left_alone(family: str, changes: dict[str, Any]):
    (block,) = blocks = gated_block(family, **changes)
    torch.manual_seed(1)
    wanted = block(INPUT)
    fuse(blocks)
    torch.manual_seed(1)
    torch.testing.assert_close(block(INPUT), wanted)


def test_a_norm_in_bfloat16_is_recognised():
    layer = Layer().bfloat16()
    assert fuse(layer) == 2


def test_unfuse_gives_modules_their_own_forward_back():
    model = adapted(Layer())
    wanted = outcome(model, INPUT)
    fuse(model)
    unfuse(model)
    assert not any("forward" in module.__dict__ for module in model.modules())
    found = outcome(model, INPUT)
    assert all(torch.equal(own, wanted[name]) for name, own in found.items())


def test_unfuse_leaves_forwards_of_others_alone():
    layer = Layer()

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    fuse(layer)
    layer.linear.forward = doubled  # type: ignore[method-assign]
    unfuse(layer)
    assert layer.linear.forward is doubled


def test_a_fused_model_is_merged_and_saved_as_ever(make_tiny: Callable[..., Any], tmp_path: Any):
    model = with_lora(make_tiny())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    fuse(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        unfuse(merged)
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        from peft import PeftModel

        again = PeftModel.from_pretrained(make_tiny(), tmp_path)
        torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_fusing_twice_changes_nothing(make_tiny: Callable[..., Any]):
    model = make_tiny()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        assert fuse(model) == fuse(model)
        torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-5)
    unfuse(model)
    assert not any("forward" in module.__dict__ for module in model.modules())
