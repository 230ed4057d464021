"""A first study for a data file that nobody described yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from luthier.data.recognise import recognise
from luthier.errors import DataError
from luthier.study.schema import Study

_FEWEST_ROWS = 30

_HEAD = """\
# Written by `luthier init` for {file}. Read it, change it, then:
#   luthier check {study}     what is in the data, and what it will take
#   luthier run {study}       fit every approach, compare them on the test split
# All settings: docs/study-file.md
"""


def initial_study(data: Path, output: Path, model: str) -> tuple[str, list[str]]:
    """The text of a study file for `data`, to be written to `output`, and notes on what was guessed.

    Raises:
        DataError: The file cannot be read, or its columns do not tell what is asked and what is answered.
    """
    found = recognise(data)
    task: dict[str, Any] = {**found.settings, "data": os.path.relpath(str(data), str(output.parent))}
    rows = found.rows
    if rows < _FEWEST_ROWS:
        raise DataError(
            f"{data} has {rows} rows. A study needs some to learn from, some to choose by and some to judge by: at "
            f"least {_FEWEST_ROWS}, and some hundreds before differences can show."
        )
    labelled = bool(task.get("labels"))
    if labelled:
        task.setdefault("answer", "choose")
    way = "spread" if labelled else "random"
    study = {
        "model": model,
        "task": task,
        "approaches": {
            "zero-shot": [],
            "few-shot": [{"step": "few-shot", "shots": {"choose": [4, 8]}, "by": {"choose": [way, "bm25"]}}],
            "lora": [{"step": "sft", "adapter": "lora"}],
        },
    }
    Study.model_validate(study)  # what init writes must be a study
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return _HEAD.format(file=data.name, study=output) + "\n" + text, found.notes
