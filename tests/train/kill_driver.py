"""Kills trainings of a tiny model at random points and says whether each still ended with the same bits.

A process of its own, for each start of a training is forked from it: after the imports, which take seconds, and before
torch has a thread.

    python kill_driver.py FOLDER SEED KILLS
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from luthier.errors import RunError
from luthier.model.adapter import add_lora
from luthier.prompt.render import TrainingSequence
from luthier.runner.folder import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from luthier.train import loop
from luthier.train.checkpoint import checkpoint_step

SETTINGS = loop.LoopSettings(
    epochs=2.0,
    batch_size=3,
    learning_rate=1e-2,
    warmup=0.1,
    schedule="cosine",
    weight_decay=0.01,
    max_grad_norm=1.0,
    evaluations=4,
    patience=0,
    seed=0,
    device="cpu",
    precision="float32",
    max_tokens=20,
)
SEQUENCES = [
    TrainingSequence(f"s{n}", (*range(5 + n, 10 + n + n % 3), 2), (False,) * 3 + (True,) * (3 + n % 3))
    for n in range(12)
]
KINDS = ("full", "lora")


def tiny_model(kind: str) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).float().eval()
    return add_lora(model, rank=2, alpha=4, dropout=0.5, targets="all-linear", seed=0) if kind == "lora" else model


def train_to_the_end(folder: Path, model: Any) -> None:
    """Train with a checkpoint at every step, as a run does it; what came out of it goes to final.json."""
    folder.mkdir(exist_ok=True)
    metrics = folder / "metrics.jsonl"
    done = checkpoint_step(folder)
    write_jsonl(metrics, [row for row in read_jsonl(metrics) if row["step"] <= done])
    random.seed(0)

    def validate(live: Any) -> dict[str, float]:
        live.eval()
        with torch.no_grad():
            ids = torch.tensor([SEQUENCES[0].ids])
            loss = float(live(input_ids=ids, labels=ids).loss)
        live.train()
        # The loop seeds torch at every step, and nothing but the checkpoint brings Python's random state back.
        return {"accuracy": -loss, "noise": random.random()}

    outcome = loop.train(
        model,
        SEQUENCES,
        SETTINGS,
        validate=validate,
        score_of=lambda row: (row["accuracy"],),
        log=lambda row: append_jsonl(metrics, row),
        folder=folder,
    )
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        digest.update(name.encode() + p.detach().numpy().tobytes())
    write_json(folder / "final.json", {"weights": digest.hexdigest(), **_untimed(asdict(outcome))})


def result(folder: Path) -> dict[str, Any]:
    """What must be the same, however often the training was killed."""
    return read_json(folder / "final.json") | {"rows": [_untimed(row) for row in read_jsonl(folder / "metrics.jsonl")]}


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.endswith(("seconds", "_s", "bytes"))}


@dataclass(frozen=True, slots=True)
class Kill:
    """When to kill: after `seconds`, from outside, or else at the training's own operation number `operation`.

    Attributes:
        power_cut: The machine fails with it, so that what was not synced may be lost.
        damage: The newest checkpoint is altered or torn afterwards.
        seed: Decides what is lost and what is damaged.
    """

    seconds: float | None = None
    operation: int | None = None
    power_cut: bool = False
    damage: bool = False
    seed: int = 0


class Doom:
    """Counts what a training does to the disk, in this process, and kills it there."""

    def __init__(self, folder: Path, kill: Kill) -> None:
        self.folder, self.kill = folder, kill
        self.chance = random.Random(kill.seed)
        self.operations: list[str] = []
        self.synced = {file.stat().st_ino for file in folder.rglob("*")}
        self.renamed: list[tuple[Path, Path]] = []

    def watch(self) -> None:
        """From now on. It goes below what is tested: to the functions of os and Python's audit events."""
        fsync, rename, save_file = os.fsync, os.rename, safetensors.torch.save_file

        def watched_fsync(descriptor: int) -> None:
            self.passes("fsync")
            fsync(descriptor)
            inode = os.fstat(descriptor).st_ino
            self.synced.add(inode)
            self.renamed = [(a, b) for a, b in self.renamed if b.parent.stat().st_ino != inode]
            self.passes("after fsync")

        def watched_rename(source: Any, target: Any, **folders: Any) -> None:
            self.passes(f"rename to {Path(target).name}")
            rename(source, target, **folders)
            if not folders:
                self.renamed.append((Path(source), Path(target)))
            self.passes(f"after rename to {Path(target).name}")

        def watched_save_file(tensors: Any, file: Any, *arguments: Any, **named: Any) -> None:
            def torn() -> None:
                save_file(tensors, file, *arguments, **named)
                os.truncate(file, self.chance.randrange(os.path.getsize(file)))

            self.passes(f"inside the writing of {Path(file).name}", torn)
            save_file(tensors, file, *arguments, **named)

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("os.mkdir", "os.rmdir", "os.remove") or (
                event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(str(self.folder))
            ):
                self.passes(f"{event} {Path(os.fsdecode(arguments[0])).name}")

        os.fsync, os.rename, safetensors.torch.save_file = watched_fsync, watched_rename, watched_save_file
        sys.addaudithook(audit)

    def passes(self, operation: str, last: Callable[[], None] = lambda: None) -> None:
        self.operations.append(operation)
        if len(self.operations) != self.kill.operation:
            return
        last()
        if self.kill.power_cut:
            self.cut_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def cut_power(self) -> None:
        """Take back renames that may not have reached the disk, and lose ends of files that were not synced."""
        for source, target in reversed(self.renamed):
            if target.exists() and not source.exists() and self.chance.random() < 0.5:
                os.rename(target, source)
        for file in (self.folder / "checkpoints").rglob("*"):
            if file.is_file() and file.stat().st_ino not in self.synced:
                os.truncate(file, self.chance.randint(0, file.stat().st_size))


def killed(folder: Path, model: Any, kill: Kill) -> bool:
    """Start or resume the training in a child; whether it was killed before it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            doom = Doom(folder, kill)
            if kill.operation is not None:
                doom.watch()
            train_to_the_end(folder, model)
            if kill.operation is not None:
                write_json(folder.with_name("operations.json"), doom.operations)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill.seconds is not None:
        time.sleep(kill.seconds)
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the training failed; its error is above"
    return False


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is what its manifest says."""
    try:
        files = read_json(checkpoint / "manifest.json")["files"]
        found = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in files}
    except (RunError, OSError):
        return False
    return found == {name: row["sha256"] for name, row in files.items()}


def damage(file: Path, chance: random.Random) -> None:
    """Cut off the end of a file, or alter one byte."""
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    if chance.random() < 0.5:
        del content[place:]
    else:
        content[place] ^= chance.randint(1, 255)
    file.write_bytes(content)


def drawn(chance: random.Random, seconds: float, operations: int) -> Kill:
    by_the_clock = chance.random() < 0.4
    return Kill(
        seconds=chance.uniform(0.0, seconds) if by_the_clock else None,
        operation=None if by_the_clock else chance.randint(1, operations),
        power_cut=not by_the_clock and chance.random() < 0.5,
        damage=chance.random() < 0.25,
        seed=chance.randrange(1000),
    )


def main(folder: Path, seed: int, kills: int) -> None:
    """Kill as often as asked, over as many trainings as it takes, and print a row for each of them."""
    torch.set_num_threads(1)
    loop._SAVE_EVERY_S = -1.0  # every step
    chance = random.Random(seed)
    models = {kind: tiny_model(kind) for kind in KINDS}
    expected, seconds = {}, 0.0
    for kind, model in models.items():
        started = time.perf_counter()
        assert not killed(folder / kind, model, Kill(operation=0))
        seconds = time.perf_counter() - started
        expected[kind] = result(folder / kind)
    operations = read_json(folder / "operations.json")
    training = 0
    while kills > 0:
        kind = chance.choice(KINDS)
        place = folder / f"killed-{training}"
        done: list[dict[str, Any]] = []
        damaged: set[int] = set()
        for _ in range(min(kills, chance.randint(1, 5))):
            kill = drawn(chance, seconds, len(operations))
            place.mkdir(exist_ok=True)
            if not killed(place, models[kind], kill):
                break
            checkpoints = [c for c in (place / "checkpoints").glob("step-*") if c.stat().st_ino not in damaged]
            row = asdict(kill) | {
                "inside_a_save": any((place / "checkpoints").glob(".step-*")),
                "torn_by_the_kill": [c.name for c in checkpoints if not whole(c)],
            }
            done.append(row)
            if kill.damage and checkpoints:
                newest = max(checkpoints)
                damage(chance.choice(sorted(newest.iterdir())), random.Random(kill.seed))
                damaged.add(newest.stat().st_ino)
        assert not killed(place, models[kind], Kill())
        found = result(place)
        row = {
            "training": training,
            "kind": kind,
            "kills": done,
            "differs": [key for key in expected[kind] if found[key] != expected[kind][key]],
            "left": [path.name for path in (place / "checkpoints").iterdir()],
        }
        print(json.dumps(row), flush=True)
        kills -= len(done)
        training += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]))
