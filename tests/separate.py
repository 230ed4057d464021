"""What a token tree must give: every sequence in a forward pass of its own, without padding, cache or mask."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from luthier.tree.build import Tree

Ids = tuple[int, ...]
Weights = tuple[float, ...]


def separate_logprobs(model: Any, ids: Ids) -> torch.Tensor:
    """The log-probability of each token of a sequence but the first, in nats. (T - 1,)"""
    tokens = torch.tensor([ids])
    logprobs = model(input_ids=tokens, use_cache=False).logits[0, :-1].log_softmax(dim=-1)
    return logprobs.gather(1, tokens[0, 1:, None])[:, 0]


def separate_backward(model: Any, sequences: Sequence[Ids], weights: Sequence[Weights]) -> float:
    """The summed weighted negative log-likelihood; its gradients are added to the weights'."""
    total = 0.0
    for ids, own in zip(sequences, weights, strict=True):
        logprobs = separate_logprobs(model, ids)
        loss = -(logprobs * torch.tensor(own[1:], dtype=logprobs.dtype)).sum()
        loss.backward()
        total += float(loss.detach())
    return total


def separate_target_logprobs(
    model: Any, sequences: Sequence[Ids], weights: Sequence[Weights], tree: Tree
) -> torch.Tensor:
    """For each target of a tree the log-probability that the separate sequences give it. (K,)"""
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for ids, own, path in zip(sequences, weights, tree.paths, strict=True):
            logprobs = separate_logprobs(model, ids)
            places = [t - 1 for t, weight in enumerate(own) if weight]
            found |= {int(k): logprobs[t] for k, t in zip(path.targets, places, strict=True)}
    return torch.stack([found[k] for k in range(len(tree.target_ids))])


def gradients(model: Any, backward: Callable[[], Any]) -> dict[str, torch.Tensor]:
    """The gradient of every trainable tensor after `backward`; each of them has one."""
    model.zero_grad(set_to_none=True)
    backward()
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def largest_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest relative error, and the tensor that has it."""
    assert found.keys() == wanted.keys()
    return max((relative_error(found[name], wanted[name]), name) for name in wanted)


def with_lora(model: Any) -> Any:
    """LoRA on every linear layer; B is not zero as at the start of a training, where the gradient of A would be."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(
        r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", bias="none"
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def draw_forest(
    depth: int, *, seed: int = 0, vocabulary: int = 61, stretch: int = 1
) -> tuple[list[Ids], list[Weights]]:
    """Sequences that make several trees, with `depth` segments from a root to a leaf, and their weights.

    Among them are equal sequences, beginnings of others, weights of 0 between others, and a last token that does not
    count. Longer than the tiny models' windows; by `stretch` longer still.
    """
    chance = random.Random(depth)

    def segment() -> Ids:
        return tuple(chance.randrange(3, vocabulary) for _ in range(stretch * (chance.randint(12, 16) // depth + 2)))

    begun: list[Ids] = [(10, 11, *segment()), (12, *segment())]
    sequences = [*begun] if depth == 1 else []
    for level in range(1, depth):
        begun = [(*ids, *segment()) for ids in begun for _ in range(2 if level < 3 else 1)]
        sequences += begun[-1:]  # another sequence's beginning, but for the last level
    sequences += [*begun[:-1], begun[0], begun[0][: len(begun[0]) // 2], segment(), (5, 6)]
    chance.shuffle(sequences)
    weights = [[0.0, *(chance.choice((0.0, 0.3, 1.0, 1.7)) for _ in ids[1:])] for ids in sequences]
    one, other = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))[:2]
    weights[one][-1] = weights[other][-3] = 1.0
    weights[other][-2:] = [0.0, 0.0]
    return sequences, [tuple(own) for own in weights]
