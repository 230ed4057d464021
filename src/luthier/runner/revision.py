"""Documents revised and removed once all is trained: every approach is asked what has changed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.files import Table, locate
from luthier.data.read import file_format, read_file
from luthier.data.settings import TaskSettings
from luthier.data.templates import NoText, as_text
from luthier.data.unlabelled import build_prompts
from luthier.errors import DataError, StudyError
from luthier.evaluate.revision import RevisedAnswer, revision_rates
from luthier.evaluate.support import Shown
from luthier.retrieve.documents import Document, read_folder
from luthier.retrieve.index import copy_index
from luthier.runner.fitted import Fitted
from luthier.runner.folder import read_json, write_json
from luthier.runner.keys import key_of, source_key
from luthier.simple.rule import Rule
from luthier.study import RevisionSettings
from luthier.types import Prompt, PromptedModel, Retrieval, Task

if TYPE_CHECKING:
    from luthier.retrieve.library import Library
    from luthier.runner.measure import Bench


@dataclass(frozen=True, slots=True)
class Revision:
    """What changes, and what is asked then.

    Attributes:
        answers: For each question what the documents say after and before; empty where they say nothing.
    """

    documents: tuple[Document, ...]
    removed: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    answers: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """The hash of all of it."""
        return key_of(
            documents=[[own.name, own.digest] for own in self.documents],
            removed=self.removed,
            asked=[[message.content for message in prompt.messages] for prompt in self.prompts],
            answers=self.answers,
        )


def load_revision(
    settings: RevisionSettings | None, task: Task, about: TaskSettings, root: Path, library: Library
) -> Revision | None:
    """Read what a study says of a revision; None where it says nothing.

    Raises:
        StudyError: The task has no documents, or a removed one is none of them.
        DataError: A file cannot be read, or a column is missing.
    """
    if settings is None:
        return None
    if task.documents is None:
        raise StudyError(f"revision: task '{task.name}' has no documents; name their folder under documents.")
    names = {document.name for document in library.reading(task.documents.folder).documents}
    if missing := [name for name in settings.removed if name not in names]:
        raise StudyError(f"revision.removed: {', '.join(missing)} is none of the {len(names)} documents.")
    revised: tuple[Document, ...] = ()
    if settings.documents is not None:
        reading = read_folder((root / Path(settings.documents).expanduser()).resolve())
        if reading.skipped:
            first = reading.skipped[0]
            raise DataError(
                f"{settings.documents}: {first.name} cannot be read ({first.reason}). Mend it or remove it."
            )
        revised = reading.documents
        if new := [document.name for document in revised if document.name not in names]:
            raise DataError(
                f"{settings.documents}: {new[0]} is none of the task's documents, so it revises nothing. Give it the "
                "path that the document has below the task's folder."
            )
    file = locate(settings.questions, root)
    table = read_file(file, settings.questions, file_format(file, settings.questions))
    for column in (settings.now, settings.before):
        if column not in table.columns:
            raise DataError(f"{settings.questions}: there is no column {column!r} (found: {', '.join(table.columns)}).")
    return Revision(revised, settings.removed, build_prompts(table, task.name, about), tuple(_pairs(table, settings)))


def _pairs(table: Table, settings: RevisionSettings) -> list[tuple[str, str]]:
    found = []
    for row in table.rows:
        now, before = (_text(row.values.get(column)) for column in (settings.now, settings.before))
        if not before:
            raise DataError(f"{row.place}: {settings.before} is empty; give what the documents said before.")
        found.append((now, before))
    return found


def _text(value: object) -> str:
    try:
        return as_text(value).strip()
    except NoText:
        return ""


def measure_revision(
    revision: Revision, fitted: Mapping[str, Fitted], task: Task, bench: Bench, library: Library
) -> dict[str, Any]:
    """Approach → what `revision_rates` gives; only what is missing in the folder is asked."""
    return {name: _measured(name, revision, own, task, bench, library) for name, own in fitted.items()}


def _measured(
    name: str, revision: Revision, fitted: Fitted, task: Task, bench: Bench, library: Library
) -> dict[str, Any]:
    file = bench.folder.approach(name) / "revision.json"
    key = key_of(fitted=fitted.key, revision=revision.key, decoding=repr(task.decoding), source=source_key())
    if file.is_file() and (kept := read_json(file))["key"] == key:
        found: dict[str, Any] = kept["rates"]
        return found
    predictor = fitted.predictor.asked(task, bench.target)
    with tempfile.TemporaryDirectory(prefix="luthier-") as work:
        retrieval = predictor.retrieval if isinstance(predictor, PromptedModel | Rule) else None
        if isinstance(predictor, PromptedModel | Rule) and retrieval is not None:
            predictor = _revised(predictor, retrieval, revision, Path(work) / "index", library)
        with bench.progress.track(f"{name}: after the revision", len(revision.prompts)) as advance:
            answers = bench.engine.answer(predictor, revision.prompts, task.labels, advance=advance)
        if isinstance(predictor, PromptedModel | Rule) and predictor.retrieval is not None:
            library.forget(predictor.retrieval.index)
    absent = "" if retrieval is None else retrieval.absent
    judged = [
        RevisedAnswer(answer.text, now, before, Shown(answer.text, (), (), (), absent).abstained)
        for answer, (now, before) in zip(answers, revision.answers, strict=True)
    ]
    rates = revision_rates(judged)
    asked = [
        {"question": prompt.messages[-1].content, "answer": own.text, "now": own.new, "before": own.old}
        for prompt, own in zip(revision.prompts, judged, strict=True)
    ]
    write_json(file, {"key": key, "rates": rates, "answers": asked})
    return rates


def _revised(
    predictor: PromptedModel | Rule, retrieval: Retrieval, revision: Revision, folder: Path, library: Library
) -> PromptedModel | Rule:
    """The predictor with a copy of its index in which documents are changed and removed, as a user would do it."""
    copy_index(Path(retrieval.index), folder)
    index = library.opened(str(folder), retrieval.embedder)
    index.add(revision.documents)
    if revision.removed:
        index.remove(revision.removed, exactly=True)
    return replace(predictor, retrieval=replace(retrieval, index=str(folder)))
