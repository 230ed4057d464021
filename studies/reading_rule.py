"""A rule for studies/reading.yaml and retrieval.yaml, as somebody would write it down: the sentence that shares the
rarest words with the question, and in it what kind of thing the question asks for, nearest to those words."""

from __future__ import annotations

import re
from collections import Counter

_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from by with and or as is are was were be been did does do has have had that this "
        "these those it its what which who whom whose when where why how many much long year name kind type not",
    )
)
_WORD = re.compile(r"[\w'’$%.-]*[\w%]")
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_NAME = r"[A-Z][\w'’.-]+(?:\s(?:of|the|de|and)?\s?[A-Z][\w'’.-]+)*"
_NUMBER = r"(?:[$£€]\s?)?\d[\d,.]*(?:\s?%| percent| million| billion| thousand)?"
_COUNTED = r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|hundred|half|third)\b"

# What a question asks for → patterns of it, the first that is there counts.
_KINDS = (
    (
        r"\b(when|what year|which year|what date|what century|what decade)\b",
        (rf"\b(?:\d\d? )?(?:{_MONTH})(?: \d\d?,?)?(?: \d{{4}})?\b", r"\b(?:1\d|20)\d\ds?\b", r"\b\d[\w ]+century\b"),
    ),
    (r"\bhow (many|much|long|old|far|large|big|high|tall)\b|percent|what number", (_NUMBER, _COUNTED)),
    (r"\b(who|whom|whose)\b", (_NAME,)),
    (
        r"\b(where|what (city|country|state|place|stadium|university|company|team))\b",
        (rf"(?<=in ){_NAME}", rf"(?<=at ){_NAME}", _NAME),
    ),
)


def from_passages(prompt: str, fields: dict[str, str]) -> str:
    """The answer out of what search found in documents."""
    return answer(prompt, {**fields, "context": fields["passages"]}) if fields["passages"] else ""


def answer(prompt: str, fields: dict[str, str]) -> str:
    """The answer to `fields["question"]` in `fields["context"]`."""
    question, asked = fields["question"].lower(), _keys(fields["question"])
    sentence = _sentence(fields["context"], asked)
    near = [match.start() for match in _WORD.finditer(sentence) if _stem(match.group()) in asked]
    for kind, patterns in _KINDS:
        if re.search(kind, question):
            for pattern in patterns:
                there = [m for m in re.finditer(pattern, sentence) if not _keys(m.group()) <= asked]
                if there:
                    return min(there, key=lambda match: _distance(match.start(), near)).group()
    runs = _runs(sentence, asked)
    if not runs:
        return sentence
    first, last = max(runs, key=lambda run: min(run[2], 3) - 0.02 * _distance(run[0], near))[:2]
    return sentence[first:last].strip(".")


def _sentence(text: str, asked: set[str]) -> str:
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'“])", text)
    common = Counter(word for sentence in sentences for word in _keys(sentence) & asked)
    return max(sentences, key=lambda sentence: sum(1 / common[word] for word in _keys(sentence) & asked))


def _runs(sentence: str, asked: set[str]) -> list[tuple[int, int, int]]:
    """Where words stand together that are neither stop words nor of the question: begin, end, how many."""
    runs: list[tuple[int, int, int]] = []
    open_run: tuple[int, int, int] | None = None
    for match in re.finditer(r"[\w'’$%.-]+|[,;:()]", sentence):
        word = match.group()
        if word in ",;:()" or word.lower() in _STOP or _stem(word) in asked:
            runs += [open_run] if open_run else []
            open_run = None
        else:
            begin, _, count = open_run or (match.start(), 0, 0)
            open_run = (begin, match.end(), count + 1)
    return [*runs, *([open_run] if open_run else [])]


def _distance(place: int, near: list[int]) -> int:
    return min((abs(place - one) for one in near), default=0)


def _keys(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text) if word.lower() not in _STOP}


def _stem(word: str) -> str:
    return re.sub(r"(ing|ed|es|s|ly)$", "", word.lower().strip(".,'’"))
