"""From documents to passages: along headings, paragraphs and sentences, sized in tokens of the embedder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import model_validator

from luthier.retrieve.documents import Document
from luthier.settings import Count, Settings
from luthier.types import Passage

CountTokens = Callable[[Sequence[str]], list[int]]
"""Tokens of each text, without those that the embedder adds around it."""

_UNNAMED = "…"  # a heading without words
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_FENCE = re.compile(r"^(```|~~~)")
# What stands between a table's head and its rows, the signs at both ends left out or not; and tables as in HTML.
_TABLE_RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?|\|\s*:?-+:?\s*\|")
_TABLE_TAG = re.compile(r"<(/?)table\b", re.IGNORECASE)
# A sentence ends with a mark, perhaps with a quote or a bracket, before white space and something that begins anew.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÞА-Я])|(?<=[。！？])")
_WORDS = re.compile(r"\S+\s*")
# Between pieces that follow each other there is an empty line at most; where there is more, something was taken out.
_WIDEST_GAP = 8


class ChunkSettings(Settings):
    """How documents are cut into passages."""

    tokens: Count = 200
    """Most tokens of a passage, counted by the embedder's tokenizer, its heading among them. Only a table that is
    longer stays whole."""
    overlap: int = 40
    """Tokens of the passage before, in whole sentences, with which one begins again; at most half of `tokens`. Default:
    a fifth of them."""
    headings: bool = True
    """Whether a passage is embedded and searched together with the title and the headings that it stands under."""

    @model_validator(mode="before")
    @classmethod
    def _a_fifth(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "overlap" not in given and type(given.get("tokens")) is int:
            return {**given, "overlap": max(0, given["tokens"]) // 5}
        return given

    def model_post_init(self, _context: object) -> None:
        if not 0 <= self.overlap <= self.tokens // 2:
            raise ValueError(f"overlap is {self.overlap}; expected 0 to half of tokens ({self.tokens // 2})")


def cut(document: Document, settings: ChunkSettings, count: CountTokens) -> list[Passage]:
    """The document's passages, in order. All of its text but white space and headings with text under them stands in
    one at least."""
    found: list[Passage] = []
    digest = document.digest
    for headings, blocks in _sections(document.text):
        shown = list(dict.fromkeys([document.title, *headings])) if settings.headings else []
        room = settings.tokens - (count([" > ".join(shown)])[0] if shown else 0)
        # Under headings that take up nearly all there is still some text to a passage.
        for start, end in _packed(document.text, blocks, max(room, settings.tokens // 4), settings.overlap, count):
            found.append(
                Passage(
                    id=f"{document.name}#{len(found) + 1}",
                    document=document.name,
                    title=document.title,
                    headings=headings,
                    page=document.page_of(start, end),
                    start=start,
                    end=end,
                    text=document.text[start:end],
                    digest=digest,
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph, list, table or piece of code, by its place."""

    start: int
    end: int
    whole: bool


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], list[_Block]]]:
    """What stands under each heading, with the headings above it; a heading with nothing under it is text itself."""
    headings: list[tuple[int, str, int]] = []
    blocks: list[_Block] = []
    under: list[tuple[int, str, int]] = []
    lines = list(_lines_grouped(text))
    for number, (start, end, heading, tabular) in enumerate(lines):
        if heading is not None:
            level, title = heading
            headings = [own for own in headings if own[0] < level] + [(level, title, number)]
            following = lines[number + 1][2] if number + 1 < len(lines) else (0, "")
            if following is None or following[0] > level or title == _UNNAMED:  # it has something under it, or no words
                continue
        above = headings if heading is None else headings[:-1]
        if blocks and above != under:
            yield tuple(title for _, title, _ in under), blocks
            blocks = []
        under = above
        blocks.append(_Block(start, end, tabular))
    if blocks:
        yield tuple(title for _, title, _ in under), blocks


def _lines_grouped(text: str) -> Iterator[tuple[int, int, tuple[int, str] | None, bool]]:
    """Blocks and headings, these with level and words, each with its start and end in characters, and whether it is a
    table.

    A block ends at an empty line, and where a table begins or ends.
    """
    at, start, fenced, tabular, tags, ruled = 0, None, "", False, 0, False
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        bare = line.strip()
        fence = _FENCE.match(bare)
        heading = None if fenced else _HEADING.match(bare)
        if fence and not fenced:
            fenced = fence.group(1)
        elif fence and bare.startswith(fenced):
            fenced = ""
        below = lines[number + 1].strip() if number + 1 < len(lines) else ""
        marks = [] if fenced else _TABLE_TAG.findall(bare)
        tagged = tags > 0 or bool(marks)  # the line that closes a table is still of it
        tags = max(0, tags + sum(-1 if closing else 1 for closing in marks))
        ruled = not fenced and "|" in bare and (ruled or _TABLE_RULE.fullmatch(below) is not None)
        in_table = not fenced and (tagged or ruled or bare.startswith("|"))
        heading = None if tagged else heading
        ends = (not bare and not fenced and not tagged) or heading is not None or in_table != tabular
        if ends and start is not None:
            yield start, at, None, tabular
            start = None
        tabular = in_table
        if heading is not None:
            yield at, at + len(line), (len(heading.group(1)), heading.group(2).strip() or _UNNAMED), False
        elif bare and start is None:
            start = at
        at += len(line)
    if start is not None:
        yield start, at, None, tabular


def _packed(
    text: str, blocks: Sequence[_Block], room: int, overlap: int, count: CountTokens
) -> Iterator[tuple[int, int]]:
    """Start and end of passages of at most `room` tokens, made of pieces in order, the last ones of each repeated."""
    pieces = _pieces(text, blocks, room, count)
    sizes = count([text[start:end] for start, end in pieces])
    first = 0
    while first < len(pieces):
        last, size = first, sizes[first]
        while last + 1 < len(pieces) and size + sizes[last + 1] <= room and not _apart(pieces, last):
            last += 1
            size += sizes[last]
        end = pieces[last][1]
        yield pieces[first][0], pieces[first][0] + len(text[pieces[first][0] : end].rstrip())
        if last + 1 == len(pieces):
            return
        following, repeated = last + 1, 0
        # What is repeated must leave room for what comes next, or no passage would get further.
        while (
            following - 1 > first
            and not _apart(pieces, following - 1)
            and repeated + sizes[following - 1] <= overlap
            and repeated + sizes[following - 1] + sizes[last + 1] <= room
        ):
            following -= 1
            repeated += sizes[following]
        first = following


def _apart(pieces: Sequence[tuple[int, int]], number: int) -> bool:
    """Whether something was taken out between a piece and the next one."""
    return number + 1 < len(pieces) and pieces[number + 1][0] - pieces[number][1] > _WIDEST_GAP


def _pieces(text: str, blocks: Sequence[_Block], room: int, count: CountTokens) -> list[tuple[int, int]]:
    """Sentences, tables as they are; of a sentence that has no room runs of words, of a word pieces."""
    spans = [
        (start, end, block.whole)
        for block in blocks
        for start, end in (
            [(block.start, block.end)] if block.whole else _split(text, block.start, block.end, _SENTENCE_END)
        )
    ]
    sizes = count([text[start:end] for start, end, _ in spans])
    found: list[tuple[int, int]] = []
    for (start, end, whole), size in zip(spans, sizes, strict=True):
        found += [(start, end)] if whole or size <= room else _words(text, start, end, room, count)
    return found


def _split(text: str, start: int, end: int, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    at = start
    for match in pattern.finditer(text, start, end):
        if match.end() > at and match.end() < end:
            yield at, match.end()
            at = match.end()
    if at < end:
        yield at, end


def _words(text: str, start: int, end: int, room: int, count: CountTokens) -> Iterator[tuple[int, int]]:
    """Runs of words of at most `room` tokens; a word longer than that is cut in halves."""
    spans = [match.span() for match in _WORDS.finditer(text, start, end)] or [(start, end)]
    sizes = count([text[a:b] for a, b in spans])
    begin, size = spans[0][0], 0
    for (a, b), own in zip(spans, sizes, strict=True):
        if own > room and b - a > 1:
            if a > begin:
                yield begin, a
            middle = (a + b) // 2
            yield from _words(text, a, middle, room, count)
            yield from _words(text, middle, b, room, count)
            begin, size = b, 0
            continue
        if size and size + own > room:
            yield begin, a
            begin, size = a, 0
        size += own
    if begin < end:
        yield begin, end
