"""Which models a tree is refused to, for what reason, and what they are run by instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch

from luthier.tree import support
from luthier.tree.attention import NAME, UnservedAttention
from luthier.tree.build import build_tree
from luthier.tree.padded import by_length, left_padded, padded_logprobs
from luthier.tree.support import refusal
from separate import (
    draw_forest,
    gradients,
    largest_error,
    relative_error,
    separate_backward,
    separate_target_logprobs,
    with_lora,
)


@pytest.mark.parametrize("trained", ["model.layers.1", "model.embed_tokens", "model.norm"])
def test_a_model_of_which_a_part_is_trained_in_float32_is_served(make_tiny: Callable[..., Any], trained: str):
    model = make_tiny().to(torch.bfloat16)
    model.get_submodule(trained).float()
    assert refusal(model) == ""


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gemma2", "starcoder2", "cohere", "gpt2"])
def test_families_that_a_tree_serves(make_tiny: Callable[..., Any], family: str):
    model = make_tiny(family).train()
    assert refusal(model) == ""
    assert model.training


def test_an_adapter_changes_nothing(make_tiny: Callable[..., Any]):
    assert refusal(with_lora(make_tiny())) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_is_served(make_tiny: Callable[..., Any], dtype: torch.dtype):
    assert refusal(make_tiny().to(dtype)) == ""


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
GEMMA_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": DYNAMIC,
}


@pytest.mark.filterwarnings("ignore:.*RoPE scaling factor")
@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mamba", {}, "a summary of the past"),
        ("stablelm", {}, "does not use transformers' attention interface"),
        ("gptoss", {}, "asks for s_aux"),
        ("llama", {"attention_dropout": 0.1}, "drops attention weights at random"),
        ("gpt2", {"attn_pdrop": 0.1}, "drops attention weights at random"),
        ("llama", {"rope_parameters": DYNAMIC}, "rotary embedding depends on the longest sequence"),
        ("gemma3", {"rope_parameters": GEMMA_ROPE}, "rotary embedding depends on the longest sequence"),
        ("gemma3", {"use_bidirectional_attention": True}, "differ by|what follows"),
    ],
)
def test_what_a_tree_does_not_serve(make_tiny: Callable[..., Any], family: str, changes: dict[str, Any], reason: str):
    assert re.search(reason, refusal(make_tiny(family, **changes)))


def test_a_head_that_scales_otherwise_than_configured_is_found(make_tiny: Callable[..., Any]):
    model = make_tiny("cohere")  # it keeps the scale that it was made with
    model.config.logit_scale = 3.0
    assert "log-probabilities differ by" in refusal(model)


def test_attention_that_does_not_say_what_it_does_is_found(make_tiny: Callable[..., Any]):
    model = make_tiny()
    attention = model.model.layers[1].self_attn

    def with_past(self: Any, hidden_states: torch.Tensor, **others: Any) -> Any:
        """Mixes in the token before, as the batch has it."""
        return type(self).forward(self, hidden_states + hidden_states.roll(1, dims=1), **others)

    attention.forward = MethodType(with_past, attention)
    assert "log-probabilities differ by" in refusal(model)


SURE = 2.0  # times the head of a random model, whose answers are then about as sure as a trained one's


@pytest.mark.parametrize(("noise", "said"), [(0.0, ""), (0.9, ""), (9.0, "differ by")])
def test_in_16_bits_a_difference_is_measured_against_that_of_a_wrong_mask(
    make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, noise: float, said: str
):
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight *= SURE
    model = model.to(torch.bfloat16)
    true, calls = support.tree_logprobs, []

    def noisy(base: Any, tree: Any, attention: Any) -> torch.Tensor:
        found = true(base, tree, attention)
        calls.append(found)
        if len(calls) == 1:  # one token of many, as a rounding of an improbable one
            found = found.clone()
            found[3] += noise
        return found

    monkeypatch.setattr(support, "tree_logprobs", noisy)
    found = refusal(model)
    assert found == "" if not said else said in found
    assert len(calls) == (2 if noise else 1)


def test_in_16_bits_a_wrong_mask_is_found(make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight *= SURE
    right = support.tree_visibility
    monkeypatch.setattr(
        support, "tree_visibility", lambda tree: right(replace(tree, ends=np.full_like(tree.ends, len(tree))))
    )
    assert "differ by" in refusal(model.to(torch.bfloat16))


def test_sliding_windows_that_do_not_arrive_are_found(make_tiny: Callable[..., Any]):
    model = make_tiny("gemma3")
    model.model.layers[0].self_attn.sliding_window = None
    assert refusal(model) == "its sliding windows do not reach the attention function"


def test_a_model_that_cannot_be_run_at_all_is_refused(make_tiny: Callable[..., Any]):
    model = make_tiny()

    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("no such\nargument")

    model.model.forward = fail
    assert refusal(model) == "running it on a tree fails (TypeError: no such argument)"


@pytest.mark.parametrize("first", ["adapter", "model"])
def test_virtual_tokens_are_refused_whichever_is_asked_first(make_tiny: Callable[..., Any], first: str):
    from peft import PrefixTuningConfig, get_peft_model

    model = make_tiny()
    if first == "model":
        assert refusal(model) == ""
    with_prefix = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert refusal(with_prefix) == "its adapter puts virtual tokens before every sequence"
    if first == "adapter":
        assert refusal(model) == ""


def test_the_attention_function_is_not_called_outside(make_tiny: Callable[..., Any]):
    model = make_tiny()
    assert refusal(model) == ""
    model.config._attn_implementation = NAME
    with pytest.raises(UnservedAttention, match="outside of `attending`"):
        model(input_ids=torch.tensor([[3, 4]]))


@pytest.mark.parametrize("family", ["mamba", "stablelm", "gptoss", "llama", "gemma3"])
def test_padded_rows_equal_separate_forwards(make_tiny: Callable[..., Any], family: str):
    model = make_tiny(family)
    sequences, weights = draw_forest(2)
    tree = build_tree(sequences, weights)
    wanted = separate_target_logprobs(model, sequences, weights, tree)
    for together in (None, 1, 3):
        found = padded_logprobs(model, sequences, tree, together=together)
        assert relative_error(found.detach(), wanted) < 1e-5

    def backward() -> None:
        logprobs = padded_logprobs(model, sequences, tree)
        for path in tree.paths:
            (-logprobs[torch.from_numpy(path.targets)] @ torch.from_numpy(path.weights).float()).backward(
                retain_graph=True
            )

    separate = gradients(model, lambda: separate_backward(model, sequences, weights))
    error, name = largest_error(gradients(model, backward), separate)
    assert error < 1e-5, name


def test_without_targets_nothing_is_run():
    tree = build_tree([(1, 2)], [(0, 0)])
    assert padded_logprobs(None, [(1, 2)], tree).shape == (0,)


def test_padding_stands_in_front():
    ids, mask = left_padded([(5, 6, 7), (8,)], 0, "cpu")
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_rows_of_similar_length_go_together():
    assert list(by_length([3, 9, 4, 8, 1], 16)) == [[1], [3, 2], [0, 4]]
    assert list(by_length([3, 9, 4, 8, 1], 18)) == [[1, 3], [2, 0, 4]]
    assert list(by_length([3, 9, 4, 8, 1], 1000, most=2)) == [[1, 3], [2, 0], [4]]
    assert list(by_length([30], 16)) == [[0]]
    assert list(by_length([], 16)) == []
