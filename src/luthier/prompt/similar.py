"""Which known prompts are most similar to a prompt: by the words they share (BM25), by their embeddings, or by both."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.types import Prompt
from luthier.words import terms

if TYPE_CHECKING:
    import numpy as np

# Queries and known prompts that are compared at a time: their similarities take 4 bytes each.
_QUERIES, _KNOWN = 256, 65_536
# Reciprocal rank fusion: its constant, and how far down each ranking it looks (Cormack et al. 2009).
_FUSION, _DEPTH = 60, 50


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a prompt to compare it with others.

    Attributes:
        before, behind: What all prompts share at the ends of their last turn: an instruction there would only blur.
        earlier: Whether turns before the last one are read too: prompts of conversations, whose last turn alone may say
            little, and system texts that are not the same for all.
    """

    before: str = ""
    behind: str = ""
    earlier: bool = False

    def text(self, prompt: Prompt) -> str:
        """What is read of one prompt."""
        last = prompt.messages[-1].content.removeprefix(self.before).removesuffix(self.behind)
        if not self.earlier:
            return last
        return "\n".join([*(message.content for message in prompt.messages[:-1]), last])


def last_turns(prompts: Sequence[Prompt]) -> Reading:
    """Reading the last turn, without what the last turns of the prompts share."""
    return Reading(*_shared_ends([prompt.messages[-1].content for prompt in prompts]))


def whole_prompts(prompts: Sequence[Prompt]) -> Reading:
    """Reading the last turn, and the turns before it where they are not the same in all of the prompts."""
    reading = last_turns(prompts)
    return Reading(reading.before, reading.behind, len({prompt.messages[:-1] for prompt in prompts}) > 1)


def _shared_ends(texts: Sequence[str]) -> tuple[str, str]:
    """The beginning and the end that all texts share, in whole words; nothing where they are all the same."""
    if len(set(texts)) < 2:
        return "", ""
    before = os.path.commonprefix(list(texts))  # noqa: RUF071 - characters are meant
    behind = os.path.commonprefix([text[::-1] for text in texts])[::-1]  # noqa: RUF071
    whole_before = re.match(r"(?s).*\s", before)
    whole_behind = re.search(r"(?s)\s.*", behind)
    return whole_before.group() if whole_before else "", whole_behind.group() if whole_behind else ""


def bm25(texts: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Scores of a query with each of the texts; all 0 where there is nothing to compare: signs and stop words alone."""
    import bm25s
    import numpy as np

    found = [terms(text) for text in texts]
    index = bm25s.BM25()
    if any(found):
        index.index(found, show_progress=False)

    def scores(query: str) -> np.ndarray:
        wanted = terms(query)
        if not (wanted and any(found)):
            return np.zeros(len(texts), np.float32)
        return np.asarray(index.get_scores(wanted), np.float32)

    return scores


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A known prompt by its number, and how similar it is."""

    number: int
    similarity: float


def by_scores(scores: Iterator[np.ndarray], count: int) -> list[list[Neighbour]]:
    """The `count` best for each row of scores, the best first, of equals the earlier one."""
    return [[Neighbour(i, float(row[i])) for i in _best(row, count)] for row in scores]


def by_vectors(queries: np.ndarray, known: np.ndarray, count: int) -> list[list[Neighbour]]:
    """The `count` nearest of the known vectors for each query by their inner product, the nearest first.

    No more than a block of similarities is held at a time, whatever the number of known ones.

    Args:
        queries, known: Unit length, (Q, D) and (N, D).
    """
    import numpy as np

    found: list[list[Neighbour]] = []
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        best: list[list[Neighbour]] = [[] for _ in block]
        for begin in range(0, len(known), _KNOWN):
            similarity = block @ np.asarray(known[begin : begin + _KNOWN]).T
            for own, row in zip(best, similarity, strict=True):
                own += [Neighbour(begin + i, float(row[i])) for i in _best(row, count)]
        found += [sorted(own, key=lambda one: (-one.similarity, one.number))[:count] for own in best]
    return found


def fused(
    rankings: Sequence[Sequence[Sequence[Neighbour]]], similarity: Callable[[int, int], float], count: int
) -> list[list[Neighbour]]:
    """Several rankings of the same queries as one, by reciprocal rank fusion.

    Args:
        rankings: Of each kind of search, for each query, as far as `fusion_depth` goes.
        similarity: Of a query and a known prompt, by their numbers: what the neighbours are given.
    """
    found = []
    for number, rows in enumerate(zip(*rankings, strict=True)):
        scores: dict[int, float] = {}
        for row in rows:
            for rank, one in enumerate(row, 1):
                scores[one.number] = scores.get(one.number, 0.0) + 1 / (_FUSION + rank)
        best = sorted(scores, key=lambda one: (-scores[one], one))[:count]
        found.append([Neighbour(one, similarity(number, one)) for one in best])
    return found


def fusion_depth(count: int) -> int:
    """How far each ranking must go for `count` neighbours of both."""
    return max(count, _DEPTH)


def _best(row: np.ndarray, count: int) -> list[int]:
    """Indices of the largest values, the largest first, of equals the earlier one."""
    import numpy as np

    if count >= len(row):
        return [int(i) for i in np.argsort(-row, kind="stable")]
    least = -np.partition(-row, count - 1)[count - 1]
    above, equal = np.flatnonzero(row > least), np.flatnonzero(row == least)
    chosen = np.concatenate([above, equal[: count - len(above)]])
    return [int(i) for i in chosen[np.lexsort((chosen, -row[chosen]))]]


def votes(answers: Sequence[str], similarities: Sequence[float]) -> Mapping[str, tuple[int, float]]:
    """Answer → how many neighbours give it, and their similarities together."""
    found: dict[str, tuple[int, float]] = {}
    for answer, similarity in zip(answers, similarities, strict=True):
        count, total = found.get(answer, (0, 0.0))
        found[answer] = (count + 1, total + similarity)
    return found
