"""Choosing worked examples for a prompt, never the prompt itself, its duplicates or its group."""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from luthier.types import Example, Prompt, Shots
from luthier.words import terms

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[Sequence[str]], "np.ndarray"]


def random_order(examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """The examples in an order drawn by `seed`."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    return tuple(order)


def spread_order(examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """An order drawn by `seed` in which every label comes once before any comes twice.

    Examples without a label are taken in random order.
    """
    by_label: dict[str | None, list[Example]] = defaultdict(list)
    for example in random_order(examples, seed):
        by_label[example.label].append(example)
    rounds = max((len(group) for group in by_label.values()), default=0)
    order: list[Example] = []
    for turn in range(rounds):
        order += [group[turn] for group in by_label.values() if turn < len(group)]
    return tuple(order)


class ShotSelector:
    """Chooses the shots for each prompt, most relevant last: next to the question.

    For `random` and `spread` the pool's own order decides, so that all prompts share their shots; `bm25` and
    `embedding` rank the pool by similarity to the prompt's last turn.
    """

    def __init__(self, shots: Shots, embed: Embed | None = None) -> None:
        self._shots = shots
        self._embed = embed
        turns = [example.prompt.messages[-1].content for example in shots.pool]
        # An instruction that stands in every turn would only blur the similarity.
        self._before, self._behind = _shared_ends(turns)
        questions = [self._question(example.prompt) for example in shots.pool]
        if shots.by == "bm25":
            self._rank_by_bm25 = _bm25_ranker(questions)
        elif shots.by == "embedding":
            if embed is None:
                raise ValueError("choosing shots by embedding needs an embedder")
            self._vectors = embed(questions)

    def select(self, prompts: Sequence[Prompt]) -> list[tuple[Example, ...]]:
        """For each prompt its shots, at most `count`."""
        if self._shots.by == "embedding":
            assert self._embed is not None
            similarity = self._embed([self._question(prompt) for prompt in prompts]) @ self._vectors.T  # (P, pool)
            orders = [[int(i) for i in (-row).argsort(kind="stable")] for row in similarity]
        elif self._shots.by == "bm25":
            orders = [self._rank_by_bm25(self._question(prompt)) for prompt in prompts]
        else:
            orders = [list(range(len(self._shots.pool)))] * len(prompts)
        return [self._first_allowed(prompt, order) for prompt, order in zip(prompts, orders, strict=True)]

    def _question(self, prompt: Prompt) -> str:
        """What similarity is measured on: the last turn, without what all turns of the pool share at their ends."""
        text = prompt.messages[-1].content
        return text.removeprefix(self._before).removesuffix(self._behind)

    def _first_allowed(self, prompt: Prompt, order: Sequence[int]) -> tuple[Example, ...]:
        chosen: list[Example] = []
        seen = {prompt.fingerprint}
        for index in order:
            if len(chosen) == self._shots.count:
                break
            shot = self._shots.pool[index]
            same_group = prompt.group is not None and shot.prompt.group == prompt.group
            if shot.id == prompt.id or same_group or shot.prompt.fingerprint in seen:
                continue
            seen.add(shot.prompt.fingerprint)
            chosen.append(shot)
        if self._shots.by in ("bm25", "embedding"):
            chosen.reverse()
        return tuple(chosen)


def _shared_ends(texts: Sequence[str]) -> tuple[str, str]:
    """The beginning and the end that all texts share, in whole words; nothing where they are all the same."""
    if len(set(texts)) < 2:
        return "", ""
    before = os.path.commonprefix(list(texts))  # noqa: RUF071 - characters are meant
    behind = os.path.commonprefix([text[::-1] for text in texts])[::-1]  # noqa: RUF071
    whole_before = re.match(r"(?s).*\s", before)
    whole_behind = re.search(r"(?s)\s.*", behind)
    return whole_before.group() if whole_before else "", whole_behind.group() if whole_behind else ""


def _bm25_ranker(questions: Sequence[str]) -> Callable[[str], list[int]]:
    import bm25s

    index = bm25s.BM25()
    found = [terms(question) for question in questions]
    if any(found):
        index.index(found, show_progress=False)

    def rank(question: str) -> list[int]:
        wanted = terms(question)
        if not (wanted and any(found)):  # nothing to compare: signs and stop words alone
            return list(range(len(questions)))
        scores = index.get_scores(wanted)
        return [int(i) for i in (-scores).argsort(kind="stable")]

    return rank
