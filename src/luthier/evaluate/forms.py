"""What metrics read of an answer: its normal form, its words, its last number.

Forms decide which answers count as equal, so each follows a stated standard, and leaves it only where that would make
two different answers equal. `taken_for_same` says where a task's answers still are.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

import regex

from luthier.words import segmented, visible, words

_ARTICLE = regex.compile(r"\b(a|an|the)\s+(?=\w)")
_DASHES = dict.fromkeys(map(ord, "−‐‑‒–"), "-")
_GROUPED = regex.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_DECIMAL_COMMA = regex.compile(r"(?<![\d.,])(\d+),(\d+)(?![\d,])(?!\.\d)")


def normalised(text: str) -> str:
    """Text without case, punctuation, English articles and superfluous white space.

    The steps and their order are those of the SQuAD evaluation (Rajpurkar et al. 2016, `evaluate-v1.1.py`), widened
    from ASCII to Unicode: `casefold` for `lower`, punctuation of every script, no unseen characters. Marks stay where
    they carry the meaning: between two digits (1.5, 3/2, 10:30; 1,234 is 1234, and 2,5 is 2.5), a sign before a number
    (-5), and `+`, `#` or a single letter's `-` behind a word (C++, C#, A-). An article is one only before a word (not
    in "hepatitis A"). A text of which nothing would be left ("+") keeps its punctuation.
    """
    folded = unicodedata.normalize("NFC", visible(text)).casefold().translate(_DASHES)
    plain = _GROUPED.sub(lambda match: match[1].replace(",", ""), folded)
    plain = _DECIMAL_COMMA.sub(r"\1.\2", plain)
    kept = "".join(own for place, own in enumerate(plain) if not _is_mark(own) or _means_something(plain, place))
    return " ".join(_ARTICLE.sub("", " ".join(kept.split())).split()) or " ".join(folded.split())


def _is_mark(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _means_something(text: str, place: int) -> bool:
    """Whether a punctuation mark is part of a number or of a name, so that without it another would stand there."""
    own, before, behind = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    if own in "+#":
        start = place
        while start and text[start - 1] in "+#":
            start -= 1
        if text[start - 1 : start].isalnum() and not behind.isalnum():
            return True
    if own in ".,:/-'’" and before.isdigit() and behind.isdigit():
        return True
    if own in "+-" and (behind.isdigit() or (behind == "." and text[place + 2 : place + 3].isdigit())):
        return not (before.isalnum() or before == ")")
    if own == "." and behind.isdigit():
        return not before.isalnum()
    alone = before.isalpha() and not text[place - 2 : place - 1].isalnum()
    return own == "-" and alone and not behind.isalnum()


def tokens(text: str) -> list[str]:
    """The words of a normal form; of scripts without spaces each letter (as in the evaluation of MLQA; Lewis et al.
    2020)."""
    return segmented(normalised(text)).split()


def rouge_tokens(text: str) -> list[str]:
    """Words for ROUGE: of ASCII what rouge-score takes, runs of letters and digits in lower case; of other scripts
    their words, which rouge-score leaves out."""
    return [part for word in words(text) for part in word.split("_") if part]


_SPACES = " \u00a0\u2009\u202f"
# A sign counts where it does not join two numbers or words ("5-3").
_NUMBER = regex.compile(
    rf"""
    (?P<sign>(?<![\w)])[-+])?
    (?:
        (?P<grouped>[1-9]\d{{0,2}}(?:(?P<group>[,{_SPACES}'’])\d{{3}})(?:(?P=group)\d{{3}})*)(?!\d)(?:(?:\.|(?<!,\d{{3}}),)(?P<g_after>\d+))?
      | (?P<pointed>[1-9]\d{{0,2}}(?:\.\d{{3}})+),(?P<p_after>\d+)(?!\d)
      | (?P<pointed_whole>[1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}})(?![\d.])
      | (?<![\d/.,])(?:(?P<whole>\d+)[{_SPACES}])?(?P<above>\d+)/(?P<below>0*[1-9]\d*)(?![\d/])
      | (?P<number>\d+)(?:(?:\.|(?<!,\d+),(?!\d+,\d))(?P<after>\d+))?
      | (?<![\d.])\.(?P<only_after>\d+)
    )
    (?:[eE](?P<power>[-+]?\d{{1,3}})\b)?
    """,
    regex.VERBOSE,
)


def last_number(text: str) -> Fraction | None:
    """The last number in the text: "-3", ".5", "2e-3", "3/2" and "1 1/2" are each one.

    Groups of three digits may be parted by a comma, a space or an apostrophe, and where a decimal comma follows, or
    there are two of them, by a point. The decimal sign is the point, or a comma that cannot part groups: "2,5" and
    "1234,5" have one, "1,234" is more than a thousand (as ISO 80000-1 allows, and as English writes it).
    """
    found = None
    for match in _NUMBER.finditer(text.replace("−", "-")):
        found = match
    return None if found is None else _value(found.groupdict())


def _value(parts: Mapping[str, str | None]) -> Fraction:
    def digits(name: str) -> str:
        return "".join(filter(str.isdigit, parts[name] or ""))

    if parts["below"]:
        number = Fraction(int(digits("above")), int(digits("below"))) + int(digits("whole") or 0)
    else:
        whole = next((digits(name) for name in ("grouped", "pointed", "pointed_whole", "number") if parts[name]), "0")
        after = next((digits(name) for name in ("g_after", "p_after", "after", "only_after") if parts[name]), "")
        number = Fraction(f"{int(whole)}.{after or 0}")
    number *= Fraction(10) ** int(parts["power"] or 0)
    return -number if parts["sign"] == "-" else number


# Metric → what it reads of an answer; two answers with the same are equal to it.
_READ: Mapping[str, Callable[[str], object]] = {
    "exact_match_normalised": normalised,
    "token_f1": lambda text: tuple(sorted(tokens(text))),
    "rouge_l": lambda text: tuple(rouge_tokens(text)),
    "numeric_match": last_number,
    "contains": lambda text: tuple(words(text)),
}
# Longer answers may well end in the same number.
_MOST_WORDS_OF_NUMBERS = 4


def taken_for_same(metric: str, answers: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different answers that a metric cannot tell apart, each with the first answer that reads as it does.

    Case, white space and a mark at the end make no difference.
    """
    read = _READ.get(metric)
    if read is None:
        return []
    first: dict[object, str] = {}
    found = []
    for plain, answer in {_plain(answer): answer for answer in answers}.items():
        if metric == "numeric_match" and len(plain.split()) > _MOST_WORDS_OF_NUMBERS:
            continue
        form = read(answer)
        if form is not None and first.setdefault(form, answer) != answer:
            found.append((first[form], answer))
    return found


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", visible(text)).casefold().split()).strip(".!?")
