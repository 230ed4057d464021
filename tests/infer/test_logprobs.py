"""Log-probabilities of labels and sequences against plain forwards of one sequence at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from luthier.infer import batches
from luthier.infer.choose import label_logprobs
from luthier.infer.logprobs import LogProb, sequence_logprobs

SHARED = tuple(range(300, 325))
RAGGED = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15,), (16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)]
# (40, 41) begins (40, 41, 42) until the end of the turn, 2; the third is a single token.
LABELS = [(40, 41, 2), (40, 41, 42, 2), (43,), (44, 45, 46, 47, 48, 49, 50, 51, 52, 2)]
FAMILIES = ["llama", "qwen3", "mistral", "gemma3"]


def plain(model: Any, before: Sequence[int], after: Sequence[int]) -> float:
    """Summed log-probability of `after`, from one forward over both without mask, cache or padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*before, *after]]), use_cache=False).logits[0]
    logprobs = logits.double().log_softmax(dim=-1)
    return sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(after))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared beginning"])
def test_labels_side_by_side_score_as_each_alone(
    load_tiny: Callable[..., Any], family: str, attention: str, shared: tuple[int, ...]
):
    model = load_tiny(family, attention)
    prompts = [(*shared, *own) for own in RAGGED]
    with torch.inference_mode():
        got = label_logprobs(model, prompts, LABELS, pad=2)
    expected = [[plain(model, prompt, label) for label in LABELS] for prompt in prompts]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=0, atol=1e-4)


def test_labels_of_one_token_need_no_second_pass(load_tiny: Callable[..., Any]):
    model = load_tiny()
    labels = [(40,), (41,)]
    with torch.inference_mode():
        got = label_logprobs(model, RAGGED, labels, pad=2)
    expected = [[plain(model, prompt, label) for label in labels] for prompt in RAGGED]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=0, atol=1e-4)


def test_small_batches_score_labels_alike(load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    model = load_tiny()
    prompts = [(*SHARED, *own) for own in RAGGED]
    done: list[int] = []
    with torch.inference_mode():
        together = label_logprobs(model, prompts, LABELS, pad=2)
        monkeypatch.setitem(batches.MAX_ROWS, "cpu", 2)
        apart = label_logprobs(model, prompts, LABELS, pad=2, advance=done.append)
    torch.testing.assert_close(torch.tensor(apart), torch.tensor(together), rtol=0, atol=1e-4)
    assert done == [2, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_in_a_batch_score_as_each_alone(load_tiny: Callable[..., Any], family: str):
    model = load_tiny(family)
    sequences = [(*RAGGED[3], *RAGGED[1]), (*RAGGED[0], 30, 31, 32, 33), (34, 35)]
    begins = [11, 3, 1]
    counted = [[i >= begin for i in range(len(ids))] for ids, begin in zip(sequences, begins, strict=True)]
    with torch.inference_mode():
        got = sequence_logprobs(model, sequences, counted, pad=2)
    assert [own.tokens for own in got] == [7, 4, 1]
    expected = [plain(model, ids[:begin], ids[begin:]) for ids, begin in zip(sequences, begins, strict=True)]
    assert [own.nats for own in got] == pytest.approx(expected, abs=1e-4)


def test_tokens_between_uncounted_ones_count_alone(load_tiny: Callable[..., Any]):
    model = load_tiny()
    ids = RAGGED[1]
    with torch.inference_mode():
        (got,) = sequence_logprobs(model, [ids], [[False, False, True, False, True, False, False]], pad=2)
    assert got.tokens == 2
    assert got.nats == pytest.approx(plain(model, ids[:2], ids[2:3]) + plain(model, ids[:4], ids[4:5]), abs=1e-4)


def test_a_sequence_without_counted_tokens_scores_nothing(load_tiny: Callable[..., Any]):
    with torch.inference_mode():
        got = sequence_logprobs(load_tiny(), [(5, 6)], [[False, False]], pad=2)
    assert got == [LogProb(0.0, 0)]
