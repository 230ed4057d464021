"""How a step is split when memory is tight."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from luthier.errors import TrainingError
from luthier.train.memory import WANTED_TOKENS, MemoryPlan, TrainingShape, plan_memory, training_bytes

# SmolLM2-135M.
CONFIG = SimpleNamespace(
    num_hidden_layers=30,
    hidden_size=576,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
)
LORA = TrainingShape(
    config=CONFIG,
    parameters=140_000_000,
    trainable=5_000_000,
    full=False,
    width=4,
    longest=300,
    shortest=300,
    step_tokens=6000,
)
FULL = replace(LORA, parameters=135_000_000, trainable=135_000_000, full=True)
GB = 1e9


def tightness(plan: MemoryPlan) -> tuple[bool, int]:
    """Greater where more is given up."""
    return plan.checkpointing, -plan.max_tokens


@pytest.mark.parametrize("device", WANTED_TOKENS)
@pytest.mark.parametrize("shape", [LORA, FULL], ids=["lora", "full"])
def test_with_memory_to_spare_all_wanted_tokens_go_together(shape: TrainingShape, device: str):
    plan = plan_memory(shape, device, 10_000 * GB)
    assert (plan.max_tokens, plan.checkpointing) == (min(WANTED_TOKENS[device], shape.step_tokens), False)


def test_no_more_tokens_than_a_step_has():
    assert plan_memory(replace(LORA, step_tokens=500), "cpu", 1000 * GB).max_tokens == 500


def test_the_longest_sequence_always_has_room():
    long = replace(LORA, longest=9000, step_tokens=9000)
    assert plan_memory(long, "cpu", 1000 * GB).max_tokens == 9000
    tight = training_bytes(long, 9000, checkpointing=True) / 0.85
    assert plan_memory(long, "cpu", 1.01 * tight).max_tokens == 9000


@pytest.mark.parametrize("shape", [LORA, FULL], ids=["lora", "full"])
def test_less_memory_means_fewer_tokens_and_then_checkpointing(shape: TrainingShape):
    most = plan_memory(shape, "cpu", 1000 * GB).bytes / 0.85
    plans = [plan_memory(shape, "cpu", free) for free in _falling(shape, 2 * most)]
    assert [tightness(a) <= tightness(b) for a, b in itertools.pairwise(plans)] == [True] * (len(plans) - 1)
    assert len({plan.max_tokens for plan in plans if not plan.checkpointing}) > 2
    assert {plan.checkpointing for plan in plans} == {False, True}
    assert all(plan.max_tokens >= shape.longest for plan in plans)


@pytest.mark.parametrize("shape", [LORA, FULL], ids=["lora", "full"])
def test_a_plan_keeps_to_the_memory(shape: TrainingShape):
    for free in _falling(shape, 40 * GB):
        plan = plan_memory(shape, "cpu", free)
        assert plan.bytes == training_bytes(shape, plan.max_tokens, checkpointing=plan.checkpointing)
        assert plan.bytes < free


def _falling(shape: TrainingShape, begin: float) -> list[float]:
    """Free memory from much to what is just enough."""
    least = training_bytes(shape, shape.longest, checkpointing=True) / 0.85 + 1
    return [least + (begin - least) * share for share in (1.0, *(0.8**k for k in range(1, 60)), 0.0)]


def test_what_does_not_fit_is_said_with_a_way_out():
    least = training_bytes(FULL, FULL.longest, checkpointing=True) / 0.85
    with pytest.raises(TrainingError, match=r"training would take \d+\.\d GB, and 1\.0 GB are free") as error:
        plan_memory(FULL, "cpu", 1 * GB)
    assert "longest example has 300 tokens" in str(error.value)
    assert "Use a smaller model, LoRA in place of full fine-tuning, or shorter examples." in str(error.value)
    with pytest.raises(TrainingError):
        plan_memory(FULL, "cpu", 0.99 * least)
    assert plan_memory(FULL, "cpu", 1.01 * least).checkpointing


def test_more_of_anything_takes_more_memory():
    usual = training_bytes(LORA, 1000, checkpointing=False)
    assert math.isclose(usual, training_bytes(LORA, 1000, checkpointing=False))
    assert usual < training_bytes(LORA, 2000, checkpointing=False)
    assert usual < training_bytes(replace(LORA, longest=600), 1000, checkpointing=False)
    assert usual < training_bytes(replace(LORA, trainable=50_000_000), 1000, checkpointing=False)
    assert usual < training_bytes(FULL, 1000, checkpointing=False)
    assert training_bytes(LORA, 1000, checkpointing=True) < usual
    assert training_bytes(replace(LORA, width=2), 1000, checkpointing=False) < usual


def test_a_configuration_may_leave_out_what_follows():
    plain = SimpleNamespace(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=100)
    stated = SimpleNamespace(**vars(plain), head_dim=16, num_key_value_heads=4, intermediate_size=256)
    assert training_bytes(replace(LORA, config=plain), 100, checkpointing=False) == training_bytes(
        replace(LORA, config=stated), 100, checkpointing=False
    )
