"""Choosing worked examples for a prompt, never the prompt itself, its duplicates or its group."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from luthier.prompt.similar import bm25, last_turns
from luthier.types import Example, Prompt, Shots

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
        self._reading = last_turns([example.prompt for example in shots.pool])
        known = [self._reading.text(example.prompt) for example in shots.pool]
        if shots.by == "bm25":
            self._scores = bm25(known)
        elif shots.by == "embedding":
            if embed is None:
                raise ValueError("choosing shots by embedding needs an embedder")
            self._vectors = embed(known)

    def select(self, prompts: Sequence[Prompt]) -> list[tuple[Example, ...]]:
        """For each prompt its shots, at most `count`."""
        texts = [self._reading.text(prompt) for prompt in prompts]
        if self._shots.by == "embedding":
            assert self._embed is not None
            similarity = self._embed(texts) @ self._vectors.T  # (P, pool)
            orders = [[int(i) for i in (-row).argsort(kind="stable")] for row in similarity]
        elif self._shots.by == "bm25":
            orders = [[int(i) for i in (-self._scores(text)).argsort(kind="stable")] for text in texts]
        else:
            orders = [list(range(len(self._shots.pool)))] * len(prompts)
        return [self._first_allowed(prompt, order) for prompt, order in zip(prompts, orders, strict=True)]

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
