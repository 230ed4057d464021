"""The documents of a run: read once, indexed once for each embedder and way of cutting, searched for prompts."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from luthier.progress import Progress
from luthier.prompt.passages import distinct
from luthier.prompt.wording import rendered
from luthier.retrieve.documents import Document, Reading, read_some
from luthier.retrieve.exact import written
from luthier.retrieve.index import EMBEDDED_FROM, Embedder, Hit, Index, StoreKind, create, open_index
from luthier.retrieve.passages import ChunkSettings
from luthier.types import EmbeddedAs, Passage, Prompt, Retrieval

if TYPE_CHECKING:
    import numpy as np

# Texts that embedding is timed on.
_TIMED = 24
# About as many characters make a token of English, for a guess at the number of passages.
_CHARACTERS = 4


class Reranker(Protocol):
    """Tells how well passages answer a query, reading both together."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One number for each pair of a query and a passage, higher is better. (N,)"""
        ...


@dataclass(frozen=True, slots=True)
class Making:
    """What making an index came to.

    Attributes:
        build_s: Seconds, embedding included.
        too_long: Passages of which the embedder reads the beginning only.
    """

    build_s: float = 0.0
    too_long: int = 0


class Library:
    """Documents and what is made of them.

    Args:
        folder: Holds the indices that it makes; None for one that is deleted when the library is.
        embedder_of: Gives the embedder of a name.
        reranker_of: Gives the reranker of a name.
        folder_of: Gives the folder of an embedder or a reranker of a name, for what trains them.
        words_only: Nothing is embedded and all is searched by words: for looking ahead at what a run would do.
    """

    def __init__(
        self,
        folder: Path | None,
        embedder_of: Callable[[str], Embedder],
        reranker_of: Callable[[str], Reranker],
        folder_of: Callable[[str], Path] = Path,
        *,
        words_only: bool = False,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="luthier-") if folder is None else None
        self.folder = Path(self._temporary.name) if folder is None and self._temporary else folder
        self._words_only = words_only
        self.folder_of = folder_of
        self._embedder_of, self._reranker_of = embedder_of, reranker_of
        self._readings: dict[str, Reading] = {}
        self._embedders: dict[str, Embedder] = {}
        self._indexes: dict[tuple[str, str], Index] = {}

    def embedder(self, name: str) -> Embedder:
        if name not in self._embedders:
            own = self._embedder_of(name)
            self._embedders[name] = _NotEmbedding(own) if self._words_only else own
        return self._embedders[name]

    def reading(self, documents: str, progress: Progress | None = None, without: Collection[Path] = ()) -> Reading:
        """What a folder of documents gave when it was first asked for.

        Args:
            without: Files in it that are no documents.

        Raises:
            DataError: There is no such folder, or nothing in it can be read.
        """
        if documents not in self._readings:
            self._readings[documents] = read_some(Path(documents), progress, without)
        return self._readings[documents]

    def leave_out(self, documents: str, passages: Sequence[Passage]) -> None:
        """Blank the text of passages in a folder's documents, as they were read; places of all others stay."""
        spans: dict[str, list[Passage]] = defaultdict(list)
        for passage in passages:
            spans[passage.document].append(passage)
        reading = self.reading(documents)
        kept = tuple(_blanked(document, spans[document.name]) for document in reading.documents)
        self._readings[documents] = replace(reading, documents=kept)

    def index(self, documents: str, embedder: str, chunks: ChunkSettings, progress: Progress | None = None) -> Index:
        """The index of a folder of documents, from the run's folder where it is there already.

        What an interrupted process began is gone on with.
        """
        assert self.folder is not None
        reading, own = self.reading(documents, progress), self.embedder(embedder)
        folder = self.folder / _key(reading.documents, own, chunks)
        index = self._indexes.get((str(folder), embedder))
        if index is None:
            if (folder / "index.json").is_file():
                index = self.opened(str(folder), embedder)
            else:
                index = create(folder, own, chunks, store_for(reading.documents, chunks))
            started = time.perf_counter()
            changes = index.add(reading.documents, progress)
            if changes.passages:
                before = self.making(index)
                seconds = before.build_s + time.perf_counter() - started
                making = Making(seconds, before.too_long + len(changes.too_long))
                written(_record(index), f"{json.dumps(asdict(making))}\n".encode())
            self._indexes[str(folder), embedder] = index
        return index

    def making(self, index: Index) -> Making:
        """What making an index of the library came to, which may be long ago."""
        file = _record(index)
        return Making(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Making()

    def opened(self, folder: str, embedder: str) -> Index:
        """An index that is there.

        Raises:
            RetrievalError: There is none, it is damaged, or the embedder is another than it was made with.
        """
        if (folder, embedder) not in self._indexes:
            self._indexes[folder, embedder] = open_index(Path(folder), lambda _: self.embedder(embedder))
        return self._indexes[folder, embedder]

    def forget(self, folder: str) -> None:
        """Keep nothing in memory of an index that will not be searched again."""
        self._indexes = {key: index for key, index in self._indexes.items() if key[0] != folder}

    def find(self, retrieval: Retrieval, prompts: Sequence[Prompt]) -> list[tuple[Passage, ...]]:
        """For each prompt its passages, best first. Where two say the same, the next best takes the second's place."""
        found = [[hit.passage for hit in hits] for hits in self.rank(retrieval, prompts, retrieval.k)]
        short = [number for number, own in enumerate(found) if len(distinct(own)) < len(own)]
        depth = retrieval.k
        while short:
            depth *= 2
            more = self.rank(retrieval, [prompts[number] for number in short], depth)
            for number, hits in zip(short, more, strict=True):
                found[number] = [hit.passage for hit in hits]
            short = [n for n in short if len(found[n]) == depth and len(distinct(found[n])) < retrieval.k]
        return [tuple(distinct(own)[: retrieval.k]) for own in found]

    def seconds_a_text(self, embedder: str, texts: Sequence[str]) -> float:
        """Seconds that embedding one of the texts takes, from a few of them."""
        own = self._embedder_of(embedder)
        own.embed(texts[:1])  # the first call loads the model
        sample = texts[:: max(1, len(texts) // _TIMED)][:_TIMED]
        started = time.perf_counter()
        own.embed(sample)
        return (time.perf_counter() - started) / len(sample)

    def by_document(self, retrieval: Retrieval) -> Mapping[str, Sequence[Passage]]:
        """Name → the document's passages, of all that are searched."""
        return self.opened(retrieval.index, retrieval.embedder).by_document

    def rank(self, retrieval: Retrieval, prompts: Sequence[Prompt], k: int) -> list[list[Hit]]:
        """For each prompt the `k` best passages, best first.

        Raises:
            StudyError: The query names a field that a prompt does not have.
        """
        index = self.opened(retrieval.index, retrieval.embedder)
        queries = [query_of(retrieval.query, prompt) for prompt in prompts]
        if retrieval.reranker is None or self._words_only:
            return index.search_all(queries, k, "lexical" if self._words_only else retrieval.kind)
        ordered = max(retrieval.k, retrieval.depth)  # as many in answering and in measuring
        found = index.search_all(queries, max(k, ordered), retrieval.kind)
        first = reranked(self._reranker_of(retrieval.reranker), queries, [own[:ordered] for own in found], ordered)
        return [[*best, *own[ordered:]][:k] for best, own in zip(first, found, strict=True)]


def _record(index: Index) -> Path:
    return index.folder.with_suffix(".json")


def _blanked(document: Document, passages: Sequence[Passage]) -> Document:
    text = document.text
    for passage in passages:
        # Empty lines, so that what stands before and behind it does not come into one passage.
        text = text[: passage.start] + "\n" * (passage.end - passage.start) + text[passage.end :]
    return replace(document, text=text)


class _NotEmbedding:
    """An embedder that counts tokens and leaves every vector empty."""

    def __init__(self, own: Embedder) -> None:
        self._own = own

    @property
    def name(self) -> str:
        return self._own.name

    @property
    def key(self) -> str:
        return "none"

    @property
    def dimension(self) -> int:
        return 1

    @property
    def window(self) -> int:
        return self._own.window

    def embed(self, texts: Sequence[str], role: EmbeddedAs = "text") -> np.ndarray:
        import numpy as np

        return np.zeros((len(texts), 1), np.float32)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._own.count(texts)


def query_of(template: str | None, prompt: Prompt) -> str:
    """What is searched for: the template over the prompt's fields, or its last turn."""
    return prompt.messages[-1].content if template is None else rendered(template, prompt).strip()


def reranked(reranker: Reranker, queries: Sequence[str], found: Sequence[Sequence[Hit]], k: int) -> list[list[Hit]]:
    """The `k` best of the passages found for each query, by the reranker; of equals the one that was found before."""
    pairs = [
        (query, hit.passage.searched(headings=True)) for query, hits in zip(queries, found, strict=True) for hit in hits
    ]
    scores = iter(reranker.scores(pairs) if pairs else ())
    scored = [[Hit(hit.passage, float(next(scores))) for hit in hits] for hits in found]
    return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in scored]


def documents_key(documents: Sequence[Document]) -> str:
    """The hash of all that answers from documents depend on."""
    rows = [[document.name, document.digest] for document in documents]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]


def store_for(documents: Sequence[Document], chunks: ChunkSettings) -> StoreKind:
    """The kind of store for so many documents: exact in memory, or LanceDB from about 10,000 passages on."""
    characters = sum(len(document.text) for document in documents)
    passages = max(len(documents), characters // (_CHARACTERS * (chunks.tokens - chunks.overlap)))
    return "lancedb" if passages >= EMBEDDED_FROM else "exact"


def _key(documents: Sequence[Document], embedder: Embedder, chunks: ChunkSettings) -> str:
    parts = [documents_key(documents), embedder.key, json.dumps(chunks.model_dump(mode="json"), sort_keys=True)]
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
