"""One forward and backward pass over a micro-batch, on a token tree or, where a model refuses it, padded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from luthier.model.device import autocast
from luthier.model.fused import fuse, unfuse
from luthier.train.batches import MicroBatch
from luthier.tree.build import Path

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Objective = Callable[["torch.Tensor", Sequence[Path]], "torch.Tensor"]


class Forward:
    """Runs a model in training; a context manager that leaves the model as it was.

    Args:
        precision: What is computed in; weights that are trained stay float32.
        checkpointing: Compute activations again in the backward pass, to save memory.
        compiled: Compile the model's layers; the first steps take long.
        liger: Liger's kernels are in the model already.
    """

    def __init__(
        self, model: Any, precision: str, *, checkpointing: bool = False, compiled: bool = False, liger: bool = False
    ) -> None:
        from luthier.tree.logprobs import base_of
        from luthier.tree.support import refusal

        self._model = model
        self._precision = precision
        self.refusal = refusal(model)
        if self.refusal:
            log.warning("this model cannot be run on token trees (%s); padded batches are used instead", self.refusal)
        self._compiled, self._checkpointing = compiled, checkpointing
        base = base_of(model)
        if checkpointing:
            base.activation_checkpointing_enable()
        if compiled:
            for layer in base.get_decoder().layers:
                layer.compile(dynamic=True)
        else:  # the compiler fuses by itself
            fuse(model, only_lora=liger)

    @property
    def on_tree(self) -> bool:
        return not self.refusal

    def and_backward(self, batch: MicroBatch, objective: Objective, scale: float) -> float:
        """The objective over the micro-batch, times `scale`; its gradients are added to the weights'."""
        from luthier.tree.attention import TreeAttention, attending
        from luthier.tree.logprobs import base_of, tree_logprobs
        from luthier.tree.padded import padded_logprobs
        from luthier.tree.visible import rounded_up, tree_visibility

        device = self._model.get_input_embeddings().weight.device.type
        if not self.on_tree:
            with autocast(device, self._precision):
                logprobs = padded_logprobs(self._model, [s.ids for s in batch.sequences], batch.tree)
            loss = objective(logprobs, batch.tree.paths) * scale
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())
        attention = TreeAttention(rounded_up(tree_visibility(batch.tree)))
        # The backward pass too: where activations are checkpointed, it calls the attention function again.
        with attending(base_of(self._model), attention), autocast(device, self._precision):
            loss = objective(tree_logprobs(self._model, batch.tree, attention), batch.tree.paths) * scale
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the model its own forward functions back."""
        from luthier.tree.logprobs import base_of

        base = base_of(self._model)
        for layer in base.get_decoder().layers if self._compiled else ():
            layer._compiled_call_impl = None
        if self._checkpointing:
            base.activation_checkpointing_disable()
        unfuse(self._model)
