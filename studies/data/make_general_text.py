"""Select the general text of the forgetting probes from WikiText-2, with its spacing undone.

    python studies/data/make_general_text.py path/to/wikitext-2/valid.txt src/luthier/evaluate/probes

Passages are runs of whole sentences of one paragraph that hold no `<unk>`. Articles go to the probe and to the text for
choices by turns, so that neither holds an article of the other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LEAST_WORDS, MOST_WORDS = 40, 160
MOST_OF_ARTICLE = 5
PASSAGES = 100

# What undoes the collection's spacing, in order: `@-@` joins, quotation marks by pairs, then marks to their neighbours.
_JOINED = [(r" @([-,.])@ ", r"\1"), (r'" ([^"]*?) "', r'"\1"'), (r" '(s|t|re|ve|ll|d|m)\b", r"'\1"), (r"s ' ", "s' ")]
_MARKS = [(r" ([,.;:!?%)\]])", r"\1"), (r"([(\[$£]) ", r"\1"), (r" ([–/]) (?=\d)", r"\1"), (r" {2,}", " ")]


def natural(text: str) -> str:
    """The text with the spacing that a person would have written."""
    for pattern, written in (*_JOINED, *_MARKS):
        text = re.sub(pattern, written, text)
    return text.strip()


def articles(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each article's title and its paragraphs."""
    title, paragraphs = "", []
    for line in map(str.strip, lines):
        if found := re.fullmatch(r"= ([^=].*[^=]) =", line):
            if title:
                yield title, paragraphs
            title, paragraphs = found[1], []
        elif line and not line.startswith("="):
            paragraphs.append(line)
    yield title, paragraphs


def passages(paragraph: str) -> Iterator[str]:
    """The longest run of its whole sentences, if it has a passage's length."""
    runs: list[list[str]] = [[]]
    for sentence in re.split(r"(?<= [.!?]) (?=[A-Z\"])", paragraph):
        if not _whole(sentence) or _words([*runs[-1], sentence]) > MOST_WORDS:
            runs.append([])
        if _whole(sentence):
            runs[-1].append(sentence)
    longest = max(runs, key=_words)
    if LEAST_WORDS <= _words(longest) <= MOST_WORDS:
        yield " ".join(longest)


def _whole(sentence: str) -> bool:
    """Whether it ends as a sentence does, lacks no word, and its quotation marks are pairs with none inside."""
    unclear = "<unk>" in sentence or " ' " in sentence or sentence.count('"') % 2
    return not unclear and sentence.endswith((".", "!", "?"))


def _words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def selected(chosen: list[tuple[str, list[str]]]) -> list[str]:
    """Passages of these articles in their order: the longest of each, in rounds, until there are enough."""
    of_article = [[own for paragraph in paragraphs for own in passages(paragraph)] for _, paragraphs in chosen]
    ranked = [sorted(own, key=lambda passage: -len(passage.split())) for own in of_article]
    taken: set[str] = set()
    for round_ in range(MOST_OF_ARTICLE):
        for own in ranked:
            if round_ < len(own) and len(taken) < PASSAGES:
                taken.add(own[round_])
    return [natural(passage) for own in of_article for passage in own if passage in taken]


def main(source: Path, out: Path) -> None:
    """Write both files, and print the articles that each draws on."""
    found = list(articles(source.read_text(encoding="utf-8").splitlines()))
    for name, own in (("general_text.txt", found[::2]), ("general_text_validation.txt", found[1::2])):
        lines = selected(own)
        (out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = sum(len(line.split()) for line in lines)
        titles = "; ".join(natural(title) for title, _ in own)
        print(f"{name}: {len(lines)} passages, {words:,} words, of the articles {titles}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
