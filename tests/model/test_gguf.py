"""Converting GGUF files: a tiny one written here, and the built-in model against an independent reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from luthier.errors import ModelError
from luthier.evaluate.forgetting import general_text
from luthier.infer.engine import Engine
from luthier.model.find import BUILT_IN_MODELS, _in_package, find_model
from luthier.model.gguf import convert_gguf
from luthier.model.load import load_config, load_model, load_tokenizer
from luthier.types import Decoding, Message, ModelRef, Prompt, PromptedModel

TOKENS = ["<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", "ab", "Ġa"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k as llama.cpp keeps them: each head's two halves interleaved (its `permute`)."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    ).eval()


def write_gguf(path: Path, model: Any, *, without: str = "") -> Path:
    """The model as llama.cpp would write it, in float32; perhaps without one kind of weight."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}")
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        part = name.removeprefix("model.").removesuffix(".weight")
        if part.startswith("layers.0."):
            kind = NAMES[part.removeprefix("layers.0.")]
            if kind in ("attn_q", "attn_k"):
                weight = permuted(weight, 4 if kind == "attn_q" else 2)
            if kind == without:
                continue
            writer.add_tensor(f"blk.0.{kind}.weight", weight)
        elif part in ("embed_tokens", "norm"):
            writer.add_tensor({"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part], weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


def test_a_converted_model_computes_what_the_original_did(tiny_gguf: Path, tmp_path: Path):
    folder = convert_gguf(tiny_gguf, tmp_path)
    converted = load_model(ModelRef(str(folder)), device="cpu", precision="float32")
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, tiny_llama()(ids).logits, rtol=0, atol=1e-5)
    assert converted.get_output_embeddings().weight is converted.get_input_embeddings().weight
    assert load_config(folder).max_position_embeddings == 128


def test_the_tokenizer_comes_with_the_file(tiny_gguf: Path, tmp_path: Path):
    tokenizer = load_tokenizer(convert_gguf(tiny_gguf, tmp_path))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab a", add_special_tokens=False)["input_ids"]) == ["ab", "Ġa"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab</s>"


def test_a_file_is_converted_once(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    folder = find_model(str(tiny_gguf), Path())
    assert folder.parent == tmp_path / "cache" / "models"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert find_model("tiny.gguf", tiny_gguf.parent) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_file_of_the_same_name_is_converted_anew(tiny_gguf: Path, tmp_path: Path):
    other = tiny_llama()
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    (tmp_path / "other").mkdir()
    write_gguf(tmp_path / "other" / "tiny.gguf", other)
    first = convert_gguf(tiny_gguf, tmp_path / "cache")
    assert convert_gguf(tmp_path / "other" / "tiny.gguf", tmp_path / "cache") != first


@pytest.mark.parametrize("damage", ["empty", "not gguf", "header only", "cut in metadata", "cut in tensors", "noise"])
def test_a_damaged_file_is_a_model_error_and_leaves_nothing_behind(tiny_gguf: Path, tmp_path: Path, damage: str):
    whole = tiny_gguf.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(whole) - 24, dtype=np.uint8).tobytes()
    (tmp_path / "bad.gguf").write_bytes(
        {
            "empty": b"",
            "not gguf": b"This is no model." * 100,
            "header only": whole[:24],
            "cut in metadata": whole[:600],
            "cut in tensors": whole[: len(whole) * 3 // 4],
            "noise": whole[:24] + noise,
        }[damage]
    )
    with pytest.raises(ModelError, match=r"bad.gguf cannot be read as a GGUF model: "):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_weights_that_are_not_in_the_file_are_not_made_up(tmp_path: Path):
    file = write_gguf(tmp_path / "partial.gguf", tiny_llama(), without="ffn_up")
    with pytest.raises(ModelError, match=r"no weights for 1 parts of the model \(model.layers.0.mlp.up_proj.weight\)"):
        convert_gguf(file, tmp_path / "cache")


def test_a_full_disk_is_said_before_converting(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(ModelError, match="set LUTHIER_CACHE to a folder on another disk"):
        convert_gguf(tiny_gguf, tmp_path)


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """The built-in model's GGUF tensors as stored, by name."""
    file = _in_package("smollm2-135m-instruct", BUILT_IN_MODELS, "model")
    assert file is not None
    return {tensor.name: tensor for tensor in gguf.GGUFReader(os.fspath(file)).tensors}


def test_the_built_in_model_s_weights_are_the_file_s(stored: dict[str, Any], real_model_folder: Path):
    from safetensors import safe_open

    def expected(name: str) -> np.ndarray:
        return np.asarray(gguf.dequantize(stored[name].data, stored[name].tensor_type), dtype=np.float32)

    with safe_open(real_model_folder / "model.safetensors", "np") as weights:
        for layer in (0, 17, 29):
            for part, kind in NAMES.items():
                want = expected(f"blk.{layer}.{kind}.weight")
                if kind in ("attn_q", "attn_k"):
                    want = unpermuted(want, 9 if kind == "attn_q" else 3)
                got = weights.get_tensor(f"model.layers.{layer}.{part}.weight")
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=part)
        np.testing.assert_allclose(weights.get_tensor("model.norm.weight"), expected("output_norm.weight"))
        got = weights.get_tensor("model.embed_tokens.weight")
        np.testing.assert_allclose(got, expected("token_embd.weight"), rtol=0, atol=1e-6)
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 (safe_open is no mapping)
    assert "output.weight" not in stored


def test_the_built_in_model_s_settings_are_smollm2_s(real_model_folder: Path, tokenizer: Any):
    config = load_config(real_model_folder)
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert config.max_position_embeddings == 8192
    assert config.tie_word_embeddings
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (config.bos_token_id, config.eos_token_id) == (1, 2)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_built_in_model_knows_english_and_the_capital_of_france(real_model_folder: Path):
    engine = Engine("cpu", "float32")
    ref = ModelRef(str(real_model_folder))
    losses = [-own.nats / own.tokens for own in engine.text_logprobs(ref, [t[:400] for t in general_text()[:4]])]
    assert sum(losses) / len(losses) < 4.0  # a perplexity of 55 on short beginnings; wrong weights give thousands
    question = "What is the capital of France?"
    prompt = Prompt("q", "t", (Message("user", question),), {}, "f")
    (answer,) = engine.answer(PromptedModel(ref, Decoding("generate", max_new_tokens=12)), [prompt])
    assert "Paris" in answer.text
