"""The divergence between two models' predictions, against torch's kl_div over all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from luthier.model.start import Start
from luthier.tree import divergence as divergence_module
from luthier.tree.attention import TreeAttention, attending
from luthier.tree.build import Tree, build_tree
from luthier.tree.divergence import StartOfTree, counted_nodes, head_divergence
from luthier.tree.logprobs import base_of, tree_hidden
from luthier.tree.visible import tree_visibility
from separate import draw_forest, gradients, largest_error, with_lora


def plainly(start: torch.Tensor, own: torch.Tensor, *, reverse: bool) -> torch.Tensor:
    """KL of each row from whole logits."""
    p, q = start.log_softmax(-1), own.log_softmax(-1)
    given, target = (p, q) if reverse else (q, p)
    return kl_div(given, target, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("trained", ["hidden", "layer", "both"])
def test_values_and_gradients_are_those_of_kl_div(trained: str, reverse: bool, rows: int):
    torch.manual_seed(0)
    hidden, weight, before, start = (
        torch.randn(n, 16, dtype=torch.float64, requires_grad=on)
        for n, on in ((7, trained != "layer"), (31, trained != "hidden"), (7, False), (31, False))
    )
    inputs = [tensor for tensor in (hidden, weight) if tensor.requires_grad]
    found = head_divergence(before, start, hidden, weight, rows, reverse=reverse)
    wanted = plainly(before @ start.t(), hidden @ weight.t(), reverse=reverse)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn(7, dtype=torch.float64)
    for own, other in zip(
        torch.autograd.grad(found @ weights, inputs), torch.autograd.grad(wanted @ weights, inputs), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


def test_a_model_is_no_way_from_itself_and_large_logits_do_not_overflow():
    hidden, weight = torch.randn(5, 16), torch.randn(31, 16)
    same = head_divergence(hidden, weight, hidden.clone().requires_grad_(), weight, 2)
    assert same.abs().max() < 1e-6
    far = head_divergence(hidden, weight, (-1e4 * hidden).requires_grad_(), weight, 2)
    assert bool(far.isfinite().all())
    assert bool((far > 0).all())


def forest() -> tuple[list[tuple[int, ...]], list[tuple[float, ...]]]:
    """Sequences that count where their weight is not nothing, all of them equally."""
    sequences, weights = draw_forest(3)
    return sequences, [tuple(float(weight > 0) for weight in own) for own in weights]


def separately(
    start: Any, model: Any, sequences: Any, weights: Any, *, everywhere: bool, reverse: bool
) -> torch.Tensor:
    """The summed divergence over sequences run one by one."""
    total = torch.zeros(())
    for ids, own in zip(sequences, weights, strict=True):
        last = max((t for t, weight in enumerate(own) if weight), default=0)
        counts = torch.tensor([float(t <= last if everywhere else own[t] > 0) for t in range(1, len(ids))])
        tokens = torch.tensor([ids])
        with torch.no_grad():
            before = start(input_ids=tokens, use_cache=False).logits[0, :-1]
        nats = plainly(before, model(input_ids=tokens, use_cache=False).logits[0, :-1], reverse=reverse)
        total = total + nats @ counts
    return total


def on_tree(start: Start, model: Any, tree: Tree, *, everywhere: bool, reverse: bool) -> torch.Tensor:
    attention = TreeAttention(tree_visibility(tree))
    with attending(base_of(model), attention):
        before = StartOfTree(start, tree, attention)
        hidden = tree_hidden(model, tree.ids, tree.positions, attention)
        nodes, counts = counted_nodes(tree, everywhere=everywhere)
        total = before.divergence(model, hidden, nodes, reverse=reverse) @ torch.tensor(counts, dtype=torch.float32)
        total.backward()
    return total.detach()


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # Gemma 2 caps its logits
@pytest.mark.parametrize("kind", ["lora", "copy"])
def test_a_tree_gives_what_separate_sequences_give(
    make_tiny: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    family: str,
    reverse: bool,
    everywhere: bool,
):
    monkeypatch.setattr(divergence_module, "CHUNK_ROWS", 5)
    start = make_tiny(family)
    if kind == "lora":
        model = with_lora(make_tiny(family))
        held = Start(model, switch_off=True)
    else:
        model = make_tiny(family)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        held = Start(start)
    model.train()
    sequences, weights = forest()
    values: list[torch.Tensor] = []

    def wanted() -> None:
        total = separately(start, model, sequences, weights, everywhere=everywhere, reverse=reverse)
        total.backward()
        values.append(total.detach())

    tree = build_tree(sequences, weights)
    expected = gradients(model, wanted)
    found = gradients(model, lambda: values.append(on_tree(held, model, tree, everywhere=everywhere, reverse=reverse)))
    assert values[0] > 0.1
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)
    error, name = largest_error(found, expected)
    assert error < 1e-4, name
    assert model.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(expected)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_the_start_has_none_of_the_virtual_tokens(make_tiny: Callable[..., Any], kind: str):
    from luthier.model.virtual import add_virtual_tokens, new_prefix, new_soft_prompt, virtual_ids

    model, start = make_tiny(), make_tiny()
    add_virtual_tokens(model, (new_soft_prompt if kind == "prompt" else new_prefix)(model, [4, 9, 17]))
    model.requires_grad_(False)
    model.virtual_tokens.requires_grad_(True)
    sequences, weights = forest()
    tree = build_tree([(*virtual_ids(3), *ids) for ids in sequences], [(0.0, 0.0, 0.0, *own) for own in weights])
    held = Start(model, virtual=3)
    attention = TreeAttention(tree_visibility(tree))
    nodes, _ = counted_nodes(tree)
    with attending(model, attention):
        before = StartOfTree(held, tree, attention)
        hidden = tree_hidden(model, tree.ids, tree.positions, attention)
        found = before.divergence(model, hidden, nodes)
    own = build_tree(sequences, weights)
    shorter, _ = counted_nodes(own)
    np.testing.assert_array_equal(nodes - 3, shorter)
    plain = TreeAttention(tree_visibility(own))
    with torch.no_grad(), attending(start, plain):
        wanted_before = tree_hidden(start, own.ids, own.positions, plain)[shorter]
    head = start.get_output_embeddings()
    wanted = plainly(head(wanted_before), head(hidden[nodes]), reverse=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert model.virtual_tokens.embedding.weight.grad.abs().max() > 0


def test_nodes_count_for_each_sequence_that_goes_through_them():
    tree = build_tree([(5, 6, 7, 8), (5, 6, 9), (5, 6, 7, 8)], [(0, 0, 1, 1), (0, 0, 1), (0, 0, 0, 1)])
    assert tree.ids.tolist() == [5, 6, 7]  # what only is predicted is no node
    nodes, counts = counted_nodes(tree)
    assert dict(zip(nodes.tolist(), counts.tolist(), strict=True)) == {1: 2.0, 2: 2.0}
    nodes, counts = counted_nodes(tree, everywhere=True)
    assert dict(zip(nodes.tolist(), counts.tolist(), strict=True)) == {0: 3.0, 1: 3.0, 2: 2.0}
