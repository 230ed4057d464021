"""The embedded store: LanceDB in a folder. Vectors stay on disk, and every change is one of its transactions.

Search compares every vector, as the exact store does, so that both find the same; what LanceDB finds is compared again
here, because it computes similarities in another order of rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import RetrievalError
from luthier.record import passage_from_json
from luthier.retrieve.exact import ROUNDING, ranked
from luthier.types import Passage

_TABLE = "passages"
_FIELDS = ("id", "document", "title", "headings", "page", "start", "end", "text", "digest")
# Asked for beyond `k`, for those that rounding puts in another order.
_SPARE = 16
_FRAGMENTS = 20  # so many files are put together


@dataclass(frozen=True, slots=True)
class LanceView:
    """A version of the table. See `View`."""

    version: int
    table: Any

    def passages(self) -> list[Passage]:
        rows = self.table.to_arrow().select(list(_FIELDS)).to_pylist()
        return sorted((passage_from_json(row) for row in rows), key=lambda passage: (passage.document, passage.start))

    def nearest(self, vector: np.ndarray, k: int, documents: Collection[str] | None) -> list[tuple[str, float]]:
        if documents is not None and not documents:
            return []
        asked = k + _SPARE
        while True:
            query = self.table.search(np.asarray(vector, np.float32)).distance_type("cosine")
            if documents is not None:
                query = query.where(_among(documents), prefilter=True)
            rows = query.limit(asked).select(["id", "vector", "_distance"]).to_list()
            found = ranked(((str(row["id"]), row["vector"]) for row in rows), vector)
            # Whether others beyond these may be as near as the last one that is taken.
            if len(rows) < asked or found[k - 1][1] > found[-1][1] + ROUNDING:
                return found[:k]
            asked *= 4


class LanceStore:
    """Passages and vectors in a LanceDB table. See `Store`."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder, self._dimension = folder, dimension
        self._open: Any = None
        self._seen: LanceView | None = None

    def replace(self, documents: Collection[str], passages: Sequence[Passage], vectors: np.ndarray) -> None:
        table, rows = self._table(), self._rows(passages, vectors)
        with self._writing():
            if passages:
                # One transaction: what the documents no longer have goes as their new passages come.
                change = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                change.when_not_matched_by_source_delete(_among(documents)).execute(rows)
            elif documents:
                table.delete(_among(documents))
            if table.stats()["fragment_stats"]["num_small_fragments"] > _FRAGMENTS:
                table.optimize()

    def view(self) -> LanceView:
        version = int(self._table().version)
        if self._seen is None or self._seen.version != version:
            held = self._database().open_table(_TABLE)
            held.checkout(version)
            self._seen = LanceView(version, held)
        return self._seen

    def copy(self, folder: Path) -> None:
        rows, made = self.view().table.to_arrow(), LanceStore(folder, self._dimension)
        with made._writing():
            made._table().add(rows)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of LanceDB's, said as ours."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise RetrievalError(
                f"{self._folder} cannot be written: {str(error).splitlines()[0]}. The index is as it was before."
            ) from error

    def _table(self) -> Any:
        """The table as it is now, made where there is none."""
        if self._open is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open = self._database().create_table(_TABLE, schema=self._schema(), exist_ok=True)
            held = self._open.schema.field("vector").type.list_size
            if held != self._dimension:
                raise RetrievalError(
                    f"{self._folder}: holds vectors of {held} dimensions, and the embedder gives {self._dimension}. "
                    "Build the index again."
                )
        return self._open

    def _database(self) -> Any:
        import lancedb

        # No interval: the version is asked of the disk each time, and the last change of any process is seen.
        return lancedb.connect(self._folder, read_consistency_interval=timedelta(0))

    def _schema(self) -> Any:
        import pyarrow as pa

        kinds = {"headings": pa.list_(pa.string()), "page": pa.int32(), "start": pa.int64(), "end": pa.int64()}
        fields = [pa.field(name, kinds.get(name, pa.string())) for name in _FIELDS]
        return pa.schema([*fields, pa.field("vector", pa.list_(pa.float32(), self._dimension))])

    def _rows(self, passages: Sequence[Passage], vectors: np.ndarray) -> Any:
        import pyarrow as pa

        schema = self._schema()
        columns = [pa.array([getattr(p, name) for p in passages], schema.field(name).type) for name in _FIELDS]
        flat = pa.array(np.asarray(vectors, np.float32).reshape(-1))
        return pa.Table.from_arrays([*columns, pa.FixedSizeListArray.from_arrays(flat, self._dimension)], schema=schema)


def _among(documents: Collection[str]) -> str:
    """A condition in SQL: the document is one of these."""
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(documents))
    return f"document IN ({names})"
