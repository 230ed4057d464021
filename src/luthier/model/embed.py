"""Sentence embeddings: for choosing similar shots, and for search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.model.find import find_embedder, model_key
from luthier.types import EmbeddedAs

if TYPE_CHECKING:
    import numpy as np

DEFAULT_EMBEDDER = "minilm-l6"


class SentenceEmbedder:
    """A sentence-transformers model.

    Attributes:
        name: As the user gives it.
        folder: Where its files lie.
    """

    def __init__(self, name: str, folder: Path, device: str) -> None:
        self.name, self.folder, self._device = name, folder, device

    @classmethod
    def named(cls, name: str, root: Path, device: str) -> SentenceEmbedder:
        """The embedder of a built-in name, a folder, or a Hugging Face id.

        Raises:
            ModelError: There is none.
        """
        return cls(name, find_embedder(name, root), device)

    @cached_property
    def key(self) -> str:
        """Hash of all its files."""
        return model_key(str(self.folder))

    @property
    def dimension(self) -> int:
        return int(self._model.get_embedding_dimension())

    @property
    def window(self) -> int:
        """Tokens that it reads of a document, those around it among them; what is behind them is cut."""
        before = own_prompt(self._model, "document")
        return int(self._model.max_seq_length) - (self.count([before])[0] if before else 0)

    def embed(self, texts: Sequence[str], role: EmbeddedAs = "text") -> np.ndarray:
        """Vectors of unit length, float32. (N, D)

        Args:
            role: Behind which of the model's own prompts the texts are read.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        return embed_texts(texts, self.folder, self._device, role)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without those that are put around it."""
        if not texts:
            return []
        encoded = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than it reads; what is behind that is cut."""
        around = self._model.tokenizer.num_special_tokens_to_add()
        return sum(tokens + around > self.window for tokens in self.count(texts))

    def unknown_share(self, texts: Sequence[str]) -> float:
        """Share of the texts' words that it has no token for, from 0 to 1."""
        return unknown_share(self._model.tokenizer, texts)

    @property
    def _model(self) -> Any:
        return _load(str(self.folder), self._device)


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """Share of the texts' words that a tokenizer has no token for, from 0 to 1."""
    if not texts or tokenizer.unk_token_id is None:
        return 0.0
    ids = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    tokens = sum(map(len, ids))
    return sum(own.count(tokenizer.unk_token_id) for own in ids) / tokens if tokens else 0.0


def embed_texts(texts: Sequence[str], folder: Path, device: str, role: EmbeddedAs = "text") -> np.ndarray:
    """Unit-length embeddings of `texts`, shape (len(texts), dimension), float32.

    Raises:
        ModelError: The folder holds no sentence-transformers model.
    """
    import numpy as np

    embedder = _load(str(folder), device)
    encode = {"text": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}[role]
    prompt = {} if role == "text" else {"prompt": own_prompt(embedder, role)}
    vectors = encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False, **prompt)
    return np.asarray(vectors, dtype=np.float32)


def own_prompt(model: Any, role: EmbeddedAs) -> str:
    """What a sentence-transformers model puts before a question or a document, which it may call a passage."""
    names = {"text": (), "query": ("query",), "document": ("document", "passage", "corpus")}[role]
    return next((found for name in names if (found := model.prompts.get(name))), "")


@lru_cache(maxsize=3)  # the base, a tuned one, one for shots
def _load(folder: str, device: str):  # type: ignore[no-untyped-def]
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(folder, device=device)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded as a sentence-embedding model: {error}") from error


def forget_embedders() -> None:
    """Load embedders anew when they are next asked: a folder holds another than before, or is no more."""
    _load.cache_clear()
