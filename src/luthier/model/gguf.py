"""Reading a GGUF file once and keeping it as an ordinary safetensors folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
from pathlib import Path

from luthier.errors import ModelError

# Raised when the way of converting changes, so that older conversions are not used.
_CONVERSION = 2


def convert_gguf(file: Path, into: Path) -> Path:
    """Convert `file` to a float32 safetensors folder under `into`, once; give the folder.

    The weights are dequantised by transformers' reader; tokenizer, chat template and special tokens
    come from the file's metadata. The folder appears whole or not at all.

    Raises:
        ModelError: The file cannot be read, or holds an architecture that transformers does not know.
    """
    size = file.stat().st_size
    with open(file, "rb") as handle:
        # The head holds all metadata and the tensors' names; hashing the tail as well tells re-quantised files apart.
        head = handle.read(1 << 20)
        handle.seek(max(0, size - (1 << 20)))
        tail = handle.read()
    key = hashlib.sha256(head + tail + f"{size}-{_CONVERSION}".encode()).hexdigest()[:12]
    folder = into / f"{file.stem}-{key}"
    if (folder / "config.json").is_file():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    _check_room(into, needed=size * 8)
    work = Path(tempfile.mkdtemp(prefix=f".{file.stem}-", dir=into))
    try:
        _convert(file, work)
        try:
            os.rename(work, folder)
        except OSError:
            if not (folder / "config.json").is_file():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{folder} has {free / 1e6:.0f} MB free; converting the model needs about {needed / 1e6:.0f} MB.\n"
            "Free some space, or set LUTHIER_CACHE to a folder on another disk."
        )


def _convert(file: Path, folder: Path) -> None:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # What transformers' reader raises on files that are cut off or damaged (tried with 150 of them).
    damage = (ValueError, LookupError, RuntimeError, ArithmeticError, TypeError, struct.error, StrictDataclassError)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model, found = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, *damage) as error:
        raise ModelError(f"{file} cannot be read as a GGUF model: {error}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random weights in their place
        raise ModelError(f"{file} has no weights for {len(missing)} parts of the model ({', '.join(missing[:3])}).")
    # The loader leaves the quantisation's traces on a model that no longer has any, and then refuses to save it.
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
