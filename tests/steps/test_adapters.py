"""Every kind of adapter: what it trains, that it agrees with PEFT used directly, and that it comes back as saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from luthier.errors import ModelError
from luthier.infer.engine import Engine
from luthier.model.adapter import peft_config
from luthier.model.load import load_model
from luthier.model.part import names_of_last_layers
from luthier.model.virtual import virtual_ids
from luthier.settings import closed
from luthier.steps import SftStep
from luthier.steps.adapters import Adapter, AnyAdapter
from luthier.train.forward import Forward
from luthier.tree.build import build_tree
from luthier.tree.logprobs import base_of, tree_logprobs
from luthier.types import Decoding, Message, ModelRef, Predictor, Prompt

SEQUENCES = [(5, 6, 7, 8, 9, 10), (5, 6, 7, 8, 11), (5, 6, 12, 13), (20, 21, 22)]
WEIGHTS = [[0.0] + [1.0] * (len(ids) - 1) for ids in SEQUENCES]

KINDS: list[Any] = [
    "lora",
    "rslora",
    "dora",
    "pissa",
    "loraplus",
    {"kind": "lora", "layers": [1], "rank": 4},
    "ia3",
    {"kind": "prompt-tuning", "tokens": 3},
    {"kind": "prefix-tuning", "tokens": 3},
    {"kind": "last-layers", "count": 1},
    "head",
    "biases-and-norms",
    {"kind": "peft", "type": "loha", "settings": {"r": 4}},
    {"kind": "peft", "type": "vera", "settings": {"r": 4}},
    {"kind": "peft", "type": "LN_TUNING"},
    "none",
]


def named(adapter: Any) -> str:
    return adapter if isinstance(adapter, str) else "-".join(str(v) for v in adapter.values() if isinstance(v, str))


def made(adapter: Any) -> Adapter:
    return TypeAdapter(AnyAdapter).validate_python(adapter)


def attached(model: Any, adapter: Any) -> Any:
    return made(adapter).attach(model, 0, lambda text: [7, 8, 9])


def moved(model: Any) -> Any:
    """Every trained weight moved by hand, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def sequences_of(model: Any) -> list[tuple[int, ...]]:
    tokens = getattr(base_of(model), "virtual_tokens", None)
    return [virtual_ids(0 if tokens is None else len(tokens)) + ids for ids in SEQUENCES]


def logprobs(model: Any) -> torch.Tensor:
    """Of all tokens but the first of each sequence, one sequence after the other."""
    own = sequences_of(model)
    weights = [[0.0] * (len(ids) - len(w)) + w for ids, w in zip(own, WEIGHTS, strict=True)]
    tree = build_tree(own, weights)
    found = tree_logprobs(model, tree)
    return torch.cat([found[torch.from_numpy(path.targets)] for path in tree.paths])


def logprobs_alone(model: Any) -> torch.Tensor:
    """The same by plain forward passes, as PEFT and transformers make them."""
    found = []
    for ids in SEQUENCES:
        scores = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :].log_softmax(-1)
        found.append(scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])
    return torch.cat(found)


def is_virtual(adapter: Any) -> bool:
    return made(adapter).virtual_tokens > 0


@pytest.mark.parametrize("adapter", [k for k in KINDS if not is_virtual(k)], ids=named)
def test_on_a_tree_values_and_gradients_are_those_of_plain_forwards(make_tiny: Callable[..., Any], adapter: Any):
    ours, plain = moved(attached(make_tiny(), adapter)), moved(attached(make_tiny(), adapter))
    with Forward(ours, "float32"):
        found = logprobs(ours)
        found.sum().backward()
    wanted = logprobs_alone(plain)
    wanted.sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    trained = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert (parameter.grad - trained[name].grad).norm() <= 1e-4 * trained[name].grad.norm(), name


@pytest.mark.parametrize("adapter", ["lora", "rslora", "dora", "pissa", "ia3"], ids=named)
def test_it_is_the_adapter_that_peft_makes(make_tiny: Callable[..., Any], adapter: str):
    import peft

    options: Mapping[str, Mapping[str, Any]] = {
        "lora": {"lora_alpha": 32},
        "rslora": {"lora_alpha": 16, "use_rslora": True},
        "dora": {"lora_alpha": 32, "use_dora": True},
        "pissa": {"lora_alpha": 32, "init_lora_weights": "pissa_niter_16"},
    }
    config: Any = peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM", **options.get(adapter, {}))
    if adapter == "ia3":
        config = peft.IA3Config(task_type="CAUSAL_LM")  # PEFT knows where it goes in a Llama
    plain = make_tiny()
    torch.manual_seed(0)
    theirs = peft.get_peft_model(plain, config)
    ours = attached(make_tiny(), adapter)
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert trained.keys() == {name for name, p in ours.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(theirs.named_parameters())[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(logprobs(moved(ours)), logprobs_alone(moved(theirs)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "mistral"])
@pytest.mark.parametrize("kind", ["prompt-tuning", "prefix-tuning"])
def test_virtual_tokens_are_those_of_peft(make_tiny: Callable[..., Any], kind: str, family: str, tmp_path: Path):
    from peft import PeftConfig, get_peft_model
    from safetensors.torch import load_file

    ours = moved(attached(make_tiny(family), {"kind": kind, "tokens": 3}))
    made(kind).save(ours, None, tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path))
    config.inference_mode = False
    theirs = get_peft_model(make_tiny(family), config).eval()
    with torch.no_grad():
        saved = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
        theirs.prompt_encoder["default"].embedding.weight.copy_(saved)
    found, wanted = logprobs(ours), logprobs_alone(theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    wanted.sum().backward()
    gradient = ours.virtual_tokens.embedding.weight.grad
    assert gradient.norm() > 0
    torch.testing.assert_close(gradient, theirs.prompt_encoder["default"].embedding.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["prompt-tuning", "prefix-tuning"])
def test_virtual_tokens_begin_as_real_ones(make_tiny: Callable[..., Any], kind: str):
    """Before training they do what their tokens do when they stand there."""
    model, plain = attached(make_tiny(), {"kind": kind, "tokens": 3, "text": "any"}), make_tiny()
    tree = build_tree([(7, 8, 9, *ids) for ids in SEQUENCES], [[0.0] * 3 + own for own in WEIGHTS])
    found = tree_logprobs(plain, tree)
    wanted = torch.cat([found[torch.from_numpy(path.targets)] for path in tree.paths])
    torch.testing.assert_close(logprobs(model), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", KINDS, ids=named)
def test_what_is_saved_comes_back(
    load_tiny: Callable[..., Any], tiny_model_folder: Path, tmp_path: Path, adapter: Any, precision: str
):
    own = made(adapter)
    start = ModelRef(str(tiny_model_folder))
    model = moved(own.attach(own.load(start, "cpu", precision), 0, lambda text: [7, 8, 9])).eval()
    with Forward(model, precision), torch.no_grad(), torch.autocast("cpu", enabled=precision == "bfloat16"):
        trained = logprobs(model)
    tokenizer = Engine("cpu", precision).renderer(start).tokenizer
    own.save(model, tokenizer, tmp_path / own.saved_as)
    folder = str(tmp_path / own.saved_as)
    ref = ModelRef(folder) if own.full else ModelRef(start.base, (folder,))
    with torch.no_grad():
        found = logprobs(load_model(ref, device="cpu", precision=precision))
    # In bfloat16 the update is rounded with the weights when it is merged.
    tolerance = 1e-4 if precision == "float32" else 0.4
    torch.testing.assert_close(found, trained, rtol=0, atol=tolerance)
    assert (trained - logprobs(load_tiny())).abs().max() > 1e-2


@pytest.mark.parametrize("adapter", KINDS, ids=named)
def test_each_learns_the_tiny_task(adapter: Any, tiny_model_folder: Path, context: Any, rows: list[Any]):
    base = Predictor(ModelRef(str(tiny_model_folder)), Decoding("choose"))
    step = SftStep(adapter=adapter, epochs=3, learning_rate=2e-2, batch_size=4, evaluations=1)
    outcome = step.fit(base, context)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert min(losses[-3:]) < losses[0]
    assert 0 < outcome.trainable_share <= 1
    validated = context.engine.reference_logprobs(outcome.predictor, context.task.validation)
    loss = -sum(one.nats for one in validated) / sum(one.tokens for one in validated)
    assert loss == pytest.approx(rows[-1]["validation/loss"], abs=2e-3)


@pytest.mark.parametrize("kind", ["prompt-tuning", "prefix-tuning"])
def test_answers_behind_virtual_tokens_do_not_depend_on_what_is_answered_beside(
    kind: str, tiny_model_folder: Path, load_tiny: Callable[..., Any], tmp_path: Path
):
    from peft import PeftModel

    own = made({"kind": kind, "tokens": 20})
    own.save(moved(attached(load_tiny(), {"kind": kind, "tokens": 20})), None, tmp_path / "adapter")
    predictor = Predictor(ModelRef(str(tiny_model_folder), (str(tmp_path / "adapter"),)), Decoding(max_new_tokens=6))
    engine = Engine("cpu", "float32")
    prompts = [Prompt(str(i), "t", (Message("user", f"What is {i}?"),), {}, str(i)) for i in range(5)]
    together = [answer.text for answer in engine.answer(predictor, prompts)]
    assert together == [engine.answer(predictor, [prompt])[0].text for prompt in prompts]
    theirs = PeftModel.from_pretrained(load_tiny(), str(tmp_path / "adapter")).eval()
    renderer = engine.renderer(predictor.model)
    assert renderer.before == virtual_ids(20)
    for prompt, text in zip(prompts, together, strict=True):
        ids = renderer.prompt(prompt, predictor.wording, (), 0).ids[20:]
        out = theirs.generate(input_ids=torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
        assert renderer.tokenizer.decode(out, skip_special_tokens=True).startswith(text)


def test_an_adapter_can_stand_on_virtual_tokens(tiny_model_folder: Path, context: Any, tmp_path: Path):
    from dataclasses import replace

    predictor = Predictor(ModelRef(str(tiny_model_folder)), Decoding("choose"))
    folders = []
    for adapter in ({"kind": "prompt-tuning", "tokens": 3}, "lora", {"kind": "last-layers", "count": 1}, "none"):
        folder = tmp_path / named(adapter)
        step = SftStep(adapter=adapter, epochs=1, evaluations=1)
        predictor = step.fit(predictor, replace(context, folder=folder)).predictor
        folders.append(str(folder / step.trained.saved_as))
    assert predictor.model == ModelRef(folders[3], (folders[0],))
    again = SftStep(adapter="prefix-tuning", epochs=1, evaluations=1)
    with pytest.raises(ModelError, match="virtual tokens already"):
        again.fit(predictor, replace(context, folder=tmp_path / "again"))


def test_loraplus_trains_b_faster(load_tiny: Callable[..., Any]):
    adapter = made({"kind": "loraplus", "rate_ratio": 4})
    rates = {name.split(".")[-3]: adapter.rate(name) for name, _ in attached(load_tiny(), "lora").named_parameters()}
    assert (rates["lora_A"], rates["lora_B"]) == (1.0, 4.0)


def test_names_and_settings_of_adapters():
    assert made("dora") == made({"kind": "lora", "dora": True})
    assert made({"kind": "qlora", "rank": 4}) == made({"kind": "lora", "rank": 4, "bits": 4})
    assert made("rslora").described()["alpha"] == 16.0
    opened = SftStep(
        adapter={"choose": ["none", {"kind": "lora", "rank": {"choose": [2, 4]}}]}, epochs={"choose": [1, 2]}
    )
    steps = list(closed(opened))
    assert len(steps) == 6
    assert {step.model_dump_json(exclude_unset=True) for step in steps} == {
        step.model_dump_json(exclude_unset=True)
        for step in (SftStep.model_validate(step.model_dump(exclude_unset=True)) for step in steps)
    }
    for refused in ({"kind": "pissa", "dora": True}, {"kind": "pissa", "bits": 4}, {"kind": "lora", "tokens": 3}):
        with pytest.raises(ValidationError):
            made(refused)


@pytest.mark.parametrize(
    ("type_", "settings", "said"),
    [
        ("lohaha", {}, "PEFT has no adapter of type 'lohaha'"),
        ("AdaLora", {}, "changes its ranks between the steps"),
        ("p-tuning", {}, "use adapter: prompt-tuning"),
        ("loha", {"rang": 4}, "PEFT's LOHA knows no rang"),
        ("oft", {"r": 4, "oft_block_size": 4}, "PEFT refuses these settings of OFT"),
    ],
)
def test_adapters_of_peft_are_checked_before_anything_runs(
    type_: str, settings: dict[str, Any], said: str, context: Any
):
    step = SftStep(adapter={"kind": "peft", "type": type_, "settings": settings})
    (problem,) = step.check(context.task)
    assert said in problem
    with pytest.raises(ModelError):
        peft_config(type_, settings)


def test_qlora_says_where_it_runs(tiny_model_folder: Path, context: Any):
    base = Predictor(ModelRef(str(tiny_model_folder)), Decoding("choose"))
    with pytest.raises(ModelError, match="needs a CUDA GPU; this runs on cpu"):
        SftStep(adapter="qlora").fit(base, context)


def test_more_layers_than_there_are(load_tiny: Callable[..., Any]):
    with pytest.raises(ModelError, match="the last 9 layers are to be trained, and the model has 2"):
        attached(load_tiny(), {"kind": "last-layers", "count": 9})
    with pytest.raises(ModelError, match="does not fit this model"):
        attached(load_tiny(), {"kind": "lora", "targets": ["query"]})
    with pytest.raises(ModelError, match="layers: 9: this model has the layers 0 to 1"):
        attached(load_tiny(), {"kind": "lora", "layers": [1, 9]})
    with pytest.raises(ValidationError, match="layers"):
        made({"kind": "lora", "layers": []})


def test_the_last_layers_are_found_in_families_that_name_them_otherwise():
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, OPTConfig

    small = {"vocab_size": 50, "num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 8}
    configs = {
        "h.2.": (GPT2Config(vocab_size=50, n_embd=8, n_head=2, n_layer=3), "ln_f"),
        "layers.2.": (GPTNeoXConfig(**small, intermediate_size=16), "final_layer_norm"),
        "decoder.layers.2.": (OPTConfig(**small, ffn_dim=16, word_embed_proj_dim=8), "decoder.final_layer_norm"),
    }
    for layer, (config, norm) in configs.items():
        names = names_of_last_layers(AutoModelForCausalLM.from_config(config), 1)
        assert all(layer in name or norm in name for name in names), names
        assert any(layer in name for name in names)
        assert any(norm in name and "layers." not in name for name in names), names
