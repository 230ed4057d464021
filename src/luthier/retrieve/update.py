"""An index brought up to date with the files that it is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier.errors import DataError, RetrievalError
from luthier.progress import Progress
from luthier.retrieve.documents import Document, Skipped, read_document, read_folder
from luthier.retrieve.exact import written
from luthier.retrieve.index import Changes, Embedder, Index, StoreKind, about_index, create, open_index
from luthier.retrieve.library import store_for
from luthier.retrieve.passages import ChunkSettings


@dataclass(frozen=True, slots=True)
class Update:
    """What was done, and what could not be read."""

    index: Index
    changes: Changes
    skipped: tuple[Skipped, ...]


def build(
    folder: Path,
    documents: Path,
    embedder: Embedder,
    chunks: ChunkSettings,
    store: StoreKind | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> Update:
    """Make an index of a folder of documents, or bring the one that was made of it up to date.

    A build that was interrupted goes on. Documents that are no longer in the folder are removed.

    Args:
        folder: Of the index.
        store: `auto` takes LanceDB from about 10,000 passages on.

    Raises:
        RetrievalError: The folder holds an index of other documents, or made with other settings.
        DataError: There is no folder of documents, or nothing in it can be read.
    """
    source = documents.resolve()
    if (folder / "index.json").is_file():
        _check_same(folder, source, embedder, chunks, store)
    reading = read_folder(documents, progress)
    if not reading.documents:
        why = "; ".join(f"{own.name}: {own.reason}" for own in reading.skipped[:3]) or "it is empty"
        raise DataError(f"{documents}: no document could be read ({why}).")
    if (folder / "index.json").is_file():
        index = open_index(folder, lambda name: embedder)
    else:
        index = create(folder, embedder, chunks, store_for(reading.documents, chunks) if store == "auto" else store)
        _remember(folder, source)
    changes = index.add(reading.documents, progress)
    # A file that cannot be read now keeps what was read of it before.
    unread = {own.name for own in reading.skipped}
    names = {document.name for document in reading.documents}
    gone = [name for name in index.documents if name not in names and _file_of(name) not in unread]
    return Update(index, _and_removed(index, changes, gone), reading.skipped)


def add_files(index: Index, files: Sequence[Path], progress: Progress | None = None) -> Update:
    """Add files to an index, or their new versions; of a table, rows that it no longer has are removed.

    Files of the folder that the index was built of keep their names there; others are called by their own.

    Raises:
        DataError: A file cannot be read; then nothing was changed.
    """
    root = about_index(index.folder).get("built_from")
    found: list[Document] = []
    skipped: list[Skipped] = []
    read: set[str] = set()
    for file in files:
        if file.is_dir():
            raise DataError(
                f"{file} is a folder. Give its files, or bring the index up to date with `luthier index build`."
            )
        if not file.is_file():
            raise DataError(f"{file} does not exist.")
        inside = root is not None and file.resolve().is_relative_to(root)
        name = file.resolve().relative_to(str(root)).as_posix() if inside else file.name
        reading = read_document(file, name)
        found += reading.documents
        skipped += reading.skipped
        read.add(name)
    changes = index.add(found, progress)
    names = {document.name for document in found}
    gone = [name for name in index.documents if name not in names and name != _file_of(name) and _file_of(name) in read]
    return Update(index, _and_removed(index, changes, gone), tuple(skipped))


def _and_removed(index: Index, changes: Changes, gone: Iterable[str]) -> Changes:
    names = sorted(gone)
    return dataclasses.replace(changes, removed=index.remove(names, exactly=True).removed) if names else changes


def _file_of(name: str) -> str:
    """The file of a document: a row's name is the table's with its number."""
    file, colon, row = name.rpartition(":")
    return file if colon and row.isdigit() else name


def _check_same(
    folder: Path, source: Path, embedder: Embedder, chunks: ChunkSettings, store: StoreKind | Literal["auto"]
) -> None:
    about = about_index(folder)
    settings = {
        "documents": (about.get("built_from"), str(source)),
        "embedder": (about["embedder"], embedder.name),
        "chunks": (about["chunks"], chunks.model_dump(mode="json")),
        "store": (about["store"], about["store"] if store == "auto" else store),
    }
    for what, (held, given) in settings.items():
        if held != given:
            raise RetrievalError(
                f"{folder} was built with {what} {held}, and this asks for {given}. Choose another folder for the "
                "index, or delete this one."
            )


def _remember(folder: Path, source: Path) -> None:
    about = {**about_index(folder), "built_from": str(source)}
    written(folder / "index.json", (json.dumps(about, indent=1) + "\n").encode())
