"""One folding for whatever is compared: case, Unicode forms, what is not seen."""

from __future__ import annotations

import unicodedata

import pytest

from luthier.data.normalise import normalised
from luthier.evaluate import forms
from luthier.evaluate.per_answer import named_label
from luthier.words import folded, stands_in, terms, visible, words

HIDDEN = {
    "soft hyphen": "Donau\u00addampf",
    "zero-width space": "Donau\u200bdampf",
    "word joiner": "Donau\u2060dampf",
    "byte order mark": "\ufeffDonaudampf",
    "mark of direction": "\u200eDonaudampf\u200f",
    "isolate": "\u2066Donaudampf\u2069",
    "variation selector": "Donaudampf\ufe0e",
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_is_not_seen_makes_no_difference_anywhere(kind: str):
    text, plain = HIDDEN[kind], "Donaudampf"
    assert visible(text) == plain
    assert words(text) == terms(text) == [plain.casefold()]
    assert normalised(text) == normalised(plain)
    assert forms.normalised(text) == forms.normalised(plain)
    assert named_label(text, (plain, "Elbe")) == plain
    assert stands_in(plain, f"Die {text} fährt.")


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("text", ["Café", "Ångström", "한국어", "ガイド", "नमस्ते", "Ελλάδα"])
def test_unicode_forms_make_no_difference(form: str, text: str):
    other = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    assert words(other) == words(text)
    assert folded(other) == folded(text)
    assert normalised(other) == normalised(text)
    assert forms.normalised(other) == forms.normalised(text)


def test_letters_that_are_seen_stay():
    assert visible("a\u3164b") == "a\u3164b"  # the filler that stands for a letter of Hangul
    assert visible("👩\u200d🚀") == "👩🚀"
    assert folded("ﬁne") == "fine"
