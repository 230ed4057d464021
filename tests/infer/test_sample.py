"""Drawing tokens: by the seed alone, from the distribution that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from forest import FOREST, Spelled, reference
from scipy.stats import chisquare

from luthier.infer import budget
from luthier.infer.generate import generate
from luthier.infer.sample import drawn, pick
from luthier.types import Decoding

WARM = Decoding("generate", 12, temperature=1.0, seed=3)
LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, 0.0])
DRAWS = 20_000


def texts(model: Any, decoding: Decoding, prompts: Any = FOREST, end_ids: frozenset[int] = frozenset()) -> list[str]:
    with torch.inference_mode():
        got = generate(model, prompts, tokenizer=Spelled(), end_ids=end_ids, decoding=decoding)
    return [answer.text for answer in got]


def picked(decoding: Decoding, numbers: Any) -> np.ndarray:
    """The tokens that these numbers pick from `LOGITS`."""
    rows = LOGITS.expand(len(numbers), -1)
    return np.array(pick(rows, decoding, [np.array([number]) for number in numbers]))


def p_value(tokens: np.ndarray, probabilities: torch.Tensor) -> float:
    counts = np.bincount(tokens, minlength=len(probabilities))
    possible = probabilities.numpy() > 0
    assert counts[~possible].sum() == 0
    return float(chisquare(counts[possible], probabilities.double().numpy()[possible] * len(tokens)).pvalue)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float):
    numbers = np.random.default_rng(0).random(DRAWS)
    tokens = picked(replace(WARM, temperature=temperature), numbers)
    probabilities = torch.softmax(LOGITS.double() / temperature, dim=-1)
    assert p_value(tokens, probabilities / probabilities.sum()) > 0.01


def test_top_p_leaves_the_likeliest_tokens_that_reach_it_and_their_proportions():
    probabilities = torch.softmax(LOGITS.double(), dim=-1)  # 0.07, 0.53, 0.00, 0.32, 0.03 and a little
    numbers = np.random.default_rng(1).random(DRAWS)
    for top_p, kept in ((0.5, [1]), (0.6, [1, 3]), (0.9, [1, 3, 0]), (1.0, [0, 1, 2, 3, 4])):
        wanted = torch.zeros(5, dtype=torch.float64)
        wanted[kept] = probabilities[kept] / probabilities[kept].sum()
        tokens = picked(replace(WARM, top_p=top_p), numbers)
        assert set(tokens) <= set(kept)
        assert len(kept) == 1 or p_value(tokens, wanted) > 0.01


def test_the_smallest_and_the_largest_number_pick_tokens_that_are_kept():
    ends = [0.0, np.nextafter(1.0, 0.0)]
    assert picked(WARM, ends).tolist() == [1, 2]
    assert picked(replace(WARM, top_p=0.6), ends).tolist() == [1, 3]


def test_a_token_without_probability_is_never_drawn():
    rows = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]]).expand(DRAWS, -1)
    numbers = np.random.default_rng(2).random((DRAWS, 1))
    numbers[-1] = np.nextafter(1.0, 0.0)
    assert set(pick(rows, WARM, list(numbers))) == {0, 2}


def test_numbers_depend_on_the_seed_and_the_prompt_alone():
    assert np.array_equal(drawn(WARM, 7), drawn(WARM, 7))
    assert np.array_equal(drawn(replace(WARM, max_new_tokens=4), 7), drawn(WARM, 7)[:4])
    others = (drawn(WARM, 8), drawn(replace(WARM, seed=4), 7))
    assert not any(np.array_equal(drawn(WARM, 7), other) for other in others)
    assert len(drawn(replace(WARM, temperature=0.0), 7)) == 0


@pytest.mark.parametrize("kind", ["llama", "gemma3", "tiny_dynamic"])
def test_the_same_seed_gives_the_same_answers_however_prompts_are_batched(
    varied: Callable[..., Any], kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    model = request.getfixturevalue(kind) if kind.startswith("tiny") else varied(kind)
    together = texts(model, WARM)
    assert texts(model, WARM) == together
    for tokens, rows in ((4096, 1), (4096, 3), (20, 64)):
        monkeypatch.setitem(budget.BATCH_TOKENS, "cpu", tokens)
        monkeypatch.setitem(budget.MAX_ROWS, "cpu", rows)
        assert texts(model, WARM) == together


def test_rows_that_end_early_leave_the_numbers_of_the_others_as_they_were(varied: Callable[..., Any]):
    model = varied()
    together = [text.split() for text in texts(model, WARM)]
    ends = frozenset(int(together[row][step]) for row, step in ((1, 1), (10, 1), (0, 2), (4, 3), (9, 5)))
    expected = []
    for tokens in together:
        cut = next((i for i, token in enumerate(tokens) if int(token) in ends), len(tokens))
        expected.append(" ".join(tokens[:cut]))
    assert texts(model, WARM, end_ids=ends) == expected


def test_another_seed_gives_other_answers(varied: Callable[..., Any]):
    model = varied()
    pairs = zip(texts(model, WARM), texts(model, replace(WARM, seed=4)), strict=True)
    assert all(a != b for a, b in pairs)


def test_equal_prompts_draw_for_themselves(varied: Callable[..., Any]):
    assert len(set(texts(varied(), WARM, [FOREST[0]] * 6))) == 6


@pytest.mark.parametrize("decoding", [replace(WARM, temperature=1e-4), replace(WARM, top_p=1e-6)])
def test_hardly_any_temperature_or_hardly_any_mass_is_greedy(varied: Callable[..., Any], decoding: Decoding):
    model = varied()
    assert texts(model, decoding) == [Spelled().decode(reference(model, prompt, 12)) for prompt in FOREST]


def test_first_tokens_of_many_answers_are_distributed_as_the_model_says(varied: Callable[..., Any]):
    model = varied(vocabulary=11)
    prompt = (*range(3, 11), *range(3, 11), *range(3, 9))
    with torch.no_grad():
        probabilities = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 1.5, dim=-1)
    decoding = Decoding("generate", 1, temperature=1.5, seed=5)
    tokens = np.array([int(text) for text in texts(model, decoding, [prompt] * 2000)])
    assert len(set(tokens)) > 5
    assert p_value(tokens, probabilities) > 0.01
