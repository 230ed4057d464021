"""Log-probabilities through the output layer, against log_softmax of all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from luthier.tree import head
from luthier.tree import logprobs as logprobs_module
from luthier.tree.logprobs import target_logprobs
from separate import gradients, largest_error

# Of eight nodes, some have no target, some several, one the same token twice.
NODES = np.array([0, 0, 2, 3, 3, 3, 6])
IDS = np.array([5, 1, 7, 0, 0, 10, 5])


def plainly(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.get_output_embeddings()(hidden)
    return logits.log_softmax(dim=-1)[torch.from_numpy(NODES), torch.from_numpy(IDS)]


@pytest.mark.parametrize("trained", ["hidden", "layer", "both"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 256])
def test_values_and_gradients_are_those_of_log_softmax(
    make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rows: int, kept: bool, trained: str
):
    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", rows)
    if not kept:
        monkeypatch.setattr(head, "KEPT_EXPONENTIALS", 0)
    model = make_tiny(tie_word_embeddings=False).double()
    layer = model.get_output_embeddings()
    layer.weight.requires_grad_(trained != "hidden")
    hidden = torch.randn(8, 32, dtype=torch.float64, requires_grad=trained != "layer")
    inputs = [tensor for tensor in (hidden, layer.weight) if tensor.requires_grad]
    found, wanted = target_logprobs(model, hidden, NODES, IDS), plainly(model, hidden)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn(len(IDS), dtype=torch.float64)
    for own, other in zip(
        torch.autograd.grad(found @ weights, inputs), torch.autograd.grad(wanted @ weights, inputs), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rows", [2, 256])
@pytest.mark.parametrize("where", ["target_modules", "modules_to_save"])
def test_an_output_layer_of_an_adapter_is_trained(
    make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, where: str, rows: int
):
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", rows)
    settings: dict[str, Any] = {"target_modules": ["q_proj"]} | {where: ["lm_head"]}
    torch.manual_seed(0)
    model = get_peft_model(make_tiny(tie_word_embeddings=False), LoraConfig(r=2, init_lora_weights=False, **settings))
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lm_head" in name and ("lora" in name or "modules_to_save" in name))
    hidden = torch.randn(8, 32)
    found = gradients(model, lambda: target_logprobs(model, hidden, NODES, IDS).sum().backward())
    wanted = gradients(model, lambda: plainly(model.get_base_model(), hidden).sum().backward())
    assert found
    assert largest_error(found, wanted)[0] < 1e-5


def test_large_logits_do_not_overflow(make_tiny: Callable[..., Any]):
    model = make_tiny(tie_word_embeddings=False)
    hidden = 1e4 * torch.randn(8, 32)
    found = target_logprobs(model, hidden, NODES, IDS)
    torch.testing.assert_close(found, plainly(model, hidden), rtol=1e-5, atol=1e-2)
    assert bool(found.isfinite().all())


def test_nothing_predicted_gives_nothing_and_still_differentiates(make_tiny: Callable[..., Any]):
    hidden = torch.randn(8, 32, requires_grad=True)
    found = target_logprobs(make_tiny(), hidden, NODES[:0], IDS[:0])
    assert found.shape == (0,)
    found.sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()
