"""Hashes of all that determines a result, so that it is computed once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.data.text import Text
from luthier.types import Example, Task

# Libraries whose version can change a number.
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "sentence-transformers",
    "bm25s",
    "scikit-learn",
    "scipy",
    "jinja2",
    "markitdown",
    "sacrebleu",
    "rouge-score",
)

# Parts of Luthier that only compare and show what was computed; no step imports them.
_SHOW_ONLY = ("compare", "report", "cli.py", "console.py", "__main__.py")


def key_of(**parts: Any) -> str:
    """A short hash of named, JSON-like parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def examples_key(examples: Sequence[Example]) -> str:
    """The hash of examples, in their order; where they were read does not count."""
    return key_of(examples=[{k: v for k, v in asdict(example).items() if k != "place"} for example in examples])


def training_key(task: Task) -> str:
    """The hash of all of a task that a step can see: everything but the test split."""
    return key_of(
        train=examples_key(task.train),
        validation=examples_key(task.validation),
        labels=task.labels,
        label_separator=task.label_separator,
        metric=task.metric,
        options={name: dict(options) for name, options in task.metric_options.items()},
        decoding=asdict(task.decoding),
        phrasings=task.phrasings,
        **({} if task.documents is None else {"documents": task.documents.digest}),
    )


def text_key(text: Text) -> str:
    """The hash of raw text: its documents in their order; where they were read does not count."""
    return key_of(documents=[document.text for document in text.documents])


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Luthier and of the libraries that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("luthier", *LIBRARIES)}


@lru_cache(maxsize=1)
def source_key() -> str:
    """The hash of Luthier's own source and the texts it ships, what only shows results left out."""
    top = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(p for p in top.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        relative = file.relative_to(top)
        if relative.parts[0] not in _SHOW_ONLY:
            digest.update(f"{relative.as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
