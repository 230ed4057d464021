"""A tree gives what separate forwards give: loss, every gradient, log-probabilities, in plain transformers models.

Errors are relative: the norm of the difference over the norm of what is wanted, for each tensor by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from luthier.model.device import autocast
from luthier.model.fused import fuse
from luthier.train.objective import supervised_loss
from luthier.tree import attention as attention_module
from luthier.tree import head, products
from luthier.tree import logprobs as logprobs_module
from luthier.tree.attention import Backend, TreeAttention, attending
from luthier.tree.build import Tree, build_tree
from luthier.tree.logprobs import base_of, tree_logprobs
from luthier.tree.visible import row_blocks, tree_visibility
from separate import (
    draw_forest,
    gradients,
    largest_error,
    relative_error,
    separate_backward,
    separate_target_logprobs,
    with_lora,
)

FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gemma2"]
KINDS = {"full": lambda model: model, "lora": with_lora}
SINGLE, DOUBLE = 1e-5, 1e-10
# In nats a token, where a number has 8 bits: twice what was seen.
BFLOAT16 = 0.2


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are multiplied seven at a time, so that a small tree has blocks of every shape."""
    monkeypatch.setattr(attention_module, "row_blocks", partial(row_blocks, rows=7))


def tree_backward(model: Any, tree: Tree, backend: Backend = "products") -> tuple[float, torch.Tensor]:
    """Loss and log-probabilities of a tree's targets; gradients are added to the weights'."""
    attention = TreeAttention(tree_visibility(tree), backend)
    with attending(base_of(model), attention):
        logprobs = tree_logprobs(model, tree, attention)
        loss = supervised_loss(logprobs, tree.paths)
        loss.backward()
    return float(loss.detach()), logprobs.detach()


class Separate:
    """What the sequences of a forest give one by one."""

    def __init__(self, model: Any, depth: int, *, stretch: int = 1) -> None:
        sequences, weights = draw_forest(depth, stretch=stretch)
        self.model = model
        self.tree = build_tree(sequences, weights)
        losses: list[float] = []
        self.gradients = gradients(model, lambda: losses.append(separate_backward(model, sequences, weights)))
        self.loss = losses[0]
        self.logprobs = separate_target_logprobs(model, sequences, weights, self.tree)

    def assert_equal(self, tolerance: float, backend: Backend = "products") -> None:
        """The tree, with the model as it is now, gives the same."""
        results: list[tuple[float, torch.Tensor]] = []
        found = gradients(self.model, lambda: results.append(tree_backward(self.model, self.tree, backend)))
        loss, logprobs = results[0]
        assert loss == pytest.approx(self.loss, rel=tolerance)
        assert relative_error(logprobs, self.logprobs) < tolerance
        error, name = largest_error(found, self.gradients)
        assert error < tolerance, name


def with_exact_norms(model: Any) -> Any:
    """In float64. RMS norms of transformers round through float32; torch's own stand in for them."""
    model.double()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                own = torch.nn.RMSNorm(child.weight.shape, eps=1e-6, dtype=torch.float64)
                torch.nn.init.uniform_(own.weight, 0.5, 1.5)
                setattr(module, name, own)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_equals_separate_forwards(
    make_tiny: Callable[..., Any], small_blocks: None, family: str, depth: int, kind: str
):
    separate = Separate(KINDS[kind](make_tiny(family)), depth)
    separate.assert_equal(SINGLE)
    fuse(separate.model)
    separate.assert_equal(SINGLE)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["starcoder2", "gpt2"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_layer_norm_families_are_exact_in_float64(
    make_tiny: Callable[..., Any], small_blocks: None, family: str, depth: int, kind: str
):
    separate = Separate(KINDS[kind](make_tiny(family).double()), depth)
    separate.assert_equal(DOUBLE)
    fuse(separate.model)
    separate.assert_equal(DOUBLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_rms_norm_families_are_exact_in_float64_but_for_their_norms(
    make_tiny: Callable[..., Any], small_blocks: None, family: str, kind: str
):
    # Gemma 2 is not here: its eager attention takes the softmax in float32.
    separate = Separate(KINDS[kind](with_exact_norms(make_tiny(family))), 4)
    separate.assert_equal(DOUBLE)
    fuse(separate.model)
    separate.assert_equal(DOUBLE)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_saves_memory_changes_nothing(
    make_tiny: Callable[..., Any], small_blocks: None, monkeypatch: pytest.MonkeyPatch, family: str, kind: str
):
    separate = Separate(KINDS[kind](make_tiny(family)), 3)
    model = separate.model
    fuse(model)
    monkeypatch.setattr(products, "KEPT_PROBABILITIES", 0)
    separate.assert_equal(SINGLE)
    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", 5)
    separate.assert_equal(SINGLE)
    monkeypatch.setattr(head, "KEPT_EXPONENTIALS", 0)
    separate.assert_equal(SINGLE)
    calls: list[int] = []
    base_of(model).get_decoder().layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    base_of(model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    separate.assert_equal(SINGLE)
    assert len(calls) == 2  # once more in the backward pass


@pytest.mark.parametrize("family", FAMILIES)
def test_hundreds_of_nodes_give_the_same(make_tiny: Callable[..., Any], family: str):
    separate = Separate(make_tiny(family), 3, stretch=5)
    assert len(separate.tree) > 400
    separate.assert_equal(SINGLE)
    separate.assert_equal(SINGLE, "dense")


@pytest.mark.filterwarnings("ignore:.*without torch.compile:UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_gives_the_same_log_probabilities(make_tiny: Callable[..., Any], family: str):
    # Forward only: torch has no backward of it on CPU.
    model = make_tiny(family)
    sequences, weights = draw_forest(3, stretch=5)
    tree = build_tree(sequences, weights)
    with torch.no_grad():
        found = tree_logprobs(model, tree, TreeAttention(tree_visibility(tree), "flex"))
    assert relative_error(found, separate_target_logprobs(model, sequences, weights, tree)) < SINGLE


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_rounds_a_tree_much_as_separate_forwards(make_tiny: Callable[..., Any], family: str, weights: str):
    exact = Separate(make_tiny(family), 3)
    model = exact.model
    precision = "bfloat16" if weights == "float32" else "float32"  # cast while computing, or beforehand
    model.to(getattr(torch, weights))
    with autocast("cpu", precision):
        separate = Separate(model, 3)
    fuse(model)
    results: list[tuple[float, torch.Tensor]] = []

    def backward() -> None:
        with autocast("cpu", precision):
            results.append(tree_backward(model, separate.tree))

    found = gradients(model, backward)
    _, logprobs = results[0]
    assert logprobs.dtype == torch.float32
    assert float((logprobs - exact.logprobs).abs().max()) < BFLOAT16
    assert relative_error(logprobs, exact.logprobs) < 2 * relative_error(separate.logprobs, exact.logprobs)
    lost = relative_error(together(separate.gradients), together(exact.gradients))
    assert relative_error(together(found), together(exact.gradients)) < 2 * lost


def together(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].float().flatten() for name in sorted(tensors)])


def test_a_model_is_left_as_it_was(make_tiny: Callable[..., Any]):
    model = make_tiny()
    tree = build_tree([(5, 6, 7)], [(0.0, 1.0, 1.0)])
    before = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    tree_logprobs(model, tree)
    with pytest.raises(IndexError):
        tree_logprobs(model, build_tree([(5, 6000, 7)], [(0.0, 1.0, 1.0)]))
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(input_ids=torch.tensor([[5, 6, 7]])).logits, before, rtol=0, atol=0)
