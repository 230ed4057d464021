"""One forward and backward pass over a micro-batch, on a token tree or, where a model refuses it, padded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.model.device import autocast
from luthier.model.fused import fuse, unfuse
from luthier.train.batches import MicroBatch
from luthier.train.pull import FREE, Pull
from luthier.tree.build import Path

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Objective = Callable[["torch.Tensor", Sequence[Path]], "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of what was minimised over a micro-batch: the objective, and the weighted divergence from the start."""

    objective: float
    divergence: float = 0.0


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
        return self.and_backward_near(batch, objective, scale, FREE, 0.0).objective

    def and_backward_near(
        self, batch: MicroBatch, objective: Objective, scale: float, pull: Pull, pull_scale: float
    ) -> Losses:
        """The same with the divergence from the start, times `pull_scale`.

        Raises:
            ModelError: There is a divergence to take, and the model cannot be run on a token tree.
        """
        from luthier.tree.attention import TreeAttention, attending
        from luthier.tree.divergence import StartOfTree, counted_nodes
        from luthier.tree.logprobs import base_of, target_logprobs, tree_hidden
        from luthier.tree.padded import padded_logprobs
        from luthier.tree.visible import rounded_up, tree_visibility

        device = self._model.get_input_embeddings().weight.device.type
        start = pull.start if pull_scale else None
        if not self.on_tree:
            if start is not None:
                raise ModelError(needs_a_tree(self.refusal))
            with autocast(device, self._precision):
                logprobs = padded_logprobs(self._model, [s.ids for s in batch.sequences], batch.tree)
            loss = objective(logprobs, batch.tree.paths) * scale
            loss.backward()  # type: ignore[no-untyped-call]
            return Losses(float(loss.detach()))
        tree, attention = batch.tree, TreeAttention(rounded_up(tree_visibility(batch.tree)))
        # The backward pass too: where activations are checkpointed, it calls the attention function again.
        with attending(base_of(self._model), attention), autocast(device, self._precision):
            before = None if start is None else StartOfTree(start, tree, attention)
            hidden = tree_hidden(self._model, tree.ids, tree.positions, attention)
            logprobs = target_logprobs(self._model, hidden, tree.target_nodes, tree.target_ids)
            loss = objective(logprobs, tree.paths) * scale
            apart = loss.new_zeros(())
            if before is not None:
                nodes, counts = counted_nodes(tree, everywhere=pull.everywhere)
                nats = before.divergence(self._model, hidden, nodes, reverse=pull.reverse)
                apart = nats @ nats.new_tensor(counts) * pull_scale
            (loss + apart).backward()  # type: ignore[no-untyped-call]
        return Losses(float(loss.detach()), float(apart.detach()))

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


def needs_a_tree(refusal: str) -> str:
    """That `keep: {kl: …}` cannot be had, and why."""
    return (
        f"keep: {{kl: …}} compares predictions on token trees, and this model cannot be run on them ({refusal}); use "
        "keep: {l2: …}, or leave it out."
    )
