"""Which weights are trained: an adapter through PEFT, or all of them. And what that changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from luthier.errors import ModelError


def add_lora(model: Any, *, rank: int, alpha: float, dropout: float, targets: str | list[str], seed: int) -> Any:
    """The model with float32 LoRA adapters (Hu et al. 2022) as its only trainable weights.

    Args:
        rank: Rank of the update, at least 1.
        alpha: The update is scaled by alpha / rank.
        targets: `all-linear` (every linear layer but the head), or names of modules.

    Raises:
        ModelError: No module has such a name.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM", bias="none"
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ModelError(
            f"LoRA targets {targets!r} do not fit this model (its linear layers: {', '.join(linear)})."
        ) from error


def save_adapter(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)


def save_full(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a whole model as a folder that plain transformers loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapter_movement(model: Any) -> dict[str, float]:
    """For each adapted weight matrix, the norm of its update relative to its own (Frobenius)."""
    import torch

    moved = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
                delta = module.get_delta_weight("default").float()
                moved[name.removeprefix("base_model.model.")] = float(
                    delta.norm() / module.base_layer.weight.float().norm()
                )
    return moved


def full_movement(model: Any, base: Any) -> dict[str, float]:
    """For each weight matrix, the norm of its change relative to where it started (Frobenius)."""
    import torch

    start = dict(base.named_parameters())
    moved = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                before = start[name].float()
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
