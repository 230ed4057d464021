"""Jinja templates over the columns of a row, sandboxed and strict.

A column is a variable of its name; `row` is the whole row, for names that are no identifiers (`row['Best Answer']`).
There are no globals: whatever a template names is a column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache, partial

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.data.labels import split_labels
from luthier.errors import DataError


class NoText(Exception):
    """A value that cannot stand in a text; the message says what it is."""


class ListNotText(NoText):
    """The value is a list."""


def as_text(value: object) -> str:
    """The text of a plain value.

    Raises:
        NoText: There is no value, or it is a list, an object, or bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise NoText("there is no value")
    if isinstance(value, bool):
        return "true" if value else "false"  # as in the file
    if isinstance(value, int | float | Decimal | date | time | timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoText("the value is bytes, not text") from error
    if isinstance(value, Undefined):
        return str(value)  # raises, with the name
    if isinstance(value, list | tuple):
        raise ListNotText("the value is a list, not text")
    name = type(value).__name__
    kind = "an object" if name == "dict" else f"a {name}"
    raise NoText(f"the value is {kind}, not text")


def _joined(value: object, separator: str) -> str:
    """The text of a plain value, or of a list of labels with the separator between them."""
    if not isinstance(value, list | tuple | Iterator):
        return as_text(value)
    labels = [text for item in value if (text := as_text(item).strip())]
    if split := [label for label in labels if split_labels(label, separator) != (label,)]:
        raise NoText(f"the list holds {split[0]!r}, which label_separator {separator!r} would split")
    return separator.join(labels)


@lru_cache(maxsize=64)
def _environment(separator: str) -> ImmutableSandboxedEnvironment:
    finalize = partial(_joined, separator=separator) if separator else as_text
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=finalize)
    environment.globals.clear()
    return environment


_ENVIRONMENT = _environment("")


def parse_template(template: str) -> nodes.Template:
    """The syntax tree of a template; raises jinja2's TemplateSyntaxError."""
    return _ENVIRONMENT.parse(template)


def is_expression(text: str) -> bool:
    return text.strip().startswith("{{") and text.strip().endswith("}}")


def parse_expression(text: str) -> nodes.Template | None:
    """The syntax tree of one `{{ … }}`; None for a plain column name; raises TemplateSyntaxError for anything else."""
    if not is_expression(text):
        if "{{" in text or "{%" in text:
            raise TemplateSyntaxError("not one expression", 1)
        return None
    tree = parse_template(text.strip())
    body = tree.body[0].nodes if tree.body and isinstance(tree.body[0], nodes.Output) else []
    if len(tree.body) != 1 or len(body) != 1:
        raise TemplateSyntaxError("not one expression", 1)
    return tree


def columns_named(template: str, columns: frozenset[str]) -> frozenset[str]:
    """The columns that a template reads; all of them where `row` is used as a whole."""
    tree = parse_template(template)
    names = find_undeclared_variables(tree)
    if "row" not in names or "row" in columns:
        return frozenset(names)
    by_key = [node.attr for node in tree.find_all(nodes.Getattr) if _is_row(node.node) and node.attr in columns]
    by_key += [
        str(node.arg.value)
        for node in tree.find_all(nodes.Getitem)
        if _is_row(node.node) and isinstance(node.arg, nodes.Const)
    ]
    uses = sum(1 for node in tree.find_all(nodes.Name) if _is_row(node))
    named = frozenset(names - {"row"}) | frozenset(by_key)
    return named if uses == len(by_key) else named | columns


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row"


def require_columns(setting: str, text: str, columns: frozenset[str], file: str) -> frozenset[str]:
    """The columns that the template of `setting` reads.

    Raises:
        DataError: It reads none, or one that the file does not have.
    """
    found = ", ".join(sorted(columns))
    named = columns_named(text, columns)
    if not named:
        hint = f"'{{{{ {text.strip()} }}}}'" if text.strip() in columns else "a template such as '{{ text }}'"
        raise DataError(
            f"{file}: {setting} {text!r} reads no column (found: {found}), so it would be the same for every row.\n"
            f"Set {setting} to {hint}."
        )
    if missing := sorted(named - columns):
        odd = [name for name in sorted(columns) if not name.isidentifier()]
        hint = f" A name that is no identifier is written row[{odd[0]!r}]." if odd else ""
        raise DataError(
            f"{file}: {setting} names {', '.join(map(repr, missing))}, which no row has (found: {found}).\n"
            f"Set {setting} to a template over these columns.{hint}"
        )
    return named


def require_column(setting: str, column: str, columns: frozenset[str], file: str) -> frozenset[str]:
    """The one column that `setting` names; a DataError where the file does not have it."""
    if column not in columns:
        raise DataError(
            f"{file}: {setting} names the column {column!r}, which no row has (found: {', '.join(sorted(columns))}).\n"
            f"Set {setting} to one of them."
        )
    return frozenset({column})


Renderer = Callable[[Mapping[str, object]], str]


@lru_cache(maxsize=64)
def renderer(template: str, separator: str = "") -> Renderer:
    """A function from a row to the template's text; it raises NoText where the row does not give one.

    Args:
        separator: What to put between the items of a list; empty where a list is no text.
    """
    compiled = _environment(separator).from_string(template)

    def render(row: Mapping[str, object]) -> str:
        try:
            return compiled.render({"row": row, **row})
        except NoText:
            raise
        except Exception as error:  # a template runs on any data: whatever goes wrong is this row's fault
            raise NoText(f"the template fails ({error})") from error

    return render


def values_of(setting: str, row: Mapping[str, object]) -> list[str]:
    """The texts of a column, or of a `{{ … }}` expression, that is a text or a list of texts; blanks left out."""
    if is_expression(setting):
        try:
            expression = _ENVIRONMENT.compile_expression(setting.strip()[2:-2], undefined_to_none=False)
            value = expression({"row": row, **row})
            value = list(value) if isinstance(value, Iterator) else value
        except Exception as error:  # as in `renderer`
            raise NoText(f"the expression fails ({error})") from error
        if isinstance(value, Undefined):
            raise NoText("there is no value")
    else:
        value = row.get(setting)
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else [value]
    return [text for item in items if (text := as_text(item).strip())]


def field_text(value: object) -> str:
    """A column's value as text for wording templates: nothing becomes empty, lists and objects become JSON."""
    try:
        return as_text(value)
    except NoText:
        if value is None or isinstance(value, float):
            return ""
        return json.dumps(value, ensure_ascii=False, default=str)
