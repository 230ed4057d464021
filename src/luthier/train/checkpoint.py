"""The state of an interrupted training, kept so that it can go on.

A checkpoint is a folder of safetensors and JSON, written beside the last one and then put in its place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = "checkpoint"

Score = tuple[float, ...]


@dataclass(slots=True)
class Checkpoint:
    """Where training stands. The best weights so far are held in memory and saved along."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    validation_s: float = 0.0
    best_step: int = 0
    best_score: Score = ()
    evaluations_since_best: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def note(self, step: int, score: Score, trainable: Mapping[str, Any]) -> None:
        """Take in an evaluation; keep the weights where it is the best so far (the first of equals)."""
        if not self.best or score > self.best_score:
            self.best_step, self.best_score, self.evaluations_since_best = step, score, 0
            self.best = {name: p.detach().to("cpu", copy=True) for name, p in trainable.items()}
        else:
            self.evaluations_since_best += 1

    def restore_best(self, trainable: Mapping[str, Any]) -> None:
        """Put the best weights back into the model."""
        import torch

        with torch.no_grad():
            for name, tensor in self.best.items():
                trainable[name].copy_(tensor)


def save_checkpoint(
    folder: Path, state: Checkpoint, trainable: Mapping[str, Any], optimizer: Any, scheduler: Any
) -> None:
    """Write the checkpoint under `folder`, replacing the one that is there."""
    from safetensors.torch import save_file

    work = folder / f".{_NAME}-new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_file({name: p.detach().contiguous() for name, p in trainable.items()}, work / "weights.safetensors")
    save_file(state.best, work / "best.safetensors")
    moments, steps = {}, {}
    names = {id(p): name for name, p in trainable.items()}
    for parameter, values in optimizer.state.items():
        name = names[id(parameter)]
        steps[name] = float(values["step"])
        moments[f"exp_avg/{name}"] = values["exp_avg"].contiguous()
        moments[f"exp_avg_sq/{name}"] = values["exp_avg_sq"].contiguous()
    save_file(moments, work / "optimizer.safetensors")
    row = {name: getattr(state, name) for name in state.__slots__ if name != "best"}
    row |= {"optimizer_steps": steps, "schedule_step": scheduler.last_epoch}
    with open(work / "state.json", "w", encoding="utf-8") as handle:
        json.dump(row, handle)
        handle.flush()
        os.fsync(handle.fileno())
    old = folder / f".{_NAME}-old"
    shutil.rmtree(old, ignore_errors=True)
    if (folder / _NAME).exists():
        os.rename(folder / _NAME, old)
    os.rename(work, folder / _NAME)
    shutil.rmtree(old, ignore_errors=True)


def checkpoint_step(folder: Path) -> int:
    """The step at which an interrupted training will go on; 0 where there is no checkpoint."""
    place = _place(folder)
    return 0 if place is None else int(json.loads((place / "state.json").read_text(encoding="utf-8"))["step"])


def _place(folder: Path) -> Path | None:
    # The second, where the process ended between the two renames of saving.
    places = (folder / _NAME, folder / f".{_NAME}-old")
    return next((place for place in places if (place / "state.json").is_file()), None)


def load_checkpoint(folder: Path, trainable: Mapping[str, Any], optimizer: Any, scheduler: Any) -> Checkpoint | None:
    """Put the checkpoint's weights and optimizer state in place; None where there is no checkpoint."""
    import torch
    from safetensors.torch import load_file

    place = _place(folder)
    if place is None:
        return None
    row = json.loads((place / "state.json").read_text(encoding="utf-8"))
    weights = load_file(place / "weights.safetensors")
    moments = load_file(place / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])
            optimizer.state[parameter] = {
                "step": torch.tensor(row["optimizer_steps"][name], device=parameter.device),
                "exp_avg": moments[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": moments[f"exp_avg_sq/{name}"].to(parameter.device),
            }
    scheduler.last_epoch = row.pop("schedule_step")
    for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    row.pop("optimizer_steps")
    row["best_score"] = tuple(row["best_score"])
    return Checkpoint(**row, best=load_file(place / "best.safetensors"))


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a training that is done."""
    shutil.rmtree(folder / _NAME, ignore_errors=True)
    shutil.rmtree(folder / f".{_NAME}-old", ignore_errors=True)
