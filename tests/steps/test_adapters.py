"""Every kind of adapter: what it trains, that it agrees with PEFT used directly, and that it comes back as saved."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from luthier.train.optimizer import build_optimizer
from luthier.tree.build import build_tree
from luthier.tree.logprobs import base_of, tree_logprobs
from luthier.types import Decoding, Message, ModelRef, Prompt, PromptedModel

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
        scores = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :].float().log_softmax(-1)
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


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# What is trained by adapters of PEFT's, and how PEFT is asked for the same directly.
IN_PEFT: list[tuple[Any, str, dict[str, Any]]] = [
    ("lora", "LoraConfig", {"r": 16, "lora_alpha": 32}),
    ("rslora", "LoraConfig", {"r": 16, "lora_alpha": 16, "use_rslora": True}),
    ("dora", "LoraConfig", {"r": 16, "lora_alpha": 32, "use_dora": True}),
    ("pissa", "LoraConfig", {"r": 16, "lora_alpha": 32, "init_lora_weights": "pissa_niter_16"}),
    ("loraplus", "LoraConfig", {"r": 16, "lora_alpha": 32}),
    (
        {"kind": "lora", "layers": [1], "rank": 4},
        "LoraConfig",
        {"r": 4, "lora_alpha": 8, "layers_to_transform": [1], "target_modules": LINEAR},
    ),
    ("ia3", "IA3Config", {}),  # PEFT knows where it goes in a Llama
    ({"kind": "peft", "type": "loha", "settings": {"r": 4}}, "LoHaConfig", {"r": 4}),
    ({"kind": "peft", "type": "vera", "settings": {"r": 4}}, "VeraConfig", {"r": 4}),
    ({"kind": "peft", "type": "LN_TUNING"}, "LNTuningConfig", {}),  # nor does it go on linear layers
]


def peft_directly(make_tiny: Callable[..., Any], config: str, settings: Mapping[str, Any]) -> Any:
    import peft

    targets = {} if config in ("IA3Config", "LNTuningConfig") else {"target_modules": "all-linear"}
    own = getattr(peft, config)(task_type="CAUSAL_LM", **{**targets, **settings})
    plain = make_tiny()
    torch.manual_seed(0)
    return peft.get_peft_model(plain, own)


@pytest.mark.parametrize(("adapter", "config", "settings"), IN_PEFT, ids=[named(own[0]) for own in IN_PEFT])
def test_it_is_the_adapter_that_peft_makes(
    make_tiny: Callable[..., Any], adapter: Any, config: str, settings: dict[str, Any]
):
    """The same weights are trained, from the same start; with the same values in them, outputs and gradients agree."""
    theirs, ours = peft_directly(make_tiny, config, settings), attached(make_tiny(), adapter)
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert trained.keys() == {name for name, p in ours.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(theirs.named_parameters())[name], rtol=0, atol=1e-6)
    with Forward(moved(ours), "float32"):
        found = logprobs(ours)
        found.sum().backward()
    wanted = logprobs_alone(moved(theirs))
    wanted.sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    own = dict(ours.named_parameters())
    for name, parameter in trained.items():
        assert parameter.grad.norm() > 0, name
        assert (own[name].grad - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


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
    change, off = (trained - logprobs(load_tiny())).abs(), (found - trained).abs()
    assert change.max() > 1e-2
    if precision == "float32":
        assert off.max() <= 1e-4
    else:  # merged in float32 and then rounded with the weights: each rounds otherwise than a sum of two parts does
        assert off.mean() <= min(0.03, change.mean() / 3)
        assert off.max() <= 0.25


@pytest.mark.parametrize("adapter", KINDS, ids=named)
def test_each_learns_the_tiny_task(adapter: Any, tiny_model_folder: Path, context: Any, rows: list[Any]):
    base = PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))
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
    predictor = PromptedModel(
        ModelRef(str(tiny_model_folder), (str(tmp_path / "adapter"),)), Decoding(max_new_tokens=6)
    )
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
    predictor = PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))
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


def test_loraplus_has_the_learning_rates_that_peft_gives(make_tiny: Callable[..., Any]):
    from peft.optimizers import create_loraplus_optimizer

    adapter = made({"kind": "loraplus", "rate_ratio": 4})
    theirs, ours = peft_directly(make_tiny, "LoraConfig", {"r": 16, "lora_alpha": 32}), attached(make_tiny(), adapter)
    trained = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    optimizer, _ = build_optimizer(trained, 1e-3, SftStep(warmup=0.0, weight_decay=0.0), 10, adapter.rate)
    wanted = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=4)

    def rates(own: Any, model: Any) -> dict[str, float]:
        names = {id(p): name for name, p in model.named_parameters()}
        return {names[id(p)]: group["lr"] for group in own.param_groups for p in group["params"]}

    found = rates(optimizer, ours)
    assert found == pytest.approx(rates(wanted, theirs))
    assert {name.split(".")[-3]: rate for name, rate in found.items()} == pytest.approx(
        {"lora_A": 1e-3, "lora_B": 4e-3}
    )


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


def test_qlora_says_where_it_runs(tiny_model_folder: Path, context: Any, monkeypatch: pytest.MonkeyPatch):
    assert "runs on CUDA GPUs and on the CPU; this is mps" in made("qlora").problem_on("mps")
    base = PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package bitsandbytes; .* pip install 'luthier\[qlora\]'"):
        SftStep(adapter="qlora").fit(base, context)


def in_bits(bits: int, folder: Path) -> Any:
    """The tiny model as bitsandbytes keeps it, by transformers used directly."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    config = BitsAndBytesConfig(load_in_4bit=True, **four) if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config).eval()
    for module in model.modules():  # another format for answering alone, which some CPUs get
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_is_peft_s_lora_on_the_model_in_few_bits(tiny_model_folder: Path, tmp_path: Path, bits: int):
    import peft

    own = made({"kind": "lora", "bits": bits})
    ref = ModelRef(str(tiny_model_folder))
    ours = moved(own.attach(own.load(ref, "cpu", "bfloat16"), 0, lambda text: []))
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    packed = in_bits(bits, tiny_model_folder)
    torch.manual_seed(0)
    theirs = moved(peft.get_peft_model(packed, config))
    with Forward(ours, "bfloat16"), torch.autocast("cpu"):
        found = logprobs(ours)
        found.sum().backward()
    with torch.autocast("cpu"):
        wanted = logprobs_alone(theirs)
        wanted.sum().backward()
    assert (found - wanted).abs().mean() <= 0.03  # sums are rounded to bfloat16 in another order
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert torch.cosine_similarity(parameter.grad.flatten(), gradients[name].flatten(), dim=0) > 0.99, name
    # What is saved is used with the weights as they were: off by what their rounding to a few bits did.
    own.save(ours, None, tmp_path / "adapter")
    plain = peft.get_peft_model(load_model(ref, device="cpu", precision="float32"), config)
    plain.load_state_dict({name: p for name, p in ours.state_dict().items() if "lora_" in name}, strict=False)
    merged = load_model(ModelRef(ref.base, (str(tmp_path / "adapter"),)), device="cpu", precision="float32")
    with torch.no_grad():
        torch.testing.assert_close(logprobs(merged), logprobs_alone(plain), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_learns_the_tiny_task(bits: int, tiny_model_folder: Path, context: Any, rows: list[Any]):
    base = PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))
    plain, packed = (
        SftStep(adapter={"kind": "lora", "bits": own}, epochs=3, learning_rate=2e-2, batch_size=4, evaluations=1)
        for own in (None, bits)
    )
    share = plain.fit(base, replace(context, folder=context.folder / "plain")).trainable_share
    rows.clear()
    outcome = packed.fit(base, replace(context, folder=context.folder / "packed"))
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert min(losses[-3:]) < losses[0]
    assert outcome.trainable_share == pytest.approx(share)  # of the numbers, not of the bytes that hold them


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
