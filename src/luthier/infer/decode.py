"""Continuing the prompts of a batch one token at a time, their shared beginnings read once for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from luthier.infer.trunk import Memory, Place, Prefilled
from luthier.tree.attention import Scoring
from luthier.tree.logprobs import widened


class DecodingAttention:
    """Attention of each row's newest token: over the shared segments, and over the row's own tokens.

    The two parts are computed apart, each with its own softmax, and joined by their log-sums.

    Args:
        trunk: Keys and values of the shared segments.
        steps: Tokens that each row may grow by.
    """

    def __init__(self, trunk: Memory, prompts: Prefilled, steps: int) -> None:
        rows, width = len(prompts.members), int(prompts.own_lengths.max())
        device = prompts.hidden.device
        # Own tokens end together, the padding stands in front.
        index = prompts.starts[:-1, None] + np.arange(width) - (width - prompts.own_lengths[:, None])
        missing = np.arange(width) < width - prompts.own_lengths[:, None]
        gather = torch.from_numpy(np.where(missing, 0, index)).to(device)
        self.positions = torch.from_numpy(prompts.lengths).to(device)  # of the token to come (B,)
        self._width, self._done = width, 0
        self._missing = torch.zeros(rows, width + steps, dtype=torch.bool, device=device)
        self._missing[:, :width] = torch.from_numpy(missing).to(device)
        self._trunk, self._places = trunk, prompts.places
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for layer, key in prompts.own.keys.items():
            buffers = []
            for source in (key, prompts.own.values[layer]):
                buffer = source.new_empty(rows, source.shape[0], width + steps, source.shape[2])  # (B, K, W + S, D)
                buffer[:, :, :width] = source[:, gather].transpose(0, 1)
                buffers.append(buffer)
            self._own[layer] = (buffers[0], buffers[1])

    def advance(self) -> None:
        """The step is done: the next token comes one further."""
        self._done += 1
        self.positions = self.positions + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in their order."""
        index = torch.tensor(rows, device=self.positions.device)
        self.positions, self._missing = self.positions[index], self._missing[index]
        self._own = {layer: (key[index], value[index]) for layer, (key, value) in self._own.items()}
        places = []
        for place in self._places:
            first, last = np.searchsorted(rows, (place.first, place.last))
            if first < last:
                places.append(Place(int(first), int(last), place.start, place.stop, place.depth))
        self._places = tuple(places)

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        keys, values = self._own[layer]
        length = self._width + self._done + 1
        keys[:, :, length - 1], values[:, :, length - 1] = key[:, :, 0], value[:, :, 0]
        rows, heads, _, size = query.shape
        folded = query.view(rows, keys.shape[1], -1, size) * scoring.scaling  # (B, K, G, D)
        hidden = self._missing[:, :length]
        if scoring.window is not None and scoring.window < length:
            hidden = hidden | (torch.arange(length - 1, -1, -1, device=query.device) >= scoring.window)
        scores = _capped(folded @ keys[:, :, :length].transpose(2, 3), scoring.softcap)
        scores = widened(scores).masked_fill(hidden[:, None, None], -torch.inf)  # (B, K, G, N)
        out = torch.softmax(scores, dim=-1).to(values.dtype) @ values[:, :, :length]
        if self._places:
            out = self._with_trunk(layer, folded, out, scores.logsumexp(dim=-1), scoring)
        return out.reshape(rows, 1, heads, values.shape[-1])

    def _with_trunk(
        self,
        layer: int,
        query: torch.Tensor,
        own: torch.Tensor,
        own_sum: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """Join attention over the rows' own tokens, with its log-sum (B, K, G), and that over the segments above."""
        keys, values = self._trunk.keys[layer], self._trunk.values[layer]
        out, total = widened(own), own_sum
        for place in self._places:
            rows = slice(place.first, place.last)
            q = query[rows].transpose(0, 1).flatten(1, 2)  # (K, R·G, D)
            scores = widened(_capped(q @ keys[:, place.start : place.stop].transpose(1, 2), scoring.softcap))
            if scoring.window is not None:
                back = (
                    self.positions[rows, None] - place.depth - torch.arange(place.stop - place.start, device=q.device)
                )
                groups = query.shape[2]
                scores = scores.masked_fill((back >= scoring.window).repeat_interleave(groups, dim=0), -torch.inf)
            top = scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
            weights = (scores - top).exp_()
            mass = weights.sum(dim=-1, keepdim=True)
            part = widened(weights.to(values.dtype) @ values[:, place.start : place.stop])  # not yet divided by mass
            shape = (query.shape[1], place.last - place.first, query.shape[2], -1)
            part, mass, top = (t.view(shape).transpose(0, 1) for t in (part, mass, top))
            before = total[rows, ..., None]
            after = torch.logaddexp(before, top + mass.log())
            out[rows] = out[rows] * (before - after).exp() + part * (top - after).exp()
            total[rows] = after[..., 0]
        return out.to(own.dtype)


def _capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
