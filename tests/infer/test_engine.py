"""The engine: predictors in, completions out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from colours import make_example
from luthier.errors import DataError
from luthier.infer.engine import Engine
from luthier.types import Decoding, Message, ModelRef, PromptedModel, Shots, Task, Wording


@pytest.fixture
def engine() -> Engine:
    return Engine("cpu", "float32")


@pytest.fixture
def predictor(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


def prompts_of(task: Task):
    return [example.prompt for example in task.validation]


def test_choosing_takes_the_label_that_is_likeliest_after_the_rendered_prompt(
    engine: Engine, predictor: PromptedModel, tiny_task: Task, tokenizer: Any
):
    answers = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels)
    model = engine.load(predictor.model)
    assert [a.id for a in answers] == [e.id for e in tiny_task.validation]
    for answer, example in zip(answers, tiny_task.validation, strict=True):
        turns = [{"role": m.role, "content": m.content} for m in answer.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert answer.prompt_tokens == len(ids)
        assert answer.messages == example.prompt.messages
        expected = {}
        for label in tiny_task.labels:
            after = tokenizer(f"{label}<|im_end|>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([ids + after])).logits[0].log_softmax(-1)
            expected[label] = sum(float(logprobs[len(ids) - 1 + i, token]) for i, token in enumerate(after))
        assert answer.label_logprobs == pytest.approx(expected, abs=1e-4)
        assert answer.text == max(expected, key=expected.__getitem__)
        assert answer.stopped == "choice"


def test_choosing_per_token_divides_by_the_labels_length(engine: Engine, predictor: PromptedModel, tiny_task: Task):
    labels = ("red", "a very long name of a colour")
    normalised = replace(predictor, decoding=Decoding("choose-normalised"))
    renderer = engine.renderer(predictor.model)
    prompts = prompts_of(tiny_task)
    lengths = [len(renderer.completion(prompts[0].messages, label)) for label in labels]
    for answer in engine.answer(normalised, prompts, labels):
        assert answer.label_logprobs is not None
        per_token = [answer.label_logprobs[label] / n for label, n in zip(labels, lengths, strict=True)]
        assert answer.text == labels[per_token.index(max(per_token))]
        assert answer.completion_tokens == lengths[labels.index(answer.text)]


def test_shots_stand_before_the_question_and_in_the_answer_s_messages(
    engine: Engine, predictor: PromptedModel, tiny_task: Task
):
    shown = replace(predictor, shots=Shots(tiny_task.train, 2, "random"))
    answer = engine.answer(shown, prompts_of(tiny_task)[:1], tiny_task.labels)[0]
    first, second = tiny_task.train[:2]
    assert answer.messages == (
        *first.prompt.messages,
        Message("assistant", first.completion),
        *second.prompt.messages,
        Message("assistant", second.completion),
        *tiny_task.validation[0].prompt.messages,
    )
    assert answer.dropped_shots == 0


def test_shots_that_leave_no_room_for_the_answer_are_dropped_and_counted(
    engine: Engine, predictor: PromptedModel, tiny_task: Task
):
    long = make_example(99, "word " * 400, "red", label="red")
    shown = replace(
        predictor,
        shots=Shots((long, tiny_task.train[0]), 2, "random"),
        decoding=Decoding("generate", max_new_tokens=60),
    )
    answer = engine.answer(shown, prompts_of(tiny_task)[:1])[0]
    assert answer.dropped_shots == 1
    assert answer.messages[0] == tiny_task.train[0].prompt.messages[0]


def test_a_prompt_that_leaves_no_room_for_the_answer_is_an_error(
    engine: Engine, predictor: PromptedModel, tiny_task: Task
):
    greedy = replace(predictor, decoding=Decoding("generate", max_new_tokens=500))
    with pytest.raises(DataError, match=r"e12: the prompt takes \d+ tokens and the answer up to 500; .* window is 512"):
        engine.answer(greedy, prompts_of(tiny_task))


def test_generated_answers_come_in_the_order_of_the_prompts(engine: Engine, predictor: PromptedModel, tiny_task: Task):
    greedy = replace(predictor, decoding=Decoding("generate", max_new_tokens=5))
    prompts = prompts_of(tiny_task)
    done: list[int] = []
    together = engine.answer(greedy, prompts, advance=done.append)
    alone = [engine.answer(greedy, [prompt])[0] for prompt in prompts]
    assert together == alone
    assert sum(done) == len(prompts)
    assert engine.answer(greedy, []) == []


def test_a_live_model_answers_in_evaluation_mode_and_goes_on_training(
    engine: Engine, predictor: PromptedModel, tiny_task: Task, load_tiny: Callable[..., Any]
):
    model = load_tiny().train()
    modes = []
    model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels, model=model)
    assert model.training
    assert not any(modes)
    model.eval()
    engine.reference_logprobs(predictor, tiny_task.validation, model=model)
    assert not model.training


def test_a_live_model_in_float32_answers_as_the_loaded_one(
    engine: Engine, predictor: PromptedModel, tiny_task: Task, load_tiny: Callable[..., Any]
):
    live = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels, model=load_tiny(attention="eager"))
    loaded = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels)
    for a, b in zip(live, loaded, strict=True):
        assert a.label_logprobs == pytest.approx(b.label_logprobs, abs=1e-4)


def test_a_live_model_with_an_adapter_answers_with_it(
    engine: Engine, predictor: PromptedModel, tiny_task: Task, load_tiny: Callable[..., Any], tokenizer: Any
):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)  # B is not zero
    model = get_peft_model(load_tiny(), settings).eval()
    without = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels)
    answers = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels, model=model)
    for answer, plain in zip(answers, without, strict=True):
        turns = [{"role": m.role, "content": m.content} for m in answer.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert answer.label_logprobs is not None
        assert plain.label_logprobs is not None
        for label, found in answer.label_logprobs.items():
            after = tokenizer(f"{label}<|im_end|>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([ids + after])).logits[0].log_softmax(-1)
            assert found == pytest.approx(
                sum(float(logprobs[len(ids) - 1 + i, token]) for i, token in enumerate(after)), abs=1e-4
            )
            assert abs(found - plain.label_logprobs[label]) > 0.01


def test_a_live_model_in_bfloat16_answers_as_in_float32_but_for_rounding(
    predictor: PromptedModel, tiny_task: Task, load_tiny: Callable[..., Any]
):
    model, prompts = load_tiny(), prompts_of(tiny_task)
    exact = Engine("cpu", "float32").answer(predictor, prompts, tiny_task.labels, model=model)
    rounding = Engine("cpu", "bfloat16")
    rounded = rounding.answer(predictor, prompts, tiny_task.labels, model=model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    for a, b in zip(exact, rounded, strict=True):
        assert a.label_logprobs != b.label_logprobs
        assert a.label_logprobs == pytest.approx(b.label_logprobs, abs=0.5)
    warm = replace(predictor, decoding=Decoding("generate", max_new_tokens=4, temperature=0.7, seed=1))
    assert all(answer.completion_tokens <= 4 for answer in rounding.answer(warm, prompts, model=model))


def test_drawn_answers_depend_on_the_seed(engine: Engine, predictor: PromptedModel, tiny_task: Task):
    prompts = prompts_of(tiny_task)
    warm = replace(predictor, decoding=Decoding("generate", max_new_tokens=6, temperature=1.0, seed=1))
    first = engine.answer(warm, prompts)
    assert [answer.id for answer in first] == [prompt.id for prompt in prompts]
    assert engine.answer(warm, prompts) == first
    other = engine.answer(replace(warm, decoding=replace(warm.decoding, seed=2)), prompts)
    assert [answer.text for answer in other] != [answer.text for answer in first]


def test_choosing_works_where_only_the_new_wording_suits_the_chat_template(
    engine: Engine, predictor: PromptedModel, tiny_task: Task
):
    renderer = engine.renderer(predictor.model)
    renderer.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + renderer.tokenizer.chat_template
    )
    prompts = [
        replace(prompt, messages=(Message("system", "Be brief."), *prompt.messages)) for prompt in prompts_of(tiny_task)
    ]
    answers = engine.answer(replace(predictor, wording=Wording(system="")), prompts, tiny_task.labels)
    assert [m.role for m in answers[0].messages] == ["user"]


def test_reference_logprobs_count_the_answer_and_the_end_of_the_turn(
    engine: Engine, predictor: PromptedModel, tiny_task: Task, tokenizer: Any
):
    answers = engine.answer(predictor, prompts_of(tiny_task), tiny_task.labels)
    found = engine.reference_logprobs(predictor, tiny_task.validation)
    for own, answer, example in zip(found, answers, tiny_task.validation, strict=True):
        assert answer.label_logprobs is not None
        assert own.nats == pytest.approx(answer.label_logprobs[example.completion], abs=1e-4)
        assert own.tokens == len(tokenizer(f"{example.completion}<|im_end|>", add_special_tokens=False)["input_ids"])


def test_raw_texts_score_all_tokens_but_the_first(engine: Engine, predictor: PromptedModel, tokenizer: Any):
    texts = ["The sky is blue.", "Grass"]
    found = engine.text_logprobs(predictor.model, texts)
    assert [own.tokens for own in found] == [len(tokenizer(text)["input_ids"]) - 1 for text in texts]


def test_a_model_is_loaded_once_for_predictors_that_share_it(engine: Engine, predictor: PromptedModel):
    model = engine.load(predictor.model)
    assert engine.load(ModelRef(predictor.model.base)) is model
    engine.release()
    assert engine.load(predictor.model) is not model
