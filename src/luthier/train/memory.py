"""How much memory training takes, reckoned before it starts, and how a step is split to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.errors import TrainingError
from luthier.tree.logprobs import CHUNK_ROWS

# Tokens in flight that keep the matrix products full; more only takes memory.
WANTED_TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 8192}
# The interpreter and its libraries.
PROCESS_BYTES = 0.55e9
# Activations kept from the system though free, as a share, where lengths vary much (measured with glibc).
_SCATTERED = 0.15
# Share of the free memory that training may plan with.
_USABLE = 0.85


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a step is split.

    Attributes:
        max_tokens: Tokens in flight.
        checkpointing: Whether activations are computed again in the backward pass.
        bytes: Reckoned peak.
    """

    max_tokens: int
    checkpointing: bool
    bytes: float


@dataclass(frozen=True, slots=True)
class TrainingShape:
    """What the memory of training depends on.

    Attributes:
        trainable: Trained parameters, kept in float32.
        full: Whether the model's own weights are trained.
        width: Bytes of a number in compute precision.
        longest: Tokens of the longest sequence; `shortest` those of the shortest.
        step_tokens: Most tokens of a step, merged.
        padded: Whether the model cannot be run on a tree; the logits of whole rows are held then.
        compared: Whether predictions are compared with those of the model that training began from.
        copied: Parameters of a frozen copy of that model; 0 where it is the model in training without its adapter.
        anchored: Whether the trained weights are kept as they began, too.
    """

    config: Any
    parameters: int
    trainable: int
    full: bool
    width: int
    longest: int
    shortest: int
    step_tokens: int
    padded: bool = False
    compared: bool = False
    copied: int = 0
    anchored: bool = False


def training_bytes(shape: TrainingShape, tokens: int, *, checkpointing: bool) -> float:
    """Reckoned peak memory of training with so many tokens in flight."""
    config, width = shape.config, shape.width
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    keys = (getattr(config, "num_key_value_heads", None) or heads) * size
    residual = 4 if shape.full else width  # float32 weights give float32 sums between layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # Kept of each token in each layer: what goes into both norms and comes out; queries, keys, values and what comes of
    # them; gate, up and their product.
    kept = hidden * (2 * residual + 2 * width) + width * (2 * heads * size + 2 * keys + 3 * inner)
    kept += width * heads * min(shape.longest, 1024) * 0.6  # attention probabilities
    activations = tokens * (layers * hidden * residual + kept if checkpointing else layers * kept)
    # In passing: the gradients of one layer, and one chunk of logits with its gradient, in float32.
    passing = tokens * width * (4 * hidden + 3 * inner) + (
        tokens if shape.padded else CHUNK_ROWS
    ) * config.vocab_size * (width + 12)
    if shape.compared:  # the start's last hidden states, and a chunk of logits of both models in float32, their slope
        passing += tokens * hidden * 2 * width + CHUNK_ROWS * config.vocab_size * (2 * width + 12)
    if shape.full:
        weights = shape.parameters * (4 + width * (width < 4))  # the masters and their copies in compute precision
    else:
        weights = shape.parameters * width + shape.trainable * 4
    # Where lengths vary, what one step frees seldom fits what the next one needs.
    activations *= 1 + _SCATTERED * (1 - shape.shortest / shape.longest)
    # Two moments, the best weights so far, and gradients, of which about half stand beside the activations at the peak:
    # they come as the activations go.
    state = shape.trainable * (8 + 4 + 2 + 4 * shape.anchored)
    weights += shape.copied * width
    return float(PROCESS_BYTES + weights + state + activations + passing)


def answering_bytes(config: Any, parameters: int, precision: str, tokens: int) -> float:
    """Reckoned peak memory of answering with so many tokens in flight."""
    width = 2 if precision == "bfloat16" else 4
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * size * width
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    passing = tokens * (6 * config.hidden_size + 3 * inner) * width
    return float(PROCESS_BYTES + parameters * width + tokens * cached + passing)


def plan_memory(shape: TrainingShape, device: str, free: float) -> MemoryPlan:
    """As many tokens in flight as are wanted and fit; activations are computed again only where nothing else helps.

    Args:
        free: Bytes that may be used, what the process holds already included.

    Raises:
        TrainingError: One sequence alone does not fit.
    """
    usable = free * _USABLE
    wanted = max(shape.longest, min(WANTED_TOKENS[device], shape.step_tokens))
    sizes = sorted({max(shape.longest, wanted >> k) for k in range(4)}, reverse=True)
    for checkpointing in (False, True):
        for tokens in sizes:
            need = training_bytes(shape, tokens, checkpointing=checkpointing)
            if need <= usable:
                return MemoryPlan(tokens, checkpointing, need)
    raise TrainingError(
        f"training would take {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free (the longest example has "
        f"{shape.longest} tokens).\nUse a smaller model, LoRA in place of full fine-tuning, or shorter examples."
    )
