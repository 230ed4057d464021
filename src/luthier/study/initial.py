"""A first study for a data file that nobody described yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from luthier.data.files import Table
from luthier.data.recognise import Recognised, recognise
from luthier.data.templates import NoText, renderer
from luthier.errors import DataError
from luthier.retrieve.documents import SUFFIXES, document_files
from luthier.study.schema import Study

_FEWEST_ROWS = 30
# More labels, or letters of them, are not named in the prompt.
_MOST_NAMED, _MOST_LETTERS = 80, 2400

_HEAD = """\
# Written by `luthier init` for {file}. Read it, change it, then:
#   luthier check {study}         what is in the data, and what it will take
#   luthier run {study} --quick   all that trains no language model: minutes
#   luthier run {study}           fit every approach, compare them on the test split
# Floors (the most frequent answer and the like) stand in every report without being asked for.
# All settings: docs/study-file.md
"""


def initial_study(data: Path, output: Path, model: str, documents: Path | None = None) -> tuple[str, list[str]]:
    """The text of a study file for `data`, to be written to `output`, and notes on what was guessed.

    Args:
        documents: A folder that the questions may be answered from.

    Raises:
        DataError: The file cannot be read, its columns do not tell what is asked and what is answered, or the folder
            holds no document.
    """
    found = recognise(data)
    notes = list(found.notes)
    task: dict[str, Any] = {**found.settings, "data": os.path.relpath(str(data), str(output.parent))}
    rows = len(found.table.rows)
    if rows < _FEWEST_ROWS:
        raise DataError(
            f"{data} has {rows} rows. A study needs some to learn from, some to choose by and some to judge by: at "
            f"least {_FEWEST_ROWS}, and some hundreds before differences can show."
        )
    labelled = bool(task.get("labels"))
    if labelled:
        task.setdefault("answer", "choose")
        if system := _naming(_labels(found)):
            task.setdefault("system", system)
    # All but the last train no language model; `nearest` and `classifier` ask none.
    approaches: dict[str, list[Any]] = {
        "zero-shot": [],
        "few-shot": [{"step": "few-shot", "shots": {"choose": [4, 8]}}],
        "nearest": ["nearest"],
        **({"classifier": ["classifier"]} if labelled else {}),
        "lora": [{"step": "sft", "adapter": "lora"}],
    }
    if documents is not None:
        task |= _documents(documents, output, found.table, notes)
        approaches["rag"] = [{"step": "rag", "k": {"choose": [1, 3]}}]
        approaches["rag-lora"] = [{"step": "rag"}, {"step": "sft", "adapter": "lora", "passages": {"distractors": 2}}]
    study = {"model": model, "task": task, "approaches": approaches}
    Study.model_validate(study)  # what init writes must be a study
    parts = (_written({"model": model, "task": task}), _written({"approaches": approaches}, short=True))
    return _HEAD.format(file=data.name, study=output) + "\n" + "\n".join(parts), notes


def _written(part: dict[str, Any], *, short: bool = False) -> str:
    """A part of the study as YAML, a setting a line; or `short`, with the innermost settings on one line."""
    return yaml.safe_dump(
        part, sort_keys=False, allow_unicode=True, default_flow_style=None if short else False, width=100
    )


def _labels(found: Recognised) -> list[str]:
    """The labels that the rows have, in the order of the alphabet."""
    render, labels = renderer(str(found.settings["completion"])), set()
    for row in found.table.rows:
        try:
            labels.add(render(row.values).strip())
        except NoText:
            continue
    return sorted(labels - {""})


def _naming(labels: Sequence[str]) -> str | None:
    """A system text that names the labels; None where they would fill the prompt."""
    if not labels or len(labels) > _MOST_NAMED or sum(map(len, labels)) > _MOST_LETTERS:
        return None
    return f"Choose the label of the user's text. The labels are: {', '.join(labels)}."


def _documents(folder: Path, output: Path, table: Table, notes: list[str]) -> dict[str, Any]:
    """The task's settings for a folder of documents, and for the column that names them, if there is one."""
    names = {file.relative_to(folder).as_posix() for file in document_files(folder)}
    readable = {name for name in names if Path(name).suffix.lower() in SUFFIXES}
    if not readable:
        raise DataError(f"{folder} holds no document that can be read (there are readers for {', '.join(SUFFIXES)}).")
    settings = {"documents": os.path.relpath(str(folder), str(output.parent))}
    for column in table.columns:
        values = {str(value) for row in table.rows if (value := row.values.get(column)) not in (None, "")}
        if values and values <= readable:
            notes.append(f"{column!r} names the document that holds the answer, so that search itself is scored.")
            return {**settings, "relevant": column}
    notes.append(
        "Which document holds an answer no column says; search is scored where one does (relevant, evidence: "
        "docs/documents.md)."
    )
    return settings
