"""A classifier: features of a prompt, and a linear head that gives each label a probability."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from luthier.data.labels import join_labels, separator_of
from luthier.errors import RunError
from luthier.model.encoder import load_encoder
from luthier.simple.features import Embedding, Encoded, Features, Hidden, Tfidf
from luthier.simple.head import Head, chosen_labels
from luthier.types import FOLDER, NAMED, Completion, Decoding, ModelRef, Predictor, Prompt, PromptedModel, Tools

_ABOUT, _TENSORS, _ENCODER = "classifier.json", "classifier.safetensors", "encoder"
# Of more labels only the likeliest are written with their probabilities.
_MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Classifier(Predictor):
    """Chooses the likeliest label.

    Attributes:
        heads: Task → the folder of its features and head.
        embedder: What embeds, as the study names it, or the folder of one that was trained; not used by other features.
        model: The language model whose hidden states are the features; None for other features.
        threshold: Below this probability it gives no answer but `otherwise`; None where it always answers.
    """

    kind: ClassVar[str] = "classifier"

    heads: Mapping[str, str] = field(metadata=FOLDER)
    embedder: str = field(metadata=NAMED)
    model: PromptedModel | None = None
    threshold: float | None = None
    otherwise: str = ""

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return () if self.model is None else self.model.models

    def serving(self, task: str, decoding: Decoding, target: str) -> Classifier:
        if task not in self.heads:
            return self
        # Its language model as it was asked this task when the head was fitted.
        model = None if self.model is None else self.model.serving(task, decoding, target)
        return replace(self, heads={task: self.heads[task]}, model=model)

    def declines(self, task: str) -> str:
        return "" if task in self.heads else f"the classifier knows the labels of {', '.join(self.heads)} alone"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        features, head = self._parts(prompts[0].task)
        logs = head.log_probabilities(features.matrix(prompts, tools))
        read = [0] * len(prompts) if self.model is None else tools.prompt_tokens(self.model, prompts)
        advance(len(prompts))
        return [
            self._completion(prompt, head, labels, row, tokens)
            for prompt, row, tokens in zip(prompts, logs, read, strict=True)
        ]

    def _completion(self, prompt: Prompt, head: Head, labels: Sequence[str], logs: Any, tokens: int) -> Completion:
        import numpy as np

        order = np.argsort(-logs, kind="stable")[:_MOST_SHOWN]
        found, confidence = chosen_labels(head, logs)
        kept_back = self.threshold is not None and confidence < self.threshold
        return Completion(
            prompt.id,
            self.otherwise if kept_back else join_labels(found, labels or head.labels, separator_of(labels)),
            prompt.messages,
            tokens,
            0,
            "abstained" if kept_back else "choice",
            label_logprobs={head.labels[i]: float(logs[i]) for i in order},
            confidence=confidence,
        )

    def _parts(self, task: str) -> tuple[Features, Head]:
        row, tensors = _read(self.heads[task])
        about = row["features"]
        features: Features
        if about["kind"] == "tfidf":
            features = _tfidf(self.heads[task])
        elif about["kind"] == "embedding":
            features = Embedding.read(about, self.embedder)
        elif about["kind"] == "encoder":
            features = Encoded.read(about, str(Path(self.heads[task]) / _ENCODER))
        else:
            assert self.model is not None, "hidden states are those of a language model"
            features = Hidden.read(about, tensors, self.model)
        return features, Head.read(row, tensors)

    def export(self, folder: Path, tools: Tools) -> Classifier:
        """The head and what its features need; an embedder or an encoder is copied whole."""
        ((task, head),) = self.heads.items()
        if self.model is not None:
            raise RunError(
                "a classifier on hidden states needs the language model that it was made with, and is not exported "
                "alone. Answer with `luthier predict`, or use features: tfidf or embedding."
            )
        for name in (_ABOUT, _TENSORS):
            shutil.copy2(Path(head) / name, folder / name)
        moved = replace(self, heads={task: str(folder)})
        kind = _read(head)[0]["features"]["kind"]
        if kind == "encoder":
            shutil.copytree(Path(head) / _ENCODER, folder / _ENCODER)
        if kind != "embedding":
            return moved
        shutil.copytree(tools.embedder(self.embedder).folder, folder / "embedder")
        return replace(moved, embedder=str(folder / "embedder"))

    def usage(self) -> str:
        ((_, head),) = self.heads.items()
        return _usage(_read(head)[0])


def write_classifier(folder: Path, features: Features, head: Head) -> None:
    """Write features and head into a new folder: JSON, and tensors as safetensors. An encoder is moved there."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(features, Encoded):
        shutil.move(features.folder, folder / _ENCODER)
        load_encoder.cache_clear()
    about = {**head.described(), "features": features.described()}
    tensors = {**head.tensors(), **features.tensors()}
    plain = {
        name: np.ascontiguousarray(own, np.float32 if np.issubdtype(own.dtype, np.floating) else np.int64)
        for name, own in tensors.items()
    }
    save_file(plain, folder / _TENSORS)
    (folder / _ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    _read.cache_clear()  # the folder may have held another before
    _tfidf.cache_clear()


@lru_cache(maxsize=8)
def _read(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.numpy import load_file

    if not (Path(folder) / _ABOUT).is_file():
        raise RunError(f"{folder} holds no classifier ({_ABOUT} is missing).")
    row: dict[str, Any] = json.loads((Path(folder) / _ABOUT).read_text(encoding="utf-8"))
    return row, load_file(Path(folder) / _TENSORS)


@lru_cache(maxsize=8)
def _tfidf(folder: str) -> Tfidf:
    """Its vocabularies take a while to be set up."""
    row, tensors = _read(folder)
    return Tfidf.read(row["features"], tensors)


def _usage(row: Mapping[str, Any]) -> str:
    """A program that gives the same answers."""
    kind = row["features"]["kind"]
    lines = _encoder_lines() if kind == "encoder" else _linear_lines(row, kind)
    reading, note = row["features"].get("reading", {}), ""
    if reading.get("before") or reading.get("behind"):
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
        f'tokenizer = AutoTokenizer.from_pretrained("{_ENCODER}")',
        f'model = AutoModelForSequenceClassification.from_pretrained("{_ENCODER}").eval()',
        'texts = ["your text"]',
        'inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")',
        "with torch.no_grad():",
        "    probabilities = model(**inputs).logits.softmax(-1)",
        "print(model.config.id2label[int(probabilities[0].argmax())], float(probabilities[0].max()))",
    ]


def _linear_lines(row: Mapping[str, Any], kind: str) -> list[str]:
    """Of scikit-learn, numpy and sentence-transformers."""
    lines = ["import json", "", "import numpy as np", "from safetensors.numpy import load_file"]
    if kind == "tfidf":
        lines += ["from scipy.sparse import hstack", "from sklearn.feature_extraction.text import TfidfVectorizer"]
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
