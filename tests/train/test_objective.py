"""What is minimised, how a step is split, and the schedule: in float32, against separate forwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from luthier.prompt.render import TrainingSequence
from luthier.train.batches import MicroBatch, epoch_steps, merged_tokens, micro_batches, prefetched
from luthier.train.forward import Forward
from luthier.train.objective import path_tensors, sequence_logprobs, supervised_loss
from luthier.train.optimizer import build_optimizer, learning_rate_factor
from luthier.tree.build import Path, build_tree
from luthier.tree.logprobs import tree_logprobs
from separate import gradients, largest_error, separate_logprobs, with_lora


def sequence(name: str, prompt: int, answer: int, first: int = 10) -> TrainingSequence:
    """`prompt` untrained tokens, then `answer` trained ones that end with the end of the turn, 2."""
    ids = (*range(first, first + prompt + answer - 1), 2)
    return TrainingSequence(name, ids, (False,) * prompt + (True,) * answer)


def answered(name: str, prompt: tuple[int, ...], answer: tuple[int, ...]) -> TrainingSequence:
    return TrainingSequence(name, (*prompt, *answer, 2), (False,) * len(prompt) + (True,) * (len(answer) + 1))


BATCH = [sequence("a", 9, 3, 10), sequence("b", 4, 2, 30), sequence("c", 6, 7, 40), sequence("d", 3, 1, 55)]
HEAD = (11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
SHARING = [
    answered("red", (*HEAD, 30, 31), (40, 41)),
    answered("green", (*HEAD, 30, 31), (42,)),
    answered("blue", (*HEAD, 32), (40, 43, 44)),
    sequence("alone", 4, 3, 50),
    answered("again", (*HEAD, 30, 31), (40, 41)),
]


def mean_loss(model: Any, batches: Sequence[MicroBatch]) -> float:
    """A step's loss; its gradients are added to the weights'."""
    trained = sum(sum(s.trained) for batch in batches for s in batch.sequences)
    forward = Forward(model, "float32")
    loss = sum(forward.and_backward(batch, supervised_loss, 1 / trained) for batch in batches)
    forward.__exit__(None, None, None)
    return loss


def separate_mean_loss(model: Any, sequences: Sequence[TrainingSequence]) -> float:
    """The same from transformers' own loss, one sequence at a time."""
    trained = sum(sum(s.trained) for s in sequences)
    total = 0.0
    for own in sequences:
        labels = [token if on else -100 for token, on in zip(own.ids, own.trained, strict=True)]
        mean = model(input_ids=torch.tensor([own.ids]), labels=torch.tensor([labels]), use_cache=False).loss
        loss = mean * sum(own.trained) / trained
        loss.backward()
        total += float(loss.detach())
    return total


@pytest.mark.parametrize(
    ("family", "merge"), [("llama", True), ("qwen3", True), ("mistral", True), ("gemma3", True), ("mamba", False)]
)
def test_gradients_do_not_depend_on_how_a_step_is_split(make_tiny: Callable[..., Any], family: str, merge: bool):
    model = make_tiny(family).train()
    wanted = gradients(model, lambda: separate_mean_loss(model, BATCH + SHARING))
    for budget in (1, 30, 1000):
        batches = micro_batches(BATCH + SHARING, budget, merge=merge)
        error, name = largest_error(gradients(model, lambda b=batches: mean_loss(model, b)), wanted)
        assert error < 1e-5, (budget, name)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_sharing_changes_neither_the_loss_nor_a_gradient(make_tiny: Callable[..., Any], family: str, kind: str):
    model = make_tiny(family) if kind == "full" else with_lora(make_tiny(family))
    losses: list[float] = []
    apart = [batch for own in SHARING for batch in micro_batches([own], 1000)]
    (merged,) = micro_batches(SHARING, 1000)
    assert sum(len(batch.tree) for batch in apart) == 14 + 13 + 14 + 6 + 14
    assert len(merged.tree) == 10 + 2 + 2 + 1 + 1 + 3 + 6  # HEAD, 30 31, 40 41, 42, 32, 40 43 44, what stands alone
    wanted = gradients(model, lambda: losses.append(separate_mean_loss(model, SHARING)))
    for batches in (apart, [merged]):
        error, name = largest_error(gradients(model, lambda b=batches: losses.append(mean_loss(model, b))), wanted)
        assert error < 1e-5, name
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_the_loss_is_the_weighted_sum_over_all_sequences():
    # Targets 0 and 1 count in both sequences, with weights of their own.
    paths = [Path(torch.tensor([0, 1]).numpy(), torch.tensor([1.0, 0.5]).double().numpy())]
    paths += [Path(torch.tensor([1, 2, 0]).numpy(), torch.tensor([2.0, 1.0, -1.0]).double().numpy())]
    paths += [Path(torch.tensor([], dtype=torch.long).numpy(), torch.tensor([]).double().numpy())]
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    assert sequence_logprobs(logprobs, paths).tolist() == [-2.0, -7.0, 0.0]
    loss = supervised_loss(logprobs, paths)
    loss.backward()
    assert float(loss.detach()) == 9.0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, -2.5, -1.0]


def test_every_token_of_the_prompt_can_be_trained_too(make_tiny: Callable[..., Any]):
    model = make_tiny()
    everything = [TrainingSequence(s.id, s.ids, (False, *(True,) * (len(s.ids) - 1))) for s in SHARING]
    expected = separate_mean_loss(model, everything)
    assert mean_loss(model, micro_batches(everything, 1000)) == pytest.approx(expected, rel=1e-5)


def test_the_end_token_learns_though_padding_is_the_same_token(load_tiny: Callable[..., Any]):
    # torch.nn.Embedding gives its padding_idx no gradient; with the end token read as input, it must get one.
    model = load_tiny().train()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    turns = TrainingSequence("turns", (10, 2, 11, 12, 2), (False, False, False, True, True))
    mean_loss(model, micro_batches([turns, sequence("long", 9, 3)], 1000))
    assert float(model.get_input_embeddings().weight.grad[2].abs().sum()) > 0


# Pairs of a chosen and a rejected answer to a prompt; the first two prompts begin alike.
PAIRS = [
    (answered("1+", (*HEAD, 21, 22), (30, 31, 32)), answered("1-", (*HEAD, 21, 22), (30, 33))),
    (answered("2+", (*HEAD, 23), (34, 35)), answered("2-", (*HEAD, 23), (36, 37, 38, 39))),
    (answered("3+", (24, 25, 26), (30, 31)), answered("3-", (24, 25, 26), (32,))),
]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_dpo_on_a_tree_equals_dpo_on_separate_forwards(make_tiny: Callable[..., Any], family: str):
    """Rafailov et al. 2023, eq. 7: -log σ(β ((π(y+) - ref(y+)) - (π(y-) - ref(y-)))), of summed log-probabilities."""
    beta = 0.7
    policy, reference = with_lora(make_tiny(family)), make_tiny(family)

    def dpo(chosen: torch.Tensor, rejected: torch.Tensor, chosen_ref: torch.Tensor, rejected_ref: torch.Tensor) -> Any:
        return -logsigmoid(beta * ((chosen - chosen_ref) - (rejected - rejected_ref))).mean()

    def alone(model: Any, own: TrainingSequence) -> torch.Tensor:
        return (separate_logprobs(model, own.ids) * torch.tensor(own.trained[1:])).sum()

    losses: list[float] = []

    def separately() -> None:
        terms = []
        for chosen, rejected in PAIRS:
            with torch.no_grad():
                before = alone(reference, chosen), alone(reference, rejected)
            terms.append(dpo(alone(policy, chosen), alone(policy, rejected), *before))
        loss = torch.stack(terms).mean()
        loss.backward()
        losses.append(float(loss.detach()))

    def on_a_tree() -> None:
        (batch,) = micro_batches([own for pair in PAIRS for own in pair], 1000)
        places = {own.id: i for i, own in enumerate(batch.sequences)}
        order = torch.tensor([[places[own.id] for own in pair] for pair in PAIRS])
        with torch.no_grad():
            before = sequence_logprobs(tree_logprobs(reference, batch.tree), batch.tree.paths)[order]

        def objective(logprobs: torch.Tensor, paths: Sequence[Path]) -> torch.Tensor:
            now = sequence_logprobs(logprobs, paths)[order]  # (P, 2)
            return dpo(now[:, 0], now[:, 1], before[:, 0], before[:, 1])

        forward = Forward(policy, "float32")
        losses.append(forward.and_backward(batch, objective, 1.0))
        forward.__exit__(None, None, None)

    wanted = gradients(policy, separately)
    error, name = largest_error(gradients(policy, on_a_tree), wanted)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert error < 1e-5, name


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_clipped_policy_loss_on_a_tree_equals_that_on_separate_forwards(make_tiny: Callable[..., Any], family: str):
    """GRPO (Shao et al. 2024, eq. 3, without its KL term): per token min(ratio A, clip(ratio, 1 ± ε) A), averaged over
    the tokens of each answer; answers to one prompt share its nodes, and answers of one beginning share theirs."""
    epsilon = 0.2
    policy, sampler = with_lora(make_tiny(family)), make_tiny(family)
    answers = [(30, 31, 32), (30, 31, 33, 34), (35,), (30, 31, 32)]  # the last was drawn twice
    group = [answered(str(n), HEAD, answer) for n, answer in enumerate(answers)]
    advantages = torch.tensor([1.5, -0.5, -1.2, 0.2])

    def surrogate(now: torch.Tensor, before: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        ratio = (now - before).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)

    losses: list[float] = []
    clipped: list[bool] = []

    def separately() -> None:
        loss = torch.zeros(())
        for own, advantage in zip(group, advantages, strict=True):
            trained = torch.tensor(own.trained[1:])
            now = separate_logprobs(policy, own.ids)[trained]
            with torch.no_grad():
                before = separate_logprobs(sampler, own.ids)[trained]
            clipped.extend((((now - before).exp() - 1).abs() > epsilon).tolist())
            loss = loss + surrogate(now, before, advantage).mean() / len(group)
        loss.backward()
        losses.append(float(loss.detach()))

    def on_a_tree() -> None:
        tree = build_tree([s.ids for s in group], [[float(on) for on in s.trained] for s in group])
        with torch.no_grad():
            before = tree_logprobs(sampler, tree)

        def objective(logprobs: torch.Tensor, paths: Sequence[Path]) -> torch.Tensor:
            own = path_tensors(paths, logprobs)
            per_token = surrogate(logprobs[own.targets], before[own.targets], advantages[own.owners])
            lengths = torch.bincount(own.owners, minlength=own.count)
            return (per_token / lengths[own.owners]).sum() / own.count

        forward = Forward(policy, "float32")
        losses.append(forward.and_backward(MicroBatch(tuple(group), tree, len(tree)), objective, 1.0))
        forward.__exit__(None, None, None)

    wanted = gradients(policy, separately)
    error, name = largest_error(gradients(policy, on_a_tree), wanted)
    assert any(clipped)
    assert not all(clipped)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert error < 1e-5, name


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_goes_through_every_example_once_in_an_order_of_its_own(seed: int):
    epochs = [[i for step in range(3) for i in epoch_steps(10, 4, seed, 3 * epoch + step)] for epoch in range(2)]
    assert [sorted(order) for order in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [len(epoch_steps(10, 4, seed, step)) for step in range(4)] == [4, 4, 2, 4]
    assert epoch_steps(10, 4, seed, 5) == epoch_steps(10, 4, seed, 5)
    assert epoch_steps(10, 4, seed, 0) != epoch_steps(10, 4, seed + 2, 0)


def names(batches: Sequence[MicroBatch]) -> list[list[str]]:
    return [[s.id for s in batch.sequences] for batch in batches]


def test_micro_batches_hold_every_sequence_and_stay_within_the_tokens():
    assert [len(s.ids) for s in BATCH] == [12, 6, 13, 4]
    # On a tree the last token need not be computed: 11, 5, 12 and 3 are.
    batches = micro_batches(BATCH, 16)
    assert names(batches) == [["c", "d"], ["a", "b"]]
    assert [len(batch.tree) for batch in batches] == [15, 16]
    padded = micro_batches(BATCH, 26, merge=False)
    assert names(padded) == [["c", "a"], ["b", "d"]]


def test_what_is_shared_counts_once():
    assert names(micro_batches(SHARING, 19)) == [["red", "green", "blue", "again"], ["alone"]]


def test_a_sequence_longer_than_the_budget_goes_alone():
    assert names(micro_batches(BATCH, 5)) == [["c"], ["a"], ["b"], ["d"]]
    assert names(micro_batches(BATCH, 5, merge=False)) == [["c"], ["a"], ["b"], ["d"]]


@pytest.mark.parametrize("seed", range(10))
def test_no_step_has_more_tokens_than_reckoned(seed: int):
    chance = random.Random(seed)
    head = tuple(range(10, 10 + chance.randint(0, 6)))
    sequences = [
        answered(str(n), (*head, *(chance.randrange(30, 33) for _ in range(chance.randint(1, 6)))), (40,))
        for n in range(15)
    ]
    for size in (1, 4, 15):
        most = merged_tokens(sequences, size)
        for _ in range(10):
            step = chance.sample(sequences, size)
            assert len(build_tree([s.ids for s in step])) <= most
    assert merged_tokens(sequences, 1) == max(len(s.ids) for s in sequences)


@pytest.mark.parametrize("merge", [True, False])
def test_prefetched_steps_are_those_made_directly(merge: bool):
    class Settings:
        batch_size, seed, max_tokens = 3, 5, 30

    sequences = BATCH + SHARING
    steps = list(prefetched(sequences, range(2, 8), Settings(), merge=merge))  # type: ignore[arg-type]
    assert [step for step, _ in steps] == [2, 3, 4, 5, 6, 7]
    for step, batches in steps:
        own = [sequences[i] for i in epoch_steps(len(sequences), 3, 5, step - 1)]
        direct = micro_batches(own, 30, merge=merge)
        assert names(batches) == names(direct)
        for batch, other in zip(batches, direct, strict=True):
            assert batch.tree.ids.tolist() == other.tree.ids.tolist()
            assert batch.tree.target_ids.tolist() == other.tree.target_ids.tolist()
    assert list(prefetched(sequences, range(4, 4), Settings(), merge=merge)) == []  # type: ignore[arg-type]


def test_an_error_in_making_a_step_is_not_lost():
    class Settings:
        batch_size, seed, max_tokens = 1, 0, 30

    broken = TrainingSequence("broken", (5, 6), (True, True))  # nothing stands before the first token
    with pytest.raises(ValueError, match="weighs its first token"):
        list(prefetched([broken], range(1, 3), Settings(), merge=True))  # type: ignore[arg-type]


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
