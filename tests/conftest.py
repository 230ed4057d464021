"""Fixtures that several parts share: tiny random models, a tiny task, the small real model."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colours import make_task
from luthier.types import Task


def pytest_configure(config: pytest.Config) -> None:
    """Tiny models gain nothing from a second thread, and threads wait for each other where others use the machine."""
    if config.option.markexpr != "slow":
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny_task() -> Task:
    return make_task()


@pytest.fixture
def open_task() -> Task:
    """The same without labels: answers are generated."""
    return make_task(labelled=False)


@pytest.fixture
def without_test(tiny_task: Task) -> Task:
    """The tiny task as a step sees it."""
    return replace(tiny_task, test=())


@pytest.fixture(scope="session")
def real_model_folder() -> Path:
    """SmolLM2-135M-Instruct, converted into the user's cache when first used."""
    from luthier.model.find import find_model

    return find_model("smollm2-135m-instruct", Path())


@pytest.fixture(scope="session")
def tokenizer(real_model_folder: Path) -> Any:
    from luthier.model.load import load_tokenizer

    found = load_tokenizer(real_model_folder)
    for library in ("peft", "transformers"):
        importlib.import_module(library)
    # Whatever runs a model collects garbage often, and would look through all of the libraries each time.
    gc.collect()
    gc.freeze()
    return found


@pytest.fixture(scope="session")
def save_tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a model folder of a family with random weights, large enough that its answers are not all alike."""
    made: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"tiny-{family}")
            model = _tiny_model(family, len(tokenizer))
            model.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return save


@pytest.fixture(scope="session")
def tiny_model_folder(save_tiny: Callable[[str], Path]) -> Path:
    return save_tiny("llama")


@pytest.fixture
def load_tiny(save_tiny: Callable[[str], Path]) -> Callable[..., Any]:
    """A tiny model of a family, loaded anew in float32."""

    def load(family: str = "llama", attention: str = "sdpa") -> Any:
        from luthier.model.load import load_model
        from luthier.types import ModelRef

        return load_model(ModelRef(str(save_tiny(family))), device="cpu", precision="float32", attention=attention)

    return load


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Any]:
    """Makes a tiny model of a family with few tokens, in float32; the same weights every time, norms included."""
    import torch

    def make(family: str = "llama", vocabulary: int = 61, **changes: Any) -> Any:
        model = _tiny_model(family, vocabulary, **changes)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # they begin as all ones or all zeros, which would hide a wrong one
                    parameter += 0.2 * torch.randn_like(parameter)
        return model

    return make


_OWN: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 8},
    "Gemma3Text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
    "Gemma2": {  # both soft caps so low that they matter
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "Starcoder2": {"sliding_window": 8},
    "StableLm": {},
    "Cohere": {"logit_scale": 0.5},
    "GPT2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "Mamba": {"state_size": 4, "time_step_rank": 4},
    "GptOss": {"num_local_experts": 2, "num_experts_per_tok": 1},
}
_FAMILIES = {name.removesuffix("Text").lower(): name for name in _OWN}


def _tiny_model(family: str, vocabulary: int, **changes: Any) -> Any:
    import torch
    import transformers

    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    name = _FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**(sizes | _OWN[name] | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return model.float().eval()


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of the general probes, where they are asked so often that all of them would take most of the time."""
    from luthier.evaluate import forgetting

    texts, pairs = forgetting.general_text()[:4], forgetting.minimal_pairs()[:4]
    answers = forgetting.truthful_answers()[:4]
    monkeypatch.setattr(forgetting, "truthful_answers", lambda: answers)
    others = forgetting.general_text_validation()[:4]
    monkeypatch.setattr(forgetting, "general_text_validation", lambda: others)
    monkeypatch.setattr(forgetting, "general_text", lambda: texts)
    monkeypatch.setattr(forgetting, "minimal_pairs", lambda: pairs)
