"""Looking at a file that nobody described: its format, its columns, and what is probably asked and answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.data.conversations import ALPACA_COLUMNS, CHAT_COLUMNS
from luthier.data.files import Table, locate, read_text
from luthier.data.json_rows import is_conversation, is_jsonl, is_records, parse_json, row_paths
from luthier.data.read import file_format, read_file
from luthier.data.tables import HUB_NAMES
from luthier.data.templates import NoText, as_text
from luthier.errors import DataError
from luthier.types import Place

_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "best answer"),
    ("input", "output"),
    ("input", "target"),
    ("source", "target"),
    ("query", "response"),
    ("document", "summary"),
    ("article", "highlights"),
    ("text", "summary"),
    ("mr", "ref"),
)
_LABEL_NAMES = ("label", "labels", "category", "intent", "class", "sentiment", "topic", "target", "y")
_NEVER_LABELS = ("role", "split", "id", "key")
_MARKS = ("\n### Response:", "\nAnswer:", "\nOutput:", "\nCompletion:", "\nAssistant:", "\nLabel:", "\nA:")


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file seems to be.

    Attributes:
        format: csv, tsv, json, jsonl or parquet; chat or alpaca by the form of the rows.
        settings: The task's settings, ready for the study's YAML.
        notes: What was guessed and why, a sentence each, to be shown to the user.
        table: The file's rows (of its training part, where it names parts).
    """

    format: str
    settings: dict[str, object]
    notes: list[str]
    table: Table


def recognise(path: Path, encoding: str = "utf-8") -> Recognised:
    """Guess how a file becomes a task.

    Raises:
        DataError: It cannot be read, or the columns do not tell what is asked and what is answered; the
            message lists the columns and says what to set.
    """
    name = str(path)
    path = locate(name, Path())
    form = file_format(path, name)
    settings: dict[str, object] = {"data": name}
    notes: list[str] = []
    paths: dict[str, str] = {}
    if form == "json":
        form, paths = _json_form(read_text(path, name, encoding), name)
        if paths:
            settings["rows"] = paths["train"] if len(paths) == 1 else paths
            notes.append(f"The rows stand under {', '.join(paths.values())} in the file.")
    table = read_file(path, name, form, encoding, paths.get("train"))
    if encoding != "utf-8":
        settings["encoding"] = encoding
    if any(_is_list(table, column) for column in CHAT_COLUMNS):
        notes.append(
            "Every row is a conversation: its last answer is the completion, what stands before is the prompt."
        )
        return Recognised("chat", {**settings, "format": "chat"}, notes, table)
    if set(table.columns).issuperset(ALPACA_COLUMNS):
        notes.append("Alpaca: instruction (and input) are the prompt, output is the completion.")
        return Recognised("alpaca", {**settings, "format": "alpaca"}, notes, table)
    if "0" in table.columns:
        table, names = _with_names(table)
        settings["columns"] = names
        notes.append(f"The rows are lists without column names; they are named {', '.join(names)}.")
    guessed = _templates(table, notes)
    return Recognised(form, {**settings, **guessed}, notes, table)


def _json_form(text: str, name: str) -> tuple[str, dict[str, str]]:
    """json or jsonl, and the path of the rows of each split where they are nested."""
    if is_jsonl(text):
        return "jsonl", {}
    value = parse_json(text, Place(name))
    if not isinstance(value, dict) or is_conversation(value) or is_records(value):
        return "json", {}
    found = row_paths(value)
    splits = {ours: next((n for n in names if n in found), None) for ours, names in HUB_NAMES.items()}
    named = {ours: theirs for ours, theirs in splits.items() if theirs is not None}
    if "train" in named:
        return "json", {str(ours): theirs for ours, theirs in named.items()}
    if len(found) == 1:
        return "json", {"train": found[0]}
    advice = f"Set rows to one of: {', '.join(found)}" if found else "Set rows to the path of the list of rows"
    raise DataError(
        f"{name}: a JSON object, not a list of rows (found the keys: {', '.join(list(value)[:12])}).\n{advice}."
    )


def _is_list(table: Table, column: str) -> bool:
    return column in table.columns and any(isinstance(row.values.get(column), list) for row in table.rows[:20])


def _with_names(table: Table) -> tuple[Table, list[str]]:
    columns = [column for column in table.columns if column.isdigit()]
    texts = {column: _texts(table, column) for column in columns}
    labels = [column for column in columns if _is_label(texts[column])]
    names = {
        column: ("text" if len(columns) - len(labels) == 1 and column not in labels else "label")
        if len(columns) == 2 and len(labels) == 1
        else f"column_{int(column) + 1}"
        for column in columns
    }
    rows = tuple(
        type(row)({names.get(key, key): value for key, value in row.values.items()}, row.place) for row in table.rows
    )
    return Table(table.file, rows, tuple(names.get(key, key) for key in table.columns)), list(names.values())


def _templates(table: Table, notes: list[str]) -> dict[str, object]:
    texts = {column: values for column in table.columns if (values := _texts(table, column))}
    lowered = {column.strip().casefold(): column for column in texts}
    for asked, answered in _PAIRS:
        if asked in lowered and answered in lowered:
            prompt, completion = lowered[asked], lowered[answered]
            notes.append(f"By their names, {prompt!r} is what is asked and {completion!r} what is answered.")
            settings = _settings(_variable(prompt), completion, texts[completion], notes)
            if "labels" not in settings and 2 * len(set(texts[prompt])) < len(texts[prompt]):
                settings["merge_references"] = True
                notes.append(
                    f"{prompt!r} repeats with other answers: in validation and test they count as equally right."
                )
            return settings
    labels = [column for column in texts if _is_label(texts[column])]
    known = [lowered[name] for name in _LABEL_NAMES if lowered.get(name) in labels]
    others = [column for column in labels if column.casefold() not in _NEVER_LABELS]
    # a lone column of few values beside lists and objects is more likely to be a remark than the answer
    told = len(others) == 1 and len(texts) == len(table.columns)
    label = known[0] if known else others[0] if told else None
    free = [column for column in texts if column != label and _is_free(texts[column])]
    if label is not None and free:
        prompt = _variable(free[0]) if len(free) == 1 else "\n".join(f"{c}: {_variable(c)}" for c in free)
        notes.append(f"{label!r} holds few different short values, so it is taken for the label.")
        if len(free) > 1:
            notes.append(f"The prompt shows {', '.join(map(repr, free))}; leave out what should not be seen.")
        return _settings(prompt, label, texts[label], notes)
    named = [lowered[name] for name in _LABEL_NAMES if name in lowered]
    if "text" in lowered and named:
        notes.append(f"By their names, 'text' is what is asked and {named[0]!r} the label; there are few rows to tell.")
        return {"prompt": _variable(lowered["text"]), "completion": _variable(named[0]), "labels": "auto"}
    if len(free) == 1 and (separated := _separated(free[0], texts[free[0]], notes)):
        return separated
    only = f" Every row is one text ({free[0]!r}) without a prompt of its own." if free and len(texts) == 1 else ""
    raise DataError(
        f"{table.file}: cannot tell what is asked and what is answered (found: {', '.join(table.columns)}).{only}\n"
        "Set prompt and completion to templates over these columns, such as prompt: '{{ question }}'; for a closed set "
        "of answers set labels: auto too."
    )


def _settings(prompt: str, completion: str, answers: Sequence[str], notes: list[str]) -> dict[str, object]:
    settings: dict[str, object] = {"prompt": prompt, "completion": _variable(completion)}
    if _is_label(answers):
        settings["labels"] = "auto"
        notes.append(f"{completion!r} has {len(set(answers))} different values, so they are taken for a closed set.")
    return settings


def _separated(column: str, texts: Sequence[str], notes: list[str]) -> dict[str, object] | None:
    for mark in _MARKS:
        if all(text.count(mark) == 1 and text.split(mark)[1].strip() for text in texts):
            notes.append(f"In every row of {column!r} {mark.strip()!r} stands once; what follows is the completion.")
            at = f"{_name(column)}.split({mark!r})"
            return {"prompt": f"{{{{ {at}[0] }}}}{mark}", "completion": f"{{{{ {at}[1] }}}}"}
    return None


def _variable(column: str) -> str:
    return f"{{{{ {_name(column)} }}}}"


def _name(column: str) -> str:
    return column if re.fullmatch(r"[A-Za-z_]\w*", column) else f"row[{column!r}]"


def _texts(table: Table, column: str) -> list[str]:
    """The texts of a column, none where it holds lists, objects or hardly anything."""
    texts = []
    for row in table.rows:
        value = row.values.get(column)
        if isinstance(value, list | dict):
            return []
        try:
            texts.append(as_text(value).strip())
        except NoText:
            continue
    filled = [text for text in texts if text]
    return filled if 2 * len(filled) > len(table.rows) else []


def _is_label(texts: Sequence[str]) -> bool:
    """Few different short values over many rows: each on average five times, or twice in a small file."""
    different = set(texts)
    times = 5 if len(texts) >= 50 else 2
    return 2 <= len(different) <= 500 and len(different) * times <= len(texts) and max(map(len, different)) <= 60


def _is_free(texts: Sequence[str]) -> bool:
    """Words rather than identifiers, numbers or labels."""
    worded = sum(1 for text in texts if re.search(r"[^\W\d_]{2}", text) and (" " in text or len(text) > 40))
    return 2 * worded > len(texts) and not _is_label(texts)
