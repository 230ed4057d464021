"""Rows that are conversations (OpenAI `messages`, ShareGPT `conversations`) or Alpaca instructions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from luthier.data.templates import NoText, as_text
from luthier.types import Message, Role

CHAT_COLUMNS = ("messages", "conversations")
ALPACA_COLUMNS = ("instruction", "output")
# What a row of each form may hold that is read; whatever else it has is named as not used.
CHAT_READ = (*CHAT_COLUMNS, "system")
ALPACA_READ = (*ALPACA_COLUMNS, "input", "system", "history")

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation up to the answer, the answer, and how many turns after it were left out."""

    messages: tuple[Message, ...]
    completion: str
    left_out: int = 0


def exchange_of_chat(row: Mapping[str, object]) -> Exchange:
    """All up to the last assistant's turn as the prompt, and that turn as the completion; a turn of the weight 0, which
    is not to be learned (OpenAI), is no completion.

    Raises:
        NoText: There is no user's turn or no answer, a turn is empty, has an unknown role or no text, or calls a tool.
    """
    messages = _turns(row)
    weights = _weights(row, len(messages))
    answers = [
        index for index, message in enumerate(messages) if message.role == "assistant" and weights.get(index) != 0
    ]
    if not answers:
        raise NoText(
            f"the conversation has no assistant's answer{' of a weight above 0' if 0 in weights.values() else ''}"
        )
    prompt, answer = messages[: answers[-1]], messages[answers[-1]]
    if not any(message.role == "user" for message in prompt):
        raise NoText("the conversation has no user's turn before the answer")
    if prompt[-1].role in ("assistant", "system"):
        raise NoText(f"the last answer follows a turn of the {prompt[-1].role}, not of the user or a tool")
    return Exchange(tuple(prompt), answer.content, len(messages) - answers[-1] - 1)


def messages_of_chat(row: Mapping[str, object]) -> tuple[Message, ...]:
    """A conversation to be answered: all its turns, but for an assistant's answer at the end.

    Raises:
        NoText: It does not end with a turn to be answered, or a turn is not as it should be.
    """
    messages = _turns(row)
    if messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1].role not in ("user", "tool"):
        raise NoText("the conversation does not end with a turn of the user or a tool")
    return tuple(messages)


def _listed(row: Mapping[str, object]) -> list[object]:
    column = next(name for name in CHAT_COLUMNS if row.get(name) is not None or name == CHAT_COLUMNS[-1])
    turns = row.get(column)
    if not isinstance(turns, list) or not turns:
        raise NoText(f"{column} is not a list of turns")
    return turns


def _turns(row: Mapping[str, object]) -> list[Message]:
    """The turns, a system text that stands beside them (ShareGPT) in front."""
    messages = [_message(turn, number) for number, turn in enumerate(_listed(row), 1)]
    system = _optional(row, "system")
    if system and messages[0].role == "system":
        if messages[0].content != system:
            raise NoText("there are two system texts, one in a column and one in the first turn")
    elif system:
        messages.insert(0, Message("system", system))
    return messages


def _weights(row: Mapping[str, object], messages: int) -> dict[int, object]:
    """Number of a message → its weight, where one is given; of so many messages the last are the turns."""
    turns = _listed(row)
    first = messages - len(turns)
    return {n + first: turn["weight"] for n, turn in enumerate(turns) if isinstance(turn, dict) and "weight" in turn}


def exchange_of_alpaca(row: Mapping[str, object]) -> Exchange:
    """The instruction, with the input (where there is one) below it, and the output as the completion; a system text
    and a history of earlier turns, as pairs of instruction and output, in front."""
    instruction, output = (_filled(row, name) for name in ALPACA_COLUMNS)
    text, system = _optional(row, "input"), _optional(row, "system")
    content = f"{instruction}\n\n{text}" if text else instruction
    before = (Message("system", system),) if system else ()
    return Exchange((*before, *_history(row.get("history")), Message("user", content)), output)


def _history(history: object) -> list[Message]:
    if isinstance(history, str) and history.strip():
        with contextlib.suppress(ValueError):  # refused below
            history = json.loads(history)
    if history is None or history == [] or (isinstance(history, str) and not history.strip()):
        return []
    pairs = history if isinstance(history, list) else None
    if pairs is None or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(own, str) and own.strip() for own in pair)
        for pair in pairs
    ):
        raise NoText(
            "history is not a list of pairs of instruction and output (rename the column if it means something else)"
        )
    roles: tuple[Role, Role] = ("user", "assistant")
    return [Message(role, own.strip()) for pair in pairs for role, own in zip(roles, pair, strict=True)]


def _optional(row: Mapping[str, object], name: str) -> str:
    """The text of a column that may be empty or not there."""
    value = row.get(name)
    return "" if value is None else as_text(value).strip()


def _filled(row: Mapping[str, object], name: str) -> str:
    try:
        text = as_text(row.get(name)).strip()
    except NoText as error:
        raise NoText(f"column {name!r}: {error}") from error
    if not text:
        raise NoText(f"column {name!r} is empty")
    return text


def _message(turn: object, number: int) -> Message:
    if not isinstance(turn, dict):
        raise NoText("a turn is not an object with role and content")
    said = turn.get("role", turn.get("from"))
    role = _ROLES.get(str(said))
    if role is None:
        raise NoText(f"unknown role {said!r} (known: {', '.join(_ROLES)})")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = _joined(content)
    if turn.get("tool_calls") or turn.get("function_call"):
        raise NoText("a turn calls a tool (tool_calls), which Luthier does not learn or show")
    if not isinstance(content, str):
        raise NoText(f"a turn of the {role} has no text")
    if not content.strip():
        raise NoText(f"a turn of the {role} is empty")
    return Message(role, content.strip())


def _joined(parts: list[object]) -> str:
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise NoText("a turn has parts that are not text (an image, a sound)")
    return "".join(text for text in texts if text is not None)
