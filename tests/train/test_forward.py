"""One forward and backward pass in training: on a tree or padded, with what saves memory or time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from luthier.errors import ModelError
from luthier.model.adapter import add_lora
from luthier.model.device import autocast
from luthier.model.fused import fuse, use_liger
from luthier.prompt.render import TrainingSequence
from luthier.train.batches import MicroBatch, micro_batches
from luthier.train.forward import Forward
from luthier.train.objective import supervised_loss
from luthier.tree.logprobs import base_of
from separate import draw_forest, gradients, largest_error, separate_backward, with_lora


def forest(depth: int) -> tuple[list[TrainingSequence], MicroBatch]:
    """A drawn forest whose tokens are trained or not, in one batch."""
    sequences, weights = draw_forest(depth)
    own = [
        TrainingSequence(str(n), ids, tuple(bool(weight) for weight in row))
        for n, (ids, row) in enumerate(zip(sequences, weights, strict=True))
    ]
    (batch,) = micro_batches(own, 10_000)
    return own, batch


def separately(model: Any, sequences: list[TrainingSequence]) -> float:
    return separate_backward(
        model, [s.ids for s in sequences], [tuple(float(on) for on in s.trained) for s in sequences]
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "full"),
        ("llama", "lora"),
        ("gemma3", "full"),
        ("gemma3", "lora"),
        ("stablelm", "lora"),  # padded, as is the next
        ("mamba", "full"),
    ],
)
def test_loss_and_gradients_are_those_of_separate_forwards(
    make_tiny: Callable[..., Any], family: str, kind: str, checkpointing: bool
):
    model = make_tiny(family) if kind == "full" else with_lora(make_tiny(family))
    sequences, batch = forest(3)
    losses: list[float] = []
    wanted = gradients(model, lambda: losses.append(0.5 * separately(model, sequences)))
    forward = Forward(model, "float32", checkpointing=checkpointing)
    assert forward.on_tree == (family in ("llama", "gemma3"))
    model.train()
    found = gradients(model, lambda: losses.append(forward.and_backward(batch, supervised_loss, 0.5)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    error, name = largest_error({name: 2 * own for name, own in found.items()}, wanted)
    assert error < 1e-5, name


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_float32_weights_learn_in_bfloat16(make_tiny: Callable[..., Any], family: str):
    model = make_tiny(family).train()
    sequences, batch = forest(2)
    exact = gradients(model, lambda: separately(model, sequences))

    def in_bfloat16() -> None:
        with autocast("cpu", "bfloat16"):
            separately(model, sequences)

    rounded = gradients(model, in_bfloat16)
    forward = Forward(model, "bfloat16")
    losses: list[float] = []
    found = gradients(model, lambda: losses.append(forward.and_backward(batch, supervised_loss, 1.0)))
    forward.__exit__(None, None, None)
    assert all(own.dtype == torch.float32 for own in found.values())
    assert largest_error(found, exact)[0] < 2 * largest_error(rounded, exact)[0] < 0.2


def test_activations_are_computed_again_only_when_asked(make_tiny: Callable[..., Any]):
    model = with_lora(make_tiny()).train()
    calls: list[int] = []
    base_of(model).model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    _, batch = forest(2)
    for checkpointing, expected in ((False, 1), (True, 2), (False, 1)):
        forward = Forward(model, "float32", checkpointing=checkpointing)
        calls.clear()
        forward.and_backward(batch, supervised_loss, 1.0)
        assert len(calls) == expected
        forward.__exit__(None, None, None)


def test_batches_of_about_the_same_size_are_of_the_same_shape(make_tiny: Callable[..., Any]):
    model = make_tiny().train()
    widths: list[int] = []
    base_of(model).get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    with Forward(model, "float32") as forward:
        widths.clear()  # of the trial on a small tree
        for length in (33, 40, 51, 64, 65):
            own = TrainingSequence("a", tuple(3 + k % 20 for k in range(length + 1)), (False, *[True] * length))
            (batch,) = micro_batches([own], 1000)
            forward.and_backward(batch, supervised_loss, 1.0)
    assert widths == [64, 64, 64, 64, 96]


def test_a_model_is_given_back_as_it_was(make_tiny: Callable[..., Any]):
    model = with_lora(make_tiny())
    forward = Forward(model, "float32", checkpointing=True)
    assert any("forward" in module.__dict__ for module in model.modules())
    forward.__exit__(None, None, None)
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not base_of(model).is_gradient_checkpointing
    assert base_of(model).config._attn_implementation == "sdpa"


def test_gradients_add_up_over_micro_batches(make_tiny: Callable[..., Any]):
    model = make_tiny().train()
    _, batch = forest(2)
    forward = Forward(model, "float32")
    once = gradients(model, lambda: forward.and_backward(batch, supervised_loss, 1.0))
    twice = gradients(model, lambda: [forward.and_backward(batch, supervised_loss, 1.0) for _ in range(2)])
    assert largest_error(twice, {name: 2 * own for name, own in once.items()})[0] < 1e-6


def test_a_refused_model_is_named_once_and_why(make_tiny: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING"):
        forward = Forward(make_tiny("llama", attention_dropout=0.1), "float32")
    assert not forward.on_tree
    (message,) = caplog.messages
    assert "cannot be run on token trees (it drops attention weights at random); padded batches" in message


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_compiled_layers_give_the_same(make_tiny: Callable[..., Any], family: str, kind: str):
    model = (make_tiny(family) if kind == "full" else with_lora(make_tiny(family))).train()
    forests = [forest(depth) for depth in (1, 2, 3, 4)]
    wanted = [(separately(model, s), gradients(model, partial(separately, model, s))) for s, _ in forests]
    forward = Forward(model, "float32", compiled=True)
    for number, ((_, batch), (loss, separate)) in enumerate(zip(forests, wanted, strict=True)):
        if number == 3:  # by now nothing of a batch's own size or shape is compiled anew
            torch._dynamo.config.error_on_recompile = True
        losses: list[float] = []

        def backward(b: MicroBatch = batch, to: list[float] = losses) -> None:
            to.append(forward.and_backward(b, supervised_loss, 1.0))

        try:
            found = gradients(model, backward)
        finally:
            torch._dynamo.config.error_on_recompile = False
        assert losses == [pytest.approx(loss, rel=1e-5)]
        error, name = largest_error(found, separate)
        assert error < 1e-5, name
    forward.__exit__(None, None, None)
    assert all(layer._compiled_call_impl is None for layer in base_of(model).get_decoder().layers)


def test_ligers_kernels_are_refused_where_there_is_no_gpu(load_tiny: Callable[..., Any]):
    with pytest.raises(ModelError, match=r"liger: true needs a CUDA GPU; this runs on cpu"):
        use_liger(load_tiny(), "cpu")


def test_beside_ligers_kernels_only_lora_is_fused(load_tiny: Callable[..., Any]):
    model = add_lora(load_tiny(), rank=2, alpha=4, dropout=0.0, targets="all-linear", seed=0)
    adapted = sum(hasattr(module, "lora_A") for module in model.modules())
    assert fuse(model, only_lora=True) == adapted > 0
