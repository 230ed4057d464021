"""Virtual tokens before every sequence: prompt tuning (Lester et al. 2021) and prefix tuning (Li & Liang 2021).

A virtual token has an id beyond every vocabulary and stands in a sequence like any other, so that a token tree computes
those of all its sequences once, and generation and choosing keep them with what prompts share. In prompt tuning its
embedding is trained. In prefix tuning its keys and values are, layer by layer, and what the model computes at its place
is not used. Positions, outputs and files are those of PEFT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from luthier.errors import ModelError

# Virtual token `i` has the id FIRST_VIRTUAL + i.
FIRST_VIRTUAL = 1 << 30

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TENSOR = "prompt_embeddings"
_KINDS = ("PROMPT_TUNING", "PREFIX_TUNING")


class VirtualTokens(torch.nn.Module):
    """What stands for the virtual tokens of a model; its only weight is that of `embedding`, one row a token."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight.float(), _freeze=True)

    def __len__(self) -> int:
        return int(self.embedding.num_embeddings)

    def embedded(self, hidden: torch.Tensor, places: tuple[torch.Tensor, ...], numbers: torch.Tensor) -> torch.Tensor:
        """Embeddings of a batch with those of its virtual tokens in place.

        Args:
            hidden: Embeddings of the other tokens. (B, T, E)
            places: Where virtual tokens stand: indices of rows and columns. (R,) each
            numbers: Which ones. (R,)
        """
        raise NotImplementedError


class SoftPrompt(VirtualTokens):
    """Trained embeddings. (N, E)"""

    def embedded(self, hidden: torch.Tensor, places: tuple[torch.Tensor, ...], numbers: torch.Tensor) -> torch.Tensor:
        return hidden.index_put(places, self.embedding(numbers).to(hidden.dtype))


class Prefix(VirtualTokens):
    """Trained keys and values of every layer, the keys with their positions in them. (N, L·2·K·D)

    Args:
        layers, heads: Of the model; `heads` are those of keys and values.
    """

    def __init__(self, weight: torch.Tensor, layers: int, heads: int) -> None:
        super().__init__(weight)
        self._shape = (layers, 2, heads, weight.shape[1] // (layers * 2 * heads))
        # Of the batch that is computed: all its calls of the attention function come after that of the embedding.
        self._columns, self._numbers = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)

    def embedded(self, hidden: torch.Tensor, places: tuple[torch.Tensor, ...], numbers: torch.Tensor) -> torch.Tensor:
        self._columns, self._numbers = places[1], numbers
        return hidden

    def placed(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a tree, both (1, K, T, D), with those of the virtual tokens in place."""
        if not len(self._numbers):
            return key, value
        own = self.embedding(self._numbers).view(-1, *self._shape)[:, layer].transpose(0, 2)  # (K, 2, R, D)
        key = key.index_copy(2, self._columns, own[None, :, 0].to(key.dtype))
        return key, value.index_copy(2, self._columns, own[None, :, 1].to(value.dtype))


def virtual_tokens_of(base: Any) -> VirtualTokens | None:
    """Those that a transformers model has."""
    return getattr(base, "virtual_tokens", None)


def virtual_ids(count: int) -> tuple[int, ...]:
    return tuple(range(FIRST_VIRTUAL, FIRST_VIRTUAL + count))


def new_soft_prompt(base: Any, ids: Sequence[int]) -> SoftPrompt:
    """Virtual tokens that begin as the embeddings of these tokens (Lester et al. 2021)."""
    return SoftPrompt(base.get_input_embeddings().weight.detach()[list(ids)])


def new_prefix(base: Any, ids: Sequence[int]) -> Prefix:
    """Virtual tokens that begin with the keys and values of these tokens (Li & Liang 2021)."""
    config = base.config.get_text_config()
    layers, heads, size = _key_shape(config)
    device = base.get_input_embeddings().weight.device
    if device.type == "meta":
        return Prefix(torch.empty(len(ids), layers * 2 * heads * size, device=device), layers, heads)
    with torch.no_grad():
        cache = base(input_ids=torch.tensor([list(ids)], device=device), use_cache=True).past_key_values
    states = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]  # (2, K, N, D) each
    return Prefix(torch.stack(states).permute(3, 0, 1, 2, 4).reshape(len(ids), -1), layers, heads)


def add_virtual_tokens(base: Any, tokens: VirtualTokens) -> None:
    """Let the model know the ids of these tokens.

    Raises:
        ModelError: It has virtual tokens already.
    """
    if virtual_tokens_of(base) is not None:
        raise ModelError("the model has virtual tokens already; prompt and prefix tuning come once in an approach.")
    embedding = base.get_input_embeddings()
    base.virtual_tokens = tokens.to(embedding.weight.device)
    plain = embedding.forward

    def forward(self: Any, ids: torch.Tensor) -> torch.Tensor:
        virtual = ids >= FIRST_VIRTUAL
        places = torch.nonzero(virtual, as_tuple=True)
        return tokens.embedded(plain(ids.masked_fill(virtual, 0)), places, ids[places] - FIRST_VIRTUAL)

    embedding.forward = MethodType(forward, embedding)


def remove_virtual_tokens(base: Any) -> None:
    """Leave the model as it was before `add_virtual_tokens`, if it was called."""
    if virtual_tokens_of(base) is not None:
        del base.virtual_tokens
        del base.get_input_embeddings().forward


def save_virtual_tokens(base: Any, folder: Path) -> None:
    """Write them as an adapter that PEFT loads."""
    from peft import PrefixTuningConfig, PromptTuningConfig
    from safetensors.torch import save_file

    tokens, config = virtual_tokens_of(base), base.config.get_text_config()
    assert tokens is not None
    layers, heads, size = _key_shape(config)
    shape = {"task_type": "CAUSAL_LM", "inference_mode": True, "num_virtual_tokens": len(tokens), "num_layers": layers}
    shape |= {"num_transformer_submodules": 1, "base_model_name_or_path": base.name_or_path or None}
    if isinstance(tokens, Prefix):
        made = PrefixTuningConfig(token_dim=heads * size, num_attention_heads=heads, **shape)
    else:
        made = PromptTuningConfig(token_dim=config.hidden_size, num_attention_heads=config.num_attention_heads, **shape)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(str(folder))
    save_file({_TENSOR: tokens.embedding.weight.detach().cpu().contiguous()}, folder / _WEIGHTS)


def count_virtual_tokens(folder: str | Path) -> int:
    """How many an adapter in a folder puts before every sequence; 0 where it is of another kind."""
    file = Path(folder) / _CONFIG
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return int(config["num_virtual_tokens"]) if config.get("peft_type") in _KINDS else 0


def load_virtual_tokens(base: Any, folder: str | Path) -> None:
    """Add those that `save_virtual_tokens` wrote.

    Raises:
        ModelError: They are of another model.
    """
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / _CONFIG).read_text(encoding="utf-8"))
    weight = load_file(Path(folder) / _WEIGHTS)[_TENSOR]
    text_config = base.config.get_text_config()
    layers, heads, size = _key_shape(text_config)
    prefix = config["peft_type"] == "PREFIX_TUNING"
    width = layers * 2 * heads * size if prefix else text_config.hidden_size
    if weight.shape[1] != width:
        raise ModelError(f"{folder} holds virtual tokens of width {weight.shape[1]}; this model's have {width}.")
    add_virtual_tokens(base, Prefix(weight, layers, heads) if prefix else SoftPrompt(weight))


def _key_shape(config: Any) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and their size."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, size
