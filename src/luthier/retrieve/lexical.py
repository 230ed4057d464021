"""Lexical search: BM25 over the text of passages, the same for every store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


class LexicalIndex:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over texts, in memory.

    Words are lower-cased runs of two letters or digits and more, without English stop words and without stemming.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        import bm25s

        self._ids = list(ids)
        self._places = {own: n for n, own in enumerate(self._ids)}
        self._index = bm25s.BM25()
        tokens = bm25s.tokenize(list(texts), show_progress=False) if texts else None
        self._empty = tokens is None or not tokens.vocab
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def search(self, query: str, k: int, among: Collection[str] | None) -> list[tuple[str, float]]:
        """Ids and scores of the `k` best; only those that share a word with the query. Equal ones by id.

        Args:
            among: Only these ids; None for all.
        """
        import bm25s

        (words,) = bm25s.tokenize([query], show_progress=False, return_ids=False)
        if self._empty or not words:
            return []
        scores = np.asarray(self._index.get_scores(words))
        if among is not None:
            allowed = np.zeros(len(scores), bool)
            allowed[[self._places[own] for own in among]] = True
            scores = np.where(allowed, scores, 0.0)
        least = 0.0 if k >= len(scores) else float(np.partition(scores, -k)[-k])  # all that are equal to it take part
        places = np.flatnonzero((scores > 0) & (scores >= least))
        found = [(self._ids[n], float(scores[n])) for n in places]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]
