"""Changes an index without end: `index_driver.py FOLDER KIND SEED`. Whoever started it kills it anywhere.

Documents d0 … d9 are revised together, all to one revision a step; odd ones are taken out and put back. Each change is
said on standard output before it begins and when it is done.
"""

from __future__ import annotations

import random
import sys
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
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
