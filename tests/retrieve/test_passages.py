"""Documents cut into passages along their structure."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from pydantic import ValidationError
from words import WordEmbedder

from luthier.retrieve.documents import Document
from luthier.retrieve.passages import ChunkSettings, cut
from luthier.types import Passage

COUNT = WordEmbedder().count
TEXT = """# Cards

Every card has a limit. It can be raised once a year. Ask us for it.

## Fees

| Card | Fee |
| --- | --- |
| Gold | 3 |
| Black | 9 |

Fees are due in May. They are never refunded.

## Empty

# Contact

Write to us."""


def passages(text: str, *, pages: tuple[int, ...] = (), **settings: int | bool) -> list[Passage]:
    own = ChunkSettings.model_validate({"tokens": 20, "overlap": 0, **settings})
    return cut(Document("doc.md", "The title", text, pages), own, COUNT)


def test_a_passage_stays_under_its_headings_and_knows_its_place() -> None:
    found = passages(TEXT, tokens=60)
    assert [own.headings for own in found] == [("Cards",), ("Cards", "Fees"), ("Cards",), ("Contact",)]
    for own in found:
        assert TEXT[own.start : own.end] == own.text
    assert [own.id for own in found] == ["doc.md#1", "doc.md#2", "doc.md#3", "doc.md#4"]
    assert found[1].searched(headings=True).startswith("The title > Cards > Fees\n| Card | Fee |")
    assert found[1].searched(headings=False).startswith("| Card")
    assert found[1].place == "doc.md, Fees"


def test_a_heading_with_nothing_under_it_is_text_under_the_one_above() -> None:
    found = passages("# Fees\n\nThese are due in May.\n\n## Gold card: 30 EUR\n\n## Black card: 90 EUR\n", tokens=40)
    assert [own.headings for own in found] == [("Fees",)]
    assert found[0].text.endswith("## Gold card: 30 EUR\n\n## Black card: 90 EUR")
    (alone,) = passages("# Nothing but a title")
    assert (alone.headings, alone.text) == ((), "# Nothing but a title")


def test_what_was_taken_out_parts_what_stands_around_it() -> None:
    blank = "\n" * 40
    found = passages(f"One before.\n{blank}\nOne behind. And more.", headings=False)
    assert [own.text for own in found] == ["One before.", "One behind. And more."]
    assert len(passages("One before.\n\nOne behind. And more.", headings=False)) == 1


def test_sentences_stay_whole_where_they_have_room() -> None:
    found = passages("One two three four. Five six seven. Eight nine ten eleven.", tokens=8, headings=False)
    assert [own.text for own in found] == ["One two three four. Five six seven.", "Eight nine ten eleven."]


def test_the_end_of_one_passage_begins_the_next() -> None:
    text = " ".join(f"Sentence number {n} ends." for n in range(8))
    found = passages(text, tokens=12, overlap=5, headings=False)
    for before, after in itertools.pairwise(found):
        shared = before.text.rsplit("Sentence", 1)[1]
        assert after.text.startswith("Sentence" + shared)
        assert after.end > before.end
    assert all(COUNT([own.text])[0] <= 12 for own in found)


def test_a_table_stays_whole_and_a_long_sentence_does_not() -> None:
    table = "\n".join(f"| row {n} | value {n} |" for n in range(12))
    (whole,) = passages(f"{table}\n", headings=False)
    assert whole.text == table
    words = " ".join(f"w{n}" for n in range(50))
    found = passages(words, headings=False)
    assert [COUNT([own.text])[0] for own in found] == [20, 20, 10]


def test_a_table_within_lines_of_text_is_a_table() -> None:
    table = "\n".join(f"| row {n} | value {n} |" for n in range(12))
    text = f"Before it stands this line.\n{table}\nBehind it stands another line of words."
    found = passages(text, headings=False)
    assert [own.text for own in found] == [
        "Before it stands this line.", table, "Behind it stands another line of words.",
    ]  # fmt: skip


def test_tables_without_outer_signs_and_of_html_stay_whole() -> None:
    bare = "Card | Fee\n:--- | ---:\n" + "\n".join(f"row {n} | value {n}" for n in range(12))
    html = "<table>\n" + "\n\n".join(f"<tr><td>row {n} is here</td></tr>" for n in range(12)) + "\n</table>"
    text = f"One line before it.\n{bare}\nAnother | line, behind it.\n\n{html}\nThe last line of all is this."
    found = [own.text for own in passages(text, headings=False)]
    assert found == [
        "One line before it.",
        f"{bare}\nAnother | line, behind it.",
        html,
        "The last line of all is this.",
    ]


def test_the_overlap_is_a_fifth_where_none_is_given() -> None:
    assert [ChunkSettings(tokens=own).overlap for own in (64, 200)] == [12, 40]
    assert (ChunkSettings().overlap, ChunkSettings(tokens=64, overlap=7).overlap) == (40, 7)
    with pytest.raises(ValidationError, match="expected 0 to half of tokens"):
        ChunkSettings(tokens=64, overlap=40)


def test_lines_in_code_are_no_headings() -> None:
    (own,) = passages("# Setup\n\n```\n# a comment\n\nrun it\n```\n", tokens=30)
    assert own.headings == ("Setup",)
    assert "# a comment" in own.text


def test_the_page_is_the_one_that_most_of_a_passage_stands_on() -> None:
    text = "First page here.\n\nSecond page here. It has more on it."
    pages = (0, text.index("Second"))
    found = passages(text, pages=pages, tokens=4, headings=False)
    assert [own.page for own in found] == [1, 2, 2, 2]
    assert found[1].place == "doc.md, page 2"
    assert [own.page for own in passages(text, pages=pages, headings=False)] == [2]


@pytest.mark.parametrize("seed", range(20))
def test_all_text_stands_in_a_passage_and_none_is_too_long(seed: int) -> None:
    draw = random.Random(seed)
    lines = []
    for _ in range(draw.randint(1, 40)):
        kind = draw.random()
        words = " ".join("x" * draw.randint(1, 9) for _ in range(draw.randint(1, 60)))
        lines.append(
            f"{'#' * draw.randint(1, 4)} Heading" if kind < 0.15 else "" if kind < 0.35 else words.capitalize() + "."
        )
    text = "\n".join(lines)
    tokens = draw.randint(4, 40)
    found = passages(text, tokens=tokens, overlap=draw.randint(0, tokens // 2), headings=False)
    seen = [False] * len(text)
    for own in found:
        assert COUNT([own.text])[0] <= tokens
        seen[own.start : own.end] = [True] * (own.end - own.start)
    lines = list(re.finditer(r"[^\n]+", text))
    for line, after in itertools.zip_longest(lines, lines[1:]):
        level, below = (len(own.group().split(" ")[0]) if own and own.group()[0] == "#" else 9 for own in (line, after))
        if level == 9 or after is None or below <= level:  # no heading, or one with nothing under it
            assert all(seen[at] or text[at].isspace() for at in range(*line.span()))
    assert [own.start for own in found] == sorted({own.start for own in found})


def test_an_overlap_of_more_than_half_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"expected 0 to half of tokens \(10\)"):
        ChunkSettings(tokens=20, overlap=11)
