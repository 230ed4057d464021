"""Rows to be answered: prompts as the task words them, with no answer beside them."""

from __future__ import annotations

from luthier.data.conversations import CHAT_COLUMNS, exchange_of_alpaca, messages_of_chat
from luthier.data.files import Row, Table
from luthier.data.hidden import answer_columns
from luthier.data.normalise import digest, fingerprint
from luthier.data.settings import TaskSettings
from luthier.data.templates import NoText, field_text, renderer, require_columns
from luthier.errors import DataError
from luthier.types import Message, Prompt


def build_prompts(table: Table, task: str, settings: TaskSettings) -> tuple[Prompt, ...]:
    """One prompt for each row, in order.

    Raises:
        DataError: A column that the prompt names is missing, or a row gives no prompt; its place is named.
    """
    columns = frozenset(table.columns)
    if settings.prompt is not None:
        require_columns("prompt", settings.prompt, columns, table.file)
    hidden, missing = answer_columns(columns, settings), dict.fromkeys(table.columns)
    prompts = []
    for number, row in enumerate(table.rows, 1):
        try:
            messages = _messages(Row({**missing, **row.values}, row.place), settings)
        except NoText as error:
            raise DataError(f"{row.place}: this row gives no prompt: {error}. Correct it, or leave it out.") from error
        if settings.system is not None and messages[0].role != "system":
            messages = (Message("system", settings.system), *messages)
        prompts.append(
            Prompt(
                id=f"{number}-{digest(task, *(m.content for m in messages))[:12]}",
                task=task,
                messages=messages,
                fields={column: field_text(row.values.get(column)) for column in table.columns if column not in hidden},
                fingerprint=fingerprint(messages),
            )
        )
    return tuple(prompts)


def _messages(row: Row, settings: TaskSettings) -> tuple[Message, ...]:
    if settings.prompt is not None:
        text = renderer(settings.prompt)(row.values).strip()
        if not text:
            raise NoText("the template gives no text")
        return (Message("user", text),)
    if any(row.values.get(column) is not None for column in CHAT_COLUMNS):
        return messages_of_chat(row.values)
    return exchange_of_alpaca({**row.values, "output": "unknown"}).messages
