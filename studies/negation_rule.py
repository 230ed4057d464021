"""A rule that negates a sentence, as somebody would write it down: "not" behind the first auxiliary verb, or "did not"
and "does not" before the base of the first word that looks like a verb. For studies/chat.yaml, and for the negation
among other tasks in instruction.yaml and multitask.yaml."""

from __future__ import annotations

import re

_AUXILIARY = re.compile(r"\b(is|are|was|were|could|will|would|should|has|had|may|might|must)\b")
# Past forms, each followed by its base.
_FORMS = re.findall(
    r"\w+",
    "became become began begin came come died die fell fall felt feel found find gave give held hold knew know "
    "led lead left leave lost lose made make met meet saw see sold sell said say spoke speak stood stand taught "
    "teach thought think told tell took take went go won win wrote write built build brought bring bought buy "
    "grew grow ran run",
)
_PAST = dict(zip(_FORMS[::2], _FORMS[1::2], strict=True))


def behind_an_instruction(prompt: str, fields: dict[str, str]) -> str | None:
    """The sentence behind the instruction to negate it; for any other instruction nothing."""
    instruction, _, sentence = prompt.partition("\n\n")
    return answer(sentence, fields) if instruction.startswith("Negate") else None


def answer(prompt: str, fields: dict[str, str]) -> str:
    """The sentence made negative."""
    if re.search(r"\bcan\b", prompt):
        return re.sub(r"\bcan\b", "cannot", prompt, count=1)
    auxiliary = _AUXILIARY.search(prompt)
    if auxiliary:
        return f"{prompt[: auxiliary.end()]} not{prompt[auxiliary.end() :]}"
    words = prompt.split(" ")
    for number, word in enumerate(words[1:], 1):
        helper, base = _base(word)
        if base:
            return " ".join([*words[:number], helper, "not", base, *words[number + 1 :]])
    return prompt


def _base(word: str) -> tuple[str, str]:
    """The auxiliary and the base of a word that looks like a verb; empty where it does not."""
    if word in _PAST:
        return "did", _PAST[word]
    if re.fullmatch(r"[a-z]+ied", word):
        return "did", f"{word[:-3]}y"
    if re.fullmatch(r"[a-z]+ed", word):
        stem = word[:-2]
        doubled = re.fullmatch(r".*([bdgmnprt])\1", stem)
        silent = re.search(r"([^aeiou][aiou]|[^aeiou]u)[bdgkmnprstvz]$|[cgsvz]$|[tl]l?$(?<=at)|(?<=bl)$", stem)
        return "did", stem[:-1] if doubled else f"{stem}e" if silent else stem
    if re.fullmatch(r"[a-z]{2,}(ss|sh|ch|x|o)es", word):
        return "does", word[:-2]
    if re.fullmatch(r"[a-z]{2,}ies", word):
        return "does", f"{word[:-3]}y"
    return ("does", word[:-1]) if re.fullmatch(r"[a-z]{2,}[^s]s", word) else ("", "")
