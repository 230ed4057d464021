"""Merging models by their task vectors: what each of them changed of the model that all began from.

The rules are PEFT's functions (peft.utils.merge_utils), matrix by matrix. PEFT's own `add_weighted_adapter` merges
adapters of one scaling and the same layers only (those of rsLoRA come out at another scale, and layers that the first
adapter lacks are left out), so LoRA adapters are read and put together here.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.model.adapter import save_full
from luthier.model.blend import is_plain_lora
from luthier.model.load import load_model
from luthier.model.virtual import virtual_tokens_of
from luthier.types import ModelRef

# The rules by which a sum of low-rank changes stays one.
_SUMS = ("linear", "task-arithmetic")
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Recipe:
    """How models are merged.

    Attributes:
        method: `linear`, `task-arithmetic`, `ties`, `dare-linear` or `dare-ties`.
        weights: One for each model.
        density: Share of the values of each change that is kept.
        rank: Of a merged LoRA adapter that is not exact; None for the sum of the ranks.
        seed: Decides what DARE drops.
    """

    method: str
    weights: tuple[float, ...]
    density: float
    rank: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the changes of two models agree.

    Attributes:
        first, second: Their places among the models.
        cosine: Of all values of the one with those of the other; None where one of them changed nothing.
        opposite: Among the weights that both changed, the share that they changed in opposite directions; None where
            there is none.
    """

    first: int
    second: int
    cosine: float | None
    opposite: float | None


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model.

    Attributes:
        agreements: Of each pair of models.
        rank: Of the adapter, None for a whole model.
        kept: Share of the merged change's squared norm that the adapter's rank keeps; None where it keeps all.
    """

    ref: ModelRef
    agreements: tuple[Agreement, ...]
    rank: int | None = None
    kept: float | None = None


def merge(refs: Sequence[ModelRef], origin: ModelRef, recipe: Recipe, tokenizer: Any, folder: Path) -> Merged:
    """Merge models, on the CPU in float32; write an adapter where each is the origin with plain LoRA, else a model.

    Args:
        origin: The model that their changes are counted from.
        tokenizer: Goes with a whole model.
        folder: Gets `adapter` or `model`.

    Raises:
        ModelError: What was trained is no change of the model's own weights.
    """
    added = [_added(ref, origin) for ref in refs]
    if all(added):
        layers = [_lora_layers(own) for own in added if own]
        if not any(own is None for own in layers):
            config = json.loads((Path(refs[0].adapters[-1]) / "adapter_config.json").read_text(encoding="utf-8"))
            return _merge_adapters([own for own in layers if own is not None], origin, recipe, config, folder)
    return _merge_weights(refs, origin, recipe, tokenizer, folder)


def merged_change(changes: Sequence[Any], recipe: Recipe) -> Any:
    """The merged change of one matrix.

    Args:
        changes: What each model changed of it; all of one shape.
    """
    import torch
    from peft.utils import merge_utils

    weights = torch.tensor(recipe.weights)
    if recipe.method in _SUMS:
        return merge_utils.task_arithmetic(list(changes), weights)
    rule = getattr(merge_utils, recipe.method.replace("-", "_"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density .* no pruning")
        return rule(list(changes), weights, recipe.density)


def merging_speed(recipe: Recipe, width: int, *, adapters: bool) -> float:
    """Seconds that merging takes for each weight of the model, measured on a square matrix of so many columns."""
    import torch

    changes = [torch.randn(width, width) for _ in recipe.weights]
    started = time.perf_counter()
    _Tally(len(changes)).add(changes)
    merged = merged_change(changes, recipe)
    if adapters and recipe.method not in _SUMS:
        torch.linalg.svd(merged, full_matrices=False)
    return (time.perf_counter() - started) / width**2


class _Tally:
    """Adds up, matrix by matrix, how far changes agree."""

    def __init__(self, count: int) -> None:
        self._pairs = list(itertools.combinations(range(count), 2))
        self._squares = [0.0] * count
        self._dots = [0.0] * len(self._pairs)
        self._both, self._opposite = [0] * len(self._pairs), [0] * len(self._pairs)

    def add(self, changes: Sequence[Any]) -> None:
        for number, change in enumerate(changes):
            self._squares[number] += float(change.square().sum())
        for number, (a, b) in enumerate(self._pairs):
            products = changes[a] * changes[b]
            self._dots[number] += float(products.sum())
            self._both[number] += int(((changes[a] != 0) & (changes[b] != 0)).sum())
            self._opposite[number] += int((changes[a].sign() * changes[b].sign() < 0).sum())

    def agreements(self) -> tuple[Agreement, ...]:
        found = []
        for (a, b), dot, both, opposite in zip(self._pairs, self._dots, self._both, self._opposite, strict=True):
            norms = (self._squares[a] * self._squares[b]) ** 0.5
            found.append(Agreement(a, b, dot / norms if norms else None, opposite / both if both else None))
        return tuple(found)


@contextmanager
def _drawn_by(seed: int) -> Iterator[None]:
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _added(ref: ModelRef, origin: ModelRef) -> tuple[str, ...]:
    """The adapters by which a model differs from the origin, where those are plain LoRA and all of it; else none."""
    at = len(origin.adapters)
    if ref.base != origin.base or ref.adapters[:at] != origin.adapters:
        return ()
    return ref.adapters[at:] if all(map(is_plain_lora, ref.adapters[at:])) else ()


def _lora_layers(folders: Sequence[str]) -> dict[str, tuple[Any, Any]] | None:
    """Module → A (rank, in) and B (out, rank), whose product is all that LoRA adapters change of it together.

    None where an adapter holds more than A and B of one scaling.
    """
    import torch
    from safetensors.torch import load_file

    found: dict[str, list[tuple[Any, Any]]] = {}
    for folder in folders:
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        patterns = (config.get(name) for name in ("rank_pattern", "alpha_pattern", "target_parameters"))
        if any(patterns) or not all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensors):
            return None
        scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
        for module in dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in tensors):
            a, b = (tensors[f"{module}.lora_{part}.weight"].float() for part in "AB")
            found.setdefault(module, []).append((a, scale * b))
    return {
        module: (torch.cat([a for a, _ in own]), torch.cat([b for _, b in own], dim=1)) for module, own in found.items()
    }


def _merge_adapters(
    layers: Sequence[Mapping[str, tuple[Any, Any]]],
    origin: ModelRef,
    recipe: Recipe,
    config: Mapping[str, Any],
    folder: Path,
) -> Merged:
    import torch

    modules = list(dict.fromkeys(module for own in layers for module in own))
    exact = recipe.method in _SUMS
    ranks = [max(len(a) for a, _ in own.values()) for own in layers]
    rank = sum(ranks) if exact or recipe.rank is None else recipe.rank
    tally, tensors, whole, kept = _Tally(len(layers)), {}, 0.0, 0.0
    with _drawn_by(recipe.seed):
        for module in modules:
            a, b = next(own[module] for own in layers if module in own)
            nothing = (torch.zeros(0, a.shape[1]), torch.zeros(b.shape[0], 0))
            own = [layer.get(module, nothing) for layer in layers]
            changes = [b @ a for a, b in own]
            tally.add(changes)
            if exact:
                a = torch.cat([a for a, _ in own])
                b = torch.cat([weight * b for (_, b), weight in zip(own, recipe.weights, strict=True)], dim=1)
            else:
                u, s, v = torch.linalg.svd(merged_change(changes, recipe), full_matrices=False)
                a, b = v[:rank], u[:, :rank] * s[:rank]
                whole, kept = whole + float(s.square().sum()), kept + float(s[:rank].square().sum())
            tensors[f"{module}.lora_A.weight"] = torch.cat([a, a.new_zeros(rank - len(a), a.shape[1])])
            tensors[f"{module}.lora_B.weight"] = torch.cat([b, b.new_zeros(len(b), rank - b.shape[1])], dim=1)
    to = folder / "adapter"
    _save_lora(tensors, {**config, "r": rank}, to)
    lost = not exact and whole > 0
    return Merged(
        ModelRef(origin.base, (*origin.adapters, str(to))), tally.agreements(), rank, kept / whole if lost else None
    )


def _save_lora(tensors: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """Write a LoRA adapter of one rank, unscaled, for exactly the modules that it has."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    modules = sorted({name.rsplit(".lora_", 1)[0].removeprefix(_PREFIX) for name in tensors})
    own = {"lora_alpha": config["r"], "use_rslora": False, "target_modules": modules, "exclude_modules": None}
    row = {**config, **own, "layers_to_transform": None, "layers_pattern": None, "init_lora_weights": True}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(row, indent=1), encoding="utf-8")


def _merge_weights(refs: Sequence[ModelRef], origin: ModelRef, recipe: Recipe, tokenizer: Any, folder: Path) -> Merged:
    """Merge every weight; all models are in memory at once."""
    start, *models = [load_model(ref, device="cpu", precision="float32") for ref in (origin, *refs)]
    for model in (start, *models):
        if virtual_tokens_of(model) is not None or hasattr(model, "peft_config"):
            raise ModelError(
                "these models cannot be merged: what was trained is no change of the model's own weights (virtual "
                "tokens, or an adapter that PEFT cannot merge)."
            )
    # Of models some of which have a head of their own the merged one has one too; the others' is the embedding.
    into = max(models, key=lambda model: len(list(model.parameters())))
    tally = _Tally(len(models))
    with _drawn_by(recipe.seed):
        for name, parameter in list(into.named_parameters()):
            before = start.get_parameter(name)
            changes = [model.get_parameter(name) - before for model in models]
            if any(change.any() for change in changes):
                tally.add(changes)
                parameter.copy_(before + merged_change(changes, recipe))
    save_full(into, tokenizer, folder / "model")
    return Merged(ModelRef(str(folder / "model")), tally.agreements())
