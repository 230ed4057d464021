"""Loading tokenizers and models from folders."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import sys
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.model.chat_template import set_chat_template
from luthier.model.classify import load_head
from luthier.model.device import torch_dtype
from luthier.model.part import is_part, load_part
from luthier.model.tied import untie_adapted
from luthier.types import ModelRef

log = logging.getLogger(__name__)

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

# Stands in for the windows of tokenizers and configurations that state none.
_NO_WINDOW = 1 << 30


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder, with a chat template and a padding token in any case.

    Raises:
        ModelError: There is none, or it names no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder} has no tokenizer that transformers can read: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {folder} names no end token (eos_token); set it in tokenizer_config.json.")
    if tokenizer.chat_template is None:
        log.info("%s has no chat template; using a plain one", folder)
    set_chat_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(tokenizer: Any, config: Any, folder: str | Path) -> None:
    """See that the model has an embedding for every token.

    Raises:
        ModelError: It has fewer.
    """
    size = getattr(config, "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer):,} tokens and the model embeddings for {size:,} "
            "(vocab_size in config.json), so some texts could not be read. Tokens were added without enlarging the "
            "model: take the tokenizer that the weights were saved with, or call resize_token_embeddings and save both."
        )


def load_config(folder: str | Path) -> Any:
    """The model's configuration (of its text part where it has several)."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config()
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: its config.json cannot be used: {' '.join(str(error).split())}") from error


def window_of(config: Any) -> int:
    """How many tokens the model can take, prompt and answer together."""
    return int(getattr(config, "max_position_embeddings", None) or _NO_WINDOW)


def load_model(ref: ModelRef, *, device: str, precision: str, attention: str = "sdpa") -> Any:
    """The model with its adapters merged, in `precision`, in evaluation mode.

    Adapters are merged in float32 before the weights are rounded, so that merging costs no precision of its own.

    Raises:
        ModelError: The folder holds no causal language model, or an adapter does not fit it.
    """
    import torch

    from luthier.model.virtual import virtual_tokens_of

    load_as = torch.float32 if ref.adapters else torch_dtype(precision)
    model = _load_base(ref.base, load_as, attention)
    for folder in ref.adapters:
        model = _with_saved(model, folder, ref.base)
    if ref.head is not None:
        load_head(model, ref.head)
    # merging leaves the weights frozen
    model = model.to(device=device, dtype=torch_dtype(precision)).requires_grad_(True).eval()
    if tokens := virtual_tokens_of(model):
        tokens.requires_grad_(False)
    return model


def _with_saved(model: Any, folder: str, base: str) -> Any:
    """The model with what a step trained and saved in a folder."""
    from peft import PeftModel

    from luthier.model.virtual import count_virtual_tokens, load_virtual_tokens

    if is_part(folder):
        load_part(model, folder)
        return model
    if not (Path(folder) / "adapter_model.safetensors").is_file():  # PEFT would read pickled weights in its place
        raise ModelError(f"{folder} holds no adapter in safetensors (adapter_model.safetensors is missing).")
    if count_virtual_tokens(folder):
        load_virtual_tokens(model, folder)
        return model
    try:
        adapted = PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the adapter in {folder} does not fit {base}: {error}") from error
    untie_adapted(adapted)
    try:
        return adapted.merge_and_unload()
    except (NotImplementedError, AttributeError):  # some of PEFT's adapters cannot become a part of the weights
        return adapted


def load_quantised(ref: ModelRef, *, device: str, bits: int) -> Any:
    """The model with its linear layers in 4 (NF4) or 8 bits, to be trained through an adapter (Dettmers et al. 2023).

    Raises:
        ModelError: It has adapters already, whose sum with the weights would first have to be written out.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if ref.adapters:
        raise ModelError("qlora (bits) begins at a model as it was loaded, and this one was adapted before; use lora.")
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    config = BitsAndBytesConfig(load_in_4bit=True, **four) if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    model = _load_base(ref.base, torch.bfloat16, "sdpa", quantization_config=config, device_map=device).eval()
    for module in model.modules():
        # On CPUs with AVX512-BF16 bitsandbytes packs weights anew once they answer: no gradient passes through them
        # then, and they must be of whole blocks.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _load_base(folder: str, dtype: Any, attention: str, **others: Any) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **others,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{folder} cannot be loaded as a causal language model: {error}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random weights in their place
        raise ModelError(
            f"{folder} has no weights for {len(missing)} parts of the model ({', '.join(missing[:3])}).\n"
            "It is incomplete, or no causal language model (a classifier or an embedder, say)."
        )
    # Where padding and end of turn share a token, torch would give that token's embedding no gradient.
    model.get_input_embeddings().padding_idx = None
    model.generation_config.max_length = None
    return model


def empty_model(ref: ModelRef) -> Any:
    """The model without its weights (on torch's meta device), to be counted."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(ref.base, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def reuse_freed_memory() -> None:
    """Let the process keep what it frees instead of giving it back at once: getting it anew costs every step.

    `release_memory` gives it back where nothing needs it. glibc only; elsewhere nothing is done.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes


def release_memory() -> None:
    """Give freed tensors back to the system, so that the next measurement does not count them."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_memory()


def trim_memory() -> None:
    """Give what the process has freed back to the system, without looking for more to free."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)


def count_parameters(model: Any) -> int:
    """Parameters of the model, tied ones once; of packed weights as many as they stand for."""
    return sum(_numbers_in(parameter) for parameter in {id(p): p for p in model.parameters()}.values())


def _numbers_in(parameter: Any) -> int:
    packed = getattr(parameter, "quant_state", None)  # bitsandbytes holds two 4-bit numbers in a byte
    return math.prod((parameter if packed is None else packed).shape)
