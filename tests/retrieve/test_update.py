"""An index kept up to date with its files, from Python and from the command line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner
from words import WordEmbedder

from luthier.cli import app
from luthier.errors import DataError, RetrievalError
from luthier.retrieve.index import Index
from luthier.retrieve.passages import ChunkSettings
from luthier.retrieve.update import add_files, build

CHUNKS = ChunkSettings(tokens=30, overlap=0)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "cards.md").write_text("# Cards\n\nA gold card costs three.", encoding="utf-8")
    (folder / "deep" / "hours.md").write_text("# Hours\n\nWe open at nine.", encoding="utf-8")
    (folder / "faq.csv").write_text("question,answer\nWhere?,Main street.\nWho?,Bakers.\n", encoding="utf-8")
    return folder


def built(docs: Path) -> Index:
    return build(docs.parent / "index", docs, WordEmbedder(), CHUNKS).index


def test_building_again_takes_in_what_has_changed_in_the_folder(docs: Path) -> None:
    first = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert first.changes.added == ("cards.md", "deep/hours.md", "faq.csv:2", "faq.csv:3")
    (docs / "cards.md").write_text("# Cards\n\nA gold card costs four.", encoding="utf-8")
    (docs / "deep" / "hours.md").unlink()
    (docs / "faq.csv").write_text("question,answer\nWhere?,Main street.\n", encoding="utf-8")
    (docs / "new.txt").write_text("News.", encoding="utf-8")
    second = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert second.changes.revised == ("cards.md",)
    assert second.changes.added == ("new.txt",)
    assert second.changes.unchanged == ("faq.csv:2",)
    assert second.changes.removed == ("deep/hours.md", "faq.csv:3")
    assert set(second.index.documents) == {"cards.md", "faq.csv:2", "new.txt"}


def test_a_file_that_cannot_be_read_any_more_keeps_what_was_read(docs: Path) -> None:
    built(docs)
    (docs / "faq.csv").write_text('question,answer\n"never closed', encoding="utf-8")
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert [own.name for own in update.skipped] == ["faq.csv"]
    assert update.changes.removed == ()
    assert "faq.csv:3" in update.index.documents


def test_a_file_is_added_under_its_name_in_the_folder_and_a_table_row_by_row(docs: Path, tmp_path: Path) -> None:
    index = built(docs)
    (docs / "deep" / "hours.md").write_text("# Hours\n\nWe open at ten.", encoding="utf-8")
    (docs / "faq.csv").write_text("question,answer\nWhere?,High street.\n", encoding="utf-8")
    (tmp_path / "other.md").write_text("Elsewhere.", encoding="utf-8")
    update = add_files(index, [docs / "deep" / "hours.md", docs / "faq.csv", tmp_path / "other.md"])
    assert update.changes.revised == ("deep/hours.md", "faq.csv:2")
    assert update.changes.added == ("other.md",)
    assert update.changes.removed == ("faq.csv:3",)


def test_what_was_added_from_elsewhere_stays_when_the_folder_is_taken_in_again(docs: Path, tmp_path: Path) -> None:
    index = built(docs)
    (tmp_path / "other.md").write_text("Elsewhere.", encoding="utf-8")
    add_files(index, [tmp_path / "other.md"])
    update = build(tmp_path / "index", docs, WordEmbedder(), CHUNKS)
    assert update.changes.removed == ()
    assert "other.md" in update.index.documents
    (docs / "other.md").write_text("Here.", encoding="utf-8")
    with pytest.raises(RetrievalError, match=r"has a file other\.md, and the index one that was added from"):
        build(tmp_path / "index", docs, WordEmbedder(), CHUNKS)
    index.remove(["other.md"])
    for _ in range(2):  # and it is the folder's own from then on
        assert "other.md" in built(docs).documents


def test_a_file_does_not_take_the_place_of_another_of_its_name(docs: Path, tmp_path: Path) -> None:
    index = built(docs)
    one, two = tmp_path / "a", tmp_path / "b"
    for folder in (one, two):
        folder.mkdir()
        (folder / "guide.md").write_text(f"Guide of {folder.name}.", encoding="utf-8")
        (folder / "cards.md").write_text("No cards.", encoding="utf-8")
    add_files(index, [one / "guide.md"])
    for files in ([two / "guide.md"], [one / "cards.md"], [one / "cards.md", two / "cards.md"]):
        with pytest.raises(DataError, match="Rename one of them; nothing was changed"):
            add_files(index, files)
    assert add_files(index, [one / "guide.md"]).changes.unchanged == ("guide.md",)


def test_a_file_that_has_become_empty_is_not_found_any_more(docs: Path) -> None:
    index = built(docs)
    (docs / "cards.md").write_text("\n", encoding="utf-8")
    (docs / "faq.csv").write_text("question,answer\n", encoding="utf-8")
    update = add_files(index, [docs / "cards.md"])
    assert update.changes.removed == ("cards.md",)
    again = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert again.changes.removed == ("faq.csv:2", "faq.csv:3")
    assert {own.reason for own in again.skipped} == {"the file is empty.", "the table has no rows."}
    assert set(again.index.documents) == {"deep/hours.md"}


def test_a_build_that_was_killed_at_its_very_beginning_goes_on(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json.writing").write_text("{", encoding="utf-8")
    assert len(built(docs).documents) == 4


def test_a_file_whose_name_cannot_be_written_is_passed_over(docs: Path) -> None:
    with open(bytes(docs) + b"/b\xe4d.md", "wb") as handle:
        handle.write(b"Text.")
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert [own.reason for own in update.skipped] == ["its name is no UTF-8; rename it"]
    assert len(update.index.documents) == 4


def test_what_cannot_be_added_or_built_is_said(docs: Path, tmp_path: Path) -> None:
    index = built(docs)
    for file, said in ((docs, "is a folder"), (docs / "gone.md", "does not exist")):
        with pytest.raises(DataError, match=said):
            add_files(index, [docs / "cards.md", file])
    (tmp_path / "other.md").write_text("Elsewhere.", encoding="utf-8")
    before = (tmp_path / "index" / "index.json").read_bytes()
    with FileLock(tmp_path / "index" / ".lock"), pytest.raises(RetrievalError, match="by another process"):
        add_files(index, [tmp_path / "other.md"])
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no document could be read"):
        build(tmp_path / "other", tmp_path / "none", WordEmbedder(), CHUNKS)
    assert not (tmp_path / "other").exists()
    with pytest.raises(RetrievalError, match=r"was built with documents .*docs, and this asks for .*none"):
        build(tmp_path / "index", tmp_path / "none", WordEmbedder(), CHUNKS)
    with pytest.raises(RetrievalError, match="was built with chunks"):
        build(tmp_path / "index", docs, WordEmbedder(), ChunkSettings(tokens=31, overlap=0))


def command(text: str) -> str:
    """What a command prints."""
    return CliRunner().invoke(app, ["index", *shlex.split(text)], catch_exceptions=False).output


def test_the_commands_make_change_and_search_an_index(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (docs / "picture.png").write_bytes(b"\x89PNG")
    built = command("build index docs")
    assert "Documents: 4 added; 4 passages embedded." in built
    assert "Not read: 1 file or page." in built
    assert "picture.png: no reader for '.png' files" in built
    found = command("search index 'when do you open' -k 1 --kind dense")
    assert "1. deep/hours.md, Hours" in found
    assert "We open at nine." in found
    (docs / "deep" / "hours.md").write_text("# Hours\n\nWe open at ten.", encoding="utf-8")
    assert "1 revised" in command("add index docs/deep/hours.md")
    assert "We open at ten." in command("search index 'when do you open' -k 1")
    assert "Removed deep/hours.md with 1 passage." in command("remove index 'deep/*'")
    assert "We open" not in command("search index 'when do you open'")
    assert "3 documents, 3 passages; exact store" in command("list index")
    for text in ("remove index nothing.md", "search index hours --in nothing.md"):
        with pytest.raises(RetrievalError, match=r"has no document nothing\.md"):
            command(text)


def test_a_mistake_is_said_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "luthier", "index", "search", "nowhere", "x"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "nowhere holds no index" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_looked_into_keeps_what_was_read_of_it(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(docs)
    walk = os.walk

    def refusing(top: Path, onerror):  # type: ignore[no-untyped-def]
        for place, inside, names in walk(top):
            if "deep" in inside:
                inside.remove("deep")
                onerror(PermissionError(13, "Permission denied", str(Path(place) / "deep")))
            yield place, inside, names

    monkeypatch.setattr(os, "walk", refusing)
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert [(own.name, own.reason) for own in update.skipped] == [("deep/", "cannot be looked into: Permission denied")]
    assert update.changes.removed == ()
    assert "deep/hours.md" in update.index.documents


def test_a_folder_that_became_a_link_keeps_what_was_read_of_it(docs: Path, tmp_path: Path) -> None:
    built(docs)
    (docs / "deep").rename(tmp_path / "elsewhere")
    (docs / "deep").symlink_to(tmp_path / "elsewhere")
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert [(own.name, own.reason) for own in update.skipped] == [
        ("deep/", "a link to a folder, which is not followed")
    ]
    assert "deep/hours.md" in update.index.documents


def test_a_drive_that_is_not_connected_keeps_what_was_read_of_it(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = {str(docs / "deep")}
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted)
    built(docs)
    mounted.clear()
    (docs / "deep" / "hours.md").unlink()  # the mount point is an empty folder
    for _ in range(2):
        update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
        assert [own.name for own in update.skipped] == ["deep/"]
        assert "may not be connected" in update.skipped[0].reason
        assert (update.changes.removed, "deep/hours.md" in update.index.documents) == ((), True)
    mounted.add(str(docs / "deep"))
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert (update.changes.removed, update.skipped) == (("deep/hours.md",), ())


def test_an_index_inside_its_folder_of_documents_is_no_document(docs: Path) -> None:
    first = build(docs / "found", docs, WordEmbedder(), CHUNKS)
    again = build(docs / "found", docs, WordEmbedder(), CHUNKS)
    assert set(again.index.documents) == set(first.index.documents)
    assert (again.changes.added, again.changes.removed) == ((), ())
    assert [(own.name, own.reason) for own in again.skipped] == [("found/", "an index of documents")]


def test_a_run_inside_the_folder_of_documents_is_no_document(docs: Path) -> None:
    (docs / "runs" / "first" / "steps").mkdir(parents=True)
    (docs / "runs" / "first" / "study.json").write_text("{}", encoding="utf-8")
    (docs / "runs" / "first" / "ledger.jsonl").write_text('{"text": "no document"}\n', encoding="utf-8")
    (docs / "runs" / "index.json").write_text('{"pages": []}', encoding="utf-8")  # somebody else's
    (docs / "runs" / "notes.md").write_text("A document.", encoding="utf-8")
    update = build(docs.parent / "index", docs, WordEmbedder(), CHUNKS)
    assert "runs/notes.md" in update.index.documents
    assert not any(name.startswith("runs/first") for name in update.index.documents)
    assert any(own.name == "runs/first/" for own in update.skipped)
