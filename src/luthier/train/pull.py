"""What holds a training near the model that it began from: a divergence in the loss, a pull on the weights.

Both leave the supervised loss as it is and stand beside it, so that losses with and without them can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.model.start import Start
from luthier.prompt.render import TrainingSequence
from luthier.tree.build import read_length

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Pull:
    """How hard a training is held.

    Attributes:
        start: The model that it began from; needed where `kl` is greater than 0.
        kl: Weight of the Kullback-Leibler divergence between the start's predictions and the model's, nats for nats.
        reverse: Take KL(model‖start) in place of KL(start‖model).
        everywhere: Compare predictions at the tokens of prompts, too, and not only at those that are trained.
        l2: How fast weights go back to where they began, as a multiple of the learning rate.
    """

    start: Start | None = None
    kl: float = 0.0
    reverse: bool = False
    everywhere: bool = False
    l2: float = 0.0

    def compared(self, sequences: Sequence[TrainingSequence]) -> int:
        """Tokens whose predictions are compared, those that sequences share counted for each."""
        if not self.everywhere:
            return sum(sum(s.trained) for s in sequences)
        from luthier.model.virtual import FIRST_VIRTUAL

        return sum(sum(token < FIRST_VIRTUAL for token in s.ids[: read_length(s.trained)]) for s in sequences)


FREE = Pull()
"""Holds nothing."""


class Anchor:
    """Where the trained weights began, and the way back.

    Each step every weight goes back by learning rate x `l2` of its distance from where it began: the penalty
    l2/2 ‖θ - θ₀‖² (L2-SP, Li et al. 2018), decoupled from the gradient as AdamW's weight decay is (Loshchilov & Hutter
    2019), so that neither Adam's moments nor the clipping of gradients change its strength.

    Args:
        trainable: As they began.
    """

    def __init__(self, trainable: Mapping[str, torch.nn.Parameter], l2: float) -> None:
        self._began = {parameter: parameter.detach().clone() for parameter in trainable.values()}
        self._l2 = l2

    def pull(self, optimizer: torch.optim.Optimizer) -> None:
        """Go back, by the learning rates in force; called before the optimizer's own step."""
        import torch

        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.lerp_(self._began[parameter], group["lr"] * self._l2)
