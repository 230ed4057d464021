"""How fast a model answers here, from a short trial."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.tree.work import Work

_TOKENS = 1024
_HEAD_ROWS = 256
_STEPS = 6


@dataclass(frozen=True, slots=True)
class AnswerSpeed:
    """Seconds of the parts of answering.

    Attributes:
        token_s: For each token that is computed together with many.
        head_s: For each token at which something is predicted.
        alone_s: For one decoding step of one prompt.
        batch_s: For one decoding step of a full batch.
        rows: Prompts of a full batch.
    """

    token_s: float
    head_s: float
    alone_s: float
    batch_s: float
    rows: int

    @property
    def trial_s(self) -> float:
        """About what taking these speeds took."""
        return 3.5 * _TOKENS * self.token_s + 3 * _HEAD_ROWS * self.head_s + _STEPS * (self.alone_s + self.batch_s)

    def seconds(self, work: Work) -> float:
        """What such work takes. A step of a batch that is not full takes as much more than that of one prompt as it has
        more rows."""
        further = (self.batch_s - self.alone_s) / max(1, self.rows - 1)
        decoding = work.steps * self.alone_s + (work.rows - work.steps) * further
        return work.tokens * self.token_s + work.predicted * self.head_s + decoding + work.beside_s


def median_speed(speeds: Sequence[AnswerSpeed]) -> AnswerSpeed:
    """The median of each part over several timings of a model."""
    parts = {
        name: statistics.median(getattr(own, name) for own in speeds)
        for name in ("token_s", "head_s", "alone_s", "batch_s")
    }
    return AnswerSpeed(**parts, rows=speeds[0].rows)


def measure_answering(model: Any, rows: int) -> AnswerSpeed:
    """Time a model on made-up tokens.

    Args:
        rows: Prompts of a full batch.
    """
    import torch

    from luthier.infer.trunk import SharedPrompts
    from luthier.tree.logprobs import target_logprobs

    vocabulary = model.config.get_text_config().vocab_size
    text = [(7 * i + 3) % vocabulary for i in range(_TOKENS)]
    with torch.inference_mode():
        SharedPrompts(model, [text[:64]]).prefill([0])  # the first pass pays for warming up
        shared = SharedPrompts(model, [text[i : i + 128] for i in range(0, _TOKENS, 128)])
        members = list(range(len(shared.prompts)))
        token_s = _median(lambda: shared.prefill(members)) / _TOKENS
        hidden = shared.prefill([0]).hidden[:1].expand(_HEAD_ROWS, -1)
        nodes = np.arange(_HEAD_ROWS)
        head_s = _median(lambda: target_logprobs(model, hidden, nodes, nodes)) / _HEAD_ROWS
        alone_s, batch_s = (_step(model, text, n) for n in (1, rows))
    return AnswerSpeed(token_s, head_s, alone_s, batch_s, rows)


def _step(model: Any, text: Sequence[int], rows: int) -> float:
    """Seconds of one decoding step of so many prompts of 16 tokens."""
    import torch

    from luthier.infer.decode import DecodingAttention
    from luthier.infer.trunk import SharedPrompts
    from luthier.tree.attention import attending
    from luthier.tree.logprobs import base_of, logits

    shared = SharedPrompts(model, [text[i : i + 16] for i in range(rows)])
    attention = DecodingAttention(shared.memory, shared.prefill(list(range(rows))), _STEPS)
    base = base_of(model)
    ids = torch.tensor(list(text[:rows]), device=shared.device)[:, None]
    seconds = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        with attending(base, attention):
            out = base.get_decoder()(input_ids=ids, position_ids=attention.positions[:, None], use_cache=False)
        attention.advance()
        logits(model, out.last_hidden_state[:, 0]).argmax(dim=-1).tolist()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _median(work: Callable[[], object], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
