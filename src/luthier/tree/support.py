"""Whether a model can be run on a token tree, found by its configuration and by trying it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from luthier.errors import ModelError
from luthier.model.virtual import Prefix, virtual_tokens_of
from luthier.tree.attention import TreeAttention, UnservedAttention
from luthier.tree.build import Tree, build_tree
from luthier.tree.logprobs import base_of, tree_logprobs
from luthier.tree.padded import padded_logprobs
from luthier.tree.visible import tree_visibility

_KINDS = {"full_attention", "sliding_attention"}
# RoPE whose angles depend on the longest sequence of the batch, so that sequences are no longer independent.
_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}
# Largest difference, in nats a token, that rounding explains; a wrong mask or head gives far more.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}
# In 16 bits a token that a trained model holds impossible may differ by more. Then the differences must be small beside
# those that a wrong mask makes of the same model: rounding made 0.04 to 0.12 of them, wrong positions 0.4 to 0.5.
_OF_WRONG = 0.2

_refusals: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def refusal(model: Any) -> str:
    """Why `model` cannot be run on a tree; empty where it can. Found once for each model.

    A small tree is computed and compared with the sequences one by one, so a family that differs from what its
    configuration says is found too.

    Raises:
        ModelError: It cannot, and has trained keys and values, which only a tree takes.
    """
    base = base_of(model)
    if model is not base and any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        return "its adapter puts virtual tokens before every sequence"
    if base not in _refusals:
        with _computing(base):
            _refusals[base] = refusal_by_configuration(base) or _by_trying(base)
    if _refusals[base] and isinstance(virtual_tokens_of(base), Prefix):
        raise ModelError(
            f"prefix tuning needs a model that can be run on token trees, and this one cannot ({_refusals[base]}); "
            "use prompt-tuning or lora."
        )
    return _refusals[base]


def _computing(base: Any) -> torch.autocast:
    """The precision that a model is tried in: its own, or of weights in two precisions the lower, as in training."""
    lowest, mixed = _precision(base)
    mixed = mixed and lowest.itemsize == 2
    return torch.autocast(base.device.type, dtype=lowest if mixed else None, enabled=mixed)


def _precision(base: Any) -> tuple[torch.dtype, bool]:
    """The lowest precision of its weights, and whether there is a higher one beside it."""
    kinds = {parameter.dtype for parameter in base.parameters() if parameter.dtype.is_floating_point}
    return min(kinds, key=lambda dtype: dtype.itemsize), len(kinds) > 1


def refusal_by_configuration(base: Any) -> str:
    """Why a transformers model cannot be run on a tree, as far as that shows without running it."""
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if getattr(base, "_is_stateful", False):
        return "it keeps a summary of the past instead of its tokens"
    if kinds - _KINDS:
        return f"it has layers of kind {', '.join(sorted(kinds - _KINDS))}"
    if not getattr(base, "_supports_attention_backend", False):
        return "it does not use transformers' attention interface"
    if any(own.get("rope_type") in _BATCH_DEPENDENT_ROPE for own in ropes):
        return "its rotary embedding depends on the longest sequence"
    if any(getattr(config, name, 0.0) for name in ("attention_dropout", "attn_pdrop", "attn_dropout")):
        return "it drops attention weights at random"
    if getattr(config, "num_kv_shared_layers", 0):
        return "its layers share keys"
    return ""


def _by_trying(base: Any) -> str:
    """The rest shows when it is tried: on a tree of depth 3, with a root of its own beside it."""
    config = base.config.get_text_config()
    known = min(config.vocab_size, base.get_output_embeddings().weight.shape[0])  # a classification head knows few
    token = [(7 * i + 3) % known for i in range(16)]
    sequences = [token[:4] + token[5:9], token[:4] + token[9:12], token[:4] + token[9:11] + token[12:14], token[8:12]]
    tree = build_tree(sequences, [[0.0] + [1.0] * (len(s) - 1) for s in sequences])
    attention = TreeAttention(tree_visibility(tree))
    training = base.training
    base.eval()
    try:
        with torch.no_grad():
            found = tree_logprobs(base, tree, attention)
            wanted = padded_logprobs(base, sequences, tree, together=1)
    except UnservedAttention as error:
        return str(error)
    except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError) as error:
        return f"running it on a tree fails ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    finally:
        base.train(training)
    sliding = {i for i, kind in enumerate(getattr(config, "layer_types", None) or []) if kind == "sliding_attention"}
    if sliding != {layer for layer, window in attention.windows.items() if window is not None} and sliding:
        return "its sliding windows do not reach the attention function"
    worst = float((found - wanted).abs().max())
    precision, _ = _precision(base)
    if worst <= _TOLERANCE.get(precision, 1e-3) or (
        precision.itemsize == 2 and _error(found, wanted) <= _OF_WRONG * _error(_all_visible(base, tree), wanted)
    ):
        return ""
    return f"on a tree its log-probabilities differ by {worst:.2g} nats from those of the sequences alone"


def _all_visible(base: Any, tree: Tree) -> torch.Tensor:
    """Log-probabilities where every token sees all before it, those of other sequences too."""
    wrong = replace(tree, ends=np.full_like(tree.ends, len(tree)))
    training = base.training
    base.eval()
    with torch.no_grad():
        found = tree_logprobs(base, tree, TreeAttention(tree_visibility(wrong)))
    base.train(training)
    return found


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean().sqrt())
