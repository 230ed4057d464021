"""How fast the machine multiplies matrices of the model's shapes, and how much of that a training step needs.

Counted are the multiplications and additions of the linear layers, of attention over each token's own past, and of the
head at trained tokens: what the mathematics asks for. Padding, recomputation, the head at other tokens, norms and the
optimizer are not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Rows of the measured products: about the tokens of a batch of 8 at 196 tokens.
TOKENS = 1536
REPEATS = 9


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a Llama-like model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        return cls(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocabulary=config.vocab_size,
        )

    def linear_layers(self) -> dict[str, tuple[int, int, int]]:
        """Inputs, outputs and number of the linear layers but the head, by what they are."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "query": (self.hidden, queries, self.layers),
            "key, value": (self.hidden, keys, 2 * self.layers),
            "output": (queries, self.hidden, self.layers),
            "gate, up": (self.hidden, self.intermediate, 2 * self.layers),
            "down": (self.intermediate, self.hidden, self.layers),
        }


def training_flops(shape: ModelShape, lengths: Sequence[int], trained: Sequence[int], rank: int | None) -> float:
    """Floating-point operations of forward and backward over sequences.

    A matrix of n weights takes 2n operations a token forward, 2n for the gradient of its input and, where it is
    trained, 2n for its own.

    Args:
        lengths: Tokens of each sequence.
        trained: Tokens of each that the loss counts.
        rank: LoRA's rank; None where every weight is trained.
    """
    layers = shape.linear_layers().values()
    weights = sum(inputs * outputs * count for inputs, outputs, count in layers)
    adapters = 0 if rank is None else sum(rank * (inputs + outputs) * count for inputs, outputs, count in layers)
    passes = 3 if rank is None else 2
    total = 0.0
    for length, own in zip(lengths, trained, strict=True):
        # Scores and weighted sum, each over the token itself and all before it; backward takes twice as much again.
        attention = shape.layers * 4 * shape.heads * shape.head_dim * length * (length + 1) / 2
        total += 2 * passes * (weights * length + shape.hidden * shape.vocabulary * own)
        total += 6 * adapters * length + 3 * attention
    return total


def measure(what: dict[str, Any]) -> dict[str, Any]:
    """GFLOP/s of torch's matrix products at the shapes of the model in `what["model"]`, by precision.

    `gflops` is the layers' products together, as a forward and backward pass goes through them; `best` the fastest
    single one.
    """
    import torch

    from luthier.model.load import load_config

    shape = ModelShape.of(load_config(what["model"]))
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            seconds, operations, best = 0.0, 0.0, 0.0
            for inputs, outputs, count in shape.linear_layers().values():
                weight = torch.randn(outputs, inputs, dtype=dtype)
                forward = torch.randn(TOKENS, inputs, dtype=dtype)
                backward = torch.randn(TOKENS, outputs, dtype=dtype)
                own = 2 * TOKENS * inputs * outputs
                for left, right in ((forward, weight.T), (backward, weight)):
                    took = _median_seconds(left, right)
                    seconds += took * count
                    operations += own * count
                    best = max(best, own / took)
            found[name] = {"gflops": operations / seconds / 1e9, "best": best / 1e9}
    return found


def _median_seconds(left: Any, right: Any) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
