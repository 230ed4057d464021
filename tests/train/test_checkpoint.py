"""Checkpoints: every bit comes back, a damaged one is passed over, and no failure to write loses the last good one."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kill_driver
import pytest
import torch

from luthier.errors import TrainingError
from luthier.train import loop
from luthier.train.checkpoint import Checkpoint, checkpoint_step, drop_checkpoint, load_checkpoint, save_checkpoint

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "AdamW fused": lambda weights: torch.optim.AdamW(weights, lr=0.1, fused=True),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.1, amsgrad=True),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "Adafactor": lambda weights: torch.optim.Adafactor(weights, lr=0.1),
}
FILES = (
    "weights.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "state.json",
    "manifest.json",
)


class Training:
    """Two weights that go towards random targets, drawn from torch's state and Python's."""

    def __init__(self, folder: Path, optimizer: str = "AdamW fused") -> None:
        self.folder = folder
        self.weights = {"a": torch.nn.Parameter(torch.ones(3, 40)), "b.c": torch.nn.Parameter(torch.ones(5))}
        self.optimizer = OPTIMIZERS[optimizer](self.weights.values())
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        self.state = Checkpoint()

    def step(self) -> None:
        for weight in self.weights.values():
            (weight - torch.rand_like(weight) - random.random()).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.state.step += 1
        self.state.tokens += 7
        self.state.seconds += 0.1

    def save(self) -> None:
        save_checkpoint(self.folder, self.state, self.weights, self.optimizer, self.scheduler)

    def load(self) -> bool:
        state = load_checkpoint(self.folder, self.weights, self.optimizer, self.scheduler)
        self.state = state or self.state
        return state is not None

    def steps(self, count: int) -> Training:
        """So many steps, each saved."""
        for _ in range(count):
            self.step()
            self.save()
        return self

    def bits(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        found: dict[str, Any] = {name: p.detach().numpy().tobytes() for name, p in self.weights.items()}
        for name, p in self.weights.items():
            for key, value in self.optimizer.state[p].items():
                tensor = torch.is_tensor(value)
                found[f"{key}/{name}"] = (value.dtype, value.shape, value.numpy().tobytes()) if tensor else value
        found |= {"rates": [group["lr"] for group in self.optimizer.param_groups], "step": self.state.step}
        return found | {"scheduler": (self.scheduler.last_epoch, self.scheduler.get_last_lr())}


def started(folder: Path, optimizer: str = "AdamW fused") -> Training:
    random.seed(0)
    torch.manual_seed(0)
    return Training(folder, optimizer)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    first = started(tmp_path, optimizer)
    first.step()
    first.state.note(1, (0.5, -2.0), first.weights)
    first.steps(2)
    before, best = first.bits(), first.state.best
    seconds = first.state.seconds
    first.step()
    first.step()

    random.seed(99)
    torch.manual_seed(99)
    second = Training(tmp_path, optimizer)
    assert second.load()
    assert second.bits() == before
    assert (second.state.step, second.state.tokens, second.state.seconds) == (3, 21, seconds)
    assert (second.state.best_step, second.state.best_score, second.state.evaluations_since_best) == (1, (0.5, -2.0), 0)
    assert all(torch.equal(second.state.best[name], tensor) for name, tensor in best.items())
    second.step()
    second.step()
    assert second.bits() == first.bits()


def test_random_states_come_back(tmp_path: Path) -> None:
    training = started(tmp_path).steps(1)
    random.gauss(0, 1)  # leaves a second number for the next call
    training.save()
    drawn = torch.rand(3).tolist(), random.gauss(0, 1), random.random()
    training.load()
    assert (torch.rand(3).tolist(), random.gauss(0, 1), random.random()) == drawn


def test_the_restored_count_of_steps_is_of_the_optimizer_s_kind(tmp_path: Path) -> None:
    started(tmp_path).steps(3)
    training = Training(tmp_path)
    training.load()
    count = training.optimizer.state[training.weights["a"]]["step"]
    assert (count.dtype, count.shape, float(count)) == (torch.float32, (), 3.0)


def test_a_checkpoint_before_the_first_step_is_read_back(tmp_path: Path) -> None:
    started(tmp_path).save()
    training = Training(tmp_path)
    assert training.load()
    assert (training.state.step, training.state.best, dict(training.optimizer.state)) == (0, {}, {})
    assert checkpoint_step(tmp_path) == 0


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    training = started(tmp_path)
    before = training.bits()
    assert not training.load()
    assert training.bits() == before
    assert checkpoint_step(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    started(tmp_path).steps(5)
    assert saved(tmp_path) == ["step-00000004", "step-00000005"]
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "step-00000005").iterdir()) == sorted(FILES)
    assert checkpoint_step(tmp_path) == 5


def test_one_saved_again_at_the_same_step_replaces_none(tmp_path: Path) -> None:
    training = started(tmp_path).steps(1)
    for score in (0.1, 0.2, 0.3):
        training.state.note(1, (score,), training.weights)
        training.save()
    assert saved(tmp_path) == ["step-00000001-3", "step-00000001-4"]
    again = Training(tmp_path)
    again.load()
    assert again.state.best_score == (0.3,)
    training.steps(1)
    assert saved(tmp_path) == ["step-00000001-4", "step-00000002"]


def test_nothing_is_left_of_a_training_that_is_done(tmp_path: Path) -> None:
    started(tmp_path).steps(3)
    drop_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []
    drop_checkpoint(tmp_path)


def torn(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [torn, emptied, altered, Path.unlink])
def test_the_one_before_a_damaged_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Callable[[Path], None]
) -> None:
    first = started(tmp_path)
    first.state.note(0, (0.5,), first.weights)
    expected = first.steps(4).bits()
    damage(tmp_path / "checkpoints" / "step-00000004" / file)
    assert checkpoint_step(tmp_path) == 3
    assert caplog.records == []  # said once, by what acts on it
    resumed = Training(tmp_path)
    assert resumed.load()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(rf"step-00000004 is damaged .*{re.escape(file)}.*step-00000003 takes its place", record.message)
    assert resumed.state.step == 3
    assert saved(tmp_path) == ["step-00000003"]
    assert resumed.steps(1).bits() == expected
    assert saved(tmp_path) == ["step-00000003", "step-00000004"]
    assert checkpoint_step(tmp_path) == 4


def test_no_altered_byte_of_the_manifest_goes_unnoticed(tmp_path: Path) -> None:
    started(tmp_path / "0").steps(2)
    place = Path("checkpoints", "step-00000002", "manifest.json")
    content = (tmp_path / "0" / place).read_bytes()
    for position in range(0, len(content), 7):
        folder = tmp_path / f"{position + 1}"
        shutil.copytree(tmp_path / "0", folder)
        (folder / place).write_bytes(
            content[:position] + bytes([content[position] ^ (1 + position % 255)]) + content[position + 1 :]
        )
        try:
            same = json.loads((folder / place).read_bytes()) == json.loads(content)  # white space
        except ValueError:
            same = False
        assert checkpoint_step(folder) == (2 if same else 1), position


def test_a_file_that_the_disk_cannot_read_counts_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(tmp_path).steps(2)
    digest = hashlib.file_digest

    def unreadable(handle: Any, name: str) -> Any:
        if "step-00000002" in handle.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return digest(handle, name)

    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    assert checkpoint_step(tmp_path) == 1


def test_when_all_are_damaged_training_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started(tmp_path).steps(4)
    torn(tmp_path / "checkpoints" / "step-00000003" / "optimizer.safetensors")
    altered(tmp_path / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert checkpoint_step(tmp_path) == 0
    anew = started(tmp_path)
    before = anew.bits()
    assert not anew.load()
    assert anew.bits() == before
    assert [record.message.rsplit("; ", 1)[1] for record in caplog.records] == ["training begins anew"] * 2
    assert saved(tmp_path) == []
    anew.steps(2)
    assert saved(tmp_path) == ["step-00000001", "step-00000002"]


def test_what_an_interrupted_save_left_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = started(tmp_path).steps(2).bits()
    left = tmp_path / "checkpoints" / ".step-00000003"
    shutil.copytree(tmp_path / "checkpoints" / "step-00000002", left)
    (left / "manifest.json").unlink()
    assert checkpoint_step(tmp_path) == 2
    training = Training(tmp_path)
    assert training.load()
    assert training.bits() == expected
    assert not left.exists()
    assert caplog.records == []


def test_the_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    started(tmp_path).steps(1)
    other = Training(tmp_path)
    other.weights["b.c"] = torch.nn.Parameter(torch.ones(6))
    message = r"another training: b\.c is torch\.float32 \(5,\), expected torch\.float32 \(6,\)\.\nRemove"
    with pytest.raises(TrainingError, match=message):
        other.load()
    assert torch.equal(other.weights["a"], torch.ones(3, 40))
    del other.weights["b.c"]
    with pytest.raises(TrainingError, match="expected nothing of that name"):
        other.load()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks the system what is mapped")
def test_a_loaded_checkpoint_leaves_its_files_alone(tmp_path: Path) -> None:
    first = started(tmp_path)
    first.state.note(0, (0.5,), first.weights)
    first.steps(1)
    training = Training(tmp_path)
    training.load()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()  # a removed file that is mapped still takes space


def test_all_is_synced_before_it_bears_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, rename = os.fsync, os.rename
    synced: list[int] = []
    training = started(tmp_path)

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def watched_rename(source: Path, target: Path) -> None:
        if target.name == "step-00000001":
            needed = {path.stat().st_ino for path in (source, *source.iterdir())}
            assert needed <= set(synced)
            assert synced[-1] == source.stat().st_ino
            synced.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    training.step()
    training.save()
    assert synced == [(tmp_path / "checkpoints").stat().st_ino]


def failure(training: Training) -> str:
    """The error that saving gives; empty where it gives none."""
    try:
        training.save()
    except TrainingError as error:
        return str(error)
    return ""


def failing_once(function: Callable[..., Any], call: int, number: int) -> Callable[..., Any]:
    """The function, but for one of its calls."""
    calls = itertools.count(1)

    def sometimes(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **named)

    return sometimes


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("function", ["fsync", "rename", "mkdir", "open"])
def test_a_write_error_anywhere_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    """Fails the first call of the function in a save, then the second, and so on until there is none left to fail."""
    training = started(tmp_path).steps(2)
    expected = {2: training.bits()}
    training.step()
    expected[3] = training.bits()
    for call in itertools.count(1):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing_once(getattr(os, function), call, number))
            message = failure(training)
        if not message:
            break
        assert f"the checkpoint of step 3 cannot be written: {os.strerror(number)}.\n" in message
        assert "is kept, and training goes on from there" in message
        left = [path.name for path in (tmp_path / "checkpoints").glob(".step-*")]
        assert all(name.endswith("-removed") for name in left)  # old, and of the removal that failed
        found = Training(tmp_path)
        assert found.load()
        assert found.bits() == expected[found.state.step]  # the new one, where it was in its place already
    assert call > 1
    assert checkpoint_step(tmp_path) == 3


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 10, 500, 1500])
def test_a_file_that_cannot_grow_keeps_the_last_good_one(tmp_path: Path, size: int) -> None:
    training = started(tmp_path).steps(2)
    expected = training.bits()
    training.step()
    with files_limited_to(size), pytest.raises(TrainingError, match=r"of step 3 cannot be written: .*too large"):
        training.save()
    assert saved(tmp_path) == ["step-00000001", "step-00000002"]
    found = Training(tmp_path)
    found.load()
    assert found.bits() == expected
    training.save()
    assert checkpoint_step(tmp_path) == 3


def test_the_first_checkpoint_s_failure_says_that_there_is_none(tmp_path: Path) -> None:
    training = started(tmp_path)
    with files_limited_to(0), pytest.raises(TrainingError, match="training begins anew"):
        training.save()
    assert saved(tmp_path) == []
    assert not Training(tmp_path).load()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None:
        pytest.skip("a small file system is mounted on Linux only")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(free - leave))
    return filler


def test_a_full_disk_keeps_the_last_good_one(small_disk: Path) -> None:
    """With no space at all, a page more, and so on until there is enough."""
    page = os.sysconf("SC_PAGE_SIZE")
    training = started(small_disk).steps(2)
    expected = training.bits()
    training.step()
    for pages in itertools.count():
        filler = fill(small_disk, pages * page)
        message = failure(training)
        filler.unlink()
        if not message:
            break
        assert "No space left on device" in message
        assert "step-00000002 is kept" in message
        assert saved(small_disk) == ["step-00000001", "step-00000002"]
        found = Training(small_disk)
        assert found.load()
        assert found.bits() == expected
    assert pages >= len(FILES)
    assert checkpoint_step(small_disk) == 3


def test_a_training_that_the_full_disk_stopped_goes_on_to_the_same_bits(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", -1.0, raising=False)
    kill_driver.train_to_the_end(tmp_path / "straight", kill_driver.tiny_model("lora"))
    one = sum(file.stat().st_size for file in (tmp_path / "straight" / "checkpoints" / "step-00000008").iterdir())
    filler = fill(small_disk, leave=5 * one // 2)
    with pytest.raises(TrainingError, match=r"No space left on device.*\n.* is kept"):
        kill_driver.train_to_the_end(small_disk / "run", kill_driver.tiny_model("lora"))
    filler.unlink()
    kill_driver.train_to_the_end(small_disk / "run", kill_driver.tiny_model("lora"))
    assert kill_driver.result(small_disk / "run") == kill_driver.result(tmp_path / "straight")
