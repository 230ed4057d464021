"""Lexical search: BM25 over the text of passages, the same for every store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from luthier.words import terms


class LexicalIndex:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over texts, in memory.

    What counts as a word says `luthier.words.terms`.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        import bm25s

        self._ids = list(ids)
        self._places = {own: n for n, own in enumerate(self._ids)}
        self._index = bm25s.BM25()
        tokens = [terms(text) for text in texts]
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def search(self, query: str, k: int, among: Collection[str] | None) -> list[tuple[str, float]]:
        """Ids and scores of the `k` best; only those that share a word with the query. Equal ones by id.

        Args:
            among: Only these ids; None for all.
        """
        wanted = terms(query)
        if self._empty or not wanted:
            return []
        scores = np.asarray(self._index.get_scores(wanted))
        if among is not None:
            allowed = np.zeros(len(scores), bool)
            allowed[[self._places[own] for own in among]] = True
            scores = np.where(allowed, scores, 0.0)
        least = 0.0 if k >= len(scores) else float(np.partition(scores, -k)[-k])  # all that are equal to it take part
        places = np.flatnonzero((scores > 0) & (scores >= least))
        found = [(self._ids[n], float(scores[n])) for n in places]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]
