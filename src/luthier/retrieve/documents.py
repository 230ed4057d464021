"""From files to documents: each a text in Markdown, with the places of its pages.

Text and Markdown are read as they are; HTML, Word and PDF files go through markitdown, a PDF page by page. Of a table
(CSV, TSV, JSON, JSON Lines, Parquet) every row is a document. What does not survive: pictures and layout, scripts and
styles of HTML, comments and headers of Word files, and all that a scanned page holds, which has no text.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import unicodedata
import zipfile
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.files import FORMAT_OF_SUFFIX, read_text
from luthier.data.read import read_file
from luthier.errors import DataError
from luthier.progress import Progress, Silent

if TYPE_CHECKING:
    from markitdown import MarkItDown

PLAIN_SUFFIXES = (".txt", ".md", ".markdown", ".rst")
CONVERTED_SUFFIXES = (".html", ".htm", ".docx", ".pdf")
TABLE_SUFFIXES = tuple(FORMAT_OF_SUFFIX)
_HEADED_SUFFIXES = (".csv", ".tsv", ".tab")
SUFFIXES = (*PLAIN_SUFFIXES, *CONVERTED_SUFFIXES, *TABLE_SUFFIXES)

_TITLE = re.compile(r"^#{1,2}\s+(.+?)\s*#*\s*$", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_CODE_MARK = re.compile(r"^(```|~~~)")
_LONGEST_TITLE = 120


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found again, by its name.

    Attributes:
        name: The file's path below the folder that was read, with slashes; a row adds its number (`faq.csv:7`).
        text: Markdown.
        pages: Where each page begins in `text`, in characters; empty where the file has no pages.
    """

    name: str
    title: str
    text: str
    pages: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """Of all that its passages depend on."""
        parts = "\x00".join([self.title, self.text, *map(str, self.pages)])
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def page_of(self, start: int, end: int) -> int | None:
        """The number of the page that holds most of a stretch of the text, from 1; None where there are no pages."""
        if not self.pages:
            return None
        numbers = range(bisect_right(self.pages, start), bisect_right(self.pages, max(start, end - 1)) + 1)
        ends = [*self.pages[1:], len(self.text)]
        return max(numbers, key=lambda n: (min(end, ends[n - 1]) - max(start, self.pages[n - 1]), -n))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or a part of one, that gave no text, and why.

    Attributes:
        empty: Whether it is known to hold no document; else what was read of it before may stand.
    """

    name: str
    reason: str
    empty: bool = False


class EmptyDocument(DataError):
    """A file can be read and holds no text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a folder or some files gave.

    Attributes:
        drives: Folders in it that are drives or shares of their own, with a slash at their end.
    """

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...]
    drives: tuple[str, ...] = ()


def read_folder(folder: Path, progress: Progress | None = None, without: Collection[Path] = ()) -> Reading:
    """All documents below a folder, by name; files that start with a dot, or lie in such a folder, are passed over.

    A file that cannot be read is skipped with its reason, so that one damaged file does not cost the others. So is a
    folder that cannot be looked into, or was made by Luthier: an index, a run.

    Args:
        without: Files that are no documents, such as a study's own rows.

    Raises:
        DataError: There is no such folder.
    """
    walked = _walk(folder)
    files, skipped = walked.files, list(walked.passed)
    left_out = {file.resolve() for file in without}
    documents: list[Document] = []
    with (progress or Silent()).track("reading files", len(files)) as advance:
        seen: set[str] = set()
        for file in files:
            name = name_of(file.relative_to(folder))
            if any(file.resolve() == own or own in file.resolve().parents for own in left_out):
                found = Reading((), (Skipped(name, "the study's own rows, no document", empty=True),))
            elif name in seen:
                found = Reading((), (Skipped(name, "another file has this name in another Unicode form; rename one"),))
            else:
                found = _read_or_skip(file, name, folder)
            seen.add(name)
            documents += found.documents
            skipped += found.skipped
            advance(1)
    return Reading(tuple(documents), tuple(skipped), tuple(walked.drives))


def name_of(path: Path) -> str:
    """The name of a document by its place below the folder of documents, in NFC: some systems write file names in parts
    (NFD), and what names a document elsewhere is typed."""
    return unicodedata.normalize("NFC", path.as_posix())


def document_files(folder: Path) -> list[Path]:
    """All files below a folder, by name, whether they can be read or not; none that starts with a dot, and none of an
    index or a run of Luthier's.

    Raises:
        DataError: There is no such folder.
    """
    return _walk(folder).files


@dataclass(frozen=True, slots=True)
class _Walked:
    """The files below a folder, by name; folders that were not looked into, and why; and drives of their own."""

    files: list[Path]
    passed: list[Skipped]
    drives: list[str]


def _walk(folder: Path) -> _Walked:
    if not folder.is_dir():
        kind = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"{folder}: the folder of documents {kind}. Give the folder that holds them.")
    files: list[Path] = []
    passed: list[Skipped] = []
    drives: list[str] = []

    def unreadable(error: OSError) -> None:
        passed.append(Skipped(_folder_name(Path(error.filename), folder), f"cannot be looked into: {error.strerror}"))

    for place, inside, names in os.walk(folder, onerror=unreadable):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in list(inside):
            below = Path(place) / name
            if reason := _LINK if below.is_symlink() else _made_here(below):
                inside.remove(name)
                passed.append(Skipped(_folder_name(below, folder), reason, empty=reason is not _LINK))
            elif os.path.ismount(below):
                drives.append(_folder_name(below, folder))
        files += [Path(place) / name for name in names if not name.startswith(".")]
    return _Walked(sorted(file for file in files if os.path.isfile(file)), passed, drives)


_LINK = "a link to a folder, which is not followed"


def _folder_name(path: Path, folder: Path) -> str:
    """As a document is called, with a slash at its end."""
    return f"{name_of(path.relative_to(folder))}/"


def _made_here(folder: Path) -> str | None:
    """What Luthier has made a folder for; None where it has not."""
    if os.path.isfile(folder / "study.json") and os.path.isdir(folder / "steps"):
        return "the folder of a run, whose passages and answers are no documents"
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return "an index of documents" if isinstance(about, dict) and {"embedder_key", "chunks"} <= about.keys() else None


def read_some(folder: Path, progress: Progress | None = None, without: Collection[Path] = ()) -> Reading:
    """All documents below a folder, of which there must be one.

    Raises:
        DataError: There is no such folder, or nothing in it can be read.
    """
    reading = read_folder(folder, progress, without)
    if not reading.documents:
        why = "; ".join(f"{own.name}: {own.reason}" for own in reading.skipped[:3]) or "it is empty"
        raise DataError(f"{folder}: no document could be read ({why}).")
    return reading


def _read_or_skip(file: Path, name: str, folder: Path) -> Reading:
    if not file.resolve().is_relative_to(folder.resolve()):
        return Reading((), (Skipped(name, "a link that leads out of the folder"),))
    try:
        name.encode()
    except UnicodeEncodeError:
        return Reading((), (Skipped(ascii(name)[1:-1], "its name is no UTF-8; rename it"),))
    try:
        return read_document(file, name)
    except DataError as error:
        reason = str(error).removeprefix(f"{name}: ")
        return Reading((), (Skipped(name, reason, empty=isinstance(error, EmptyDocument)),))


def read_document(file: Path, name: str) -> Reading:
    """The document of a file, or those of a table's rows.

    Args:
        name: What the document is called.

    Raises:
        EmptyDocument: The file holds no text.
        DataError: The file cannot be read, or is of no known kind.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        kind = f"'{suffix}' files" if suffix else "files without an ending"
        raise DataError(f"{name}: no reader for {kind} (there are readers for {', '.join(SUFFIXES)}).")
    try:
        content = file.read_bytes().strip()
    except OSError as error:
        raise DataError(f"{name}: it cannot be read ({error.strerror}).") from error
    if not content:
        raise EmptyDocument(f"{name}: the file is empty.")
    if suffix in TABLE_SUFFIXES:
        if suffix in _HEADED_SUFFIXES and len(content.splitlines()) == 1:
            raise EmptyDocument(f"{name}: the table has no rows.")
        return _rows(file, name)
    skipped: tuple[Skipped, ...] = ()
    pages: tuple[int, ...] = ()
    if suffix in PLAIN_SUFFIXES:
        text = _with_marked_headings(read_text(file, name, "utf-8", "Save the file as UTF-8."), suffix)
    elif suffix == ".pdf":
        texts = list(_pdf_pages(file, name))
        text, pages = _joined(texts)
        skipped = tuple(Skipped(f"{name}, page {n}", "no text; a scan?") for n, own in enumerate(texts, 1) if not own)
    else:
        text = _converted(file, name)
    text = _tidy(text) if not pages else text
    if not text.strip():
        raise EmptyDocument(f"{name}: no text was found in it.")
    return Reading((Document(name, _title(text, file), text, pages),), skipped)


def _with_marked_headings(text: str, suffix: str) -> str:
    """The text with headings that are underlined (in .rst with any sign, over or under them) as Markdown's own."""
    signs = {".md": "=-", ".markdown": "=-", ".rst": "=-`:.'\"~^_*+#<>"}.get(suffix, "")
    if not signs:
        return text
    lines = re.split(r"\r\n|\r|\n", text)
    kinds: list[str] = list(signs[:2]) if signs == "=-" else []  # of .rst in the order in which they come
    found: list[str] = []
    fence, at = "", 0
    while at < len(lines):
        line, bare = lines[at], lines[at].strip()
        mark = _CODE_MARK.match(bare)
        if mark:
            fence = mark.group(1) if not fence else "" if bare.startswith(fence) else fence
        below, further = (lines[at + n].strip() if at + n < len(lines) else "" for n in (1, 2))
        over = signs != "=-" and further == bare and _underline(bare, signs) != ""
        title, under = (below, bare) if over else (bare, below)
        is_title = bool(title) and not _underline(title, signs) and title[0] not in "|>#-*+"
        indented = not over and line[:1].isspace()
        wide = signs == "=-" or len(under) >= len(title)
        alone = not found or not found[-1].strip()
        if is_title and _underline(under, signs) and wide and alone and not indented and not fence:
            kind = ("over " if over else "") + under[0]
            if kind not in kinds:
                kinds.append(kind)
            found.append(f"{'#' * min(6, kinds.index(kind) + 1)} {title}")
            at += 3 if over else 2
            continue
        found.append(line)
        at += 1
    return "\n".join(found)


def _underline(line: str, signs: str) -> str:
    """The sign of which a line of three at least consists; nothing of another line."""
    return line[0] if len(line) >= 3 and line[0] in signs and set(line) == {line[0]} else ""


def _rows(file: Path, name: str) -> Reading:
    """Each row a document of `column: value` lines; where there is a single column, its values alone."""
    table = read_file(file, name, FORMAT_OF_SUFFIX[file.suffix.lower()])
    documents, skipped = [], []
    for row in table.rows:
        filled = {column: str(value).strip() for column, value in row.values.items() if value not in (None, "")}
        lines = list(filled.values()) if len(table.columns) == 1 else [f"{c}: {v}" for c, v in filled.items()]
        text = _tidy("\n".join(lines))
        if text.strip():
            documents.append(Document(str(row.place), next(iter(filled.values()))[:_LONGEST_TITLE], text))
        else:
            skipped.append(Skipped(str(row.place), "an empty row"))
    return Reading(tuple(documents), tuple(skipped))


def _pdf_pages(file: Path, name: str) -> Iterator[str]:
    """The text of each page; markitdown reads whole files, in which it does not say where a page ends."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{name}: the PDF is locked with a password. Save it without one.")
        for page in reader.pages:
            writer = PdfWriter()
            writer.add_page(page)
            alone = io.BytesIO()
            writer.write(alone)
            alone.seek(0)
            yield _tidy(_markitdown().convert_stream(alone, file_extension=".pdf").markdown)
    except DataError:
        raise
    except PyPdfError as error:
        raise DataError(f"{name}: the PDF is damaged: {error}") from error
    except Exception as error:  # whatever markitdown and the readers below it raise
        raise DataError(f"{name}: the PDF cannot be read: {type(error).__name__}: {error}") from error


def _converted(file: Path, name: str) -> str:
    if file.suffix.lower() == ".docx" and not zipfile.is_zipfile(file):  # markitdown would read its bytes as text
        raise DataError(f"{name}: no Word file of the kind .docx, or a damaged one.")
    try:
        return str(_markitdown().convert_local(file).markdown)
    except Exception as error:  # whatever markitdown and the readers below it raise
        reason = str(error).strip().splitlines()[-1:] or [""]
        raise DataError(f"{name}: cannot be read: {type(error).__name__}: {reason[0]}") from error


@lru_cache(maxsize=1)
def _markitdown() -> MarkItDown:
    from markitdown import MarkItDown

    for noisy in ("pdfminer", "pypdf"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MarkItDown(enable_plugins=False)


def _joined(texts: list[str]) -> tuple[str, tuple[int, ...]]:
    """The pages as one text, and where each of them begins."""
    starts, at = [], 0
    for text in texts:
        starts.append(at)
        at += len(text) + 2
    return "\n\n".join(texts), tuple(starts)


def _tidy(text: str) -> str:
    """Line ends as \\n, composed characters, no control characters, no runs of empty lines."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n\n"))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _title(text: str, file: Path) -> str:
    found = _TITLE.search(_CODE.sub("", text))  # in code, # begins a comment
    return (found.group(1) if found else file.stem.replace("_", " "))[:_LONGEST_TITLE]
