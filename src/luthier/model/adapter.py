"""Which weights are trained: an adapter through PEFT, or all of them. And what that changed."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.model.part import layers_of
from luthier.model.virtual import remove_virtual_tokens

# Passes of PiSSA's approximate decomposition; PEFT's own documentation takes so many.
_PISSA_ITERATIONS = 16
# Where (IA)³ goes in models that name their layers as Llama does, the feed-forward module last (as PEFT has it).
_LLAMA_IA3 = ("k_proj", "v_proj", "down_proj")
# Adapters of PEFT's that the training loop does not serve.
_UNSERVED = {
    "PROMPT_TUNING": "is a kind of its own: adapter: prompt-tuning",
    "PREFIX_TUNING": "is a kind of its own: adapter: prefix-tuning",
    **dict.fromkeys(
        ("P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"),
        "puts virtual tokens before every sequence in a way that is not served here; use adapter: prompt-tuning or "
        "prefix-tuning",
    ),
    "ADAPTION_PROMPT": "replaces the attention of the model, which is not served here",
    "ADALORA": "changes its ranks between the steps of a loop of its own, which is not served here",
    "XLORA": "mixes adapters that are trained already, which is not served here",
    "POLY": "needs the number of each example's task, which is not served here",
}
# Adapters of PEFT's that do not go on linear layers, and for which PEFT knows where they go.
_NOT_ON_LINEAR = ("LN_TUNING", "TRAINABLE_TOKENS")


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | list[str],
    seed: int,
    layers: Sequence[int] | None = None,
    sqrt_scaling: bool = False,
    pissa: bool = False,
    dora: bool = False,
) -> Any:
    """The model with float32 LoRA adapters (Hu et al. 2022) as its only trainable weights.

    Args:
        rank: Rank of the update, at least 1.
        alpha: The update is scaled by alpha / rank.
        targets: `all-linear` (every linear layer but the head), or names of modules.
        layers: Numbers of the layers that are adapted; None for all.
        sqrt_scaling: Scale by alpha / √rank (rsLoRA).
        pissa: Begin as the weights' largest singular values (PiSSA).
        dora: Train magnitudes apart (DoRA).

    Raises:
        ModelError: No module has such a name, or no layer such a number.
    """
    from peft import LoraConfig

    counted = next(model.parameters()).device.type == "meta"
    if layers is not None:
        stack = layers_of(model)
        if absent := sorted(own for own in layers if own >= len(stack)):
            named = ", ".join(map(str, absent))
            raise ModelError(f"layers: {named}: this model has the layers 0 to {len(stack) - 1}.")
        if targets == "all-linear":  # PEFT takes numbers of layers with names only
            targets = sorted(_linear_names(stack))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        layers_to_transform=None if layers is None else list(layers),
        use_rslora=sqrt_scaling,
        use_dora=dora,
        # Without weights there is nothing to decompose.
        init_lora_weights=f"pissa_niter_{_PISSA_ITERATIONS}" if pissa and not counted else True,
        task_type="CAUSAL_LM",
        bias="none",
    )
    adapted = add_peft(model, config, seed)
    if pissa:
        adapted.luthier_start = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
    return adapted


def add_ia3(model: Any, *, seed: int) -> Any:
    """The model with (IA)³'s factors (Liu et al. 2022) on keys, values and what comes out of the feed-forward block.

    Raises:
        ModelError: It is not known which modules those are.
    """
    from peft import IA3Config
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    kind, names = model.config.get_text_config().model_type, _linear_names(model)
    targets, feedforward = list(TARGETS.get(kind, ())), list(FEEDFORWARD.get(kind, ()))
    if not targets and set(_LLAMA_IA3) <= names:  # the families that name their layers as Llama does
        targets, feedforward = list(_LLAMA_IA3), [_LLAMA_IA3[-1]]
    if not targets:
        raise ModelError(
            f"it is not known where ia3 goes in a model of type {kind}; name the modules: adapter: {{kind: peft, "
            f"type: IA3, settings: {{target_modules: […], feedforward_modules: […]}}}} (its linear layers: "
            f"{', '.join(sorted(names))})."
        )
    return add_peft(
        model, IA3Config(target_modules=targets, feedforward_modules=feedforward, task_type="CAUSAL_LM"), seed
    )


def add_peft(model: Any, config: Any, seed: int) -> Any:
    """The model with an adapter of this configuration, in float32, as its only trainable weights.

    Raises:
        ModelError: It does not fit the model.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    except (ValueError, TypeError, NotImplementedError) as error:
        where = f" (targets: {config.target_modules!r})" if getattr(config, "target_modules", None) else ""
        raise ModelError(
            f"an adapter of type {config.peft_type.value}{where} does not fit this model: "
            f"{' '.join(str(error).split())} Its linear layers: {', '.join(sorted(_linear_names(model)))}."
        ) from error
    for parameter in adapted.parameters():  # PEFT leaves copies of the model's own weights (LN_TUNING) as they are
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def peft_config(name: str, settings: Mapping[str, Any]) -> Any:
    """PEFT's configuration of a type; where no modules are named, of every linear layer but the head, or of those that
    PEFT has for a type that is not for linear layers.

    Raises:
        ModelError: There is no such type, it cannot be trained here, or it does not take these settings.
    """
    if problem := peft_problem(name, settings):
        raise ModelError(problem)
    return _peft_config(name, settings)


def peft_problem(name: str, settings: Mapping[str, Any]) -> str:
    """Why PEFT's adapter of a type cannot be used with these settings; empty where it can."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    found = _peft_type(name)
    usable = sorted(t.value for t in PEFT_TYPE_TO_CONFIG_MAPPING if t.value not in _UNSERVED)
    if found is None:
        return f"PEFT has no adapter of type {name!r} (it has: {', '.join(usable)})."
    if found.value in _UNSERVED:
        return f"PEFT's {found.value} {_UNSERVED[found.value]}."
    known = {f.name for f in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[found])}
    if unknown := sorted(set(settings) - known):
        return f"PEFT's {found.value} knows no {', '.join(unknown)} (it knows: {', '.join(sorted(known))})."
    try:
        _peft_config(name, settings)
    except (ValueError, TypeError) as error:
        return f"PEFT refuses these settings of {found.value}: {' '.join(str(error).split())}"
    return ""


def quantising_problem(device: str) -> str:
    """Why weights cannot be kept in a few bits on this device; empty where they can."""
    import importlib.util

    if device not in ("cuda", "cpu"):
        return (
            f"qlora (bits) runs on CUDA GPUs and on the CPU; this is {device}. Use lora, which keeps them as they are."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        return "qlora (bits) needs the package bitsandbytes; install it with: pip install 'luthier[qlora]'"
    return ""


def _peft_type(name: str) -> Any:
    """PEFT's type of a name, written in whatever case."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    plain = {t.value.replace("_", "").lower(): t for t in PEFT_TYPE_TO_CONFIG_MAPPING}
    return plain.get(name.replace("_", "").replace("-", "").lower())


def _peft_config(name: str, settings: Mapping[str, Any]) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    found = _peft_type(name)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[found]
    linear = "target_modules" in {f.name for f in dataclasses.fields(kind)} and found.value not in _NOT_ON_LINEAR
    defaults = {"target_modules": "all-linear"} if linear else {}
    return kind(**{**defaults, **settings, "task_type": "CAUSAL_LM"})


def _linear_names(model: Any) -> set[str]:
    import torch

    return {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT loads it; one that began as a part of the weights (PiSSA) as the change from there."""
    start = getattr(model, "luthier_start", None)
    if start is None:
        model.save_pretrained(folder, safe_serialization=True)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as before:
        now = {name: p.detach().clone() for name, p in model.named_parameters() if name in start}
        _put(model, start)
        model.save_pretrained(before, safe_serialization=True)
        _put(model, now)
        model.save_pretrained(folder, safe_serialization=True, path_initial_model_for_weight_conversion=before)


def save_full(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a whole model as a folder that plain transformers loads; virtual tokens are no part of it."""
    remove_virtual_tokens(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapter_movement(model: Any) -> dict[str, float]:
    """For each adapted weight matrix, the norm of its update relative to its own (Frobenius).

    Adapters whose update has no such form give nothing.
    """
    import torch

    moved = {}
    start: Mapping[str, Any] = getattr(model, "luthier_start", {})
    with torch.no_grad():
        for name, module in model.named_modules():
            if not hasattr(module, "get_delta_weight") or not hasattr(module, "base_layer"):
                continue
            weight = getattr(module.base_layer, "weight", None)
            if weight is None or weight.ndim != 2 or not weight.is_floating_point():
                continue
            if (getattr(module, "use_dora", None) or {}).get("default"):  # its magnitudes are no part of the matrix
                continue
            try:
                delta = module.get_delta_weight("default").float()
            except (NotImplementedError, TypeError, AttributeError):
                continue
            if delta.shape != weight.shape:
                continue
            weight = weight.float()
            if start:
                a, b = (start[f"{name}.lora_{part}.default.weight"] for part in "AB")
                taken = module.scaling["default"] * (b @ a)  # from the weight, when the adapter began
                delta, weight = delta - taken, weight + taken
            moved[name.removeprefix("base_model.model.")] = float(delta.norm() / weight.norm())
    return moved


def _put(model: Any, weights: Mapping[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def full_movement(model: Any, base: Any) -> dict[str, float]:
    """For each weight matrix, the norm of its change relative to where it started (Frobenius)."""
    import torch

    moved = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                before = base.get_parameter(name).float()  # a head of its own began as the embedding
                norm = before.norm()
                moved[name.removesuffix(".weight")] = float((weight.float() - before).norm() / norm) if norm else 0.0
    return moved


def movement_matrix(moved: dict[str, float]) -> dict[str, Any]:
    """The movements by layer (rows) and kind of weight (columns), as a result of kind `matrix`.

    Weights outside the numbered layers stand in rows of their own.
    """
    cells: dict[tuple[str, str], float] = {}
    for name, value in moved.items():
        numbered = re.search(r"\.(\d+)\.", name)
        row = numbered.group(1) if numbered else name.rsplit(".", 1)[-1]
        column = name[numbered.end() :] if numbered else "—"
        cells[row, column] = value
    rows = sorted({row for row, _ in cells}, key=lambda r: (not r.isdigit(), int(r) if r.isdigit() else 0, r))
    columns = list(dict.fromkeys(column for _, column in cells))
    return {
        "kind": "matrix",
        "title": "How far each weight matrix moved",
        "rows": rows,
        "columns": columns,
        "values": [[cells.get((row, column)) for column in columns] for row in rows],
        "value_label": "‖change‖ / ‖weight‖",
        "note": "The relative change of each weight matrix (Frobenius norms), layer by layer.",
    }
