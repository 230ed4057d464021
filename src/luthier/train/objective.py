"""What is minimised: pure functions of a tree's log-probabilities and its paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.tree.build import Path

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PathTensors:
    """The paths of N sequences, laid out one after the other.

    Attributes:
        targets: Index of the target of each weighted token. (M,)
        weights: Its weight. (M,)
        owners: The sequence that it belongs to. (M,)
        count: N.
    """

    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor
    count: int


def path_tensors(paths: Sequence[Path], like: torch.Tensor) -> PathTensors:
    """The paths as tensors beside the log-probabilities `like`."""
    import torch

    lengths = [len(path.targets) for path in paths]
    return PathTensors(
        targets=torch.from_numpy(np.concatenate([path.targets for path in paths])).to(like.device),
        weights=torch.from_numpy(np.concatenate([path.weights for path in paths])).to(like.device, like.dtype),
        owners=torch.from_numpy(np.repeat(np.arange(len(paths)), lengths)).to(like.device),
        count=len(paths),
    )


def sequence_logprobs(logprobs: torch.Tensor, paths: Sequence[Path]) -> torch.Tensor:
    """The weighted sum of each sequence's log-probabilities in nats. (N,)

    Args:
        logprobs: Of the tree's targets. (K,)
    """
    own = path_tensors(paths, logprobs)
    return logprobs.new_zeros(own.count).index_add(0, own.owners, logprobs[own.targets] * own.weights)


def supervised_loss(logprobs: torch.Tensor, paths: Sequence[Path]) -> torch.Tensor:
    """Summed weighted negative log-likelihood in nats; a scalar.

    The caller divides by the trained tokens of the whole step, so that every trained token of a step counts the same
    however the step was split.
    """
    return -sequence_logprobs(logprobs, paths).sum()
