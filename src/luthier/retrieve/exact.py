"""The exact store: everything in memory, every vector compared. The reference for all others.

    CURRENT                       the generation that holds: its number
    passages-00000003.jsonl       its passages
    vectors-00000003.safetensors  their vectors

Each change writes a whole new generation and then puts its number into CURRENT by renaming, so that a store is always
one generation or the next. The one before is kept for readers that have just looked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from luthier.errors import RetrievalError
from luthier.record import passage_from_json
from luthier.types import Passage

WRITING = ".writing"  # of a file that is not whole yet
_KEPT = 2
# By so much two ways of computing one similarity may differ.
ROUNDING = 1e-5
_FILE = re.compile(r"(?:passages|vectors)-(\d{8})\.(?:jsonl|safetensors)(?:\.writing)?")


@dataclass(frozen=True, slots=True)
class Generation:
    """The store as one change left it. See `View`."""

    version: int
    held: tuple[Passage, ...]
    vectors: np.ndarray

    def passages(self) -> list[Passage]:
        return list(self.held)

    def nearest(self, vector: np.ndarray, k: int, documents: Collection[str] | None) -> list[tuple[str, float]]:
        places = np.arange(len(self.held))
        if documents is not None:
            wanted = set(documents)
            places = np.array([n for n, own in enumerate(self.held) if own.document in wanted], dtype=int)
        if len(places) > k:  # the k best, and all that are equal to the last of them but for rounding
            vectors = self.vectors if documents is None else self.vectors[places]
            scores = vectors @ np.asarray(vector, np.float32)
            places = places[scores >= np.partition(scores, -k)[-k] - ROUNDING]
        return ranked(((self.held[n].id, self.vectors[n]) for n in places), vector)[:k]


class ExactStore:
    """Passages and vectors in a folder, read whole. See `Store`."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder, self._dimension = folder, dimension
        self._read: Generation | None = None

    def replace(self, documents: Collection[str], passages: Sequence[Passage], vectors: np.ndarray) -> None:
        now = self.view()
        gone = set(documents)
        stay = [n for n, passage in enumerate(now.held) if passage.document not in gone]
        all_passages = [*(now.held[n] for n in stay), *passages]
        all_vectors = np.concatenate([now.vectors[stay], np.asarray(vectors, np.float32).reshape(-1, self._dimension)])
        order = sorted(range(len(all_passages)), key=lambda n: (all_passages[n].document, all_passages[n].start, n))
        made = Generation(now.version + 1, tuple(all_passages[n] for n in order), all_vectors[order])
        self._write(made)
        self._read = made

    def view(self) -> Generation:
        """The generation that holds, from memory where it is the one last read."""
        for _ in range(20):  # a writer may remove what CURRENT named a moment ago
            number = self._number()
            if self._read is not None and self._read.version == number:
                return self._read
            try:
                self._read = self._load(number)
            except FileNotFoundError:
                continue
            return self._read
        raise RetrievalError(
            f"{self._folder}: generation {number} of the index is named in CURRENT, and its files are missing. Build "
            "the index again."
        )

    def copy(self, folder: Path) -> None:
        now = self.view()
        ExactStore(folder, self._dimension)._write(Generation(1, now.held, now.vectors))

    def _number(self) -> int:
        file = self._folder / "CURRENT"
        try:
            return int(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0
        except ValueError:
            raise RetrievalError(f"{file} is damaged: it holds no number. Build the index again.") from None

    def _load(self, number: int) -> Generation:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if number == 0:
            return Generation(0, (), np.zeros((0, self._dimension), np.float32))
        lines = (self._folder / f"passages-{number:08d}.jsonl").read_text(encoding="utf-8").split("\n")
        file = self._folder / f"vectors-{number:08d}.safetensors"
        try:
            passages = tuple(passage_from_json(json.loads(line)) for line in lines if line)
            vectors = load_file(file)["vectors"]
        except (json.JSONDecodeError, SafetensorError, KeyError, TypeError) as error:
            raise RetrievalError(
                f"{file.parent}: generation {number} is damaged ({error}). Build the index again."
            ) from error
        if vectors.shape != (len(passages), self._dimension):
            raise RetrievalError(
                f"{file}: holds vectors of shape {vectors.shape} for {len(passages)} passages of {self._dimension} "
                "dimensions. Build the index again."
            )
        return Generation(number, passages, vectors)

    def _write(self, made: Generation) -> None:
        from safetensors.numpy import save

        self._folder.mkdir(parents=True, exist_ok=True)
        rows = "".join(json.dumps(asdict(passage), ensure_ascii=False) + "\n" for passage in made.held)
        written(self._folder / f"passages-{made.version:08d}.jsonl", rows.encode())
        vectors = np.ascontiguousarray(made.vectors)
        written(self._folder / f"vectors-{made.version:08d}.safetensors", save({"vectors": vectors}))
        written(self._folder / "CURRENT", f"{made.version}\n".encode())
        for file in self._folder.iterdir():
            match = _FILE.fullmatch(file.name)
            if match and int(match.group(1)) not in range(made.version - _KEPT + 1, made.version + 1):
                file.unlink(missing_ok=True)


def ranked(vectors: Iterable[tuple[str, np.ndarray]], vector: np.ndarray) -> list[tuple[str, float]]:
    """Ids with their similarities to a vector, nearest first, equal ones by id; computed one by one, so that a score
    does not depend on what else is compared."""
    found = [(own, float(np.asarray(row, np.float32) @ np.asarray(vector, np.float32))) for own, row in vectors]
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))


def written(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and see that it is on the disk.

    Raises:
        RetrievalError: It cannot be written, as when the disk is full.
    """
    work = file.with_name(file.name + WRITING)
    try:
        with open(work, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(work, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RetrievalError(
            f"{file} cannot be written: {error.strerror or error}. Free some space; the index is as it was before."
        ) from error
