"""Tiny random models whose answers differ from prompt to prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def varied(make_tiny: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a model of a family with 500 tokens; settings that are named replace the usual ones."""

    def make(family: str = "llama", vocabulary: int = 500, **changes: Any) -> Any:
        usual = {
            "tie_word_embeddings": False,  # tied, Gemma says its last token again and again
            "initializer_range": 0.4,
            "attn_implementation": "eager",  # the only one of transformers' own that caps Gemma 2's scores
        }
        return make_tiny(family, vocabulary, **(usual | changes))

    return make


@pytest.fixture
def tiny_mamba(varied: Callable[..., Any]) -> Any:
    """A model that keeps a summary of the past in place of its tokens."""
    return varied("mamba")


@pytest.fixture
def tiny_dynamic(varied: Callable[..., Any]) -> Any:
    """A model whose rotary embedding depends on the longest sequence of a batch, where that exceeds 256 tokens."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    return varied("llama", rope_parameters=rope, max_position_embeddings=256)


@pytest.fixture
def tiny_sinks(varied: Callable[..., Any]) -> Any:
    """A model whose attention has sinks, which a tree does not serve."""
    return varied("gptoss", sliding_window=8)


@pytest.fixture
def tiny_hybrid() -> Any:
    """A model with layers of a short convolution between those of attention."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"],
        initializer_range=0.4,
        tie_word_embeddings=False,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    return Lfm2ForCausalLM(config).eval()


@pytest.fixture
def tiny_rwkv() -> Any:
    """A model that keeps neither tokens nor a cache of transformers' own."""
    import torch
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}
    return RwkvForCausalLM(RwkvConfig(vocab_size=500, pad_token_id=2, **sizes)).eval()


@pytest.fixture
def tiny_first_gpt() -> Any:
    """A model with learned positions and no cache at all, whose rows may be padded."""
    import torch
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.4}
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=500, pad_token_id=2, **sizes)).eval()


@pytest.fixture
def tiny_recurrent() -> Any:
    """A model with a linear recurrence, which padding in front would enter."""
    import torch
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    config = RecurrentGemmaConfig(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        lru_width=32,
        attention_window_size=16,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    return RecurrentGemmaForCausalLM(config).eval()
