"""The supervised loss and how it is split, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from luthier.prompt.render import TrainingSequence
from luthier.train.batches import epoch_steps, micro_batch_tokens, micro_batches
from luthier.train.objective import supervised_loss
from luthier.train.optimizer import build_optimizer, learning_rate_factor


def sequence(name: str, prompt: int, answer: int, first: int = 10) -> TrainingSequence:
    """`prompt` untrained tokens, then `answer` trained ones that end with the end of the turn, 2."""
    ids = (*range(first, first + prompt + answer - 1), 2)
    return TrainingSequence(name, ids, (False,) * prompt + (True,) * answer)


BATCH = [sequence("a", 9, 3, 10), sequence("b", 4, 2, 40), sequence("c", 6, 7, 70), sequence("d", 3, 1, 95)]


def gradients(model: Any, groups: list[list[TrainingSequence]]) -> dict[str, torch.Tensor]:
    trained = sum(sum(s.trained) for group in groups for s in group)
    model.zero_grad(set_to_none=True)
    for group in groups:
        (supervised_loss(model, group, 2, "cpu", "float32") / trained).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradients_do_not_depend_on_how_a_step_is_split(load_tiny: Callable[..., Any], family: str, attention: str):
    model = load_tiny(family, attention).train()
    whole = gradients(model, [BATCH])
    for groups in ([[s] for s in BATCH], [BATCH[:1], BATCH[1:]]):
        parts = gradients(model, groups)
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_the_loss_of_one_sequence_is_transformers_own(load_tiny: Callable[..., Any], family: str):
    model = load_tiny(family)
    for own in BATCH:
        labels = [token if on else -100 for token, on in zip(own.ids, own.trained, strict=True)]
        expected = model(input_ids=torch.tensor([own.ids]), labels=torch.tensor([labels])).loss
        got = supervised_loss(model, [own], 2, "cpu", "float32") / sum(own.trained)
        assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_loss_of_a_batch_is_the_sum_over_its_sequences(load_tiny: Callable[..., Any]):
    model = load_tiny()
    with torch.no_grad():
        together = supervised_loss(model, BATCH, 2, "cpu", "float32")
        alone = sum(supervised_loss(model, [s], 2, "cpu", "float32") for s in BATCH)
    assert float(together) == pytest.approx(float(alone), rel=1e-5)


def test_every_token_of_the_prompt_can_be_trained_too(load_tiny: Callable[..., Any]):
    model = load_tiny()
    short, long = sequence("a", 3, 2), sequence("b", 8, 4, 50)
    everything = [TrainingSequence(s.id, s.ids, (False, *(True,) * (len(s.ids) - 1))) for s in (short, long)]
    got = supervised_loss(model, everything, 2, "cpu", "float32")
    expected = 0.0
    for own in everything:
        labels = torch.tensor([own.ids])
        expected += float(model(input_ids=labels, labels=labels).loss.detach()) * (len(own.ids) - 1)
    assert float(got.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_end_token_learns_though_padding_is_the_same_token(load_tiny: Callable[..., Any]):
    # torch.nn.Embedding gives its padding_idx no gradient; with the end token read as input, it must get one.
    model = load_tiny().train()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    turns = TrainingSequence("turns", (10, 2, 11, 12, 2), (False, False, False, True, True))
    supervised_loss(model, [turns, sequence("long", 9, 3)], 2, "cpu", "float32").backward()
    assert float(model.get_input_embeddings().weight.grad[2].abs().sum()) > 0


def test_padding_teaches_nothing(load_tiny: Callable[..., Any]):
    model = load_tiny().train()
    short, long = sequence("short", 2, 2), sequence("long", 20, 5, 50)
    padded_with_end = gradients(model, [[short, long]])
    trained = sum(short.trained) + sum(long.trained)
    model.zero_grad(set_to_none=True)
    (supervised_loss(model, [short, long], 77, "cpu", "float32") / trained).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, padded_with_end[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_goes_through_every_example_once_in_an_order_of_its_own(seed: int):
    epochs = [[i for step in range(3) for i in epoch_steps(10, 4, seed, 3 * epoch + step)] for epoch in range(2)]
    assert [sorted(order) for order in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [len(epoch_steps(10, 4, seed, step)) for step in range(4)] == [4, 4, 2, 4]
    assert epoch_steps(10, 4, seed, 5) == epoch_steps(10, 4, seed, 5)
    assert epoch_steps(10, 4, seed, 0) != epoch_steps(10, 4, seed + 2, 0)


def test_micro_batches_hold_every_sequence_and_stay_within_the_tokens():
    lengths = [12, 6, 13, 4]
    groups = list(micro_batches(BATCH, 26))
    assert sorted(s.id for group in groups for s in group) == ["a", "b", "c", "d"]
    assert all(len(group) * max(len(s.ids) for s in group) <= 26 for group in groups)
    assert [[s.id for s in group] for group in groups] == [["d", "b"], ["a", "c"]]
    assert [len(s.ids) for s in BATCH] == lengths
    assert micro_batch_tokens("cpu", 5000) == 5000  # the longest always has room


def test_a_sequence_longer_than_the_budget_goes_alone():
    assert [[s.id for s in group] for group in micro_batches(BATCH, 5)] == [["d"], ["b"], ["a"], ["c"]]


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing():
    def factors(schedule: str) -> list[float]:
        return [learning_rate_factor(step, 10, 0.2, schedule) for step in range(11)]  # type: ignore[arg-type]

    assert factors("constant") == [0.5, 1.0, *[1.0] * 9]
    assert factors("linear") == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0])
    cosine = factors("cosine")
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[4] == pytest.approx(0.5 + 0.5 * 2**-0.5)  # a quarter of the way: (1 + cos 45°) / 2
    assert cosine[6] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0.0)


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert learning_rate_factor(0, 1, 0.0, "cosine") == 1.0
    assert learning_rate_factor(0, 1, 0.1, "cosine") == 1.0


def test_weight_decay_spares_vectors(load_tiny: Callable[..., Any]):
    class Settings:
        warmup, schedule, weight_decay = 0.0, "constant", 0.1

    trainable = dict(load_tiny().named_parameters())
    optimizer, _ = build_optimizer(trainable, 1e-3, Settings(), 10)  # type: ignore[arg-type]
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in trainable.items()} == {
        name: 0.1 if p.ndim == 2 else 0.0 for name, p in trainable.items()
    }
