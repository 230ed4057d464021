"""The run folder: where each file lies, and writing so that a file is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luthier.errors import RunError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run folder; docs/run-folder.md describes the files."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.yaml"

    @property
    def resolved_study(self) -> Path:
        return self.path / "study.json"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    def approach(self, name: str) -> Path:
        return self.path / "approaches" / name

    def floor(self, name: str) -> Path:
        return self.path / "floors" / name

    def repeat(self, name: str, seed: int) -> Path:
        return self.approach(name) / "seeds" / str(seed)

    def step(self, key: str) -> Path:
        return self.path / "steps" / key

    @property
    def indexes(self) -> Path:
        return self.path / "indexes"

    def probe(self, key: str) -> Path:
        return self.path / "probes" / f"{key}.json"

    def divergence(self, key: str) -> Path:
        return self.path / "divergence" / f"{key}.json"

    def stage(self, key: str) -> Path:
        return self.path / "stages" / f"{key}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            RunError: Another process works in it, or it is a folder of something else.
        """
        self._see_that_it_is_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.path} is in use by another run. Wait for it, or write elsewhere with --output."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _see_that_it_is_ours(self) -> None:
        """A folder with files in it must be one of a run: else files of the user's would be replaced."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file. Name a folder for the run with --output.")
        if self.resolved_study.is_file() or not self.path.exists():
            return
        others = sorted(entry.name for entry in self.path.iterdir() if entry.name not in (".lock", "indexes"))
        if others:
            named = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
            raise RunError(
                f"{self.path} holds other files ({named}) and no run. Name a new folder, or that of an earlier run, "
                "with --output."
            )

    def settle_leftovers(self) -> None:
        """Remove what an interrupted write left behind."""
        for part in (
            ".",
            "approaches/*",
            "approaches/*/seeds/*",
            "steps/*",
            "steps/*/results",
            "probes",
            "divergence",
            "stages",
        ):
            for leftover in self.path.glob(f"{part}/*.writing"):
                if leftover.is_file():
                    leftover.unlink()


def write_json(file: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. NaN and infinity are refused."""
    _write(file, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    _write(file, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_text(file: Path, text: str) -> None:
    _write(file, text)


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{file} is missing. Run the study again with the same --output to complete it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is damaged ({error}). Delete it and run the study again; the rest is kept.") from None


def read_jsonl(file: Path) -> list[Any]:
    """The rows of a JSONL file; none where there is no file.

    A last line without its line end was cut off while it was written, and is left out.

    Raises:
        RunError: A line is damaged.
    """
    if not file.is_file():
        return []
    # Not splitlines: texts may hold line separators that JSON leaves as they are.
    *lines, _cut_off = file.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise RunError(f"{file}:{number} is damaged ({error}). Delete the file and run the study again.") from None
    return rows


def append_jsonl(file: Path, row: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds `folder` or its nearest parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_name(file.name + ".writing")
    with open(work, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(work, file)
