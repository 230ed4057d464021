"""Which columns of a row tell the answer: they are no part of a prompt, neither in a study nor where new rows are
answered."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.conversations import ALPACA_READ, CHAT_COLUMNS, CHAT_READ
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


def unused_columns(columns: Sequence[str], settings: TaskSettings) -> list[str]:
    """The columns that neither prompts nor answers nor any other setting of the task are made of, in their order."""
    there = frozenset(columns)
    if settings.prompt is not None:
        templates = (settings.prompt, *settings.phrasings)
        used = answer_columns(there, settings).union(*(columns_named(template, there) for template in templates))
    else:
        used = frozenset(CHAT_READ if is_chat(there, settings) else ALPACA_READ)
        used |= answer_columns(there, settings) - {"text"}
    return [column for column in columns if column not in used and column != settings.group]
