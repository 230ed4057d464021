"""What stands on the card of an exported classifier: a program of other libraries that gives the same answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ENCODER, MODEL = "encoder", "model"
"""Folders beside the card: an encoder with a head of its own, and the language model whose states are read."""


def usage(row: Mapping[str, Any]) -> str:
    """A program that gives the same answers."""
    kind = row["features"]["kind"]
    lines = _encoder_lines() if kind == "encoder" else _linear_lines(row, kind)
    reading, note = row["features"].get("reading", {}), ""
    if kind == "hidden":
        if reading["earlier"]:
            note = "\n\nThe turns before a text, a system text among them, go into `earlier`; they differ in this task."
    elif reading.get("before") or reading.get("behind"):
        note = (
            "\n\nWhat stands before and behind every text of the task is left out: "
            f"`{json.dumps({k: reading[k] for k in ('before', 'behind')}, ensure_ascii=False)}`."
        )
    return "```python\n" + "\n".join(lines) + f"\n```{note}"


def _encoder_lines() -> list[str]:
    """Of transformers alone."""
    return [
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{ENCODER}")',
        f'model = AutoModelForSequenceClassification.from_pretrained("{ENCODER}").eval()',
        'texts = ["your text"]',
        'inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")',
        "with torch.no_grad():",
        "    probabilities = model(**inputs).logits.softmax(-1)",
        "print(model.config.id2label[int(probabilities[0].argmax())], float(probabilities[0].max()))",
    ]


def _states_lines(features: Mapping[str, Any]) -> list[str]:
    """What a layer of the language model holds of each text, in `features`; of transformers alone."""
    before, behind = features["reading"]["before"], features["reading"]["behind"]
    lines = [
        f'tokenizer = AutoTokenizer.from_pretrained("{MODEL}")',
        f'model = AutoModelForCausalLM.from_pretrained("{MODEL}").eval()',
        f"earlier = {features['earlier']!r}",
        "",
        "def ids(last_turn):",
        '    messages = [*earlier, {"role": "user", "content": last_turn}]',
        "    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)",
        "",
        "rows = []",
        "for text in texts:",
        f"    asked = ids({before!r} + text + {behind!r})",
        "    with torch.no_grad():",
        "        states = model(torch.tensor([asked]), output_hidden_states=True).hidden_states",
        f"    states = states[{features['layer']}][0]",
    ]
    if features["pooling"]:  # 0 for the mean, 1 for the last token
        lines += ["    rows.append(states[-1])"]
    else:  # what every prompt begins with is left out of the mean
        lines += [
            r'    other = ids("\u241f")',
            "    shared = next((i for i, (a, b) in enumerate(zip(asked, other)) if a != b), 0)",
            "    rows.append(states[shared:].mean(0))",
        ]
    return [*lines, 'features = (torch.stack(rows).numpy() - tensors["mean"]) / tensors["scale"]']


def _linear_lines(row: Mapping[str, Any], kind: str) -> list[str]:
    """Of scikit-learn, numpy, and what makes the features."""
    lines = ["import json", "", "import numpy as np"]
    if kind == "hidden":
        lines += ["import torch"]
    lines += ["from safetensors.numpy import load_file"]
    if kind == "tfidf":
        lines += ["from scipy.sparse import hstack", "from sklearn.feature_extraction.text import TfidfVectorizer"]
    elif kind == "hidden":
        lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    else:
        lines += ["from sentence_transformers import SentenceTransformer"]
    lines += [
        "",
        'about = json.load(open("classifier.json", encoding="utf-8"))',
        'tensors = load_file("classifier.safetensors")',
        'texts = ["your text"]',
    ]
    if kind == "tfidf":
        lines += [
            'settings = {"word": ("word", (1, 2)), "character": ("char_wb", (2, 5))}',
            "parts = []",
            'for name, vocabulary in about["features"]["vocabulary"].items():',
            "    analyzer, ngrams = settings[name]",
            "    vectorizer = TfidfVectorizer(",
            "        analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True,",
            "        vocabulary={ngram: number for number, ngram in enumerate(vocabulary)},",
            "    )",
            '    vectorizer.idf_ = tensors[f"idf.{name}"].astype("float64")',
            "    parts.append(vectorizer.transform(texts))",
            "features = hstack(parts).tocsr()",
        ]
    elif kind == "hidden":
        lines += _states_lines(row["features"])
    else:
        lines += ['features = SentenceTransformer("embedder").encode(texts, normalize_embeddings=True)']
    if row["head"] == "means":
        lines += ["from sklearn.preprocessing import normalize", "features = normalize(features)"]
    if row["sparse"]:
        lines += [
            "from scipy.sparse import csr_matrix",
            'weights = csr_matrix(tuple(tensors[f"weights.{part}"] for part in ("data", "indices", "indptr")))',
            "scores = (features @ weights.T).toarray()",
        ]
    else:
        lines += ['scores = features @ tensors["weights"].T + tensors["bias"]']
    if row["head"] == "several":
        lines += [
            "probabilities = 1 / (1 + np.exp(-scores))",
            "least = min(0.5, probabilities[0].max())",
            'print([label for label, p in zip(about["labels"], probabilities[0]) if p >= least], probabilities[0])',
        ]
        return lines
    lines += [
        "probabilities = np.exp(scores - scores.max(1, keepdims=True))",
        "probabilities /= probabilities.sum(1, keepdims=True)",
        'print(about["labels"][probabilities[0].argmax()], probabilities[0].max())',
    ]
    return lines
