"""Putting the question in other words: a system text, a template around the user's turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import jinja2
import jinja2.meta
import jinja2.sandbox

from luthier.errors import StudyError
from luthier.types import Example, Message, Prompt, Wording

_ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
)


def worded(prompt: Prompt, wording: Wording) -> tuple[Message, ...]:
    """The prompt's messages under `wording`: its system text in front, its template in the last turn.

    Raises:
        StudyError: The template names a field that the prompt does not have, or is no template.
    """
    messages = list(prompt.messages)
    if wording.system is not None:
        messages = [m for m in messages if m.role != "system"]
        if wording.system:
            messages.insert(0, Message("system", wording.system))
    if wording.template is not None:
        messages[-1] = Message(messages[-1].role, rendered(wording.template, prompt))
    return tuple(messages)


def phrased(examples: Sequence[Example], phrasings: Sequence[str], seed: str) -> list[Example]:
    """The examples, each worded as it is or by one of the phrasings, drawn by the seed and its place among them."""
    if not phrasings:
        return list(examples)
    found = []
    for number, example in enumerate(examples):
        template = random.Random(f"{seed}/{number}/{example.id}").choice((None, *phrasings))
        messages = worded(example.prompt, Wording(template=template))
        found.append(replace(example, prompt=replace(example.prompt, messages=messages)))
    return found


def check_template(template: str, fields: tuple[str, ...]) -> None:
    """See that a wording's template parses and names nothing but `prompt` and `fields`.

    Raises:
        StudyError: It does not.
    """
    try:
        names = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
    except jinja2.TemplateSyntaxError as error:
        raise StudyError(f"the wording {template!r} is no Jinja template: {error}.") from error
    unknown = sorted(names - {"prompt", *fields})
    if unknown:
        raise StudyError(
            f"the wording {template!r} names {', '.join(unknown)}, which the task's prompts do not have "
            f"(there are: {', '.join(('prompt', *sorted(fields)))})."
        )


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def rendered(template: str, prompt: Prompt) -> str:
    """A template over the prompt's fields and `prompt`, its last turn.

    Raises:
        StudyError: The template names a field that the prompt does not have, or is no template.
    """
    try:
        return _compiled(template).render({**prompt.fields, "prompt": prompt.messages[-1].content})
    except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as error:
        raise StudyError(f"the wording {template!r} cannot be rendered for {prompt.id}: {error}.") from error
