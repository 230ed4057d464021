"""Rendering: prompts and training sequences by chat templates of several shapes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from colours import make_example
from luthier.errors import DataError, ModelError, StudyError
from luthier.model.chat_template import PLAIN
from luthier.prompt.render import Renderer
from luthier.prompt.wording import check_template, phrased, worded
from luthier.types import Example, Message, Wording

# Shaped like Llama 3's: a beginning token, role headers, contents trimmed, an end of turn of its own.
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Shaped like Gemma's: no system role, turns must alternate, the assistant is called model.
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Shaped like Qwen 3's: the last answer is rendered behind an empty block of thought, earlier ones without.
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Shaped like DeepSeek R1's: answering opens a thought that is not kept once there is an answer.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
# A space before the end of the turn, which is no end of text.
SPACED = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} <|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
HELLO = make_example(1, "What colour is the sky?", "blue")


def after_turn(text: str) -> str:
    """What stands behind the end of the answer in ChatML."""
    return text.partition("<|im_end|>")[2]


@pytest.fixture
def renderer(tokenizer: Any) -> Renderer:
    return Renderer(tokenizer, 512)


@pytest.fixture
def shaped(tokenizer: Any) -> Callable[[str], Renderer]:
    """A renderer with another chat template and the special tokens that it writes."""

    def make(template: str, special: Sequence[str] = (), **tokens: str) -> Renderer:
        own = copy.deepcopy(tokenizer)
        own.add_special_tokens({"additional_special_tokens": list(special), **tokens})
        own.chat_template = template
        return Renderer(own, 512)

    return make


def decoded(renderer: Renderer, ids: Sequence[int]) -> str:
    return str(renderer.tokenizer.decode(list(ids)))


def trained_text(renderer: Renderer, example: Example, **settings: Any) -> str:
    sequence = renderer.training(example, Wording(), (), **settings)
    return decoded(renderer, [i for i, on in zip(sequence.ids, sequence.trained, strict=True) if on])


def test_a_prompt_is_the_chat_template_with_the_answer_opened(renderer: Renderer, tokenizer: Any):
    rendered = renderer.prompt(HELLO.prompt, Wording(), (), reserve=10)
    turns = [{"role": "user", "content": "What colour is the sky?"}]
    assert list(rendered.ids) == tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert decoded(renderer, rendered.ids).endswith("<|im_start|>assistant\n")
    assert rendered.dropped_shots == 0


def test_prompt_ids_begin_the_training_ids(renderer: Renderer):
    prompt = renderer.prompt(HELLO.prompt, Wording(), (), reserve=0)
    sequence = renderer.training(HELLO, Wording(), ())
    assert sequence.ids[: len(prompt.ids)] == prompt.ids
    assert len(sequence.trained) == len(sequence.ids)


def test_only_the_answer_and_the_end_of_its_turn_are_trained(renderer: Renderer):
    sequence = renderer.training(HELLO, Wording(), ())
    assert trained_text(renderer, HELLO) == "blue<|im_end|>"
    assert decoded(renderer, sequence.ids).endswith("blue<|im_end|>")  # the template's line break behind it is gone


def test_a_training_sequence_of_one_turn_is_the_template_s_own_conversation(renderer: Renderer, tokenizer: Any):
    turns = [{"role": "user", "content": "What colour is the sky?"}, {"role": "assistant", "content": "blue"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert decoded(renderer, renderer.training(HELLO, Wording(), ()).ids) == whole.removesuffix("\n")


def test_loss_on_all_trains_every_token_that_has_one_before_it(renderer: Renderer):
    sequence = renderer.training(HELLO, Wording(), (), loss_on="all")
    assert sequence.trained == (False, *(True,) * (len(sequence.ids) - 1))


def test_the_end_of_the_turn_is_known(renderer: Renderer, tokenizer: Any):
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in renderer.end_ids


def test_an_empty_answer_cannot_be_trained_on(renderer: Renderer):
    with pytest.raises(DataError, match=r"colours.csv:2: the completion is empty"):
        renderer.training(replace(HELLO, completion=""), Wording(), ())


def test_shots_stand_between_the_system_text_and_the_question(renderer: Renderer):
    shot = make_example(2, "Grass?", "green")
    wording = Wording(system="Name the colour.", template="Q: {{ text }}")
    assert renderer.prompt(HELLO.prompt, wording, [shot], reserve=8).messages == (
        Message("system", "Name the colour."),
        Message("user", "Q: Grass?"),
        Message("assistant", "green"),
        Message("user", "Q: What colour is the sky?"),
    )


def test_the_first_shots_are_dropped_when_not_all_fit(tokenizer: Any):
    shots = [make_example(n, f"What colour is thing {n}?", "red") for n in range(2, 6)]
    whole = Renderer(tokenizer, 512).prompt(HELLO.prompt, Wording(), shots, reserve=8)
    last_two = Renderer(tokenizer, 512).prompt(HELLO.prompt, Wording(), shots[2:], reserve=8)
    assert whole.dropped_shots == 0
    tight = Renderer(tokenizer, len(last_two.ids) + 8).prompt(HELLO.prompt, Wording(), shots, reserve=8)
    assert tight.dropped_shots == 2
    assert tight.ids == last_two.ids
    assert tight.messages == last_two.messages


def test_training_drops_shots_where_the_answer_would_not_fit(tokenizer: Any):
    shots = [make_example(n, f"What colour is thing {n}?", "red") for n in (2, 3)]
    prompt = Renderer(tokenizer, 512).prompt(HELLO.prompt, Wording(), shots, reserve=0)
    sequence = Renderer(tokenizer, len(prompt.ids) + 1).training(HELLO, Wording(), shots)
    text = tokenizer.decode(list(sequence.ids))
    assert "thing 2" not in text
    assert "thing 3" in text
    assert text.endswith("blue<|im_end|>")


def test_a_prompt_longer_than_the_window_is_an_error(tokenizer: Any):
    with pytest.raises(DataError, match=r"e1: the prompt takes .* the model's window is 12"):
        Renderer(tokenizer, 12).prompt(HELLO.prompt, Wording(), (), reserve=4)


def test_a_tokenizer_without_template_puts_blank_lines_between_turns(shaped: Callable[..., Renderer]):
    renderer = shaped(PLAIN)
    prompt = renderer.prompt(HELLO.prompt, Wording(), (make_example(2, "Grass?", "green"),), reserve=0)
    assert decoded(renderer, prompt.ids) == "Grass?\n\ngreen<|im_end|>\n\nWhat colour is the sky?\n\n"
    assert trained_text(renderer, HELLO) == "blue<|im_end|>"
    assert renderer.end_ids == {renderer.tokenizer.eos_token_id}


def test_a_template_like_llama_3_s_trains_the_trimmed_answer(shaped: Callable[..., Renderer]):
    renderer = shaped(LLAMA3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], bos_token="<|endoftext|>")
    eot = renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    prompt = renderer.prompt(HELLO.prompt, Wording(), (), reserve=0)
    assert decoded(renderer, prompt.ids).count("<|endoftext|>") == 1
    sequence = renderer.training(replace(HELLO, completion=" blue "), Wording(), ())
    assert sequence.ids[: len(prompt.ids)] == prompt.ids
    assert sequence.ids[-1] == eot
    assert trained_text(renderer, replace(HELLO, completion=" blue ")) == "blue<|eot_id|>"
    assert renderer.end_ids == {eot, renderer.tokenizer.eos_token_id}


def test_a_template_without_system_role_says_which_turns_it_refused(shaped: Callable[..., Renderer]):
    renderer = shaped(GEMMA, ["<start_of_turn>", "<end_of_turn>"], bos_token="<|endoftext|>")
    assert trained_text(renderer, HELLO) == "blue<end_of_turn>"
    assert renderer.tokenizer.convert_tokens_to_ids("<end_of_turn>") in renderer.end_ids
    with pytest.raises(ModelError, match=r"refuses turns in the order system, user: System role not supported"):
        renderer.prompt(HELLO.prompt, Wording(system="Be brief."), (), reserve=0)


def test_a_template_that_adds_an_empty_thought_trains_it_with_the_answer(shaped: Callable[..., Renderer]):
    renderer = shaped(QWEN3)
    assert trained_text(renderer, HELLO) == "<think>\n\n</think>\n\nblue<|im_end|>"
    shot = make_example(2, "Grass?", "green")
    prompt = renderer.prompt(HELLO.prompt, Wording(), (shot,), reserve=0)
    assert "<think>" not in decoded(renderer, prompt.ids)


def test_a_template_whose_opening_the_answer_does_not_keep_trains_the_plain_answer(shaped: Callable[..., Renderer]):
    renderer = shaped(THINKING)
    assert trained_text(renderer, HELLO) == "blue<|im_end|>"


def test_the_plain_answer_ends_with_the_end_of_the_turn_not_of_the_text(shaped: Callable[..., Renderer]):
    # Generation stops at either, but the template closes earlier turns with the end of the turn.
    renderer = shaped(THINKING.replace("<|im_end|>", "<|eot_id|>"), ["<|eot_id|>"])
    assert trained_text(renderer, HELLO) == "blue<|eot_id|>"


def test_the_end_of_the_turn_is_found_behind_a_space(shaped: Callable[..., Renderer]):
    renderer = shaped(SPACED, ["<|eot_id|>"])
    assert renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>") in renderer.end_ids
    assert trained_text(renderer, HELLO) == "blue <|eot_id|>"


def test_wording_replaces_the_system_text_and_the_last_turn():
    prompt = replace(HELLO.prompt, messages=(Message("system", "Old."), *HELLO.prompt.messages))
    assert worded(prompt, Wording()) == prompt.messages
    assert worded(prompt, Wording(system="New."))[0] == Message("system", "New.")
    assert [m.role for m in worded(prompt, Wording(system=""))] == ["user"]
    asked = worded(prompt, Wording(template="{{ prompt }} ({{ text | length }})"))
    assert asked[-1] == Message("user", "What colour is the sky? (23)")


@pytest.mark.parametrize("template", ["{{ missing }}", "{{ text / 2 }}", "{{ 1 / 0 }}"])
def test_a_wording_that_cannot_be_rendered_names_the_prompt(template: str):
    with pytest.raises(StudyError, match=r"cannot be rendered for e1: "):
        worded(HELLO.prompt, Wording(template=template))


def test_a_wording_is_checked_against_the_fields_before_anything_is_rendered():
    check_template("{{ prompt }} {{ text }} {% for i in range(3) %}{{ i }}{% endfor %}", ("text",))
    with pytest.raises(StudyError, match=r"names colour, tint, which .* \(there are: prompt, text\)"):
        check_template("{{ tint }}{{ colour }}", ("text",))
    with pytest.raises(StudyError, match="no Jinja template"):
        check_template("{{ text", ("text",))


def test_phrasings_are_drawn_by_the_seed_for_each_example_and_keep_the_rest():
    examples = [make_example(n, f"word {n}", "red") for n in range(60)]
    ways = ("Colour of {{ prompt }}?", "{{ text }}: which colour?")
    found = phrased(examples, ways, "1")
    shapes = Counter(
        "first" if (text := e.prompt.messages[-1].content).startswith("Colour of") else
        "second" if text.endswith("which colour?") else "own"
        for e in found
    )  # fmt: skip
    assert all(10 <= count <= 30 for count in shapes.values()), shapes
    assert len(shapes) == 3
    assert phrased(examples, ways, "1") == found
    assert phrased(examples, ways, "2") != found
    assert [(e.id, e.prompt.fingerprint) for e in found] == [(e.id, e.prompt.fingerprint) for e in examples]
    assert phrased(examples, (), "1") == examples


def test_whether_a_template_writes_system_texts_is_known(renderer: Renderer, shaped: Callable[..., Renderer]):
    silent = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}<e>{% endif %}{% endfor %}"
    assert renderer.shows_system()
    assert not shaped(silent, ["<e>"]).shows_system()
