"""Features of prompts for a classifier: TF-IDF of words and characters, sentence embeddings, the scores of an encoder
that was trained on the labels, hidden states of a language model. Each kind is fitted on training prompts, writes
itself as JSON and tensors, and reads itself back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from luthier.model.encoder import load_encoder
from luthier.prompt.similar import Reading, whole_prompts
from luthier.prompt.wording import worded
from luthier.types import Message, Prompt, PromptedModel, Tools

if TYPE_CHECKING:
    import numpy as np

# Most n-grams of each kind that are kept, the most frequent ones.
MOST_NGRAMS = 50_000
_TFIDF: Mapping[str, Mapping[str, Any]] = {
    "word": {"analyzer": "word", "ngram_range": (1, 2)},
    "character": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
# Texts that are turned into features at a time.
_TOGETHER = 10_000


class Features(Protocol):
    """What a classifier sees of prompts."""

    def matrix(self, prompts: Sequence[Prompt], tools: Tools) -> Any:
        """A row for each prompt, dense or sparse. (P, F)"""
        ...

    def described(self) -> dict[str, Any]:
        """All but tensors, as JSON."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """What is numbers."""
        ...


@dataclass(frozen=True)
class Tfidf:
    """Term frequencies, in logarithms, times inverse document frequencies of words and pairs of words, and of runs of
    two to five characters within words; each kind scaled to unit length (scikit-learn's TfidfVectorizer)."""

    reading: Reading
    vectorizers: Mapping[str, Any]

    @classmethod
    def fitted(cls, reading: Reading, prompts: Sequence[Prompt]) -> Tfidf:
        texts = [reading.text(prompt) for prompt in prompts]
        vectorizers = {}
        for name, settings in _TFIDF.items():
            vectorizer = _vectorizer(settings)
            try:
                vectorizers[name] = vectorizer.fit(texts)
            except ValueError:  # no text has a word of two letters
                continue
        return cls(reading, vectorizers)

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Tfidf:
        vectorizers = {}
        for name, vocabulary in row["vocabulary"].items():
            vectorizer = _vectorizer(
                _TFIDF[name], vocabulary=dict(zip(vocabulary, range(len(vocabulary)), strict=True))
            )
            vectorizer.idf_ = tensors[f"idf.{name}"].astype("float64")
            vectorizers[name] = vectorizer
        return cls(Reading(**row["reading"]), vectorizers)

    def matrix(self, prompts: Sequence[Prompt], tools: Tools) -> Any:
        from scipy.sparse import csr_matrix, hstack

        texts = [self.reading.text(prompt) for prompt in prompts]
        if not self.vectorizers:
            return csr_matrix((len(texts), 1))
        return hstack([own.transform(texts) for own in self.vectorizers.values()]).tocsr()

    def described(self) -> dict[str, Any]:
        vocabulary = {name: [str(own) for own in v.get_feature_names_out()] for name, v in self.vectorizers.items()}
        return {"kind": "tfidf", "reading": _plain(self.reading), "vocabulary": vocabulary}

    def tensors(self) -> dict[str, np.ndarray]:
        return {f"idf.{name}": own.idf_ for name, own in self.vectorizers.items()}


def _vectorizer(settings: Mapping[str, Any], **more: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    most = {} if "vocabulary" in more else {"max_features": MOST_NGRAMS}
    return TfidfVectorizer(sublinear_tf=True, **settings, **most, **more)


@dataclass(frozen=True)
class Embedding:
    """Unit-length vectors of a sentence embedder."""

    reading: Reading
    embedder: str

    @classmethod
    def read(cls, row: Mapping[str, Any], embedder: str) -> Embedding:
        return cls(Reading(**row["reading"]), embedder)

    def matrix(self, prompts: Sequence[Prompt], tools: Tools) -> Any:
        import numpy as np

        texts = [self.reading.text(prompt) for prompt in prompts]
        own = tools.embedder(self.embedder)
        starts = range(0, len(texts), _TOGETHER)
        return np.concatenate([own.embed(texts[start : start + _TOGETHER]) for start in starts])

    def described(self) -> dict[str, Any]:
        return {"kind": "embedding", "reading": _plain(self.reading)}

    def tensors(self) -> dict[str, np.ndarray]:
        return {}


@dataclass(frozen=True)
class Encoded:
    """The scores that an encoder, trained with a head of its own, gives each label."""

    reading: Reading
    folder: str

    @classmethod
    def read(cls, row: Mapping[str, Any], folder: str) -> Encoded:
        return cls(Reading(**row["reading"]), folder)

    def matrix(self, prompts: Sequence[Prompt], tools: Tools) -> Any:
        device = getattr(tools, "device", "cpu")  # the engine's
        return load_encoder(self.folder, device).scores([self.reading.text(prompt) for prompt in prompts])

    def described(self) -> dict[str, Any]:
        return {"kind": "encoder", "reading": _plain(self.reading)}

    def tensors(self) -> dict[str, np.ndarray]:
        return {}


@dataclass(frozen=True)
class Hidden:
    """What a layer of a language model holds of its own prompts, each feature scaled to mean 0 and deviation 1 over the
    training prompts.

    Attributes:
        reading: What all training prompts share at the ends of their last turn, and whether turns before it differ. The
            model reads all of it; it is kept so that a card can say how a text is put.
        earlier: The turns before the last one, where they are the same in all training prompts.
    """

    model: PromptedModel
    layer: int
    pooling: int
    mean: np.ndarray
    scale: np.ndarray
    reading: Reading
    earlier: tuple[Message, ...]

    @classmethod
    def fitted(
        cls, model: PromptedModel, layer: int, pooling: int, states: np.ndarray, prompts: Sequence[Prompt]
    ) -> Hidden:
        """Args:
        states: Of the training prompts. (N, H)
        """
        scale = states.std(0)
        scale[scale == 0] = 1
        sent = [replace(own, messages=worded(own, replace(model.wording, template=None))) for own in prompts]
        reading = whole_prompts(sent)
        earlier = () if reading.earlier else sent[0].messages[:-1]
        return cls(model, layer, pooling, states.mean(0), scale, reading, earlier)

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Mapping[str, np.ndarray], model: PromptedModel) -> Hidden:
        earlier = tuple(Message(**own) for own in row["earlier"])
        reading = Reading(**row["reading"])
        return cls(model, row["layer"], row["pooling"], tensors["mean"], tensors["scale"], reading, earlier)

    def matrix(self, prompts: Sequence[Prompt], tools: Tools) -> Any:
        return self.scaled(tools.hidden(self.model, prompts, [self.layer])[:, 0, self.pooling])

    def scaled(self, states: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (states - self.mean) / self.scale
        return scaled

    def described(self) -> dict[str, Any]:
        return {
            "kind": "hidden",
            "layer": self.layer,
            "pooling": self.pooling,
            "reading": _plain(self.reading),
            "earlier": [{"role": own.role, "content": own.content} for own in self.earlier],
        }

    def tensors(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "scale": self.scale}


def _plain(reading: Reading) -> dict[str, Any]:
    return {"before": reading.before, "behind": reading.behind, "earlier": reading.earlier}
