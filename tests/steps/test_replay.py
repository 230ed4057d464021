"""`replay:` of a step that trains: what the model writes before it is trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.errors import TrainingError
from luthier.model.load import load_model
from luthier.steps import SftStep
from luthier.steps.base import StepContext
from luthier.steps.replay import Replay
from luthier.types import Decoding, ModelRef, PromptedModel, Task


@pytest.fixture
def base(tiny_model_folder: Path) -> PromptedModel:
    return PromptedModel(ModelRef(str(tiny_model_folder)), Decoding("choose"))


@pytest.fixture
def with_old(context: StepContext, open_task: Task) -> StepContext:
    """A lesson beside which an open-ended task is rehearsed."""
    old = replace(open_task, name="old", test=(), decoding=Decoding(max_new_tokens=4))
    return replace(context, lesson=replace(context.lesson, rehearsed=(old,)))


def sft(**replay: Any) -> SftStep:
    return SftStep.model_validate(
        {"adapter": {"rank": 2}, "epochs": 1, "batch_size": 4, "evaluations": 1, "replay": replay}
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "replay.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_task_s_prompts_are_answered_by_the_model_before(
    base: PromptedModel, with_old: StepContext, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []
    import luthier.train.loop

    real = luthier.train.loop.train

    def spy(model: Any, sequences: Any, *args: Any, **settings: Any) -> Any:
        tokenizer = with_old.engine.renderer(base.model).tokenizer
        seen.extend(tokenizer.decode(list(s.ids)) for s in sequences)
        return real(model, sequences, *args, **settings)

    monkeypatch.setattr(luthier.train.loop, "train", spy)
    outcome = sft(task="old", examples=5).fit(base, with_old)
    rows = rows_of(with_old.folder)
    (old,) = with_old.lesson.rehearsed
    prompts = {example.id: example.prompt for example in old.train}
    answers = with_old.engine.answer(
        PromptedModel(base.model, old.decoding), [prompts[row["id"]] for row in rows if row["id"] in prompts]
    )
    assert [row["answer"] for row in rows] == [answer.text for answer in answers]
    facts = outcome.facts["replay"]
    assert (facts["asked"], facts["kept"] + sum(facts["dropped"].values())) == (5, 5)
    assert facts["cut"] == sum(row["stopped"] == "length" for row in rows) > 0
    assert outcome.facts["examples"] == len(seen) == 12 + len(rows)
    for text, row in zip(seen[12:], rows, strict=True):
        assert f"{row['prompt']}<|im_end|>\n<|im_start|>assistant\n{row['answer']}" in text
        # Of an answer that was cut off the end of the turn is not learned.
        assert text.endswith("<|im_end|>") == (row["stopped"] != "length")
    assert outcome.facts["examples_of_tasks"] == Counter({"colours": 12})


def test_answers_are_chosen_where_the_task_s_are_and_never_written_twice(
    base: PromptedModel, context: StepContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    own = replace(context, lesson=replace(context.lesson, rehearsed=(context.task,)))
    step = sft(task="colours", examples=100)
    straight = step.fit(base, replace(own, folder=tmp_path / "straight")).predictor.model
    rows = rows_of(tmp_path / "straight")
    assert len(rows) == 12  # it has no more
    assert {row["answer"] for row in rows} <= {"red", "green", "blue"}
    assert {row["stopped"] for row in rows} == {"choice"}

    def stop(row: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    broken = replace(own, folder=tmp_path / "broken", log=stop)
    with pytest.raises(KeyboardInterrupt):
        step.fit(base, broken)
    monkeypatch.setattr(Replay, "_write", lambda *args: pytest.fail("it was written already"))
    resumed = step.fit(base, replace(broken, log=context.log)).predictor.model
    one, other = (
        dict(load_model(ref, device="cpu", precision="float32").named_parameters()) for ref in (straight, resumed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_writes_prompts_of_its_own(base: PromptedModel, context: StepContext, tmp_path: Path):
    replay = Replay(examples=6, max_new_tokens=5)
    written = replay.written(base, replace(context, folder=tmp_path / "a"))
    rows = rows_of(tmp_path / "a")
    assert 0 < len(rows) <= 6
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert written.facts["kept"] == len(rows)
    assert [example.completion for _, example in written.taught] == [row["answer"] for row in rows]
    again = replay.written(base, replace(context, folder=tmp_path / "b"))
    assert again.taught == written.taught
    other = replay.written(base, replace(context, folder=tmp_path / "c", seed=1))
    assert {row["prompt"] for row in rows_of(tmp_path / "c")} != {row["prompt"] for row in rows}
    assert other.taught
    # Each is what the model says after the opening of a user's turn, answered greedily.
    answers = context.engine.answer(
        PromptedModel(base.model, Decoding(max_new_tokens=5)), [example.prompt for _, example in written.taught]
    )
    assert [answer.text for answer in answers] == [row["answer"] for row in rows]


def test_a_user_s_turn_is_opened_and_ended_as_the_template_says(base: PromptedModel, context: StepContext):
    renderer = context.engine.renderer(base.model)
    turn = renderer.question()
    text = renderer.tokenizer.decode(list(turn.opening))
    assert text.endswith("<|im_end|>\n<|im_start|>user\n")  # behind the template's own system text
    assert turn.stop == ()
    assert renderer.tokenizer.convert_tokens_to_ids("<|im_end|>") in turn.end_ids
    plain = "{% for message in messages %}{{ message['content'] }}{{ '\\n\\n' }}{% endfor %}"
    renderer.tokenizer.chat_template, before = plain, renderer.tokenizer.chat_template
    try:
        turn = renderer.question()
    finally:
        renderer.tokenizer.chat_template = before
    assert turn.opening == (renderer.tokenizer.bos_token_id,)
    assert turn.stop == ("\n\n",)


def test_nothing_to_replay_is_an_error(base: PromptedModel, with_old: StepContext, monkeypatch: pytest.MonkeyPatch):
    real = with_old.engine.answer
    monkeypatch.setattr(
        with_old.engine, "answer", lambda *args, **own: [replace(a, text="") for a in real(*args, **own)]
    )
    with pytest.raises(TrainingError, match=r"all that the model wrote was left out \(empty answer: 3\)"):
        sft(task="old", examples=3).fit(base, with_old)


def test_examples_are_needed_and_the_task_is_rehearsed_not_learned_from():
    assert (sft(task="old", examples=3).rehearses, sft(task="old", examples=3).learns_from) == (("old",), ())
    assert sft(examples=3).rehearses == ()
    with pytest.raises(ValidationError, match="examples"):
        sft(task="old")
