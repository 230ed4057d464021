"""The words of a text, as search, evidence, citations and leaks compare them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import regex

# Scripts that put no space between words: each letter counts as a word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# Letters of such a script in a row; or letters, digits and the marks that belong to them (as the vowels of Devanagari).
_RUN = regex.compile(rf"(?P<unspaced>(?:[{_UNSPACED}]\p{{M}}*)+)|[[\w\p{{M}}]--[{_UNSPACED}]]+", regex.VERSION1)
# Except the Hangul fillers among them, which stand for a letter.
_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}--[\u115F\u1160\u3164\uFFA0]]", regex.VERSION1)
_LETTER = regex.compile(r"\X")
# Lucene's English ones.
_STOP_WORDS = frozenset(
    regex.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
_POSSESSIVE = regex.compile(r"(?<=\w)['’]s\b")


def words(text: str) -> list[str]:
    """The words of the text in NFKC, case folded; punctuation and white space are no part of them.

    Of scripts that put no space between words, such as Chinese, Japanese and Thai, each letter is one.
    """
    return [word for run in _runs(folded(text)) for word in run]


@lru_cache(maxsize=4096)
def spaced(text: str) -> str:
    """The words of the text with a space before and behind each, so that words stand in it where a string does."""
    return f" {' '.join(words(text))} "


def segmented(text: str) -> str:
    """The text with a space around each letter of a script that puts no space between words."""
    return str(_RUN.sub(lambda m: f" {' '.join(_LETTER.findall(m.group()))} " if m["unspaced"] else m.group(), text))


def stands_in(part: str, text: str) -> bool:
    """Whether the words of a text, of which there must be one, stand in another one after the other."""
    return bool(spaced(part).strip()) and spaced(part) in spaced(text)


def terms(text: str) -> list[str]:
    """What lexical search (BM25) looks for: the words without English stop words and the possessive s, and of scripts
    that put no space between words each two letters that follow each other. There is no stemming."""
    found = []
    for run in _runs(_POSSESSIVE.sub("", folded(text))):
        found += run if len(run) == 1 else [a + b for a, b in pairwise(run)]
    return [term for term in found if term not in _STOP_WORDS]


def visible(text: str) -> str:
    """The text without characters that are not seen: soft hyphens, zero-width spaces and joiners, byte order marks,
    marks of direction, variation selectors. For comparing; what is shown is left as it is."""
    return str(_UNSEEN.sub("", text))


def folded(text: str) -> str:
    """The text as two texts are compared: in NFKC, without case, without what is not seen."""
    return unicodedata.normalize("NFKC", visible(text)).casefold()


def _runs(text: str) -> Iterator[list[str]]:
    """Letters of a script without spaces that stand together; every other word by itself."""
    for match in _RUN.finditer(text):
        yield _LETTER.findall(match.group()) if match["unspaced"] else [match.group()]
