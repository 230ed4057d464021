"""Keys and values of shared beginnings, computed once, and of the prompts that continue them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from luthier.infer.budget import BATCH_TOKENS, CACHE_TOKENS, MAX_ROWS
from luthier.tree.attention import Scoring, TreeAttention
from luthier.tree.build import Ints, Tree
from luthier.tree.logprobs import tree_hidden
from luthier.tree.trunk import Trunk, find_trunk
from luthier.tree.visible import Visibility


@dataclass(slots=True)
class Memory:
    """Keys and values by layer: (K, N, D) each."""

    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def add(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        if layer in self.keys:
            key = torch.cat([self.keys[layer], key], dim=1)
            value = torch.cat([self.values[layer], value], dim=1)
        self.keys[layer], self.values[layer] = key, value


class RememberingAttention(TreeAttention):
    """Tree attention over remembered columns and the rows' own; `own` holds the latter's keys and values."""

    def __init__(self, visibility: Visibility, before: Memory, columns: slice | torch.Tensor = slice(None)) -> None:
        super().__init__(visibility)
        self.own = Memory()
        self._before = before
        self._columns = columns

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        self.own.add(layer, key[0], value[0])
        if layer in self._before.keys:
            key = torch.cat([self._before.keys[layer][None, :, self._columns], key], dim=2)
            value = torch.cat([self._before.values[layer][None, :, self._columns], value], dim=2)
        return super().__call__(layer, query, key, value, scoring)


@dataclass(frozen=True, slots=True)
class Place:
    """A shared segment that the rows of a batch stand under.

    Attributes:
        first, last: The rows.
        start, stop: Its tokens in the trunk's memory.
        depth: Position of its first token.
    """

    first: int
    last: int
    start: int
    stop: int
    depth: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts of a batch after their last token.

    Attributes:
        members: Indices of the prompts, in the order of the rows. (B,)
        lengths: Tokens of each prompt. (B,)
        own_lengths: Those of them that are not shared. (B,)
        starts: Where each prompt's own tokens begin in `own`; one more than prompts. (B + 1,)
        own: Keys and values of all tokens that are not shared, those of `below` included.
        hidden: Their last hidden states.
        places: The shared segments above.
    """

    members: list[int]
    lengths: Ints
    own_lengths: Ints
    starts: Ints
    own: Memory
    hidden: torch.Tensor
    places: tuple[Place, ...]


class SharedPrompts:
    """Prompts with their shared beginnings computed, to be continued batch by batch.

    Args:
        prompts: Token ids, none empty.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.prompts = prompts
        self.device = model.get_input_embeddings().weight.device
        self.trunk: Trunk = find_trunk(prompts)
        self._starts = np.cumsum([0, *(len(segment.ids) for segment in self.trunk.segments)])
        # Prompts under a segment stand together; among those that leave it at once, those of a length do.
        self._order = sorted(
            range(len(prompts)), key=lambda i: (self.trunk.tips[i], self.trunk.depths[i] - len(prompts[i]), i)
        )
        self.memory = Memory()
        self._compute_trunk()

    def _compute_trunk(self) -> None:
        segments = self.trunk.segments
        if not segments:
            return
        ids = np.concatenate([segment.ids for segment in segments])
        positions = np.concatenate([segment.depth + np.arange(len(segment.ids)) for segment in segments])
        ends = np.concatenate([np.full(len(segment.ids), self._starts[segment.end]) for segment in segments])
        for begin in range(0, len(ids), BATCH_TOKENS[self.device.type]):
            stop = min(len(ids), begin + BATCH_TOKENS[self.device.type])
            rows, columns = slice(begin, stop), slice(0, stop)
            visibility = Visibility(
                begins=np.maximum(np.arange(stop) - begin, 0),
                ends=ends[columns] - begin,
                columns=positions[columns],
                rows=positions[rows],
                roots=np.empty(0, np.int64),
            )
            attention = RememberingAttention(visibility, self.memory)
            tree_hidden(self.model, ids[rows], positions[rows], attention)
            for layer, key in attention.own.keys.items():
                self.memory.add(layer, key, attention.own.values[layer])

    def batches(self, *, below: int = 0, grown: int = 0) -> Iterator[list[int]]:
        """Indices of prompts that fit together; neighbours share most.

        Args:
            below: Tokens computed after each prompt.
            grown: Tokens that each will grow by.
        """
        kind = self.device.type
        batch: list[int] = []
        longest = computed = 0
        for i in self._order:
            own = len(self.prompts[i]) - int(self.trunk.depths[i])
            longest, computed = max(longest, own), computed + own + below
            held = (longest + below + grown) * (len(batch) + 1)
            if batch and (len(batch) >= MAX_ROWS[kind] or computed > BATCH_TOKENS[kind] or held > CACHE_TOKENS[kind]):
                yield batch
                batch, longest, computed = [], own, own + below
            batch.append(i)
        if batch:
            yield batch

    def prefill(self, members: list[int], below: Tree | None = None) -> Prefilled:
        """Compute what is the prompts' own.

        Args:
            members: A batch, in the order in which it came.
            below: A tree to be computed after each prompt; its only root, node 0, stands for the prompt's last token.
        """
        depths, tips = self.trunk.depths[members], self.trunk.tips[members]
        own = [np.asarray(self.prompts[i][depth:], np.int64) for i, depth in zip(members, depths, strict=True)]
        more = 0 if below is None else len(below) - 1
        lengths = np.array([len(ids) for ids in own], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths + more)])
        ids, positions, ends = [], [], []
        for tokens, depth, start, stop in zip(own, depths, starts[:-1], starts[1:], strict=True):
            ids.append(tokens)
            positions.append(depth + np.arange(len(tokens)))
            ends.append(np.full(len(tokens), stop))
            if below is not None and more:
                ids.append(below.ids[1:])
                positions.append(depth + len(tokens) - 1 + below.positions[1:])
                ends.append(start + len(tokens) - 1 + below.ends[1:])
        places = self._places(tips)
        columns = np.concatenate([np.empty(0, np.int64), *(np.arange(p.start, p.stop) for p in places)])
        above = [(starts[p.first], starts[p.last], p) for p in places]
        rows = np.concatenate(positions)
        visibility = Visibility(
            begins=np.concatenate([*(np.full(p.stop - p.start, first) for first, _, p in above), np.arange(len(rows))]),
            ends=np.concatenate([*(np.full(p.stop - p.start, last) for _, last, p in above), *ends]),
            columns=np.concatenate([*(p.depth + np.arange(p.stop - p.start) for p in places), rows]),
            rows=rows,
            roots=starts[:-1][tips < 0],
        )
        everything = len(columns) == len(self.trunk)
        chosen = slice(None) if everything else torch.from_numpy(columns).to(self.device)
        attention = RememberingAttention(visibility, self.memory if len(columns) else Memory(), chosen)
        hidden = tree_hidden(self.model, np.concatenate(ids), rows, attention)
        return Prefilled(members, depths + lengths, lengths, starts, attention.own, hidden, places)

    def _places(self, tips: Ints) -> tuple[Place, ...]:
        """The segments above rows with these tips, which ascend."""
        places = []
        for number, segment in enumerate(self.trunk.segments):
            first, last = np.searchsorted(tips, (number, segment.end))
            if first < last:
                start = int(self._starts[number])
                places.append(Place(int(first), int(last), start, start + len(segment.ids), segment.depth))
        return tuple(places)
