"""How far two models' predictions lie apart on the same sequences, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.infer.budget import BATCH_TOKENS
from luthier.infer.logprobs import groups

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Divergence:
    """Summed Kullback-Leibler divergence in nats over `tokens` counted tokens."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model predicts at the counted tokens of sequences, kept small until logits are wanted.

    Attributes:
        counts: Counted tokens of each sequence.
        logits: Of a part of all counted tokens, sequence after sequence. (U, V)
    """

    counts: tuple[int, ...]
    logits: Callable[[slice], torch.Tensor]


def predictions(
    model: Any,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """The model's predictions of the counted tokens, each given all before it.

    Hidden states and the output layer are kept, so that the rest of the model can be let go. A model that cannot be run
    on a tree is kept itself, and run again where logits are wanted.
    """
    import torch

    from luthier.tree.attention import TreeAttention
    from luthier.tree.build import build_tree
    from luthier.tree.logprobs import reading_head, tree_hidden
    from luthier.tree.support import refusal
    from luthier.tree.visible import tree_visibility

    counts = tuple(sum(own) for own in counted)
    if refusal(model):
        advance(len(sequences))
        return Predictions(counts, _run_again(model, sequences, counted))
    device = model.get_input_embeddings().weight.device
    kept: dict[int, torch.Tensor] = {}
    for members in groups(sequences, counted, BATCH_TOKENS[device.type], padded=False):
        tree = build_tree([sequences[i] for i in members], [[float(c) for c in counted[i]] for i in members])
        if len(tree):
            hidden = tree_hidden(model, tree.ids, tree.positions, TreeAttention(tree_visibility(tree)))
            for i, path in zip(members, tree.paths, strict=True):
                kept[i] = hidden[torch.from_numpy(tree.target_nodes[path.targets]).to(device)].cpu()
        advance(len(members))
    states = torch.cat([kept[i] for i in sorted(kept)]) if kept else torch.empty(0)
    read = reading_head(model)
    return Predictions(counts, lambda part: read(states[part].to(device)))


def divergences(before: Predictions, after: Predictions) -> list[Divergence]:
    """KL(before‖after) of each sequence, over the whole vocabulary, in chunks of tokens."""
    from luthier.tree.divergence import divergence_of_logits
    from luthier.tree.logprobs import CHUNK_ROWS

    parts = [slice(begin, begin + CHUNK_ROWS) for begin in range(0, sum(before.counts), CHUNK_ROWS)]
    nats = [divergence_of_logits(before.logits(part), after.logits(part)) for part in parts]
    ends = np.cumsum(before.counts)
    values = np.concatenate([own.double().cpu().numpy() for own in nats]) if nats else np.empty(0)
    return [
        Divergence(float(values[end - count : end].sum()), count)
        for end, count in zip(ends, before.counts, strict=True)
    ]


def _run_again(
    model: Any, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[bool]]
) -> Callable[[slice], torch.Tensor]:
    import torch

    from luthier.tree.padded import padded_logits

    owners = np.repeat(np.arange(len(sequences)), [sum(own) for own in counted])
    columns = np.concatenate([np.flatnonzero(own) - 1 for own in counted])

    def logits(part: slice) -> torch.Tensor:
        found = []
        for number in np.unique(owners[part]):
            own = columns[part][owners[part] == number]
            found.append(padded_logits(model, [sequences[int(number)]], np.zeros(len(own), np.int64), own))
        return torch.cat(found)

    return logits
