"""An index brought up to date with the files that it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier.errors import DataError, RetrievalError
from luthier.progress import Progress
from luthier.retrieve.documents import Document, EmptyDocument, Reading, Skipped, name_of, read_document, read_some
from luthier.retrieve.index import (
    Changes,
    Embedder,
    Index,
    StoreKind,
    about_index,
    create,
    describe_index,
    open_index,
)
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

    A build that was interrupted goes on. Documents that are no longer in the folder, or have become empty, are removed;
    those that were added from elsewhere (`add_files`) stay.

    Args:
        folder: Of the index.
        store: `auto` takes LanceDB from about 10,000 passages on.

    Raises:
        RetrievalError: The folder holds an index of other documents, or made with other settings; or a document of the
            same name was added from elsewhere.
        DataError: There is no folder of documents, or nothing in it can be read.
    """
    source = documents.resolve()
    if (folder / "index.json").is_file():
        _check_same(folder, source, embedder, chunks, store)
    reading = read_some(documents, progress)
    if (folder / "index.json").is_file():
        index = open_index(folder, lambda name: embedder)
    else:
        kind = store_for(reading.documents, chunks) if store == "auto" else store
        index = create(folder, embedder, chunks, kind, source)
    with index.locked():
        return _brought_up_to_date(index, documents, reading, progress)


def _brought_up_to_date(index: Index, folder: Path, reading: Reading, progress: Progress | None) -> Update:
    names = {document.name for document in reading.documents}
    added = _added(index)
    if added != about_index(index.folder).get("added", {}):  # of those that were removed nothing is kept
        describe_index(index.folder, {**about_index(index.folder), "added": added})
    if twice := sorted({_file_of(name) for name in names} & set(added)):
        raise RetrievalError(
            f"{folder} has a file {twice[0]}, and the index one that was added from {added[twice[0]]}. Take that "
            "out with `luthier index remove`, or rename one of them."
        )
    changes = index.add(reading.documents, progress)
    before = about_index(index.folder)
    drives, there = tuple(before.get("drives", ())), _folders(index.documents)
    read = _folders(names)
    lost = [own for own in drives if own not in reading.drives and own in there and own not in read]
    skipped = (*reading.skipped, *(Skipped(own, _NOT_THERE) for own in lost))
    if (now := sorted({*reading.drives, *lost})) != sorted(drives):
        describe_index(index.folder, {**before, "drives": now})
    # A file or folder that cannot be looked at now keeps what was read of it before.
    unseen = [own.name for own in skipped if not own.empty]
    kept, folders = {*unseen, *added}, tuple(name for name in unseen if name.endswith("/"))
    gone = [name for name in index.documents if name not in names and _file_of(name) not in kept]
    changes = _and_removed(index, changes, [name for name in gone if not name.startswith(folders)])
    return Update(index, changes, skipped)


_NOT_THERE = (
    "was a drive of its own and is none now, so it may not be connected; what the index has of it is kept. To take it "
    "out, use luthier index remove"
)


def _folders(names: Iterable[str]) -> set[str]:
    """The folders of some documents, with a slash at their end."""
    return {f"{place.as_posix()}/" for name in names for place in Path(_file_of(name)).parents[:-1]}


def add_files(index: Index, files: Sequence[Path], progress: Progress | None = None) -> Update:
    """Add files to an index, or their new versions; of a table, rows that it no longer has are removed.

    Files of the folder that the index was built of keep their names there; others are called by their own. A file that
    has become empty is removed.

    Raises:
        DataError: A file cannot be read, or has the name of another one that is there; then nothing was changed.
        RetrievalError: Another process changes the index.
    """
    with index.locked():
        return _with_files(index, files, progress)


def _with_files(index: Index, files: Sequence[Path], progress: Progress | None) -> Update:
    root = about_index(index.folder).get("built_from")
    known, added = {_file_of(name) for name in index.documents}, _added(index)
    found: list[Document] = []
    skipped: list[Skipped] = []
    read: dict[str, str] = {}
    for file in files:
        if file.is_dir():
            raise DataError(
                f"{file} is a folder. Give its files, or bring the index up to date with `luthier index build`."
            )
        if not file.is_file():
            raise DataError(f"{file} does not exist.")
        path = file.resolve()
        inside = root is not None and path.is_relative_to(root)
        name = name_of(path.relative_to(str(root)) if inside else Path(file.name))
        here = read.get(name) or added.get(name) or (f"{root}/{name}" if root is not None and name in known else None)
        if here is not None and name_of(Path(here)) != name_of(path):
            raise DataError(f"{file}: the index has {name} of {here}. Rename one of them; nothing was changed.")
        try:
            reading = read_document(file, name)
            found += reading.documents
            skipped += reading.skipped
        except EmptyDocument as error:
            skipped.append(Skipped(name, str(error).removeprefix(f"{name}: "), empty=True))
        read[name] = str(path)
    outside = {name: path for name, path in read.items() if root is None or not Path(path).is_relative_to(root)}
    if outside:
        describe_index(index.folder, {**about_index(index.folder), "added": {**added, **outside}})
    changes = index.add(found, progress)
    names = {document.name for document in found}
    gone = [name for name in index.documents if name not in names and _file_of(name) in read]
    return Update(index, _and_removed(index, changes, gone), tuple(skipped))


def _added(index: Index) -> dict[str, str]:
    """Name of a file of the index that was added from elsewhere than the folder that it is built of → its path."""
    known = {_file_of(name) for name in index.documents}
    added: dict[str, str] = about_index(index.folder).get("added", {})
    return {name: path for name, path in added.items() if name in known}


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
