"""Answering new rows with an approach of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from luthier.data.files import Row, table
from luthier.data.read import file_format, read_file
from luthier.data.settings import TaskSettings
from luthier.data.unlabelled import build_prompts
from luthier.progress import Progress, Silent
from luthier.runner.open import OpenRun
from luthier.types import Completion, Message, Place, Prompt


def predict_rows(run: OpenRun, rows: Sequence[Mapping[str, object]]) -> list[Completion]:
    """Answers to rows with the columns that the task's prompt names."""
    placed = [Row(dict(row), Place("rows", number)) for number, row in enumerate(rows, 1)]
    return _answered(run, build_prompts(table("rows", placed), run.study.target_task, _task(run)), Silent())


def predict_file(run: OpenRun, file: Path, progress: Progress) -> Iterator[tuple[Mapping[str, object], Completion]]:
    """Each row of a file with its answer; the form of the file is told from its ending.

    Raises:
        DataError: The file cannot be read, or lacks a column that the prompt names.
    """
    task = _task(run)
    read = read_file(file, str(file), file_format(file, str(file)), task.encoding)
    prompts = build_prompts(read, run.study.target_task, task)
    yield from zip((row.values for row in read.rows), _answered(run, prompts, progress), strict=True)


def reply(run: OpenRun, conversation: Sequence[Message]) -> Completion:
    """The approach's answer to a conversation."""
    text = conversation[-1].content
    task = _task(run)
    messages = tuple(conversation)
    if task.system is not None and messages[0].role != "system":
        messages = (Message("system", task.system), *messages)
    prompt = Prompt("chat", run.study.target_task, messages, {}, fingerprint=f"chat {text}")
    return run.engine.answer(run.predictor, [prompt], run.labels)[0]


def _task(run: OpenRun) -> TaskSettings:
    return run.study.tasks[run.study.target_task]


def _answered(run: OpenRun, prompts: Sequence[Prompt], progress: Progress) -> list[Completion]:
    with progress.track(f"answering with {run.name}", len(prompts)) as advance:
        return run.engine.answer(run.predictor, prompts, run.labels, advance=advance)
