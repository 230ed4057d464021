"""An embedder or encoder that is trained on the labels: what is kept, read back and exported, seeds, bad input."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from marked import Fit, sentences, task_of

from luthier.errors import ModelError
from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.model.embed import SentenceEmbedder
from luthier.progress import Silent
from luthier.record import places_of, predictor_from_json, predictor_to_json
from luthier.settings import closed
from luthier.simple.classifier import Classifier
from luthier.simple.encoder import RATES, batches, epochs_for
from luthier.steps import ClassifierStep
from luthier.steps.base import StepContext, StepOutcome
from luthier.steps.lesson import Lesson
from luthier.types import Completion, Predictor, Task


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights of a tiny model want larger steps."""
    monkeypatch.setitem(RATES, "full", (3e-3, 1e-2))
    monkeypatch.setitem(RATES, "lora", (5e-3, 1e-2))
    monkeypatch.setattr("luthier.simple.encoder._MOST_EPOCHS", 12)


@pytest.fixture
def easy() -> Task:
    return task_of(sentences(96, 1), sentences(18, 2))


def answers(engine: Engine, predictor: Predictor, task: Task) -> list[Completion]:
    return engine.answer(predictor, [example.prompt for example in task.validation], task.labels)


def right(engine: Engine, outcome: StepOutcome, task: Task) -> int:
    found = answers(engine, outcome.predictor, task)
    return sum(own.text == example.completion for own, example in zip(found, task.validation, strict=True))


def logs(found: list[Completion]) -> list[dict[str, float]]:
    return [dict(own.label_logprobs or {}) for own in found]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_an_encoder_learns_what_words_tell_apart(fit: Fit, easy: Task, tune: str, tmp_path: Path):
    outcome, engine = fit(easy, tune)
    assert right(engine, outcome, easy) >= {"full": 16, "lora": 12}[tune]  # of 18, and 6 by chance
    assert [one.settings["learning_rate"] for one in outcome.tried] == list(RATES[tune])
    assert [one.taken for one in outcome.tried].count(True) == 1
    assert outcome.search_s > 0
    assert outcome.train_s > outcome.loop_s > 0
    assert outcome.trained_tokens == 12 * 96 * 7  # five words and two tokens around them
    assert outcome.peak_bytes > 0
    assert outcome.trainable_share == 1.0 if tune == "full" else 0 < outcome.trainable_share < 1
    (table,) = outcome.results.values()
    assert len(table["rows"]) == 13
    assert [row[2] for row in table["rows"]].count("used") == 1
    assert [own.name for own in (tmp_path / "step").iterdir()] == ["classifier"]
    assert {own.name for own in (tmp_path / "step" / "classifier").iterdir()} == {"0"}


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_probabilities_sum_to_one_and_confidence_is_the_highest(fit: Fit, easy: Task, tune: str):
    outcome, engine = fit(easy, tune)
    for own in answers(engine, outcome.predictor, easy):
        assert own.label_logprobs is not None
        found = np.exp(list(own.label_logprobs.values()))
        assert found.sum() == pytest.approx(1)
        assert own.confidence == pytest.approx(found.max())


@pytest.mark.parametrize("tune", ["full", "lora", "contrastive"])
def test_what_was_written_gives_the_same_probabilities_where_it_is_moved(
    fit: Fit, easy: Task, tune: str, tmp_path: Path
):
    outcome, engine = fit(easy, tune)
    before = logs(answers(engine, outcome.predictor, easy))
    row = predictor_to_json(outcome.predictor, tmp_path)
    shutil.move(tmp_path / "step", tmp_path / "elsewhere" / "step")
    again = predictor_from_json(row, tmp_path / "elsewhere")
    assert all(Path(place).is_dir() for place in places_of(again))
    assert logs(answers(engine, again, easy)) == before


@pytest.mark.parametrize("tune", ["full", "lora", "contrastive"])
def test_the_same_seed_gives_the_same_answers(fit: Fit, easy: Task, tune: str):
    first, second = (logs(answers(engine, one.predictor, easy)) for one, engine in (fit(easy, tune), fit(easy, tune)))
    assert first == second


@pytest.mark.parametrize("tune", ["full", "lora", "contrastive"])
def test_what_was_exported_answers_alike_by_the_lines_on_its_card(fit: Fit, easy: Task, tune: str, tmp_path: Path):
    outcome, engine = fit(easy, tune)
    assert isinstance(outcome.predictor, Classifier)
    (tmp_path / "out").mkdir()
    exported = outcome.predictor.export(tmp_path / "out", engine)
    shutil.rmtree(tmp_path / "step")
    (program,) = re.findall(r"```python\n(.*?)```", exported.usage(), re.DOTALL)
    text = easy.validation[0].prompt.messages[-1].content
    program = program.replace("your text", text)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    answer = answers(engine, exported, easy)[0]
    label, probability = run.stdout.split()
    assert (label, float(probability)) == (answer.text, pytest.approx(answer.confidence, abs=1e-4))


def test_a_tuned_embedder_is_kept_only_where_it_is_better(fit: Fit, easy: Task, tmp_path: Path):
    tuned, engine = fit(easy, "contrastive")
    (table,) = tuned.results.values()
    shares = [row[1] for row in table["rows"]]
    used = [row[2] for row in table["rows"]].index("used")
    assert shares[used] == max(shares)
    assert (used > 0) == (shares[0] < max(shares))
    assert isinstance(tuned.predictor, Classifier)
    own = tmp_path / "step" / "classifier" / "embedder"
    assert (tuned.predictor.embedder == str(own)) == own.is_dir() == (used > 0)
    assert (tuned.trainable_share > 0) == (used > 0)
    plain, _ = fit(easy, "none", "plain")
    assert right(engine, tuned, easy) >= right(engine, plain, easy)


def test_without_an_epoch_that_is_better_the_embedder_stays(fit: Fit, easy: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.simple.contrastive.nearest_mean_accuracy", lambda *_: 0.5)
    outcome, engine = fit(easy, "contrastive")
    plain, _ = fit(easy, "none", "plain")
    assert isinstance(outcome.predictor, Classifier)
    assert isinstance(plain.predictor, Classifier)
    assert outcome.predictor.embedder == plain.predictor.embedder
    assert logs(answers(engine, outcome.predictor, easy)) == logs(answers(engine, plain.predictor, easy))


@pytest.mark.parametrize("tune", ["full", "contrastive"])
def test_a_label_with_one_example_is_no_obstacle(fit: Fit, tune: str):
    lonely = [*sentences(24, 1, ("fruit", "tool")), ("the cat", "animal")]
    outcome, _ = fit(task_of(lonely, sentences(9, 2)), tune)
    told = [own for own in outcome.warnings if own.startswith("1 labels have one example each")]
    assert len(told) == (tune == "contrastive")


@pytest.mark.parametrize("tune", ["full", "lora", "contrastive"])
def test_one_label_in_all_is_answered_without_training(fit: Fit, tune: str):
    task = task_of(sentences(12, 1, ("fruit",)), sentences(3, 2, ("fruit",)))
    outcome, engine = fit(task, tune)
    assert right(engine, outcome, task) == 3
    assert outcome.trained_tokens == 0
    assert answers(engine, outcome.predictor, task)[0].confidence == pytest.approx(1)


def test_no_label_twice_leaves_the_embedder_alone(fit: Fit):
    outcome, _ = fit(task_of(sentences(3, 1), sentences(3, 2)), "contrastive")
    assert "the embedder is not trained: that takes two labels, and two examples of one of them" in outcome.warnings


@pytest.mark.parametrize("tune", ["full", "contrastive"])
def test_texts_that_are_empty_too_long_or_foreign_are_told_of(fit: Fit, tune: str):
    odd = [("", "fruit"), ("the apple " * 30, "fruit"), *sentences(24, 1)]
    outcome, _ = fit(task_of(odd, [("", "fruit"), *sentences(9, 2)]), tune)
    told = " ".join(outcome.warnings)
    assert "1 of 26 training prompts are empty" in told
    assert "1 of 26 training prompts are longer than" in told
    foreign = [(f"{'ж' * n}о {text} {'ш' * n}а", label) for n, (text, label) in enumerate(sentences(24, 1))]
    outcome, _ = fit(task_of(foreign, foreign[:6]), tune)
    assert "has no token for" in " ".join(outcome.warnings)


def test_an_encoder_with_another_head_begins_anew(fit: Fit, easy: Task, tmp_path: Path):
    fit(task_of(sentences(24, 1, ("fruit", "tool")), sentences(6, 2, ("fruit", "tool"))), "full")
    shutil.move(tmp_path / "step" / "classifier" / "0" / "encoder", tmp_path / "two-labels")
    outcome, engine = fit(easy, "full", encoder=str(tmp_path / "two-labels"))
    found = answers(engine, outcome.predictor, easy)
    assert {tuple(sorted(own.label_logprobs or {})) for own in found} == {("animal", "fruit", "tool")}
    assert right(engine, outcome, easy) >= 10


def test_what_is_no_encoder_is_refused(fit: Fit, easy: Task, tiny_model_folder: Path, tmp_path: Path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ModelError, match="no tokenizer"):
        fit(easy, "full", encoder=str(tmp_path / "nothing"))


def test_the_curve_trains_on_so_many_examples_as_it_shows(fit: Fit, easy: Task, tiny_embedder: Path, tmp_path: Path):
    """What an embedder has learned from all examples must not stand in a point for some of them."""
    for tune in ("contrastive", "full"):
        outcome, engine = fit(easy, tune, tune)
        step = ClassifierStep(
            tune=tune,  # type: ignore[arg-type]
            features="embedding",
            embedder=str(tiny_embedder),
            encoder=str(tiny_embedder),
            learning_curve=(12,),
        )
        context = StepContext(
            lesson=Lesson((easy,), (METRICS["accuracy"],), easy.name),
            start=None,
            engine=engine,
            folder=tmp_path,
            seed=0,
            progress=Silent(),
            log=lambda row: None,
        )
        (curve,) = step.more_results(outcome.predictor, context, outcome.facts).values()
        part, _ = fit(easy, tune, f"{tune}-part", examples=12)
        assert curve["x"] == [12, 96]
        if tune == "contrastive":  # an encoder takes the learning rate that all of the examples took
            assert curve["y"][0] == pytest.approx(part.facts["best_score"][0])
        assert curve["y"][1] == pytest.approx(outcome.facts["best_score"][0])


def test_forecast_counts_what_is_trained(easy: Task, tiny_embedder: Path, tmp_path: Path):
    found = {}
    for tune in ("none", "contrastive", "full"):
        step = ClassifierStep(
            tune=tune,  # type: ignore[arg-type]
            features="embedding",
            embedder=str(tiny_embedder),
            encoder=str(tiny_embedder),
        )
        context = StepContext(
            lesson=Lesson((easy,), (METRICS["accuracy"],), easy.name),
            start=None,
            engine=Engine("cpu", "float32", lambda name: SentenceEmbedder.named(name, Path(), "cpu")),
            folder=tmp_path,
            seed=0,
            progress=Silent(),
            log=lambda row: None,
        )
        found[tune] = step.forecast(context)
    assert found["contrastive"].fit_s > 2 * found["none"].fit_s
    assert found["full"].fit_s > 2 * found["none"].fit_s
    assert found["full"].stored_bytes == (tiny_embedder / "model.safetensors").stat().st_size


def test_tune_may_be_left_open_and_what_has_no_meaning_is_refused(easy: Task):
    step = ClassifierStep(tune={"choose": ["none", "contrastive", "full"]}, encoder="some/encoder")  # type: ignore[arg-type]
    assert step.check(easy) == []
    assert [own.tune for own in closed(step) if isinstance(own, ClassifierStep)] == ["none", "contrastive", "full"]
    assert step.embedders == ("minilm-l6", "some/encoder")
    assert ClassifierStep(tune="full").embedders == ("minilm-l6",)
    assert not ClassifierStep(tune="full", features="hidden").needs_model
    (problem,) = ClassifierStep(encoder="some/encoder").check(easy)
    assert problem == "encoder names what tune: full and tune: lora train, and tune is neither."


def test_an_answer_of_several_labels_is_not_for_an_encoder(easy: Task):
    from dataclasses import replace

    (problem,) = ClassifierStep(tune="lora").check(replace(easy, label_separator=", "))
    assert problem.startswith("tune: lora learns one label an answer")


def test_batches_hold_every_example_once_and_like_lengths_together():
    lengths = [Random(0).randrange(5, 50) for _ in range(3)] + list(range(5, 55))
    found = batches(lengths, 4, Random(1))
    assert sorted(number for own in found for number in own) == list(range(53))
    assert all(len(own) <= 4 for own in found)
    assert found == batches(lengths, 4, Random(1)) != batches(lengths, 4, Random(2))
    spread = [max(lengths[i] for i in own) - min(lengths[i] for i in own) for own in found]
    assert sum(spread) / len(spread) < 20


def test_few_examples_are_gone_over_more_often(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.simple.encoder._MOST_EPOCHS", 20)
    assert [epochs_for(count) for count in (10, 192, 480, 1600, 100_000)] == [20, 20, 8, 3, 3]
