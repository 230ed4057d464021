"""Copying the answer of the most similar known prompt."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from colours import make_example, make_task
from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.progress import Silent
from luthier.prompt.similar import Neighbour, by_vectors, fused
from luthier.settings import Choose
from luthier.simple.nearest import Nearest, voted
from luthier.steps import NearestStep
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.types import Decoding, Example, Message, Nothing, Prompt, Task

PLANE = {"cat": (1.0, 0.0), "kitten": (0.96, 0.28), "dog": (0.0, 1.0), "puppy": (0.28, 0.96), "bird": (0.6, 0.8)}


class Plane:
    """An embedder of five words in a plane, which reads the first word and knows no others."""

    folder = Path("/plane")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([PLANE.get(text.split()[0], (0.8, 0.6)) for text in texts], np.float32)

    def too_long(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) > 3 for text in texts)

    def unknown_share(self, texts: Sequence[str]) -> float:
        words = [word for text in texts for word in text.split()]
        return sum(word.startswith("?") for word in words) / len(words)


def task_of(train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]]) -> Task:
    rows = [make_example(n, text, answer, label=answer) for n, (text, answer) in enumerate([*train, *validation])]
    labels = tuple(dict.fromkeys(answer for _, answer in train))
    return replace(
        make_task(), train=tuple(rows[: len(train)]), validation=tuple(rows[len(train) :]), test=(), labels=labels
    )


def fit(step: NearestStep, task: Task, folder: Path):  # type: ignore[no-untyped-def]
    context = StepContext(
        lesson=Lesson((task,), (METRICS[task.metric],), task.name),
        start=None,
        engine=Engine("cpu", "float32", lambda name: Plane()),
        folder=folder,
        seed=0,
        progress=Silent(),
        log=lambda row: None,
    )
    ready = step.for_data([task])
    assert isinstance(ready, NearestStep)
    return ready.fit(Nothing(), context), context


ANIMALS = [("cat", "feline"), ("kitten", "feline"), ("dog", "canine"), ("puppy", "canine")]


def test_the_answer_is_that_of_the_most_similar_example_and_its_similarity_the_confidence(tmp_path: Path):
    outcome, context = fit(NearestStep(by="embedding", k=1), task_of(ANIMALS, [("bird", "canine")]), tmp_path)
    prompt = Prompt("new", "colours", (Message("user", "bird"),), {}, "new")
    (answer,) = context.engine.answer(outcome.predictor, [prompt])
    assert (answer.text, answer.stopped, answer.prompt_tokens) == ("canine", "copy", 0)
    assert answer.confidence == pytest.approx(0.6 * 0.28 + 0.8 * 0.96)


def test_what_was_exported_votes_alike_by_the_lines_on_its_card(tmp_path: Path):
    train = [("grey cat purrs", "feline"), ("grey cat naps", "feline"), ("grey dog barks cat", "canine")]
    outcome, context = fit(NearestStep(by="bm25", k=3), task_of(train, [("grey dog barks", "canine")]), tmp_path)
    predictor = outcome.predictor
    assert isinstance(predictor, Nearest)
    (tmp_path / "out").mkdir()
    exported = predictor.export(tmp_path / "out", context.engine)
    (program,) = re.findall(r"```python\n(.*?)```", exported.usage(), re.DOTALL)
    program = program.replace("your question", "grey dog barks")
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    prompt = Prompt("new", "colours", (Message("user", "grey dog barks"),), {}, "new")
    (answer,) = context.engine.answer(exported, [prompt])
    text, confidence = run.stdout.split()
    assert (text, float(confidence)) == (answer.text, pytest.approx(answer.confidence, abs=1e-3))
    assert text == "feline"  # two votes against the most similar


def test_vectors_are_kept_only_where_they_are_compared(tmp_path: Path):
    # The embedder reads the first word alone, and here another one tells the answers apart.
    train = [("cat good", "yes"), ("cat bad", "no"), ("cat good day", "yes"), ("cat bad day", "no")]
    outcome, _ = fit(NearestStep(k=1), task_of(train, [("cat bad night", "no"), ("cat good night", "yes")]), tmp_path)
    assert isinstance(outcome.predictor, Nearest)
    assert outcome.predictor.by == "bm25"
    (known,) = outcome.predictor.known.values()
    assert not (Path(known) / "vectors.safetensors").exists()


def test_a_known_question_may_answer_itself(tmp_path: Path):
    """Unlike a shot, which never shows the prompt that is asked."""
    task = task_of(ANIMALS, [("bird", "canine")])
    outcome, context = fit(NearestStep(by="bm25", k=1), task, tmp_path)
    (answer,) = context.engine.answer(outcome.predictor, [task.train[1].prompt])
    assert answer.text == "feline"


def test_votes_are_counted_and_ties_go_to_the_more_similar():
    three = [Neighbour(0, 0.9), Neighbour(1, 0.8), Neighbour(2, 0.7)]
    assert voted(["a", "b", "b"], three) == ("b", pytest.approx(1.5 / 3))
    assert voted(["a", "b"], three[:2]) == ("a", pytest.approx(0.9 / 2))
    assert voted(["a", "b", "c"], three) == ("a", pytest.approx(0.3))


def test_way_and_votes_are_taken_on_validation_and_all_that_was_tried_is_told(tmp_path: Path):
    # By words nothing is shared; by embedding the nearest is right.
    task = task_of(ANIMALS, [("bird", "canine"), ("puppy", "canine"), ("kitten", "feline")])
    outcome, _ = fit(NearestStep(), task, tmp_path)
    assert outcome.facts["by"] == "embedding"
    assert len(outcome.tried) == 6  # three ways, one or three votes
    assert [one.taken for one in outcome.tried].count(True) == 1
    assert 0 <= outcome.search_s <= outcome.train_s


def test_below_the_threshold_no_answer_is_given(tmp_path: Path):
    step = NearestStep(by="embedding", k=1, threshold=0.95, otherwise="ask us")
    outcome, context = fit(step, task_of(ANIMALS, [("bird", "canine")]), tmp_path)
    prompts = [Prompt(word, "colours", (Message("user", word),), {}, word) for word in ("bird", "cat")]
    unsure, sure = context.engine.answer(outcome.predictor, prompts)
    assert (unsure.text, unsure.stopped) == ("ask us", "abstained")
    assert unsure.confidence == pytest.approx(0.936)
    assert (sure.text, sure.stopped) == ("feline", "copy")


def test_what_the_embedder_does_not_see_is_told(tmp_path: Path):
    long = [*ANIMALS, ("cat that sleeps all day", "feline")]
    outcome, _ = fit(NearestStep(by="embedding", k=1), task_of(long, [("bird", "canine")]), tmp_path)
    (warning,) = outcome.warnings
    assert warning.startswith("1 of 5 training prompts are longer than minilm-l6 reads")


def test_of_a_language_that_the_embedder_does_not_know_words_are_compared(tmp_path: Path):
    foreign = [("?gato", "felino"), ("?perro", "canino"), ("?gata", "felino"), ("?perra", "canino")]
    outcome, _ = fit(NearestStep(), task_of(foreign, [("?gato", "felino")]), tmp_path)
    assert outcome.facts["by"] == "bm25"
    assert "has no token for 100% of the words" in outcome.warnings[0]


def test_it_copies_written_answers_too(tmp_path: Path):
    open_task = make_task(labelled=False)
    outcome, context = fit(NearestStep(by="bm25"), open_task, tmp_path)
    assert outcome.facts["k"] == 1
    prompts = [example.prompt for example in open_task.validation]
    answers = context.engine.answer(outcome.predictor, prompts)
    assert {answer.text for answer in answers} <= {example.completion for example in open_task.train}


def test_it_declines_tasks_that_it_has_not_seen():
    one = Nearest({"faq": "/known"}, "bm25", 1, "minilm-l6")
    assert one.declines("faq") == ""
    assert "nearest copies answers to faq alone" in one.declines("other")
    assert one.serving("faq", Decoding(), "faq") == one


def test_too_few_examples_to_vote_are_refused(tiny_task: Task):
    assert NearestStep(k=13).check(tiny_task) == ["k: 13 examples cannot vote where task 'colours' has 12 to train on."]
    few = replace(tiny_task, train=tiny_task.train[:4])
    ready = NearestStep().for_data([few])
    assert isinstance(ready, NearestStep)
    assert ready.k == Choose[int](choose=(1, 3))


def test_search_in_blocks_gives_what_sorting_all_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.prompt.similar._KNOWN", 7)
    monkeypatch.setattr("luthier.prompt.similar._QUERIES", 3)
    draw = np.random.default_rng(0)
    known, queries = (draw.normal(size=(count, 4)).astype(np.float32) for count in (40, 8))
    known[11] = known[3]  # equals keep their order
    for row, found in zip(queries @ known.T, by_vectors(queries, known, 5), strict=True):
        assert [one.number for one in found] == list(np.argsort(-row, kind="stable")[:5])


def test_two_rankings_are_fused_by_the_reciprocal_of_ranks():
    a = [[Neighbour(0, 9.0), Neighbour(1, 8.0)]]
    b = [[Neighbour(1, 0.9), Neighbour(2, 0.8)]]
    (found,) = fused([a, b], lambda query, known: known / 10, 3)
    assert [one.number for one in found] == [1, 0, 2]  # 1/62 + 1/61, 1/61, 1/62
    assert [one.similarity for one in found] == [0.1, 0.0, 0.2]


def test_earlier_turns_are_read_where_they_differ():
    def asked(number: int, *turns: str) -> Example:
        example = make_example(number, turns[-1], "yes", label="yes")
        messages = tuple(Message("user", turn) for turn in turns)
        return replace(example, prompt=replace(example.prompt, messages=messages))

    from luthier.prompt.similar import whole_prompts

    talks = [asked(0, "about cats", "and this one?"), asked(1, "about dogs", "and that one?")]
    reading = whole_prompts([own.prompt for own in talks])
    assert reading.text(talks[0].prompt) == "about cats\nthis"  # "and" and "one?" stand in all of them
    alike = [asked(0, "be brief", "cats"), asked(1, "be brief", "dogs")]
    assert whole_prompts([own.prompt for own in alike]).text(alike[0].prompt) == "cats"
