"""When two prompts count as the same: their normalised text, and its hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from luthier.types import Message
from luthier.words import folded

_LINE_END = re.compile(r"[\s.,;:!?…。！？]+$", re.MULTILINE)


def normalised(text: str) -> str:
    """The text as texts are compared (`words.folded`), white space collapsed, without punctuation at the ends of lines.

    At the ends of lines, not of the text alone: a template often goes on below the row's own text.
    A text of nothing but punctuation keeps it.
    """
    plain = folded(text)
    return " ".join(_LINE_END.sub("\n", plain).split()) or " ".join(plain.split())


def fingerprint(messages: Iterable[Message]) -> str:
    """Hash of the normalised messages: 16 hexadecimal digits, equal for duplicates."""
    return digest(*(part for message in messages for part in (message.role, normalised(message.content))))


def digest(*parts: str) -> str:
    """SHA-256 of the parts, told apart from each other, as 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
