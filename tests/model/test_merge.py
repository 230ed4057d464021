"""Merging by task vectors, held to figures by hand and to PEFT's own merging of adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import model as lora_model

from luthier.errors import ModelError
from luthier.model.adapter import add_lora, save_adapter, save_full
from luthier.model.load import load_model, load_tokenizer
from luthier.model.merge import Recipe, merge, merged_change
from luthier.model.part import names_of_head, save_part, train_only
from luthier.model.virtual import add_virtual_tokens, new_soft_prompt, save_virtual_tokens
from luthier.types import ModelRef

A, B = torch.tensor([4.0, -3.0, 2.0, 1.0]), torch.tensor([2.0, 3.0, -5.0, 1.0])


def recipe(method: str, weights: tuple[float, ...] = (0.5, 0.5), **others: Any) -> Recipe:
    return Recipe(method, weights, **{"density": 0.5, "rank": None, "seed": 3, **others})


@pytest.mark.parametrize(
    ("method", "weights", "expected"),
    [
        ("linear", (0.5, 0.5), [3.0, 0.0, -1.5, 1.0]),
        ("task-arithmetic", (0.4, -1.0), [-0.4, -4.2, 5.8, -0.6]),
        # The larger half of A is (4, -3, ·, ·), of B (·, 3, -5, ·); against -3 and 3 the sum, 0, counts as positive.
        ("ties", (1.0, 1.0), [4.0, 3.0, -5.0, 0.0]),
        ("ties", (1.0, 0.5), [4.0, 1.5, -2.5, 0.0]),
    ],
)
def test_figures_by_hand(method: str, weights: tuple[float, ...], expected: list[float]):
    torch.testing.assert_close(merged_change([A, B], recipe(method, weights)), torch.tensor(expected))


def test_dare_drops_at_random_and_scales_up_what_stays():
    torch.manual_seed(3)
    kept = [torch.bernoulli(torch.full((4,), 0.5)) * own / 0.5 for own in (A, B)]
    torch.manual_seed(3)
    found = merged_change([A, B], recipe("dare-linear", (0.5, 0.25)))
    torch.testing.assert_close(found, 0.5 * kept[0] + 0.25 * kept[1])
    torch.manual_seed(3)
    found = merged_change([A, B], recipe("dare-ties", (1.0, 1.0)))
    sign = torch.where(kept[0] + kept[1] >= 0, 1, -1)
    agreeing = [torch.where(own.sign() == sign, own, 0) for own in kept]
    count = sum((own != 0).float() for own in agreeing).clamp(min=1)
    torch.testing.assert_close(found, (agreeing[0] + agreeing[1]) / count)


@pytest.fixture
def base(tiny_model_folder: Path) -> ModelRef:
    return ModelRef(str(tiny_model_folder))


@pytest.fixture
def adapted(base: ModelRef, tmp_path: Path) -> Callable[..., ModelRef]:
    """A random LoRA adapter on the tiny model."""

    def make(seed: int, rank: int = 2, **settings: Any) -> ModelRef:
        given = {"alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "down_proj"], "seed": seed}
        model = add_lora(load(base), rank=rank, **{**given, **settings})
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        save_adapter(model, tmp_path / f"lora-{seed}")
        return ModelRef(base.base, (*base.adapters, str(tmp_path / f"lora-{seed}")))

    return make


def load(ref: ModelRef) -> Any:
    return load_model(ref, device="cpu", precision="float32")


def weights(ref: ModelRef) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in load(ref).named_parameters()}


def merged(refs: list[ModelRef], base: ModelRef, how: Recipe, to: Path) -> Any:
    to.mkdir()
    return merge(refs, base, how, load_tokenizer(base.base), to)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [("linear", "cat"), ("ties", "ties_svd"), ("dare-linear", "dare_linear_svd"), ("dare-ties", "dare_ties_svd")],
)
def test_adapters_merge_as_in_peft(
    method: str,
    theirs: str,
    base: ModelRef,
    adapted: Callable[..., ModelRef],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    rule = theirs.removesuffix("_svd")
    if rule != "cat":  # PEFT draws the new adapter's beginning first
        original = getattr(lora_model, rule)
        monkeypatch.setattr(lora_model, rule, lambda *args: (torch.manual_seed(3), original(*args))[1])
    # One matrix: PEFT draws in the order of the modules.
    one = {"targets": ["q_proj"], "layers": [0]}
    refs = [adapted(1, 2, **one), adapted(2, 3, **one)]
    own = merged(refs, base, recipe(method, (0.7, 0.6), rank=None if method == "linear" else 4), tmp_path / "own")
    model = PeftModel.from_pretrained(load(base), refs[0].adapters[0], adapter_name="a")
    model.load_adapter(refs[1].adapters[0], "b")
    model.base_model.add_weighted_adapter(["a", "b"], [0.7, 0.6], "c", theirs, svd_rank=4, density=0.5)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight + layer.get_delta_weight("c")
    found = load(own.ref).get_parameter("model.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert own.rank == (5 if method == "linear" else 4)
    assert own.kept is None if method == "linear" else 0 < own.kept < 1


def test_a_sum_of_adapters_is_exact_whatever_their_scale_rank_and_layers(
    base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path
):
    refs = [adapted(1, 2, sqrt_scaling=True), adapted(2, 3, layers=[1], targets="all-linear")]
    second = adapted(3, 1)
    refs[0] = ModelRef(base.base, (*refs[0].adapters, *second.adapters))  # two steps, one on top of the other
    own = merged(refs, base, recipe("linear", (0.3, 0.7)), tmp_path / "own")
    assert (own.rank, own.kept) == (6, None)
    assert [Path(folder).name for folder in own.ref.adapters] == ["adapter"]
    start, a, b, found = (weights(ref) for ref in (base, *refs, own.ref))
    for name in start:
        torch.testing.assert_close(found[name], 0.3 * a[name] + 0.7 * b[name], rtol=0, atol=1e-5)
    assert any(not torch.equal(start[name], found[name]) for name in start)


def test_with_full_rank_an_adapter_keeps_all(base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path):
    refs = [adapted(1), adapted(2)]
    own = merged(refs, base, recipe("ties", (1.0, 1.0), rank=32), tmp_path / "own")
    assert own.kept == pytest.approx(1)
    start, a, b, found = (weights(ref) for ref in (base, *refs, own.ref))
    for name in start:
        change = merged_change([a[name] - start[name], b[name] - start[name]], recipe("ties", (1.0, 1.0)))
        torch.testing.assert_close(found[name], start[name] + change, rtol=0, atol=1e-4)


def test_changes_are_counted_from_the_origin(base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path):
    origin = adapted(1)
    refs = [ModelRef(base.base, (*origin.adapters, *adapted(seed).adapters)) for seed in (2, 3)]
    own = merged(refs, origin, recipe("task-arithmetic", (1.0, 1.0)), tmp_path / "own")
    assert own.ref.adapters[0] == origin.adapters[0]
    start, a, b, found = (weights(ref) for ref in (origin, *refs, own.ref))
    for name in start:
        torch.testing.assert_close(found[name], a[name] + b[name] - start[name], rtol=0, atol=1e-5)


def test_whole_models_and_parts_merge_weight_by_weight(
    base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path
):
    model = load(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_full(model, load_tokenizer(base.base), tmp_path / "full")
    head = load(base)
    train_only(head, names_of_head(head))
    with torch.no_grad():
        head.get_output_embeddings().weight.add_(1.0)
    save_part(head, tmp_path / "part")
    refs = [ModelRef(str(tmp_path / "full")), ModelRef(base.base, (str(tmp_path / "part"),)), adapted(1)]
    how = recipe("ties", (1.0, 0.5, 2.0))
    own = merged(refs, base, how, tmp_path / "own")
    assert own.ref == ModelRef(str(tmp_path / "own" / "model"))
    assert own.rank is None
    start, found = load(base), load(own.ref)
    models = [load(ref) for ref in refs]
    names = [name for name, _ in found.named_parameters()]
    assert "lm_head.weight" in names  # one of them had a head of its own
    for name in names:
        before = start.get_parameter(name)
        expected = before + merged_change([m.get_parameter(name) - before for m in models], how)
        torch.testing.assert_close(found.get_parameter(name), expected, rtol=0, atol=1e-6)


def test_agreement_by_hand(base: ModelRef, tmp_path: Path):
    refs = []
    for number, change in enumerate((A, B)):
        model = load(base)
        with torch.no_grad():
            model.get_parameter("model.norm.weight")[:4] += change
        save_full(model, load_tokenizer(base.base), tmp_path / str(number))
        refs.append(ModelRef(str(tmp_path / str(number))))
    (found,) = merged([*refs], base, recipe("linear"), tmp_path / "own").agreements
    assert found.cosine == pytest.approx((8 - 9 - 10 + 1) / (30 * 39) ** 0.5, abs=1e-5)
    assert found.opposite == 0.5
    assert (found.first, found.second) == (0, 1)


def test_a_model_that_is_the_origin_has_nothing_to_agree_with(
    base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path
):
    tuned = adapted(1)
    own = merged([tuned, base], base, recipe("linear", (0.25, 0.75)), tmp_path / "own")
    assert [(one.cosine, one.opposite) for one in own.agreements] == [(None, None)]
    start, a, found = (weights(ref) for ref in (base, tuned, own.ref))
    for name in start:
        torch.testing.assert_close(found[name], 0.25 * a[name] + 0.75 * start[name], rtol=0, atol=1e-6)


def test_virtual_tokens_cannot_be_merged(base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path):
    model = load(base)
    add_virtual_tokens(model, new_soft_prompt(model, [5, 6]))
    save_virtual_tokens(model, tmp_path / "soft")
    soft = ModelRef(base.base, (str(tmp_path / "soft"),))
    with pytest.raises(ModelError, match=r"these models cannot be merged: .*virtual tokens"):
        merged([adapted(1), soft], base, recipe("linear"), tmp_path / "own")


def test_the_same_seed_drops_the_same(base: ModelRef, adapted: Callable[..., ModelRef], tmp_path: Path):
    refs = [adapted(1), adapted(2)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    files = [
        Path(merged(refs, base, recipe("dare-ties", seed=seed), tmp_path / name).ref.adapters[-1])
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = ((folder / "adapter_model.safetensors").read_bytes() for folder in files)
    assert a == b != c
    assert json.loads((files[0] / "adapter_config.json").read_text())["r"] == 4
