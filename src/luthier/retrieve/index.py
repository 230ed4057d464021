"""An index of documents: built, changed and searched. Embedding, stores and lexical search come together here.

INDEX/
  index.json    the embedder, how documents are cut, the kind of store
  store/        the store's own files
  .lock         held by the process that changes it
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from filelock import FileLock, Timeout

from luthier.errors import RetrievalError
from luthier.progress import Progress, Silent
from luthier.retrieve.documents import Document
from luthier.retrieve.exact import WRITING, ExactStore, written
from luthier.retrieve.lance import LanceStore
from luthier.retrieve.lexical import LexicalIndex
from luthier.retrieve.passages import ChunkSettings, cut
from luthier.retrieve.store import Store, View
from luthier.types import EmbeddedAs, Passage

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["dense", "lexical", "hybrid"]
StoreKind = Literal["exact", "lancedb"]

_ABOUT = "index.json"
_FORMAT = 1
# From so many passages on, LanceDB is the default: an exact store is written anew with every change.
EMBEDDED_FROM = 10_000
# Cormack et al. 2009; so far down the two rankings are looked at for each passage that is wanted.
_RRF_K, _DEPTH = 60, 5
_LEAST_DEPTH = 50
# Documents whose passages go into the store in one step: as many at least, and a share of those that are there, since
# an exact store is written anew each time. An interruption costs at most the last step.
_LEAST_BATCH, _BATCH_SHARE = 64, 4
_CHUNKS = ChunkSettings()
_MARKS = 2  # that an embedder puts around a text


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """As the user gives it."""
        ...

    @property
    def key(self) -> str:
        """Hash of its content, to tell whether an index was made with it."""
        ...

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        ...

    @property
    def window(self) -> int:
        """Tokens that it reads of a text; what is behind them is cut."""
        ...

    def embed(self, texts: Sequence[str], role: EmbeddedAs = "text") -> np.ndarray:
        """Vectors of unit length, float32. (N, D)"""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without those that are put around it."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: Cosine similarity of dense search, BM25 of lexical, and the sum of reciprocal ranks of hybrid.
    """

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What a change of an index did.

    Attributes:
        too_long: Passages of which the embedder sees the beginning only, with their tokens.
    """

    added: tuple[str, ...] = ()
    revised: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    passages: int = 0
    too_long: Mapping[str, int] = field(default_factory=dict)


class _Seen:
    """A state of the store with its passages and, once it is asked for, its lexical index."""

    def __init__(self, view: View, *, headings: bool) -> None:
        self.view, self._headings = view, headings
        self.passages = {passage.id: passage for passage in view.passages()}

    @cached_property
    def by_document(self) -> Mapping[str, Sequence[Passage]]:
        found: dict[str, list[Passage]] = defaultdict(list)
        for passage in self.passages.values():
            found[passage.document].append(passage)
        return found

    @cached_property
    def lexical(self) -> LexicalIndex:
        return LexicalIndex(
            list(self.passages), [own.searched(headings=self._headings) for own in self.passages.values()]
        )


class Index:
    """An index in a folder; `create` and `open_index` give one."""

    def __init__(self, folder: Path, embedder: Embedder, chunks: ChunkSettings, store: Store, kind: StoreKind) -> None:
        self.folder, self.embedder, self.chunks, self.kind = folder, embedder, chunks, kind
        self._store = store
        self._seen: _Seen | None = None
        self._lock = FileLock(folder / ".lock")

    @property
    def passages(self) -> Mapping[str, Passage]:
        """Id → passage, all of them, as they are now."""
        return self._now().passages

    @property
    def by_document(self) -> Mapping[str, Sequence[Passage]]:
        """Name → the document's passages, as they are now."""
        return self._now().by_document

    def matching(self, pattern: str) -> list[str]:
        """Names of the documents that a pattern means: `*` stands for anything."""
        return _matching(pattern, self.documents, exactly=False)

    @property
    def documents(self) -> dict[str, tuple[str, int]]:
        """Name → title and number of passages."""
        found: dict[str, tuple[str, int]] = {}
        for passage in self.passages.values():
            found[passage.document] = (passage.title, found.get(passage.document, ("", 0))[1] + 1)
        return found

    def add(self, documents: Sequence[Document], progress: Progress | None = None) -> Changes:
        """Add documents, and put new versions in the place of those that are there; equal ones stay as they are.

        Each document changes in one step. A process that stops in the middle leaves some of them changed and the
        others as they were; adding them again goes on.

        Raises:
            RetrievalError: Another process changes the index, two documents have one name, or the disk is full.
        """
        names = [document.name for document in documents]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise RetrievalError(f"{', '.join(twice[:5])} stands twice among the documents; a name must be one's own.")
        with self.locked():
            before = {passage.document: passage.digest for passage in self.passages.values()}
            # What holds nothing is new only where it held something before.
            new = [
                own
                for own in documents
                if before.get(own.name) != own.digest and (own.text.strip() or own.name in before)
            ]
            too_long: dict[str, int] = {}
            count = 0
            with (progress or Silent()).track("embedding documents", len(new)) as advance:
                waiting, held = list(new), len(before)
                while waiting:
                    size = max(_LEAST_BATCH, held // _BATCH_SHARE)
                    batch, waiting = waiting[:size], waiting[size:]
                    passages, cut_off = self._put(batch)
                    too_long |= cut_off
                    count += passages
                    held += len(batch)
                    advance(len(batch))
        changed = {document.name for document in new}
        return Changes(
            added=tuple(document.name for document in new if document.name not in before),
            revised=tuple(document.name for document in new if document.name in before),
            unchanged=tuple(name for name in names if name not in changed),
            passages=count,
            too_long=too_long,
        )

    def _put(self, documents: Sequence[Document]) -> tuple[int, dict[str, int]]:
        """Store documents in one step; gives the number of passages, and those of which the embedder cuts the end."""
        passages = [own for document in documents for own in cut(document, self.chunks, self.embedder.count)]
        texts = [passage.searched(headings=self.chunks.headings) for passage in passages]
        sizes = self.embedder.count(texts)
        self._store.replace(
            [document.name for document in documents], passages, self.embedder.embed(texts, self._role("document"))
        )
        room = self.embedder.window - _MARKS
        return len(passages), {p.id: size for p, size in zip(passages, sizes, strict=True) if size > room}

    def remove(self, names: Sequence[str], *, exactly: bool = False) -> Changes:
        """Take documents out, all of them in one step; none is found from then on.

        Args:
            names: Of documents; `*` stands for anything (`reports/*`).
            exactly: Whether `*` stands for itself.

        Raises:
            RetrievalError: A name is none of the index, and then nothing is removed; or another process changes it.
        """
        with self.locked():
            known = self.documents
            matched = {name: _matching(name, known, exactly) for name in names}
            if missing := [name for name, own in matched.items() if not own]:
                near = ", ".join(sorted(known)[:5])
                raise RetrievalError(
                    f"{self.folder} has no document {', '.join(missing)} (it has {len(known)}: {near}"
                    f"{', …' if len(known) > 5 else ''}). Nothing was removed."
                )
            gone = sorted({name for own in matched.values() for name in own})
            count = sum(known[name][1] for name in gone)
            self._store.replace(gone, [], self.embedder.embed([]).reshape(0, self.embedder.dimension))
        return Changes(removed=tuple(gone), passages=count)

    def search(
        self, query: str, k: int = 5, kind: Kind = "hybrid", documents: Sequence[str] | None = None
    ) -> list[Hit]:
        """The `k` best passages, best first.

        Args:
            documents: Only passages of these, by name; `*` stands for anything. None for all.
        """
        return self.search_all([query], k, kind, documents)[0]

    def search_all(
        self, queries: Sequence[str], k: int = 5, kind: Kind = "hybrid", documents: Sequence[str] | None = None
    ) -> list[list[Hit]]:
        """For each query its `k` best passages, best first."""
        now = self._now()
        passages, lexical = now.passages, now.lexical if kind != "dense" else None
        only = None
        if documents is not None:
            known = {passage.document for passage in passages.values()}
            only = {name for pattern in documents for name in _matching(pattern, known, exactly=False)}
        allowed = None if only is None else [own for own, passage in passages.items() if passage.document in only]
        vectors = self.embedder.embed(queries, self._role("query")) if kind != "lexical" else [None] * len(queries)
        depth = k if kind != "hybrid" else max(k * _DEPTH, _LEAST_DEPTH)
        found = []
        for query, vector in zip(queries, vectors, strict=True):
            rankings = []
            if vector is not None:
                rankings.append(now.view.nearest(vector, depth, only))
            if lexical is not None:
                rankings.append(lexical.search(query, depth, allowed))
            ranked = rankings[0] if len(rankings) == 1 else fused(rankings)
            found.append([Hit(passages[own], score) for own, score in ranked[:k]])
        return found

    def _role(self, role: EmbeddedAs) -> EmbeddedAs:
        """As what a text is embedded; an index made before questions and documents were told apart goes on so."""
        return role if about_index(self.folder).get("roles") else "text"

    def _now(self) -> _Seen:
        """The store as it is now, from memory where it has not changed."""
        view = self._store.view()
        if self._seen is None or self._seen.view.version != view.version:
            self._seen = _Seen(view, headings=self.chunks.headings)
        return self._seen

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process changes the index until the end of the block; blocks may stand in each other.

        Raises:
            RetrievalError: Another process changes it now.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RetrievalError(f"{self.folder} is being changed by another process. Wait for it.") from None
        try:
            yield
        finally:
            self._lock.release()


def _matching(name: str, known: Collection[str], exactly: bool) -> list[str]:
    if "*" in name and not exactly:
        pattern = re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
        return [own for own in known if pattern.fullmatch(own)]
    return [name] if name in known else []


def fused(rankings: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Reciprocal-rank fusion (Cormack et al. 2009, k = 60): best first, equal ones by id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, (own, _) in enumerate(ranking, 1):
            scores[own] = scores.get(own, 0.0) + 1 / (_RRF_K + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))


def create(
    folder: Path,
    embedder: Embedder,
    chunks: ChunkSettings = _CHUNKS,
    kind: StoreKind = "exact",
    built_from: Path | None = None,
) -> Index:
    """An empty index in a new folder.

    Args:
        built_from: The folder that it is to be kept up to date with.

    Raises:
        RetrievalError: There is an index, or something else, in the folder.
    """
    if (folder / _ABOUT).is_file():
        raise RetrievalError(f"{folder} holds an index already. Add to it, or choose another folder.")
    begun = f"{_ABOUT}{WRITING}"  # left by a process that was killed as it made the folder
    if folder.exists() and (not folder.is_dir() or any(file.name != begun for file in folder.iterdir())):
        raise RetrievalError(f"{folder} is not empty, and holds no index. Choose a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "format": _FORMAT,
        "store": kind,
        "embedder": embedder.name,
        "embedder_key": embedder.key,
        "dimension": embedder.dimension,
        "chunks": chunks.model_dump(mode="json"),
        "roles": True,
        **({} if built_from is None else {"built_from": str(built_from)}),
    }
    describe_index(folder, about)
    return Index(folder, embedder, chunks, _store(folder, kind, embedder.dimension), kind)


def open_index(folder: Path, embedder_of: Callable[[str], Embedder]) -> Index:
    """An index that is there.

    Args:
        embedder_of: Gives the embedder of a name.

    Raises:
        RetrievalError: There is none, it is damaged, or its embedder has changed since.
    """
    about = about_index(folder)
    embedder = embedder_of(about["embedder"])
    if embedder.key != about["embedder_key"]:
        raise RetrievalError(
            f"{folder} was made with another embedder than {about['embedder']} is now, and its vectors mean something "
            "else. Build it again."
        )
    store = _store(folder, about["store"], about["dimension"])
    return Index(folder, embedder, ChunkSettings.model_validate(about["chunks"]), store, about["store"])


def copy_index(folder: Path, to: Path) -> None:
    """Copy an index as it is now into a new folder; whole, or not there.

    Raises:
        RetrievalError: There is none, it is damaged, or the copy cannot be written.
    """
    about = about_index(folder)
    to.mkdir(parents=True)
    _store(folder, about["store"], about["dimension"]).copy(to / "store")
    describe_index(to, about)  # last: without it there is no index


def about_index(folder: Path) -> dict[str, Any]:
    """What `index.json` says.

    Raises:
        RetrievalError: There is none, or it is damaged.
    """
    file = folder / _ABOUT
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RetrievalError(f"{folder} holds no index. Make one with `luthier index build {folder} FOLDER`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RetrievalError(f"{file} is damaged ({error}). Build the index again.") from None
    if about.get("format") != _FORMAT:
        raise RetrievalError(
            f"{file}: format {about.get('format')!r}, and this version of Luthier reads {_FORMAT}. Build it again."
        )
    return about


def describe_index(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `index.json`."""
    written(folder / _ABOUT, (json.dumps(about, indent=1) + "\n").encode())


def _store(folder: Path, kind: StoreKind, dimension: int) -> Store:
    kinds: dict[StoreKind, type[ExactStore] | type[LanceStore]] = {"exact": ExactStore, "lancedb": LanceStore}
    return kinds[kind](folder / "store", dimension)
