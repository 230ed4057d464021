"""A task's documents: read, held against what its rows say of them, and searched for what gives the test away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.leaks import Leak, find_leaks
from luthier.data.settings import TaskSettings
from luthier.errors import DataError
from luthier.retrieve.documents import Document
from luthier.retrieve.library import documents_key
from luthier.retrieve.passages import ChunkSettings, cut
from luthier.types import Documents, Example, Passage, Task

if TYPE_CHECKING:
    from luthier.retrieve.library import Library

_SHOWN = 10


def with_documents(
    task: Task, settings: TaskSettings, root: Path, library: Library, rows: Collection[str] = ()
) -> Task:
    """The task with its documents, if its settings name any, and what was found in them in its report.

    Args:
        rows: Files of the study's own rows, those of other tasks among them: they are no documents.

    Raises:
        DataError: There is no such folder, nothing in it can be read, or a row names a document that is not there.
    """
    if settings.documents is None:
        return task
    folder = str((root / Path(settings.documents).expanduser()).resolve())
    reading = library.reading(folder, without=[root / Path(name).expanduser() for name in rows])
    names = {document.name for document in reading.documents}
    _check_names(task, names, settings.documents)
    passages = [own for document in reading.documents for own in cut(document, ChunkSettings(), _words)]
    leaks = find_leaks((*task.validation, *task.test), passages)
    if leaks and settings.document_leaks == "drop":
        library.leave_out(folder, [leak.passage for leak in leaks])
    documents = library.reading(folder).documents
    warnings = list(task.report["warnings"])  # type: ignore[call-overload]
    if reading.skipped:
        first = reading.skipped[0]
        warnings.append(
            f"documents: {len(reading.skipped)} files, pages or folders were left out, such as {first.name} "
            f"({first.reason})"
        )
    if leaks:
        done = "left out of the index" if settings.document_leaks == "drop" else "kept (see document_leaks)"
        warnings.append(
            "documents: passages that hold a question of validation or test, or nearly its words, with its answer: "
            f"{len(leaks)} of {len(passages)}, such as {leaks[0].passage.place}; {done}"
        )
    if lost := _without_evidence(task, documents):
        warnings.append(
            f"evidence: of {len(lost)} examples none of it stands in the documents, such as {lost[0].place}; for these "
            "no passage counts as right"
        )
    report = {
        **task.report,
        "documents": {
            "folder": settings.documents,
            "documents": len(documents),
            "characters": sum(len(document.text) for document in documents),
            "skipped": [{"name": own.name, "reason": own.reason} for own in reading.skipped],
            "leaks": _leaks_report(leaks, settings.document_leaks),
        },
        "warnings": warnings,
    }
    return replace(task, documents=Documents(folder, documents_key(documents)), report=report)


def _words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _check_names(task: Task, names: set[str], folder: str) -> None:
    for example in (*task.train, *task.validation, *task.test):
        if example.relevance is None:
            continue
        missing = [name for name in example.relevance.documents if name not in names]
        if missing:
            near = ", ".join(sorted(names)[:5])
            raise DataError(
                f"{example.place}: relevant names the document {missing[0]!r}, which {folder} does not have (it has "
                f"{len(names)}: {near}{', …' if len(names) > 5 else ''}). Names are paths below the folder; rows of a "
                "table add their number, such as faq.csv:7."
            )


def _without_evidence(task: Task, documents: Sequence[Document]) -> list[Example]:
    whole = {d.name: Passage(d.name, d.name, d.title, (), None, 0, len(d.text), d.text, "") for d in documents}
    lost = []
    for example in (*task.train, *task.validation, *task.test):
        relevance = example.relevance
        if relevance is None or not relevance.evidence:
            continue
        among = [whole[name] for name in relevance.documents] or whole.values()
        if not any(relevance.holds(document) for document in among):
            lost.append(example)
    return lost


def _leaks_report(leaks: Sequence[Leak], done: str) -> Mapping[str, Any]:
    return {
        "count": len(leaks),
        "done": {"keep": "kept", "drop": "left out"}[done],
        "found": [
            {"passage": leak.passage.id, "example": str(leak.example.place), "how": leak.how} for leak in leaks[:_SHOWN]
        ],
    }
