"""The state of an interrupted training, kept so that it goes on to the same bits.

    checkpoints/step-00000012/
    ├── weights.safetensors      the trained weights
    ├── best.safetensors         the best of them so far
    ├── optimizer.safetensors    what the optimizer keeps of each weight, as exp_avg/NAME
    ├── random.safetensors       torch's random states, by device
    ├── state.json               how far training has come, the schedule, Python's random state
    └── manifest.json            size and SHA-256 of the files above

A checkpoint is written into a hidden folder beside the others, synced, and only then given its name: what bears the
name is whole, wherever the process or the machine stops. The newest two are kept, and the manifest tells a damaged one
from a good one, so that the one before can take its place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from luthier.errors import TrainingError

logger = logging.getLogger(__name__)

_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_WEIGHTS, _BEST, _OPTIMIZER, _RANDOM = (f"{n}.safetensors" for n in ("weights", "best", "optimizer", "random"))
_STATE, _MANIFEST = "state.json", "manifest.json"
_FILES = (_WEIGHTS, _BEST, _OPTIMIZER, _RANDOM, _STATE)
_FORMAT = 1
_KEPT = 2

Score = tuple[float, ...]


@dataclass(slots=True)
class Checkpoint:
    """Where training stands. The best weights so far are held in memory and saved along."""

    step: int = 0
    tokens: int = 0
    computed: int = 0
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
    """Add a checkpoint to those under `folder`, and remove all but the newest two.

    While it is written there are three, each of the trained weights, the best of them and the optimizer's state.

    Raises:
        TrainingError: It cannot be written, as when the disk is full; those that are there are kept.
    """
    parent = folder / _FOLDER
    place = _new_place(parent, state.step)
    work = parent / f".{place.name}"
    try:
        if not parent.is_dir():
            parent.mkdir(parents=True)
            _sync(folder)
        _tidy(parent)
        work.mkdir()
        _write_state(work, state, trainable, optimizer, scheduler)
        _write_manifest(work)
        os.rename(work, place)
        _sync(parent)
        _tidy(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = [older.name for older in _saved(parent) if older != place]
        raise TrainingError(
            f"{parent}: the checkpoint of step {state.step} cannot be written: {reason}.\n"
            "Free some space, or see whether the disk is failing, and run the study again; "
            + (f"{kept[0]} is kept, and training goes on from there." if kept else "training begins anew.")
        ) from error


def checkpoint_step(folder: Path) -> int:
    """The step at which an interrupted training will go on; 0 where there is no good checkpoint."""
    place, _ = _newest_whole(folder / _FOLDER)
    return 0 if place is None else int(json.loads((place / _STATE).read_text(encoding="utf-8"))["step"])


def load_checkpoint(folder: Path, trainable: Mapping[str, Any], optimizer: Any, scheduler: Any) -> Checkpoint | None:
    """Put the newest good checkpoint's weights, optimizer, schedule and random states in place.

    Those that are damaged are removed, with a warning, and so is what an interrupted save left.

    Returns:
        Where training stands; None where there is no good checkpoint, with nothing changed.

    Raises:
        TrainingError: The checkpoint is of other weights than these.
    """
    parent = folder / _FOLDER
    place, faults = _newest_whole(parent)
    instead = "training begins anew" if place is None else f"{place.name} takes its place"
    for damaged, fault in faults.items():
        logger.warning("%s is damaged and cannot be used: %s; %s", damaged, fault, instead)
        _discard(damaged)
    _tidy(parent)
    return None if place is None else _read_state(place, trainable, optimizer, scheduler)


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoints of a training that is done."""
    # Newest first and each whole or not at all, so that what is left of an interrupted removal can be gone on from.
    for place in _saved(folder / _FOLDER):
        _discard(place)
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)


def _write_state(place: Path, state: Checkpoint, trainable: Mapping[str, Any], optimizer: Any, scheduler: Any) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({name: p.detach().contiguous() for name, p in trainable.items()}, place / _WEIGHTS)
    save_file(state.best, place / _BEST)
    names = {id(p): name for name, p in trainable.items()}
    tensors, values, on_cpu = {}, {}, []
    for parameter, kept in optimizer.state.items():
        for key, value in kept.items():
            entry = f"{key}/{names[id(parameter)]}"
            if not torch.is_tensor(value):
                values[entry] = value
                continue
            tensors[entry] = value.detach().contiguous()
            if value.device != parameter.device:  # a count of steps, which may stay with the CPU
                on_cpu.append(entry)
    save_file(tensors, place / _OPTIMIZER)
    save_file(_random_states(trainable.values()), place / _RANDOM)
    row = {name: getattr(state, name) for name in state.__slots__ if name != "best"}
    row |= {
        "optimizer_values": values,
        "optimizer_on_cpu": on_cpu,
        "schedule_step": scheduler.last_epoch,
        "python_random": random.getstate(),
    }
    (place / _STATE).write_text(json.dumps(row), encoding="utf-8")


def _read_state(place: Path, trainable: Mapping[str, Any], optimizer: Any, scheduler: Any) -> Checkpoint:
    import torch
    from safetensors.torch import load_file

    row = json.loads((place / _STATE).read_text(encoding="utf-8"))
    weights = load_file(place / _WEIGHTS)
    _check_same_weights(place, weights, trainable)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])
    optimizer.state.clear()
    on_cpu = set(row.pop("optimizer_on_cpu"))
    for entry, tensor in load_file(place / _OPTIMIZER).items():
        key, name = entry.split("/", 1)
        device = "cpu" if entry in on_cpu else trainable[name].device
        optimizer.state[trainable[name]][key] = tensor.to(device, copy=True)
    for entry, value in row.pop("optimizer_values").items():
        key, name = entry.split("/", 1)
        optimizer.state[trainable[name]][key] = value
    scheduler.last_epoch = row.pop("schedule_step")
    for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    version, words, gauss_next = row.pop("python_random")
    random.setstate((version, tuple(words), gauss_next))
    _set_random_states(load_file(place / _RANDOM))
    row["best_score"] = tuple(row["best_score"])
    # Copies, here and above: what load_file gives is mapped from the file, whose space would stay taken when removed.
    return Checkpoint(**row, best={name: tensor.clone() for name, tensor in load_file(place / _BEST).items()})


def _check_same_weights(place: Path, weights: Mapping[str, Any], trainable: Mapping[str, Any]) -> None:
    found = {name: f"{w.dtype} {tuple(w.shape)}" for name, w in weights.items()}
    expected = {name: f"{p.dtype} {tuple(p.shape)}" for name, p in trainable.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise TrainingError(
                f"{place} is of another training: {name} is {found.get(name, 'not in it')}, "
                f"expected {expected.get(name, 'nothing of that name')}.\n"
                f"Remove {place.parent} to train anew."
            )


def _random_states(parameters: Iterable[Any]) -> dict[str, Any]:
    """The states of torch's generators, by device: the CPU's and those of the graphics cards in use."""
    import torch

    cards = {str(p.device) for p in parameters if p.device.type == "cuda"}
    return {"cpu": torch.get_rng_state()} | {card: torch.cuda.get_rng_state(card) for card in sorted(cards)}


def _set_random_states(states: dict[str, Any]) -> None:
    import torch

    torch.set_rng_state(states.pop("cpu"))
    for card, state in states.items():
        torch.cuda.set_rng_state(state, card)


def _write_manifest(place: Path) -> None:
    """Sync the files, and say in the manifest what they are."""
    rows = {}
    for name in _FILES:
        _sync(place / name)
        rows[name] = {"bytes": (place / name).stat().st_size, "sha256": _sha256(place / name)}
    (place / _MANIFEST).write_text(json.dumps({"format": _FORMAT, "files": rows}, indent=1), encoding="utf-8")
    _sync(place / _MANIFEST)
    _sync(place)


def _newest_whole(parent: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint without a fault, and the newer ones with theirs."""
    faults: dict[Path, str] = {}
    for place in _saved(parent):
        fault = _fault(place)
        if fault is None:
            return place, faults
        faults[place] = fault
    return None, faults


def _fault(place: Path) -> str | None:
    """What is wrong with a checkpoint."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
        expected = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"]) for name in _FILES}
        if version != _FORMAT:
            return f"it is of format {version}, expected {_FORMAT}"
        for name, (size, _) in expected.items():  # of all the files, before the first is read
            if (found := (place / name).stat().st_size) != size:
                return f"{name} has {found} bytes, expected {size}"
        altered = [name for name, (_, digest) in expected.items() if _sha256(place / name) != digest]
        return f"the SHA-256 of {' and '.join(altered)} is not that of the manifest" if altered else None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{_MANIFEST} is altered ({type(error).__name__}: {error})"
    except OSError as error:
        if error.errno != errno.EIO:  # not the checkpoint's fault: no permission, too many open files
            raise
        return f"{error.filename or place} cannot be read ({error.strerror})"


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _saved(parent: Path) -> list[Path]:
    """The checkpoints, newest first."""
    return sorted((place for place in parent.glob("step-*") if _NAME.fullmatch(place.name)), key=_order, reverse=True)


def _order(place: Path) -> tuple[int, int]:
    """The step, and which of those saved at this step."""
    found = _NAME.fullmatch(place.name)
    assert found is not None
    return int(found[1]), int(found[2] or 1)


def _new_place(parent: Path, step: int) -> Path:
    """A name that is free: one saved at the same step is not replaced, for it may be the only good one."""
    number = 1 + max((n for s, n in map(_order, _saved(parent)) if s == step), default=0)
    return parent / (f"step-{step:08d}" if number == 1 else f"step-{step:08d}-{number}")


def _tidy(parent: Path) -> None:
    """Remove what interrupted saves left, and all but the newest checkpoints."""
    for place in _saved(parent)[_KEPT:]:
        _discard(place)
    for leftover in parent.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _discard(place: Path) -> None:
    # Hidden first: half a folder under a checkpoint's name would look like a damaged one.
    hidden = place.with_name(f".{place.name}-removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(place, hidden)
    _sync(place.parent)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
