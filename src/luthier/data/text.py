"""Raw text to pretrain on: from files, or from the training examples of a task; read, counted, a part kept apart."""

from __future__ import annotations

import glob
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from luthier.data.files import FORMAT_OF_SUFFIX, locate, read_text
from luthier.data.normalise import normalised
from luthier.data.read import file_format, read_file
from luthier.data.settings import Encoding, Names
from luthier.data.templates import NoText, as_text
from luthier.errors import DataError
from luthier.settings import Settings
from luthier.types import Example, Place

_TEXT_SUFFIXES = (".txt", ".md")


class TextSource(Settings):
    """Where raw text comes from: files, the training examples of a task, or both."""

    files: Names = ()
    """Paths (relative to the study file) or patterns such as `notes/*.md`. In .txt and .md files blank lines stand
    between documents; of .csv, .tsv, .json, .jsonl and .parquet files every row is one."""
    column: str | None = None
    """The column of the text, in files that have columns."""
    document: Literal["paragraph", "file"] = "paragraph"
    """What a document is in .txt and .md files: what stands between blank lines, or the whole file."""
    encoding: Encoding = "utf-8"
    """Encoding of text files. A byte order mark is believed before this."""
    task: str | None = None
    """The training prompts of this task, as it words them, without its system text; never those of its validation or
    test split."""
    completions: bool = False
    """With `task`: the wanted answers too, each behind its prompt."""

    @model_validator(mode="after")
    def _there_is_a_source(self) -> TextSource:
        if not self.files and self.task is None:
            raise ValueError("names no text; give files, the name of a task, or both")
        if self.completions and self.task is None:
            raise ValueError("completions are those of a task; give its name, or leave completions out")
        if self.document == "file" and self.column is not None:
            raise ValueError("document: file is of files without columns, and column is given; leave one of them out")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The paths and patterns."""
        return (self.files,) if isinstance(self.files, str) else self.files


def _long_form(value: Any) -> Any:
    """A path or a list of them are files without further settings."""
    if isinstance(value, str | list | tuple):
        return {"files": value}
    if not isinstance(value, Mapping | TextSource):
        raise ValueError(f"text is a path, a list of paths, or a mapping of settings; found {value!r}")
    return value


AnyText = Annotated[TextSource, BeforeValidator(_long_form)]


@dataclass(frozen=True, slots=True)
class Document:
    """A text that stands by itself."""

    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Text:
    """All documents of a source.

    Attributes:
        name: What to call it in messages.
        documents: Each once, in the order of the files; at least two.
        empty: Documents of white space alone, left out.
        repeated: Documents equal to an earlier one after normalisation, left out.
    """

    name: str
    documents: tuple[Document, ...]
    empty: int
    repeated: int


@dataclass(frozen=True, slots=True)
class Halves:
    """Documents to learn from and documents kept apart; at least one of each."""

    train: tuple[Document, ...]
    held: tuple[Document, ...]


def load_text(source: TextSource, train: Sequence[Example], root: Path) -> Text:
    """Read the documents of a source.

    Args:
        train: The training examples of the task that the source names.
        root: The folder against which relative paths resolve.

    Raises:
        DataError: A file cannot be read, has no such column, or no text to learn from and to keep some apart is left.
    """
    files = [file for name in source.names for file in _matching(name, root)]
    found = [document for file in dict.fromkeys(files) for document in _documents(file, source, root)]
    found += [Document(_as_text(example, completion=source.completions), example.place) for example in train]
    filled = [document for document in found if document.text.strip()]
    once: dict[str, Document] = {}
    for document in filled:
        once.setdefault(normalised(document.text), document)
    kept = tuple(once.values())
    name = _name(source)
    if len(kept) < 2:
        raise DataError(
            f"{name}: {len(kept)} documents with text, each once ({len(found)} in all); expected two at least, one to "
            "learn from and one to keep apart.\nGive more text; of a single file, document: paragraph makes several."
        )
    return Text(name, kept, empty=len(found) - len(filled), repeated=len(filled) - len(kept))


def halves(documents: Sequence[Document], held_out: float, seed: int) -> Halves:
    """Keep a share of the documents apart, drawn by the seed; at least one, and at least one is left."""
    count = min(max(1, round(held_out * len(documents))), len(documents) - 1)
    held = set(random.Random(f"{seed}/text").sample(range(len(documents)), count))
    return Halves(
        train=tuple(document for number, document in enumerate(documents) if number not in held),
        held=tuple(document for number, document in enumerate(documents) if number in held),
    )


def _name(source: TextSource) -> str:
    parts = [*source.names, *(() if source.task is None else (f"the training examples of '{source.task}'",))]
    return " and ".join(parts)


def _matching(name: str, root: Path) -> list[str]:
    """The files that a path or a pattern names, as the study would name them."""
    if not glob.has_magic(name) or (root / name).exists():
        return [name]
    found = [file for file in sorted(glob.glob(name, root_dir=root, recursive=True)) if (root / file).is_file()]
    if not found:
        raise DataError(
            f"{name}: no file matches this pattern in {root.resolve()}. Paths are relative to the study file."
        )
    return found


def _documents(file: str, source: TextSource, root: Path) -> Iterable[Document]:
    path = locate(file, root)
    suffix = path.suffix.lower()
    if suffix not in _TEXT_SUFFIXES:
        if suffix not in FORMAT_OF_SUFFIX:
            known = ", ".join((*_TEXT_SUFFIXES, *FORMAT_OF_SUFFIX))
            raise DataError(f"{file}: the ending {suffix or '(none)'!r} names no format of text (known: {known}).")
        return _rows(path, file, source)
    if not path.stat().st_size:
        return [Document("", Place(file))]
    text = read_text(path, file, source.encoding)
    return [Document(text.strip(), Place(file))] if source.document == "file" else _paragraphs(text, file)


def _rows(path: Path, file: str, source: TextSource) -> Iterable[Document]:
    table = read_file(path, file, file_format(path, file), source.encoding)
    if source.column not in table.columns:
        given = "column is not given" if source.column is None else f"no column {source.column!r}"
        raise DataError(f"{file}: {given} (found: {', '.join(table.columns)}). Set column to the one with the text.")
    documents = []
    for row in table.rows:
        value = row.values.get(source.column)
        try:
            text = "" if value is None else as_text(value)
        except NoText as error:
            raise DataError(f"{row.place}: {source.column!r} is no text: {error}.") from error
        documents.append(Document(text.strip(), row.place))
    return documents


def _paragraphs(text: str, file: str) -> Iterable[Document]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for filled, run in itertools.groupby(enumerate(lines, 1), key=lambda line: bool(line[1].strip())):
        if filled:
            own = list(run)
            yield Document("\n".join(line for _, line in own).strip(), Place(file, own[0][0]))


def _as_text(example: Example, *, completion: bool) -> str:
    turns = [message.content for message in example.prompt.messages if message.role != "system"]
    return "\n\n".join([*turns, example.completion] if completion else turns)
