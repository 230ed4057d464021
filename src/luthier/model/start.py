"""The model that a training began from, beside the model in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Start:
    """Gives the model as it was before a training.

    Args:
        model: A frozen copy of the start, or the model in training itself.
        switch_off: Switch the model's adapters off for the time.
        virtual: Virtual tokens that the training added at the beginning of every sequence; the start has none of them.
    """

    def __init__(self, model: Any, *, switch_off: bool = False, virtual: int = 0) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.model = model
        self.virtual = virtual
        self._off = [module for module in model.modules() if switch_off and isinstance(module, BaseTunerLayer)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Any]:
        """The model, in evaluation mode and without gradients.

        It must not be in the middle of a forward pass of the model in training: the two may be the same.
        """
        import torch

        was_training = self.model.training
        self.model.eval()
        for module in self._off:
            module.enable_adapters(False)
        try:
            with torch.no_grad():
                yield self.model
        finally:
            for module in self._off:
                module.enable_adapters(True)
            self.model.train(was_training)
