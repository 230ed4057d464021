"""From rows to examples: templates rendered, unusable rows set apart with their places and reasons."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

from luthier.data.conversations import ALPACA_COLUMNS, CHAT_COLUMNS, Exchange, exchange_of_alpaca, exchange_of_chat
from luthier.data.files import Row, Table
from luthier.data.hidden import BESIDE_THE_ANSWER, answer_columns, is_chat
from luthier.data.labels import join_labels, separator_of, spelling_key, split_labels
from luthier.data.normalise import digest, fingerprint
from luthier.data.settings import TaskSettings
from luthier.data.templates import (
    ListNotText,
    NoText,
    as_text,
    field_text,
    is_expression,
    renderer,
    require_column,
    require_columns,
    values_of,
)
from luthier.errors import DataError
from luthier.types import Example, Message, Place, Prompt, Relevance

_OF_LISTS = "; where it holds labels set label_separator, else write {{ column | join('; ') }}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that makes no example.

    Attributes:
        reason: What is wrong, the same text for all rows of the kind.
        detail: What was found in this row, empty where the reason says all.
    """

    place: Place
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Built:
    """What the rows of one table (or several) gave.

    Attributes:
        left_out_turns: Turns after the last answer of a conversation, which take no part.
    """

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]
    left_out_turns: int = 0


def build_examples(table: Table, task: str, settings: TaskSettings) -> Built:
    """The examples of a table, in its order. Labels are not checked here, see `with_labels`.

    Raises:
        DataError: The settings do not fit the columns. Rows that are wrong by themselves are returned as bad.
    """
    columns = frozenset(table.columns)
    exchange_of = _exchange_of(table, columns, settings)
    for setting in BESIDE_THE_ANSWER:
        value = getattr(settings, setting)
        if value is not None:
            require = require_columns if is_expression(value) else require_column
            require(setting, value, columns, table.file)
    hidden = answer_columns(columns, settings)
    if settings.group is not None:
        require_column("group", settings.group, columns, table.file)
    shown = [column for column in table.columns if column not in hidden]
    missing = dict.fromkeys(table.columns)
    examples, bad, left_out = [], [], 0
    for row in table.rows:
        complete = Row({**missing, **row.values}, row.place)
        try:
            exchange = exchange_of(complete)
            examples.append(_example(complete, exchange, shown, task, settings))
            left_out += exchange.left_out
        except NoText as error:
            bad.append(BadRow(row.place, str(error)))
    return Built(tuple(examples), tuple(bad), left_out)


def _example(row: Row, exchange: Exchange, shown: Sequence[str], task: str, settings: TaskSettings) -> Example:
    messages = exchange.messages
    if settings.system is not None and messages[0].role != "system":
        messages = (Message("system", settings.system), *messages)
    length = sum(len(message.content) for message in messages) + len(exchange.completion)
    if length > settings.max_chars:
        raise NoText(f"longer than max_chars ({settings.max_chars} characters, prompt and completion together)")
    references = [exchange.completion, *_values(row, "references", settings.references)]
    relevance = None
    if settings.relevant is not None or settings.evidence is not None:
        documents, evidence = (_values(row, name, getattr(settings, name)) for name in ("relevant", "evidence"))
        if documents or evidence:  # a row may leave it open
            names = (normalize("NFC", name) for name in documents)  # as documents are named
            relevance = Relevance(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(evidence)))
    prompt = Prompt(
        id=digest(task, *(part for m in messages for part in (m.role, m.content)), exchange.completion)[:12],
        task=task,
        messages=messages,
        fields={column: field_text(row.values[column]) for column in shown},
        fingerprint=fingerprint(messages),
        group=None if settings.group is None else _group(row, settings.group),
    )
    return Example(prompt, exchange.completion, tuple(dict.fromkeys(references)), None, row.place, relevance)


# 1.0 is the group 1: a column of whole numbers with gaps is often written with decimals.
_WHOLE = re.compile(r"(-?\d+)\.0+")


def _group(row: Row, column: str) -> str:
    text = _text_of(row, "group", column)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _values(row: Row, setting: str, expression: str | None) -> list[str]:
    try:
        return [] if expression is None else list(values_of(expression, row.values))
    except NoText as error:
        raise NoText(f"{setting}: {error}") from error


def _text_of(row: Row, setting: str, column: str) -> str:
    try:
        text = as_text(row.values[column]).strip()
    except NoText as error:
        raise NoText(f"{setting} (column {column!r}): {error}") from error
    if not text:
        raise NoText(f"{setting} (column {column!r}) is empty")
    return text


def _exchange_of(table: Table, columns: frozenset[str], settings: TaskSettings) -> Callable[[Row], Exchange]:
    """How the exchange of a row is read."""
    if settings.prompt is not None and settings.completion is not None:
        return _templates(table, columns, settings.prompt, settings.completion, settings.label_separator or "")
    if is_chat(columns, settings):
        if columns.isdisjoint(CHAT_COLUMNS):
            found = ", ".join(table.columns)
            raise DataError(
                f"{table.file}: format is chat, but there is no column messages or conversations ({found})."
            )
        return lambda row: exchange_of_chat(row.values)
    if settings.format == "alpaca" or columns.issuperset(ALPACA_COLUMNS):
        for column in ALPACA_COLUMNS:
            if column not in columns:
                found = ", ".join(table.columns)
                raise DataError(f"{table.file}: format is alpaca, but there is no column {column!r} (found: {found}).")
        return lambda row: exchange_of_alpaca(row.values)
    example = next(iter(table.columns))
    raise DataError(
        f"{table.file}: neither a conversation nor Alpaca, and prompt and completion are not set "
        f"(found: {', '.join(table.columns)}).\nSet both to templates over these columns, such as "
        f"prompt: '{{{{ {example if example.isidentifier() else f'row[{example!r}]'} }}}}'."
    )


def _templates(
    table: Table, columns: frozenset[str], prompt: str, completion: str, separator: str
) -> Callable[[Row], Exchange]:
    asks = require_columns("prompt", prompt, columns, table.file)
    answers = require_columns("completion", completion, columns, table.file)
    render_prompt, render_completion = renderer(prompt), renderer(completion, separator)

    def render(row: Row, setting: str, function: Callable[..., str], used: frozenset[str]) -> str:
        blank = sorted(column for column in used if _is_blank(row.values[column]))
        if len(blank) == len(used):
            nothing = all(row.values[column] is None for column in blank)
            raise NoText(f"{setting}: {_named(blank)} {'missing' if nothing else 'empty'}")
        try:
            text = function(row.values).strip()
        except NoText as error:
            hint = _OF_LISTS if setting == "completion" and isinstance(error, ListNotText) else ""
            raise NoText(f"{setting}: {error} ({_named(blank or sorted(used), 'of')}){hint}") from error
        if not text:
            raise NoText(f"{setting}: the template gives no text")
        return text

    def exchange(row: Row) -> Exchange:
        asked = render(row, "prompt", render_prompt, asks)
        return Exchange((Message("user", asked),), render(row, "completion", render_completion, answers))

    return exchange


def _named(columns: Sequence[str], preposition: str | None = None) -> str:
    many = len(columns) > 1
    text = f"column{'s' if many else ''} {', '.join(map(repr, columns))}"
    return f"{preposition} {text}" if preposition else f"{text} {'are' if many else 'is'}"


def _is_blank(value: object) -> bool:
    try:
        return not as_text(value).strip()
    except NoText:
        return value is None or isinstance(value, float)


def with_labels(built: Built, labels: Sequence[str]) -> Built:
    """The examples with their completion as the label; those with another completion become bad rows.

    Where an answer may have several labels (`luthier.data.labels.Labels`), the completion is put into their order, each
    once, and the label is all of it.
    """
    known, separator = frozenset(labels), separator_of(labels)
    reason = "completion has a part that is none of the labels" if separator else "completion is none of the labels"
    examples, bad = [], list(built.bad)
    for example in built.examples:
        found = split_labels(example.completion, separator)
        if found and known.issuperset(found):
            examples.append(_labelled(example, join_labels(found, labels, separator)))
        else:
            # only the first is ever shown, and looking for close names is slow
            strange = next((part for part in found if part not in known), example.completion)
            hint = "" if len(bad) > len(built.bad) else _close_labels(strange, labels)
            bad.append(BadRow(example.place, reason, hint))
    return replace(built, examples=tuple(examples), bad=tuple(bad))


def with_spellings(built: Built, spellings: Mapping[str, str], separator: str) -> Built:
    """The examples with each label of their completion in the spelling of its `spelling_key`, where that has one."""

    def spelled(example: Example) -> Example:
        found = split_labels(example.completion, separator)
        joined = separator.join(dict.fromkeys(spellings.get(spelling_key(own), own) for own in found))
        references = tuple(dict.fromkeys((joined, *example.references[1:])))
        return example if joined == example.completion else replace(example, completion=joined, references=references)

    return replace(built, examples=tuple(map(spelled, built.examples)))


def _labelled(example: Example, label: str) -> Example:
    references = tuple(dict.fromkeys((label, *example.references[1:])))
    return replace(example, completion=label, references=references, label=label)


def _close_labels(completion: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(completion, labels, n=3, cutoff=0.5)
    known = f"close to {', '.join(map(repr, close))}" if close else f"known: {', '.join(labels[:8])}"
    return f"found {completion[:60]!r}, {known}"


def with_unique_ids(groups: Sequence[Sequence[Example]]) -> list[tuple[Example, ...]]:
    """The same groups of examples; where two have one id (exact duplicates), the later ones get a number."""
    seen: Counter[str] = Counter()
    result = []
    for group in groups:
        unique = []
        for example in group:
            seen[example.id] += 1
            again = f"{example.id}-{seen[example.id]}"
            first = seen[example.id] == 1
            unique.append(example if first else replace(example, prompt=replace(example.prompt, id=again)))
        result.append(tuple(unique))
    return result


def merge_references(examples: Iterable[Example]) -> tuple[Example, ...]:
    """One example a prompt, the first, with the references of all that have the same fingerprint."""
    merged: dict[str, Example] = {}
    for example in examples:
        first = merged.setdefault(example.prompt.fingerprint, example)
        references = dict.fromkeys((*first.references, *example.references))
        relevance = _together(first.relevance, example.relevance)
        merged[example.prompt.fingerprint] = replace(first, references=tuple(references), relevance=relevance)
    return tuple(merged.values())


def _together(one: Relevance | None, other: Relevance | None) -> Relevance | None:
    if one is None or other is None:
        return one or other
    documents = dict.fromkeys((*one.documents, *other.documents))
    return Relevance(tuple(documents), tuple(dict.fromkeys((*one.evidence, *other.evidence))))


def check_bad(bad: Sequence[BadRow]) -> None:
    """Stop at rows that make no example.

    Raises:
        DataError: There is one; the message shows the first, and counts the rest.
    """
    if not bad:
        return
    first = bad[0]
    counts = Counter(row.reason for row in bad)
    lines = [f"{first.place}: {first.reason}{f' ({first.detail})' if first.detail else ''}."]
    if len(bad) > 1:
        lines.append(f"{len(bad)} rows are bad in all:")
        for reason, count in counts.most_common(8):
            places = [str(row.place) for row in bad if row.reason == reason]
            lines.append(f"  {count} × {reason}: {', '.join(places[:5])}{' …' if count > 5 else ''}")
    lines.append("Correct them, or set on_bad_row: drop to leave them out and have them counted.")
    raise DataError("\n".join(lines))


def dropped_report(bad: Sequence[BadRow]) -> list[dict[str, object]]:
    """Bad rows by reason, most first: `reason`, `count`, `places` (the first ten)."""
    counts = Counter(row.reason for row in bad)
    return [
        {
            "reason": reason,
            "count": count,
            "places": [str(row.place) for row in bad if row.reason == reason][:10],
        }
        for reason, count in counts.most_common()
    ]
