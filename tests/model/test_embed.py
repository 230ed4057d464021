"""Embedders that read questions and documents each behind words of their own (E5, BGE, Qwen3 and others)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from luthier.model.embed import SentenceEmbedder
from luthier.model.find import find_embedder

TEXTS = ["How long does a card take to arrive?", "A card arrives within five days."]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder") / "own"
    shutil.copytree(find_embedder("minilm-l6", Path()), folder)
    config = folder / "config_sentence_transformers.json"
    about = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    prompts = {"query": "query: ", "document": "passage of a document: "}
    config.write_text(json.dumps({**about, "prompts": prompts}), encoding="utf-8")
    return folder


def test_questions_and_documents_are_read_as_sentence_transformers_reads_them(prompted: Path):
    from sentence_transformers import SentenceTransformer

    own, theirs = SentenceEmbedder("own", prompted, "cpu"), SentenceTransformer(str(prompted), device="cpu")
    ways = {"text": theirs.encode, "query": theirs.encode_query, "document": theirs.encode_document}
    found = {role: own.embed(TEXTS, role) for role in ways}  # type: ignore[arg-type]
    for role, encode in ways.items():
        assert np.allclose(found[role], encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    assert np.allclose(found["query"], own.embed([f"query: {text}" for text in TEXTS]), atol=1e-5)
    assert not np.allclose(found["query"], found["document"], atol=1e-2)
    assert not np.allclose(found["query"], found["text"], atol=1e-2)


def test_the_words_before_a_document_take_room_in_the_window(prompted: Path):
    plain = SentenceEmbedder("minilm-l6", find_embedder("minilm-l6", Path()), "cpu")
    assert SentenceEmbedder("own", prompted, "cpu").window == plain.window - 5  # passage of a document :


def test_without_prompts_of_its_own_all_texts_are_read_alike():
    plain = SentenceEmbedder("minilm-l6", find_embedder("minilm-l6", Path()), "cpu")
    assert np.allclose(plain.embed(TEXTS, "query"), plain.embed(TEXTS, "document"), atol=1e-6)
