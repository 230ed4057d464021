"""The library: indices made once, passages left out, search by words alone, ordering anew; and pairs to train on."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader
from words import WordEmbedder

from luthier.errors import DataError
from luthier.prompt.passages import distinct, passages_of_shot, with_passages, wrong_ones
from luthier.retrieve.index import Hit
from luthier.retrieve.library import Library, reranked
from luthier.retrieve.pairs import judged, mine
from luthier.retrieve.passages import ChunkSettings
from luthier.types import Example, Grounding, Message, Passage, Place, Prompt, Relevance, Retrieval

CHUNKS = ChunkSettings(tokens=20, overlap=0, headings=False)
FACTS = {
    "whale": "The whale lives in the cold sea and sings.",
    "eagle": "The eagle nests on a high cliff above the river.",
    "snail": "The snail carries its house through the garden.",
    "tiger": "The tiger hunts at night in the deep forest.",
    "horse": "The horse runs over the wide plain in the morning.",
}


class CountingEmbedder(WordEmbedder):
    texts = 0

    def embed(self, texts, role="text"):  # type: ignore[no-untyped-def]
        CountingEmbedder.texts += len(texts)
        return super().embed(texts)


class Backwards:
    """A reranker that likes long passages."""

    def scores(self, pairs):  # type: ignore[no-untyped-def]
        return np.array([len(passage) for _, passage in pairs], np.float32)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in FACTS.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return folder


def library(folder: Path | None, **more: bool) -> Library:
    return Library(folder, lambda name: CountingEmbedder(), lambda name: Backwards(), **more)


def prompt(question: str) -> Prompt:
    return Prompt(question, "t", (Message("user", f"Say briefly: {question}"),), {"q": question}, "f")


def test_an_index_is_made_once_for_a_run(documents: Path, tmp_path: Path) -> None:
    CountingEmbedder.texts = 0
    first = library(tmp_path / "indexes").index(str(documents), "words", CHUNKS)
    assert CountingEmbedder.texts == len(FACTS)
    later = library(tmp_path / "indexes")
    again = later.index(str(documents), "words", CHUNKS)
    assert again.folder == first.folder
    assert CountingEmbedder.texts == len(FACTS)
    assert later.making(again).build_s > 0  # what it took then
    other = library(tmp_path / "indexes").index(str(documents), "words", ChunkSettings(tokens=8, overlap=0))
    assert other.folder != first.folder


def test_passages_that_are_left_out_are_not_found_and_others_keep_their_places(documents: Path, tmp_path: Path) -> None:
    own = library(tmp_path / "indexes")
    whole = own.index(str(documents), "words", CHUNKS)
    before = {passage.id: passage for passage in whole.passages.values()}
    own.leave_out(str(documents), [before["whale.md#1"]])
    index = own.index(str(documents), "words", CHUNKS)
    assert index.folder != whole.folder
    assert "whale.md" not in index.documents
    assert {p.id: (p.start, p.end) for p in index.passages.values()} == {
        name: (p.start, p.end) for name, p in before.items() if name != "whale.md#1"
    }


def test_search_finds_by_the_query_template(documents: Path, tmp_path: Path) -> None:
    own = library(tmp_path / "indexes")
    index = own.index(str(documents), "words", CHUNKS)
    retrieval = Retrieval(str(index.folder), "words", k=2, query="{{ q }}")
    (found,) = own.find(retrieval, [prompt("where does the eagle nest")])
    assert (len(found), found[0].document) == (2, "eagle.md")
    assert set(own.by_document(retrieval)) == {f"{name}.md" for name in FACTS}


def test_passages_that_the_embedder_cuts_are_counted_also_when_the_index_is_there_already(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "long.md").write_text(f"# Long\n\n{'word ' * 90}", encoding="utf-8")
    (folder / "short.md").write_text("# Short\n\nA word.", encoding="utf-8")
    for _ in range(2):
        own = library(tmp_path / "indexes")
        index = own.index(str(folder), "words", ChunkSettings(tokens=200, overlap=0))
        assert (own.making(index).too_long, len(index.passages)) == (1, 2)


def test_looking_ahead_embeds_nothing(documents: Path) -> None:
    CountingEmbedder.texts = 0
    own = library(None, words_only=True)
    index = own.index(str(documents), "words", CHUNKS)
    retrieval = Retrieval(str(index.folder), "words", k=1, kind="dense", query="{{ q }}", reranker="long")
    (found,) = own.find(retrieval, [prompt("tiger forest night")])
    assert found[0].document == "tiger.md"
    assert CountingEmbedder.texts == 0


def test_a_reranker_orders_what_was_found(documents: Path, tmp_path: Path) -> None:
    own = library(tmp_path / "indexes")
    index = own.index(str(documents), "words", CHUNKS)
    retrieval = Retrieval(str(index.folder), "words", k=1, query="{{ q }}", reranker="long", depth=5)
    (found,) = own.find(retrieval, [prompt("where does the whale live")])
    longest = max(index.passages.values(), key=lambda p: len(p.searched(headings=True)))
    assert found[0].id == longest.id
    assert reranked(Backwards(), ["q"], [[]], 3) == [[]]  # type: ignore[arg-type]


def test_a_longer_ranking_orders_no_more_than_answering_does(documents: Path, tmp_path: Path) -> None:
    own = library(tmp_path / "indexes")
    index = own.index(str(documents), "words", CHUNKS)
    retrieval = Retrieval(str(index.folder), "words", k=1, query="{{ q }}", reranker="long", depth=2)
    asked = [prompt("where does the whale live")]
    (shown,), (ranked,) = own.find(retrieval, asked), own.rank(retrieval, asked, 5)
    assert ranked[0].passage == shown[0]
    assert len(ranked) == 5


@pytest.mark.parametrize("kind", ["dense", "hybrid", "lexical"])
def test_of_passages_that_say_the_same_one_is_shown_and_the_next_best_takes_the_place(
    documents: Path, tmp_path: Path, kind: str
) -> None:
    for copy in range(7):  # more than are asked for
        (documents / f"whale-{copy}.md").write_text(FACTS["whale"].upper().replace(" ", "  "), encoding="utf-8")
    own = library(tmp_path / "indexes")
    index = own.index(str(documents), "words", CHUNKS)
    retrieval = Retrieval(str(index.folder), "words", k=3, query="{{ q }}", kind=kind)  # type: ignore[arg-type]
    asked = [prompt("the whale sings in the cold sea in the garden"), prompt("the tiger hunts in the forest")]
    first, second = own.find(retrieval, asked)
    assert any(" ".join(passage.text.lower().split()).startswith("the whale") for passage in first)
    for found in (first, second):
        assert len({" ".join(passage.text.lower().split())[:9] for passage in found}) == len(found)
    # words alone find what has a word of the question
    assert (len(first), len(second)) == ((2, 1) if kind == "lexical" else (3, 3))


def test_a_copy_of_the_right_passage_in_another_document_is_no_wrong_one() -> None:
    right, copy, other = (
        Passage(f"{name}#1", name, name, (), None, 0, len(text), text, "")
        for name, text in (("a.md", "The whale sings."), ("b.md", "THE WHALE  sings."), ("c.md", "The snail is slow."))
    )
    example = Example(prompt("Who sings?"), "whale", ("whale",), None, Place("q.csv", 2), Relevance(("a.md",)))
    assert wrong_ones(example, [copy, other, right], [right]) == [other]
    assert distinct([copy, right, other]) == [copy, other]
    unlike = [replace(other, text=text) for text in ("x > 5", "x < -5", "***", "---")]
    below = [replace(right, headings=(product,)) for product in ("A", "B")]
    assert distinct([*unlike, *below]) == [*unlike, *below]
    assert passages_of_shot(example, [copy, other], {"a.md": [right]}, 2) == (right, other)


def test_equal_scores_keep_the_order_of_the_search() -> None:
    hits = [Hit(Passage(f"a#{n}", "a", "A", (), None, 0, 1, "x", "d"), 1.0 / n) for n in (1, 2, 3)]
    (ordered,) = reranked(Backwards(), ["q"], [hits], 3)  # type: ignore[arg-type]
    assert [hit.passage.id for hit in ordered] == ["a#1", "a#2", "a#3"]


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no document could be read"):
        library(tmp_path / "indexes").reading(str(tmp_path / "none"))


def example(question: str, answer: str, relevance: Relevance | None) -> Example:
    return Example(prompt(question), answer, (answer,), None, Place("x"), relevance)


def test_pairs_have_the_right_passage_and_wrong_ones_beside_it(documents: Path, tmp_path: Path) -> None:
    index = library(tmp_path / "indexes").index(str(documents), "words", CHUNKS)
    examples = [
        example("where does the whale live", "sea", Relevance(("whale.md",))),
        example("who hunts at night", "tiger", None),  # found by its answer
        example("who flies to the moon", "nobody", None),
    ]
    mined = mine(examples, index, query="{{ q }}", negatives=2, margin=1.0)
    assert mined.without == 1
    assert [pair.positive for pair in mined.pairs] == [FACTS["whale"], FACTS["tiger"]]
    for pair in mined.pairs:
        assert len(set(pair.negatives)) == 2
        assert pair.positive not in pair.negatives
    right, ranking = judged(examples, index, "{{ q }}", "dense")
    assert right == {examples[0].id: {"whale.md#1"}, examples[1].id: {"tiger.md#1"}}
    assert len(ranking[examples[0].id]) == len(FACTS)


def test_a_passage_too_near_to_the_question_is_no_negative(documents: Path, tmp_path: Path) -> None:
    (documents / "copy.md").write_text("The whale lives in the cold sea and sings songs.", encoding="utf-8")
    index = library(tmp_path / "indexes").index(str(documents), "words", CHUNKS)
    asked = [example("the whale lives in the cold sea", "sea", Relevance(("whale.md",)))]
    strict = mine(asked, index, query="{{ q }}", negatives=2, margin=0.8)
    loose = mine(asked, index, query="{{ q }}", negatives=5, margin=1.0)
    assert strict.filtered >= 1
    assert not any("songs" in text for text in strict.pairs[0].negatives)
    assert any("songs" in text for text in loose.pairs[0].negatives)


def test_real_pdf_and_html_are_cited_by_page_and_heading(data_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    shutil.copy(data_folder / "ntsb_pdf" / "20071229X02007.pdf", folder / "report.pdf")
    shutil.copy(data_folder / "alice_html" / "11-h.htm", folder / "alice.html")
    own = library(None, words_only=True)
    index = own.index(str(folder), "words", ChunkSettings(tokens=150, overlap=20))
    retrieval = Retrieval(str(index.folder), "words", k=1, query="{{ q }}", order="best-first", cite=True)
    asked = [
        prompt("pilot information certificate medical flight time"),
        prompt("who stole the tarts at the trial of the Knave of Hearts"),
    ]
    report, book = (found[0] for found in own.find(retrieval, asked))
    second_page = PdfReader(folder / "report.pdf").pages[1].extract_text()
    assert "Instrument Rating(s)" in report.text
    assert "Instrument Rating(s)" in second_page
    assert report.place == "report.pdf, page 2"
    assert re.fullmatch(r"alice\.html, .*(TARTS|EVIDENCE|Evidence|Tarts).*", book.place)
    shown = with_passages(asked[1].messages, Grounding(retrieval, (book,)))[-1].content
    assert f'<passage number="1" source="{book.place}">' in shown
