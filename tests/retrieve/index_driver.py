"""Changes an index without end: `index_driver.py FOLDER KIND SEED`. Whoever started it kills it anywhere.

Documents d0 … d9 are revised together, all to one revision a step; odd ones are taken out and put back. Each change is
said on standard output before it begins and when it is done. `index_driver.py FOLDER KIND read` only looks, until its
standard input ends, fails where it sees a change by half, and then says how many states it has seen.
"""

from __future__ import annotations

import random
import re
import sys
import threading
from pathlib import Path

from words import WordEmbedder

from luthier.retrieve.documents import Document
from luthier.retrieve.index import Index, create, open_index
from luthier.retrieve.passages import ChunkSettings

NAMES = [f"d{n}" for n in range(10)]


def document(name: str, revision: int) -> Document:
    """Its text names the revision in every passage."""
    return Document(name, name, " ".join(f"Document {name} has revision r{revision} here." for _ in range(6)))


def ready(folder: Path, kind: str) -> Index:
    embedder = WordEmbedder()
    if (folder / "index.json").is_file():
        return open_index(folder, lambda name: embedder)
    return create(folder, embedder, ChunkSettings(tokens=20, overlap=0, headings=False), kind)  # type: ignore[arg-type]


State = tuple[int, bool]


def state_of(index: Index) -> State:
    """The revision that all documents are at, and whether those that are taken out at times are there."""
    hits = index.search("Document d1 has revision", 60, "hybrid")
    assert len({re.findall(r"r(-?\d+)", hit.passage.text)[0] for hit in hits}) == 1
    passages = list(index.passages.values())
    (revision,) = {int(re.findall(r"r(-?\d+)", own.text)[0]) for own in passages}
    counts = {name: sum(own.document == name for own in passages) for name in NAMES}
    assert {counts[name] for name in NAMES[::2]} == {counts["d0"]}
    (odd,) = {counts[name] for name in NAMES[1::2]}
    assert odd in (0, counts["d0"])
    return revision, odd > 0


def watch(folder: Path, kind: str) -> None:
    index, seen, ended = ready(folder, kind), set(), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    seen.add(state_of(index))
    print("looking", flush=True)
    while not ended.is_set():
        seen.add(state_of(index))
    print(f"seen {len(seen)}", flush=True)


def main(folder: Path, kind: str, seed: int) -> None:
    draw = random.Random(seed)
    index = ready(folder, kind)
    for revision in range(1_000_000):
        number = seed * 1_000_000 + revision
        if draw.random() < 0.3 and set(NAMES[1::2]) <= set(index.documents):
            print(f"begin remove {number}", flush=True)
            index.remove(NAMES[1::2])
        else:
            print(f"begin add {number}", flush=True)
            index.add([document(name, number) for name in NAMES])
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[3] == "read":
        watch(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
