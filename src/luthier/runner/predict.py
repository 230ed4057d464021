"""Answering new rows with an approach of a run."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from jinja2 import meta

from luthier.data.files import FORMAT_OF_SUFFIX, Row, table
from luthier.data.normalise import fingerprint
from luthier.data.read import file_format, read_file
from luthier.data.settings import TaskSettings
from luthier.data.templates import parse_template
from luthier.data.unlabelled import build_prompts
from luthier.errors import DataError, RunError, TooLong
from luthier.progress import Progress
from luthier.runner.open import OpenRun
from luthier.types import Completion, Message, Place, Prompt

# What an answer adds to a row.
_ADDED = ("prediction", "confidence", "abstained", "sources", "unanswered")


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A row that could not be answered, with its place and the reason."""

    place: Place
    why: str


def predict_rows(run: OpenRun, rows: Sequence[Mapping[str, object]]) -> list[Completion]:
    """Answers to rows with the columns that the task's prompt names."""
    placed = [Row(dict(row), Place("rows", number)) for number, row in enumerate(rows, 1)]
    prompts = build_prompts(table("rows", placed), run.task_name, run.task)
    try:
        return run.engine.answer(run.predictor, prompts, run.labels)
    except TooLong as error:
        places = {prompt.id: row.place for prompt, row in zip(prompts, placed, strict=True)}
        raise DataError(f"{places[error.prompt_id]}: {error.why}") from error


def predict_file(
    run: OpenRun, file: Path, progress: Progress, *, replace: bool = False
) -> Iterator[tuple[Mapping[str, object], Completion | Unanswered]]:
    """Each row of a file with its answer, or why it has none: a row that is too long for the model keeps no other from
    its answer. The form of the file is told from its ending.

    Args:
        replace: Whether what an answer adds may stand in place of a column of the same name.

    Raises:
        DataError: The file cannot be read, lacks a column that the prompt names, or has one that the answer would
            replace.
    """
    task = run.task
    known = file.suffix.lower() in FORMAT_OF_SUFFIX  # an ending that says nothing: as the study's own files
    form = file_format(file, str(file), "auto" if known else task.format)
    rows = task.rows_of("train") if form == "json" else None
    read = read_file(file, str(file), form, task.encoding, rows, task.columns)
    there = [name for name in _ADDED if any(name in row.values for row in read.rows)]
    if there and not replace:
        raise DataError(
            f"{file} has the column {' and '.join(map(repr, there))}, which the answers would replace. Rename it in "
            "the file, or replace it with --force."
        )
    prompts = build_prompts(read, run.task_name, task)
    with progress.track(f"answering with {run.name}", len(prompts)) as advance:
        answers = _answered(run, prompts, advance)
    for row, answer in zip(read.rows, answers, strict=True):
        yield row.values, Unanswered(row.place, answer) if isinstance(answer, str) else answer


def see_that_it_can_be_written(output: Path, file: Path, *, force: bool) -> None:
    """Look at the place of answers before they are computed, so that none are lost there.

    Raises:
        RunError: It is the file of the rows, is there already (unless `force`), or cannot be written.
    """
    if output.exists() and file.exists() and output.samefile(file):
        raise RunError(f"{output} is the file of the rows to be answered. Write the answers elsewhere with --output.")
    if output.is_dir():
        raise RunError(f"{output} is a folder. Name a file for the answers with --output.")
    if output.exists() and not force:
        raise RunError(f"{output} exists. Write elsewhere with --output, or replace it with --force.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tried = output.with_name(f"{output.name}.{os.getpid()}.writing")
        tried.touch()
        tried.unlink()
    except OSError as error:
        raise RunError(
            f"{output} cannot be written: {error.strerror or error}. Write elsewhere with --output; nothing was asked."
        ) from error


def plain_row(row: Mapping[str, object]) -> dict[str, Any]:
    """The row as JSON can hold it: dates in ISO 8601, decimals as their digits, bytes as text or in base64, and what is
    no number as null."""
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain_row(value)
    if isinstance(value, list | tuple | set):
        return [_plain(own) for own in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def as_row(answer: Completion | Unanswered) -> dict[str, object]:
    """An answer as plain values: `prediction`, and where there are any `confidence`, `abstained` and `sources`; where
    there is no answer, `unanswered` says why."""
    if isinstance(answer, Unanswered):
        return {"prediction": None, "unanswered": answer.why}
    row: dict[str, object] = {"prediction": answer.text}
    if answer.confidence is not None:
        row["confidence"] = round(answer.confidence, 4)
    if answer.stopped == "abstained":
        row["abstained"] = True
    if answer.passages:
        row["sources"] = sources(answer)
    return row


def sources(answer: Completion) -> list[str]:
    """Where the passages stand that an answer names; all that it was shown where it names none of them."""
    cited = [answer.passages[number - 1] for number in answer.cited if 1 <= number <= len(answer.passages)]
    return list(dict.fromkeys(passage.place for passage in cited or answer.passages))


def reply(run: OpenRun, conversation: Sequence[Message]) -> Completion:
    """The approach's answer to a conversation; its last turn fills the task's prompt where that has one column."""
    task = run.task
    columns = prompt_columns(task)
    if len(columns) == 1:
        return predict_rows(run, [{columns[0]: conversation[-1].content}])[0]
    messages = tuple(conversation)
    if task.system is not None and messages[0].role != "system":
        messages = (Message("system", task.system), *messages)
    prompt = Prompt("chat", run.task_name, messages, {}, fingerprint=fingerprint(messages))
    return run.engine.answer(run.predictor, [prompt], run.labels)[0]


def prompt_columns(task: TaskSettings) -> tuple[str, ...]:
    """The columns that the task's prompt template names; none where conversations are the prompts."""
    if task.prompt is None:
        return ()
    return tuple(sorted(meta.find_undeclared_variables(parse_template(task.prompt)) - {"row"}))


def _answered(run: OpenRun, prompts: Sequence[Prompt], advance: Callable[[int], None]) -> list[Completion | str]:
    """For each prompt its answer, or why it is too long for the model.

    A prompt that is too long is told before any of its batch is answered; the rest is then tried in halves.
    """
    try:
        return [*run.engine.answer(run.predictor, prompts, run.labels, advance=advance)]
    except TooLong as error:
        if len(prompts) == 1:
            advance(1)
            return [error.why]
    middle = len(prompts) // 2
    return [*_answered(run, prompts[:middle], advance), *_answered(run, prompts[middle:], advance)]
