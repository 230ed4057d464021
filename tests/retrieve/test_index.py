"""An index on both of its stores: found as brute force finds, changed in whole steps, safe from kills."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from index_driver import NAMES, State, document, ready, state_of
from words import WordEmbedder

from luthier.errors import RetrievalError
from luthier.retrieve.documents import Document
from luthier.retrieve.index import Index, about_index, copy_index, create, fused, open_index
from luthier.retrieve.passages import ChunkSettings

HERE = Path(__file__).parent
KINDS = ("exact", "lancedb")
EMBEDDER = WordEmbedder()
ANIMALS = ("whale", "mouse", "horse", "eagle", "snail", "tiger")
FOODS = ("bread", "cheese", "apple", "honey", "onion")


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return create(tmp_path / "index", EMBEDDER, ChunkSettings(tokens=12, overlap=0, headings=False), request.param)


def reopened(index: Index) -> Index:
    return open_index(index.folder, lambda name: EMBEDDER)


def some_documents(count: int, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    return [
        Document(
            f"group{n % 3}/o'{n}.md",
            f"Number {n}",
            " ".join(
                f"The {draw.choice(ANIMALS)} eats {draw.choice(FOODS)} at {draw.randint(1, 12)}." for _ in range(7)
            ),
        )
        for n in range(count)
    ]


def brute_force(index: Index, query: str, k: int, names: set[str] | None) -> list[tuple[str, float]]:
    passages = [own for own in index.passages.values() if names is None or own.document in names]
    vectors = EMBEDDER.embed([own.text for own in passages])
    scores = vectors.astype(np.float64) @ EMBEDDER.embed([query])[0].astype(np.float64)
    found = sorted(zip(passages, scores, strict=True), key=lambda own: (-round(own[1], 5), own[0].id))
    return [(own.id, score) for own, score in found[:k]]


@pytest.mark.parametrize("patterns", [None, ["group1/*"], ["group0/o'0.md", "group2/o'5.md"], ["none*"]])
def test_dense_search_finds_what_brute_force_finds(index: Index, patterns: list[str] | None) -> None:
    documents = some_documents(24)
    index.add(documents)
    index.remove(["group0/o'3.md", "group1/o'4.md"])
    names = {own.name for own in documents} - {"group0/o'3.md", "group1/o'4.md"}
    if patterns is not None:
        names = {n for n in names if n in patterns or any(n.startswith(p[:-1]) for p in patterns if p.endswith("*"))}
    for own in (index, reopened(index)):
        for query in ("the whale eats bread", "honey at 7", "onion"):
            hits = own.search(query, 9, "dense", patterns)
            wanted = brute_force(index, query, 9, names)
            assert [round(hit.score, 4) for hit in hits] == [round(score, 4) for _, score in wanted]
            # Of equal ones rounding may put either first.
            assert {hit.passage.id for hit in hits if hit.score > wanted[-1][1] + 1e-4} == {
                name for name, score in wanted if score > wanted[-1][1] + 1e-4
            }


def test_both_stores_find_the_same_in_every_kind_of_search(tmp_path: Path) -> None:
    indexes = []
    for kind in KINDS:
        own = create(tmp_path / kind, EMBEDDER, ChunkSettings(tokens=12, overlap=0), kind)  # type: ignore[arg-type]
        own.add(some_documents(30))
        own.add(some_documents(30, seed=1)[5:9])
        own.remove(["group1/*"])
        indexes.append(own)
    for search in ("dense", "lexical", "hybrid"):
        for query in ("the tiger eats cheese", "snail at 11", "o'8", "nothing of it"):
            found = [
                [(hit.passage, round(hit.score, 4)) for hit in own.search(query, 6, search)]  # type: ignore[arg-type]
                for own in indexes
            ]
            assert found[0] == found[1], (search, query)


def test_lexical_search_wants_a_common_word_and_hybrid_takes_both(index: Index) -> None:
    index.add([Document("a", "a", "Xylophone music."), Document("b", "b", "Loud drums."), Document("c", "c", "Drums.")])
    assert [hit.passage.document for hit in index.search("xylophone", 3, "lexical")] == ["a"]
    assert index.search("trumpet", 3, "lexical") == []
    assert index.search("xylophone", 3, "lexical", ["b", "c"]) == []
    both = index.search("drums", 3, "hybrid")
    assert {hit.passage.document for hit in both[:2]} == {"b", "c"}
    assert both[0].score == pytest.approx(2 / 61)


def test_lexical_search_knows_words_of_other_scripts_and_of_one_letter(index: Index) -> None:
    texts = {
        "park": "今天天气很好。我们去公园", "office": "公司今天休息。", "world": "यह दुनिया बड़ी है",
        "cafe": "Das Café am Eck.", "c": "The vitamin C in fruit.", "d": "The vitamin D of the sun.",
    }  # fmt: skip
    index.add([Document(name, name, text) for name, text in texts.items()])
    queries = {"公园": ["park"], "दुनिया": ["world"], "cafe\u0301": ["cafe"], "vitamin C": ["c", "d"]}
    for query, names in queries.items():
        assert [hit.passage.document for hit in index.search(query, 3, "lexical")] == names


def test_only_a_star_stands_for_anything(index: Index) -> None:
    index.add([Document(name, name, "Text.") for name in ("v1/a.md", "v2/a.md", "v[12]/a.md")])
    assert index.remove(["v[12]/*"]).removed == ("v[12]/a.md",)
    assert index.matching("v?/*") == []


def test_a_document_that_holds_nothing_is_not_added_again_and_again(index: Index) -> None:
    for added in (("a",), ()):
        changes = index.add([Document("a", "A", "Text."), Document("blank", "B", " \n\n ")])
        assert (changes.added, changes.passages) == (added, len(added))
    assert index.add([Document("a", "A", "  ")]).revised == ("a",)
    assert index.documents == {}


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_an_addition_in_several_steps_that_was_stopped_goes_on(index: Index, stopped_after: int) -> None:
    documents = [document(f"n{n}", 1) for n in range(150)]
    store, done = index._store, []

    class Stops:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def replace(self, *args: object) -> None:
            if len(done) == stopped_after:
                raise KeyboardInterrupt
            store.replace(*args)  # type: ignore[arg-type]
            done.append(args)

    index._store = Stops()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        index.add(documents)
    again = reopened(index)
    there = set(again.documents)
    assert 0 < len(there) < 150
    changes = again.add(documents)
    assert (len(changes.unchanged), len(changes.added)) == (len(there), 150 - len(there))
    fresh = reopened(again)
    assert len(fresh.documents) == 150
    assert len(fresh.passages) == len({own.id for own in fresh.passages.values()})


def test_ranks_are_fused_by_their_reciprocals() -> None:
    found = fused([[("a", 9.0), ("b", 8.0)], [("b", 0.5), ("c", 0.4)]])
    assert found == [("b", 1 / 62 + 1 / 61), ("a", 1 / 61), ("c", 1 / 62)]


def test_a_document_is_added_revised_left_and_removed(index: Index) -> None:
    first = index.add([Document("a", "A", "Old words. More."), Document("b", "B", "Other.")])
    assert (first.added, first.revised, first.unchanged) == (("a", "b"), (), ())
    second = index.add([Document("a", "A", "New words."), Document("b", "B", "Other."), Document("c", "C", "Third.")])
    assert (second.added, second.revised, second.unchanged, second.passages) == (("c",), ("a",), ("b",), 2)
    assert [own.text for own in reopened(index).passages.values()] == ["New words.", "Other.", "Third."]
    assert index.documents == {"a": ("A", 1), "b": ("B", 1), "c": ("C", 1)}
    gone = index.remove(["a", "c"])
    assert (gone.removed, gone.passages) == (("a", "c"), 2)
    for own in (index, reopened(index)):
        for kind in ("dense", "lexical", "hybrid"):
            assert {hit.passage.document for hit in own.search("words other third", 9, kind)} <= {"b"}  # type: ignore[arg-type]


def test_another_process_sees_each_change(index: Index) -> None:
    reader = reopened(index)
    assert reader.search("words", 3) == []
    index.add([Document("a", "A", "Some words.")])
    assert [hit.passage.text for hit in reader.search("words", 3)] == ["Some words."]
    index.add([Document("a", "A", "Other words.")])
    assert [hit.passage.text for hit in reader.search("words", 3)] == ["Other words."]
    index.remove(["a"])
    assert reader.search("words", 3) == []


def test_what_the_embedder_would_cut_is_counted(index: Index) -> None:
    table = "\n".join(f"| row {n} | value |" for n in range(20))
    changes = index.add([Document("t", "T", table), Document("s", "S", "Short.")])
    assert changes.too_long == {"t#1": 120}


def test_mistakes_are_named_and_change_nothing(index: Index, tmp_path: Path) -> None:
    index.add([Document("a", "A", "Text.")])
    with pytest.raises(RetrievalError, match=r"has no document b \(it has 1: a\)\. Nothing was removed"):
        index.remove(["a", "b"])
    with pytest.raises(RetrievalError, match="a stands twice"):
        index.add([Document("a", "A", "1"), Document("a", "A", "2")])
    assert list(index.documents) == ["a"]
    with FileLock(index.folder / ".lock"), pytest.raises(RetrievalError, match="being changed by another process"):
        reopened(index).remove(["a"])
    with pytest.raises(RetrievalError, match="holds an index already"):
        create(index.folder, EMBEDDER)
    with pytest.raises(RetrievalError, match="holds no index"):
        about_index(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("Mine.")
    with pytest.raises(RetrievalError, match="is not empty"):
        create(tmp_path / "notes", EMBEDDER)

    class Other(WordEmbedder):
        key = "words-2"

    with pytest.raises(RetrievalError, match="made with another embedder"):
        open_index(index.folder, lambda name: Other())


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    index = create(tmp_path / "index", EMBEDDER)
    index.add([Document("a", "A", "Text.")])
    file = tmp_path / "index" / "store" / "passages-00000001.jsonl"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(RetrievalError, match="generation 1 is damaged"):
        reopened(index).search("text", 1)
    (tmp_path / "index" / "store" / "CURRENT").write_text("7\n")
    with pytest.raises(RetrievalError, match=r"generation 7 .* missing"):
        reopened(index).search("text", 1)


def test_a_copy_holds_the_same_and_goes_its_own_way(index: Index, tmp_path: Path) -> None:
    for filled in (False, True):
        if filled:
            index.add(some_documents(20))
            index.add(some_documents(10, seed=1))
            index.remove(["group1/*"])
        to = tmp_path / f"copies/{filled}"
        copy_index(index.folder, to)
        copy = open_index(to, lambda name: EMBEDDER)
        assert (copy.kind, copy.chunks, copy.documents) == (index.kind, index.chunks, index.documents)
        assert copy.passages == index.passages
        assert copy.search("The whale eats honey", 9) == index.search("The whale eats honey", 9)
        copy.add([Document("new", "New", "The yak eats moss.")])
        assert "new" not in index.documents
        assert copy.search("yak", 1, "lexical")[0].passage.document == "new"


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts drivers, none of which outlives the test."""
    drivers: list[subprocess.Popen[str]] = []

    def start(folder: Path, kind: str, what: str) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            [sys.executable, HERE / "index_driver.py", folder, kind, what],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_read_while_one_writes(
    tmp_path: Path, kind: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "index"
    ready(folder, kind).add([document(name, -1) for name in NAMES])
    readers = [started(folder, kind, "read") for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "looking\n"
    writer = started(folder, kind, "0")
    assert writer.stdout is not None
    done = (line for line in writer.stdout if line == "done\n")
    assert len(list(itertools.islice(done, 6))) == 6
    for reader in readers:
        said, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        assert int(said.splitlines()[-1].removeprefix("seen ")) > 2


@pytest.mark.skipif(not hasattr(os, "kill"), reason="processes are killed")
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_killed_in_the_middle_of_changes_is_one_state_or_the_next(
    tmp_path: Path, kind: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "index"
    draw = random.Random(kind)
    ready(folder, kind).add([document(name, -1) for name in NAMES])
    reader = ready(folder, kind)
    state: State = (-1, True)
    changes = 0
    for seed in range(6):
        driver = started(folder, kind, str(seed))
        assert driver.stdout is not None
        lines = [driver.stdout.readline()]
        until = time.monotonic() + draw.random() * 0.8
        while time.monotonic() < until:
            state_of(reader)  # while the other process writes
        driver.kill()
        lines += driver.stdout.readlines()
        driver.wait()
        possible = {state}
        for line in lines:  # what was begun may be there or not, what was done is
            if line.startswith("begin add"):
                possible = {state, after := (int(line.split()[2]), True)}
            elif line.startswith("begin remove"):
                possible = {state, after := (state[0], False)}
            elif line == "done\n":
                state, possible, changes = after, {after}, changes + 1
        found = state_of(ready(folder, kind))
        assert found in possible
        hits = {hit.passage.document for hit in reader.search("Document d1 has revision", 60, "hybrid")}
        assert found[1] or not hits & set(NAMES[1::2])
        assert state_of(reader) == found
        state = found
    assert changes > 6
    ready(folder, kind).add([document(name, 5) for name in NAMES])
    assert state_of(reader) == (5, True)


def test_an_index_embeds_documents_and_questions_each_as_such(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Recording(WordEmbedder):
        def embed(self, texts, role="text"):  # type: ignore[no-untyped-def]
            asked.append((role, len(texts)))
            return super().embed(texts)

    index = create(tmp_path / "index", Recording(), ChunkSettings(tokens=12, overlap=0, headings=False))
    index.add([Document("a.md", "A", "The whale sings."), Document("b.md", "B", "The snail is slow.")])
    index.search("Who sings?", kind="hybrid")
    assert {role for role, count in asked if count} == {"document", "query"}
    assert asked[-1] == ("query", 1)
