"""The chat template by which turns become text: one for models that bring none, and no thinking before an answer.

Of a model that thinks before it answers, the template puts a block of thoughts before the last answer, or opens one
where the model is to begin. Were it left to the answer, training would teach the block, and an answer of a few tokens
would end within it. So it belongs to the prompt here, and is empty: the model answers at once, the same in training,
answering and scoring, and in what is exported, since the template itself is changed.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2

# Turns apart by blank lines, the answer after the last.
PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
)
_NO_THINKING = "{% set enable_thinking = false %}"
_MARK = "answer␟"
_OPENED = re.compile(r"<([^<>/\s|]+)>\s*\Z")
_CLOSED = re.compile(r"</([^<>/\s|]+)>\s*\Z")


def set_chat_template(tokenizer: Any) -> None:
    """Give a tokenizer the template that Luthier asks with: its own without thinking, or a plain one.

    The plain one begins with what the tokenizer puts before a text, most often a token for its beginning (BOS).
    """
    templates = tokenizer.chat_template
    if templates is None:
        tokenizer.chat_template = _literal(_before_texts(tokenizer)) + PLAIN
    elif isinstance(templates, dict):  # of several the one that is used unless another is asked for
        tokenizer.chat_template = {
            name: _answering_at_once(own, tokenizer) if name == "default" else own for name, own in templates.items()
        }
    else:
        tokenizer.chat_template = _answering_at_once(templates, tokenizer)


def thinking_block(opened: str) -> str | None:
    """The name of the block of thoughts that a prompt closes before its answer; None where it has none."""
    closed = _CLOSED.search(opened)
    return closed[1] if closed else None


def _before_texts(tokenizer: Any) -> str:
    """What the tokenizer puts before a text unasked."""
    alone, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    count = next((i for i in range(len(whole)) if whole[i : i + len(alone)] == alone), 0)
    return "".join(tokenizer.convert_ids_to_tokens(whole[:count]))


def _answering_at_once(template: str, tokenizer: Any) -> str:
    if re.search(r"\benable_thinking\b", template) and not template.startswith(_NO_THINKING):
        template = _NO_THINKING + template
    try:
        opened = _text(template, tokenizer, opening=True)
        whole = _text(template, tokenizer, opening=False)
    except (jinja2.TemplateError, ValueError, TypeError):  # said where the first prompt is rendered, with its turns
        return template
    rest = _block(opened, whole.partition(_MARK)[0], template, tokenizer)
    # jinja drops one line break at a template's end
    return (
        f"{template.removesuffix(chr(10))}{{% if add_generation_prompt %}}{_literal(rest)}{{% endif %}}"
        if rest
        else template
    )


def _text(template: str, tokenizer: Any, *, opening: bool) -> str:
    turns = [{"role": "user", "content": "question"}]
    turns += [] if opening else [{"role": "assistant", "content": _MARK}]
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opening, chat_template=template)
    )


def _block(opened: str, before: str, template: str, tokenizer: Any) -> str:
    """What is missing from the opening of an answer so that the answer itself comes next."""
    if before.startswith(opened):
        rest = before[len(opened) :]
        added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        # white space that some templates put before an answer is the first of its tokens
        return rest if _CLOSED.search(rest) or any(mark in rest for mark in added) else ""
    begun = _OPENED.search(opened)
    return f"\n</{begun[1]}>\n\n" if begun and f"</{begun[1]}>" in template else ""


def _literal(text: str) -> str:
    """A text as a template writes it."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
