"""Pairs of a question and the passage that answers it, with passages that only look right, to train search on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.prompt.passages import holds_answer, right_ones
from luthier.retrieve.index import Index, Kind
from luthier.retrieve.library import query_of
from luthier.types import Example, Passage

# So far down the ranking wrong passages are looked for, and right ones where the examples do not name them.
_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with a right passage and hard negatives: wrong ones that search ranks high."""

    query: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mined:
    """Pairs of examples, and what was left out.

    Attributes:
        without: Examples to which no right passage was found.
        filtered: Wrong passages that were passed over because they come too near to the right one, and are perhaps
            right themselves. Where there are no others at all, the furthest of them are taken all the same.
    """

    pairs: tuple[Pair, ...]
    without: int
    filtered: int


def judged_by(example: Example, index: Index, ranked: Sequence[Passage]) -> tuple[set[str], list[str]]:
    """What the ranking of an example whose relevance is known is judged by: ids of all that is right, and of what is
    ranked, best first.

    Where only documents are known to be right these are what is to be found, each by the first of its passages: it is
    not known which of its others help.
    """
    assert example.relevance is not None
    if example.relevance.evidence:
        right = {passage.id for passage in right_ones(example, (), index.by_document)}
        return right, [passage.id for passage in ranked]
    seen: set[str] = set()
    ids = []
    for passage in ranked:
        ids.append(passage.id if passage.document in seen else passage.document)
        seen.add(passage.document)
    return {name for name in example.relevance.documents if name in index.by_document}, ids


def answers_found(examples: Sequence[Example], index: Index, query: str | None, kind: Kind) -> list[list[Passage]]:
    """For each example the passages that hold a reference, of those that question and reference together find.

    For examples that do not say where their answer stands, and to whose question alone nothing was found.
    """
    queries = [f"{query_of(query, example.prompt)} {example.references[0]}" for example in examples]
    return [
        [hit.passage for hit in hits if holds_answer(example, hit.passage)]
        for example, hits in zip(examples, index.search_all(queries, _DEPTH, kind), strict=True)
    ]


def judged(
    examples: Sequence[Example], index: Index, query: str | None, kind: Kind
) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """For each example that has any the ids of its right passages, and the ranking that search gives, best first."""
    hits = index.search_all([query_of(query, example.prompt) for example in examples], _DEPTH, kind)
    right, ranking = {}, {}
    for example, own in zip(examples, hits, strict=True):
        ranked = [hit.passage for hit in own]
        if ids := {passage.id for passage in right_ones(example, ranked, index.by_document)}:
            right[example.id], ranking[example.id] = ids, [passage.id for passage in ranked]
    return right, ranking


def mine(
    examples: Sequence[Example],
    index: Index,
    *,
    query: str | None,
    negatives: int,
    margin: float,
    kind: Kind = "dense",
    seed: int = 0,
) -> Mined:
    """A pair for each example that has a right passage.

    Args:
        query: Template of the question, as `rag` has it.
        negatives: Wrong passages for each, drawn from those that search ranks highest.
        margin: A passage whose similarity to the question is above this share of the right one's is no negative, since
            it may be right (Moreira et al. 2024, "NV-Retriever").
        kind: How wrong passages are searched for.
    """
    queries = [query_of(query, example.prompt) for example in examples]
    hits = index.search_all(queries, _DEPTH, kind)
    rights = [
        right_ones(e, [hit.passage for hit in own], index.by_document) for e, own in zip(examples, hits, strict=True)
    ]
    texts = _searched(index)
    asked = index.embedder.embed(queries, "query")
    looked_at = [[*(hit.passage for hit in own), *right] for own, right in zip(hits, rights, strict=True)]
    shown = list(dict.fromkeys(passage.id for own in looked_at for passage in own))
    read = index.embedder.embed([texts[own] for own in shown], "document")
    vectors = dict(zip(shown, read, strict=True))
    pairs, filtered = [], 0
    for number, (own, right) in enumerate(zip(hits, rights, strict=True)):
        if not right:
            continue
        limit = margin * float(np.dot(asked[number], vectors[right[0].id]))
        ids = {passage.id for passage in right}
        wrong = [hit.passage.id for hit in own if hit.passage.id not in ids]
        allowed = [one for one in wrong if float(np.dot(asked[number], vectors[one])) <= limit]
        draw, hardest = random.Random(f"{seed}/{examples[number].id}"), allowed[: 4 * negatives]
        taken = draw.sample(hardest, min(negatives, len(hardest)))
        if len(taken) < negatives:  # any others, so that every question has as many
            others = [one for one in texts if one not in ids and one not in taken and one not in wrong]
            taken += draw.sample(others, min(negatives - len(taken), len(others)))
            further = allowed[::-1] + [one for one in wrong[::-1] if one not in allowed]
            taken += [one for one in further if one not in taken][: negatives - len(taken)]
        filtered += len({*wrong} - {*allowed} - {*taken})
        pairs.append(Pair(queries[number], texts[right[0].id], tuple(texts[one] for one in taken)))
    return Mined(tuple(pairs), sum(not right for right in rights), filtered)


def _searched(index: Index) -> Mapping[str, str]:
    """The text of each passage as search sees it, by id."""
    return {own: passage.searched(headings=index.chunks.headings) for own, passage in index.passages.items()}
