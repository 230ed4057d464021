"""Token ids of texts in which users wrote something: a control token that they spell out stays text."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

# Two characters that Unicode keeps for a program's inner use, around the number of a control token.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_QUOTED = re.compile(f"{_BEGIN}(\\d+){_END}")


class Encoder:
    """Gives the ids of a rendered text, by one tokenizer.

    A chat template writes control tokens, such as the one that ends a turn, around what users wrote. Where they wrote
    the same characters, the tokenizer would take these for the token. So users' texts are quoted before they are
    rendered.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if token.special}
        control = {token for token in (*tokenizer.all_special_tokens, *special) if len(token) > 1}
        self.control = tuple(sorted(control, key=lambda token: (-len(token), token)))
        self._number = {token: number for number, token in enumerate(self.control)}
        self._written = re.compile(f"({'|'.join(map(re.escape, self.control))})") if self.control else None

    def quoted(self, text: str) -> str:
        """A user's text with a number in the place of each control token that it spells out."""
        if self._written is None:
            return text
        text = text.replace(_BEGIN, "\ufffd")  # which no text should hold
        return self._written.sub(lambda found: f"{_BEGIN}{self._number[found[0]]}{_END}", text)

    def spelled(self, text: str) -> list[str]:
        """The control tokens that a text spells out, each once."""
        return [] if self._written is None else list(dict.fromkeys(self._written.findall(text)))

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text that a template wrote around quoted ones; no token is added."""
        found: list[int] = []
        for number, part in enumerate(_QUOTED.split(text)):  # what stands between, and the numbers of what was quoted
            if number % 2:
                found += self._as_text(self.control[int(part)])
            elif part:
                found += self.tokenizer(part, add_special_tokens=False)["input_ids"]
        return tuple(found)

    def _as_text(self, token: str) -> list[int]:
        """The ids of a control token's characters."""
        if self._plain is None:
            return list(self.tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        return list(self._plain.encode(token, add_special_tokens=False).ids)

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer without any token that was added to its vocabulary; None where it is not of `tokenizers`."""
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        return Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "added_tokens": []}))
