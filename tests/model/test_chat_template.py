"""Templates of models that think before they answer, and of models that bring none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DataError
from luthier.model.chat_template import PLAIN, set_chat_template
from luthier.model.load import load_tokenizer
from luthier.prompt.render import Renderer
from luthier.types import Example, Message, Place, Prompt, Wording

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n"
# Kinds of published templates, in short. Name: the template, and what stands in the prompt behind the opening.
THINKING = {
    "switched, with an empty block before the last answer (Qwen3)": (
        TURNS
        + "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
        + END
        + OPEN
        + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
        + "{% endif %}",
        "<think>\n\n</think>\n\n",
    ),
    "an empty block before the last answer, and no switch": (
        TURNS
        + "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
        + END
        + OPEN
        + "{% endif %}\n",
        "<think>\n\n</think>\n\n",
    ),
    "the opening of an answer opens a block, which the turn keeps (Qwen3 of 2507)": (
        TURNS
        + "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
        + END
        + OPEN
        + "<think>\n{% endif %}",
        "<think>\n\n</think>\n\n",
    ),
    "the opening of an answer opens a block, which the turn drops (R1)": (
        TURNS
        + "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
        + END
        + OPEN
        + "<think>\n{% endif %}",
        "<think>\n\n</think>\n\n",
    ),
    "the turn of the user says it, and the block is on one line (GLM)": (
        TURNS
        + "{% if m.role == 'assistant' %}<think></think>\n{% endif %}{{ m.content }}"
        + "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}"
        + END
        + OPEN
        + "{% endif %}",
        "<think></think>\n",
    ),
    "a channel of control tokens before the answer (gpt-oss)": (
        TURNS
        + "{% if m.role == 'assistant' %}<|channel|>final<|message|>{% endif %}{{ m.content }}"
        + END
        + OPEN
        + "{% endif %}",
        "<|channel|>final<|message|>",
    ),
}


@pytest.fixture
def templated(tokenizer: Any) -> Callable[[str], Any]:
    """A tokenizer with another template and the control tokens that such templates write."""

    def make(template: str | None) -> Any:
        own = copy.deepcopy(tokenizer)
        own.add_tokens(["<think>", "</think>"])
        own.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>"]}
        )
        own.chat_template = template
        return own

    return make


def spam(completion: str = "spam") -> Example:
    prompt = Prompt("1", "mail", (Message("user", "Win a prize!"),), {}, fingerprint="1")
    return Example(prompt, completion, references=(completion,), label=None, place=Place("mail.csv", 7))


def texts_of(tokenizer: Any, completion: str = "spam") -> tuple[str, str]:
    """The prompt, and what is trained behind it."""
    renderer = Renderer(tokenizer, 512)
    sequence = renderer.training(spam(completion), Wording(), ())
    first = sequence.trained.index(True)
    assert sequence.ids[:first] == renderer.prompt(spam().prompt, Wording(), (), reserve=0).ids
    return tokenizer.decode(sequence.ids[:first]), tokenizer.decode(sequence.ids[first:])


@pytest.mark.parametrize("kind", THINKING)
def test_a_block_of_thoughts_stands_empty_in_the_prompt_and_is_never_learned(
    kind: str, templated: Callable[[str], Any], tmp_path: Path
):
    template, block = THINKING[kind]
    tokenizer = templated(template)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    prompt, answer = texts_of(loaded)
    assert prompt.endswith(f"<|im_start|>assistant\n{block}")
    assert prompt.count("<think>") == block.count("<think>")
    assert answer == "spam<|im_end|>"
    if "(GLM)" in kind:
        assert "Win a prize!/nothink" in prompt
    if "drops" not in kind:  # the conversation is what the model's own template writes
        turns = [{"role": "user", "content": "Win a prize!"}, {"role": "assistant", "content": "spam"}]
        switch = {"enable_thinking": False} if "(GLM)" in kind or "(Qwen3)" in kind else {}
        assert tokenizer.apply_chat_template(turns, tokenize=False, **switch) == f"{prompt}{answer}\n"


@pytest.mark.parametrize("kind", THINKING)
def test_what_is_saved_and_loaded_again_asks_in_the_same_way(
    kind: str, templated: Callable[[str], Any], tmp_path: Path
):
    """So does an exported model, wherever its own template is used."""
    templated(THINKING[kind][0]).save_pretrained(tmp_path / "base")
    once = load_tokenizer(tmp_path / "base")
    once.save_pretrained(tmp_path / "exported")
    assert load_tokenizer(tmp_path / "exported").chat_template == once.chat_template
    turns = [{"role": "user", "content": "Win a prize!"}]
    asked = once.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == texts_of(once)[0]


def test_completions_with_thoughts_of_their_own_are_refused_with_their_place(templated: Callable[[str], Any]):
    tokenizer = templated(THINKING["an empty block before the last answer, and no switch"][0])
    set_chat_template(tokenizer)
    with pytest.raises(DataError, match=r"mail.csv:7: the completion begins with a block of thoughts \(<think>\)"):
        texts_of(tokenizer, "<think>A prize?</think>\n\nspam")


@pytest.mark.parametrize(
    "template",
    [
        TURNS + "{{ m.content }}" + END + OPEN + "{% endif %}",
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
        "<|im_end|>{% endif %}{% endfor %}",
    ],
)
def test_templates_without_a_block_stay_as_they_are(template: str, templated: Callable[[str], Any]):
    tokenizer = templated(template)
    set_chat_template(tokenizer)
    assert tokenizer.chat_template == template


def test_of_several_templates_the_usual_one_is_changed(templated: Callable[[str], Any]):
    template = THINKING["an empty block before the last answer, and no switch"][0]
    tokenizer = templated(None)
    tokenizer.chat_template = {"default": template, "rag": "{{ documents }}"}
    set_chat_template(tokenizer)
    assert tokenizer.chat_template["rag"] == "{{ documents }}"
    assert texts_of(tokenizer)[0].endswith("<think>\n\n</think>\n\n")


def test_a_template_that_refuses_plain_turns_is_left_for_the_first_prompt_to_say(templated: Callable[[str], Any]):
    template = "{{ raise_exception('only with tools') }}"
    tokenizer = templated(template)
    set_chat_template(tokenizer)
    assert tokenizer.chat_template == template


def test_a_base_model_reads_what_its_tokenizer_puts_before_a_text(tokenizer: Any):
    """Without a template of its own, it saw every text behind the token that begins texts."""
    from tokenizers.processors import TemplateProcessing

    bare = copy.deepcopy(tokenizer)
    bare.add_special_tokens({"bos_token": "<s>"})
    begin = ("<s>", bare.bos_token_id)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[begin])
    bare.chat_template = None
    set_chat_template(bare)
    renderer = Renderer(bare, 512)
    asked = renderer.prompt(spam().prompt, Wording(), (), reserve=0).ids
    assert list(asked) == bare("Win a prize!\n\n")["input_ids"]
    sequence = renderer.training(spam(), Wording(), ())
    assert list(sequence.ids) == [
        *bare("Win a prize!\n\n")["input_ids"],
        *bare("spam", add_special_tokens=False)["input_ids"],
        bare.eos_token_id,
    ]
    (block,) = renderer.blocks("Win a prize!", "1", 512)
    assert block.ids[0] == asked[0] == bare.bos_token_id


def test_a_base_model_whose_tokenizer_adds_nothing_begins_with_the_text(tokenizer: Any):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    set_chat_template(bare)
    assert bare.chat_template == PLAIN
