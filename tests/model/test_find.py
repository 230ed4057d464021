"""From a model's name to its folder, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luthier.errors import ModelError
from luthier.infer.engine import Engine
from luthier.model.device import resolve_device, resolve_precision
from luthier.model.find import find_embedder, find_model
from luthier.model.load import load_config, load_model, load_tokenizer, window_of
from luthier.types import ModelRef


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_folder_is_found_beside_the_study_and_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = folder_of(tmp_path / "study" / "model", "config.json", "model.safetensors")
    other = folder_of(tmp_path / "here" / "other", "config.json", "model.safetensors")
    monkeypatch.chdir(tmp_path / "here")
    assert find_model("model", tmp_path / "study") == model
    assert find_model("other", tmp_path / "study") == other
    assert find_model(str(model), Path()) == model


def test_a_folder_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = folder_of(tmp_path / "models" / "mine", "config.json", "model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/models/mine", Path("elsewhere")) == model
    assert find_embedder("~/models/mine", Path("elsewhere")) == model


def test_nothing_found_lists_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError) as caught:
        find_model("nobody/nothing", tmp_path)
    message = str(caught.value)
    assert message.startswith("model 'nobody/nothing' was not found. Tried:")
    for tried in (
        f"folder {tmp_path / 'nobody/nothing'}: does not exist",
        f"folder {tmp_path / 'here/nobody/nothing'}: does not exist",
        "built-in models: smollm2-135m-instruct",
        "Hugging Face Hub: could not be reached, and the model is not in its local cache",
    ):
        assert tried in message
    with pytest.raises(ModelError, match="not a possible id"):
        find_model("no such/model at/all", tmp_path)
    with pytest.raises(ModelError, match="built-in embedders: minilm-l6"):
        find_embedder("nobody/nothing", tmp_path)


def test_a_file_that_is_no_model_is_not_said_to_be_missing(tmp_path: Path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ModelError, match=r"model.safetensors: a file, and not a \.gguf one"):
        find_model("model.safetensors", tmp_path)


def test_a_folder_that_is_no_model_says_what_is_in_it(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config.json \(found: notes.txt\)"):
        find_model("notes", folder_of(tmp_path / "notes", "notes.txt").parent)
    folder_of(tmp_path / "empty")
    with pytest.raises(ModelError, match=r"found: nothing"):
        find_model("empty", tmp_path)


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path):
    folder_of(tmp_path / "adapter", "adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(ModelError, match="looks like a LoRA adapter; name its base model"):
        find_model("adapter", tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path):
    folder_of(tmp_path / "old", "config.json", "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights \(pytorch_model.bin\).* can run code"):
        find_model("old", tmp_path)
    folder_of(tmp_path / "none", "config.json")
    with pytest.raises(ModelError, match="weights are missing"):
        find_model("none", tmp_path)


def test_a_folder_that_transformers_cannot_read_is_a_model_error(tmp_path: Path):
    broken = folder_of(tmp_path / "broken", "model.safetensors")
    (broken / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    with pytest.raises(ModelError, match=r"config.json cannot be used"):
        load_config(broken)
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(ModelRef(str(broken)), device="cpu", precision="float32")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(broken)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', ""])
def test_a_damaged_tokenizer_is_a_model_error(tiny_model_folder: Path, tmp_path: Path, text: str):
    for file in tiny_model_folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="no tokenizer that transformers can read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("added", [["<tool>"], [f"<extra_{i}>" for i in range(100)]])
def test_a_tokenizer_larger_than_the_embeddings_is_refused_with_both_sizes(
    tiny_model_folder: Path, tmp_path: Path, added: list[str]
):
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    tokenizer = load_tokenizer(tiny_model_folder)
    size = len(tokenizer)
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(tmp_path / "model")
    engine = Engine("cpu", "float32")
    with pytest.raises(ModelError, match=rf"has {size + len(added):,} tokens and the model embeddings for {size:,}"):
        engine.renderer(ModelRef(str(tmp_path / "model")))
    assert engine.renderer(ModelRef(str(tiny_model_folder)))


@pytest.mark.parametrize("settings", [{"hidden_size": 33, "num_attention_heads": 4}, {"hidden_size": "wide"}])
def test_a_contradictory_configuration_is_a_model_error(tiny_model_folder: Path, tmp_path: Path, settings: dict):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **settings}))
    (tmp_path / "model.safetensors").write_bytes((tiny_model_folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"config.json cannot be used: .*hidden"):
        load_config(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(ModelRef(str(tmp_path)), device="cpu", precision="float32")


def test_weights_of_other_sizes_are_a_model_error(tiny_model_folder: Path, tmp_path: Path):
    config = json.loads((tiny_model_folder / "config.json").read_text()) | {"intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny_model_folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(ModelRef(str(tmp_path)), device="cpu", precision="float32")


def test_weights_that_are_damaged_are_a_model_error(tiny_model_folder: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(ModelRef(str(broken)), device="cpu", precision="float32")


def test_a_model_with_weights_missing_is_refused_rather_than_made_up(tiny_model_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    partial = tmp_path / "partial"
    shutil.copytree(tiny_model_folder, partial)
    weights = load_file(partial / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for 1 parts of the model \(model.layers.1.mlp.up_proj.weight\)"):
        load_model(ModelRef(str(partial)), device="cpu", precision="float32")


def test_the_window_is_that_of_the_configuration(tiny_model_folder: Path):
    assert window_of(load_config(tiny_model_folder)) == 512
    assert window_of(object()) > 1_000_000


def test_a_device_that_is_not_there_names_those_that_are():
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("auto", "cpu") in ("bfloat16", "float32")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"'cuda' is not available .* \(available: cpu"):
            resolve_device("cuda")
