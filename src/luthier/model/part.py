"""Training some of a model's own weights: the last layers, the head, or biases and norms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.model.tied import untie

_WEIGHTS, _ABOUT = "part.safetensors", "part.json"


def names_of_last_layers(model: Any, count: int) -> list[str]:
    """The weights of the last `count` layers and of the norm behind them.

    Raises:
        ModelError: The model has fewer layers.
    """
    layers = layers_of(model)
    if count > len(layers):
        raise ModelError(f"the last {count} layers are to be trained, and the model has {len(layers)}.")
    children = list(model.get_decoder().named_children())
    place = next(n for n, (_, child) in enumerate(children) if child is layers)
    behind = [
        child
        for n, (name, child) in enumerate(children)
        if "norm" in type(child).__name__.lower() and (n > place or "final" in name)
    ]
    own = {id(p) for module in (*layers[-count:], *behind) for p in module.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in own]


def layers_of(model: Any) -> Any:
    """The decoder's layers, in their order (a `ModuleList`), whatever the family calls them.

    Raises:
        ModelError: It is not known which they are.
    """
    from torch.nn import ModuleList

    lists = [child for child in model.get_decoder().children() if isinstance(child, ModuleList)]
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [own for own in lists if len(own) == count]
    if len(found) != 1:
        raise ModelError(
            f"it is not known which modules are the layers of a {type(model).__name__}; train another part of it."
        )
    return found[0]


def names_of_head(model: Any) -> list[str]:
    """The weights of the output layer, which gets weights of its own where it shares the input embedding's."""
    untie(model)
    own = {id(p) for p in model.get_output_embeddings().parameters()}
    return [name for name, p in model.named_parameters() if id(p) in own]


def names_of_biases_and_norms(model: Any) -> list[str]:
    """All biases (BitFit, Ben Zaken et al. 2022) and the weights of all norms."""
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    own = {id(p) for module in norms for p in module.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if id(p) in own or name.endswith("bias")]


def train_only(model: Any, names: Iterable[str]) -> None:
    """Leave these weights trainable, in float32, and no others."""
    import torch

    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
        if name in wanted:
            parameter.data = parameter.data.to(torch.float32)


def save_part(model: Any, folder: Path) -> None:
    """Write the trainable weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / _WEIGHTS)
    about = {"weights": sorted(trained), "own_head": not model.config.get_text_config().tie_word_embeddings}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def is_part(folder: str | Path) -> bool:
    return (Path(folder) / _WEIGHTS).is_file()


def load_part(model: Any, folder: str | Path) -> None:
    """Put weights that `save_part` wrote into the model they come from.

    Raises:
        ModelError: They are of another model.
    """
    import torch
    from safetensors.torch import load_file

    if json.loads((Path(folder) / _ABOUT).read_text(encoding="utf-8"))["own_head"]:
        untie(model)
    there = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(Path(folder) / _WEIGHTS).items():
            if name not in there or there[name].shape != tensor.shape:
                found = f"of shape {tuple(there[name].shape)}" if name in there else "missing"
                raise ModelError(
                    f"{folder} does not fit this model: {name} has the shape {tuple(tensor.shape)}, and here it is "
                    f"{found}."
                )
            there[name].copy_(tensor)
