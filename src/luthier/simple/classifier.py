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
from luthier.errors import ModelError, RunError
from luthier.model.encoder import load_encoder
from luthier.simple.features import Embedding, Encoded, Features, Hidden, Tfidf
from luthier.simple.head import Head, chosen_labels
from luthier.simple.usage import ENCODER, MODEL, usage
from luthier.types import FOLDER, NAMED, Completion, Decoding, ModelRef, Predictor, Prompt, PromptedModel, Tools

_ABOUT, _TENSORS = "classifier.json", "classifier.safetensors"
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
            features = Encoded.read(about, str(Path(self.heads[task]) / ENCODER))
        else:
            assert self.model is not None, "hidden states are those of a language model"
            features = Hidden.read(about, tensors, self.model)
        return features, Head.read(row, tensors)

    def export(self, folder: Path, tools: Tools) -> Classifier:
        """The head and what its features need: an embedder or an encoder is copied whole, a language model is written
        with its adapters merged.

        Raises:
            RunError: The language model's prompts hold more than the text that is asked about.
        """
        ((task, head),) = self.heads.items()
        for name in (_ABOUT, _TENSORS):
            shutil.copy2(Path(head) / name, folder / name)
        moved = replace(self, heads={task: str(folder)})
        kind = _read(head)[0]["features"]["kind"]
        if kind == "encoder":
            shutil.copytree(Path(head) / ENCODER, folder / ENCODER)
        if self.model is not None:
            return replace(moved, model=_whole_model(self.model, folder / MODEL))
        if kind != "embedding":
            return moved
        shutil.copytree(tools.embedder(self.embedder).folder, folder / "embedder")
        return replace(moved, embedder=str(folder / "embedder"))

    def usage(self) -> str:
        ((_, head),) = self.heads.items()
        return usage(_read(head)[0])


def write_classifier(folder: Path, features: Features, head: Head) -> None:
    """Write features and head into a new folder: JSON, and tensors as safetensors. An encoder is moved there."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(features, Encoded):
        shutil.move(features.folder, folder / ENCODER)
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


def _whole_model(predictor: PromptedModel, folder: Path) -> PromptedModel:
    """The language model written into a folder with its tokenizer, as plain transformers loads it.

    Raises:
        RunError: Its prompts hold more than the text that is asked about, or it cannot be written whole.
    """
    from luthier.model.whole import write_whole

    added = {
        "worked examples": predictor.shots,
        "passages of documents": predictor.retrieval,
        "a template of its own": predictor.wording.template,
    }
    if there := [name for name, own in added.items() if own is not None]:
        raise RunError(
            f"the hidden states are those of prompts with {' and '.join(there)}, which an exported folder cannot put "
            "there. Answer with `luthier predict`, or let the classifier's language model be asked without them."
        )
    try:
        return replace(predictor, model=write_whole(predictor.model, folder))
    except ModelError as error:
        raise RunError(
            f"the language model cannot be exported whole: {error}. Answer with `luthier predict`."
        ) from error
