"""Which columns of a row tell the answer: they are no part of a prompt, neither in a study nor where new rows are
answered."""

from __future__ import annotations

from luthier.data.conversations import CHAT_COLUMNS
from luthier.data.settings import TaskSettings
from luthier.data.templates import columns_named, is_expression

BESIDE_THE_ANSWER = ("references", "relevant", "evidence")


def is_chat(columns: frozenset[str], settings: TaskSettings) -> bool:
    """Whether rows are conversations, where the task words no prompt."""
    return settings.format == "chat" or (settings.format != "alpaca" and any(own in columns for own in CHAT_COLUMNS))


def answer_columns(columns: frozenset[str], settings: TaskSettings) -> frozenset[str]:
    """The columns that hold the answer, or from which it could be read, whether they are there or not."""
    if settings.prompt is not None and settings.completion is not None:
        found = columns_named(settings.completion, columns)
    elif is_chat(columns, settings):
        found = frozenset(CHAT_COLUMNS)
    else:  # the column "text" of Alpaca sets repeats instruction and answer together
        found = frozenset({"output", "text"})
    for setting in BESIDE_THE_ANSWER:
        value = getattr(settings, setting)
        if value is not None:
            found |= columns_named(value, columns) if is_expression(value) else {value}
    return found
