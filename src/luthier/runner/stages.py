"""Approaches of several training steps: the model after each of them on every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.data.split import subsample
from luthier.evaluate.answer import Answer, answer_to
from luthier.evaluate.metrics import METRICS, Metric, score
from luthier.evaluate.stages import StageResult, stage_matrix
from luthier.runner.fitted import Fitted, Stage
from luthier.runner.folder import read_json, read_jsonl, write_json
from luthier.runner.keys import examples_key
from luthier.runner.measure import Bench
from luthier.runner.stage_losses import stage_key, stage_losses
from luthier.types import Example, Score, prompted

Examples = Mapping[str, Sequence[Example]]  # by task


def has_stages(fitted: Fitted, bench: Bench) -> bool:
    """Whether there is a matrix to be made: two training steps or more, two tasks or more, and models that write; the
    loss of a classification head is not to be compared with theirs."""
    writing = all(stage.model.head is None for stage in fitted.stages)
    return len(fitted.stages) > 1 and len(bench.tasks) > 1 and writing and fitted.language_model is not None


def stage_matrices(
    name: str, fitted: Mapping[str, Fitted], base: Fitted, bench: Bench, *, answers: int, seed: int
) -> list[dict[str, Any]]:
    """The matrix of the reference loss, over all examples, and that of a metric of answers, over some.

    Args:
        name: The approach that it is of.
        fitted: All approaches, by name, whose answers to the test are there already: a stage that is one of them does
            not answer again.
        answers: Examples of each task that every stage answers, drawn by the seed, every label in proportion; 0
            leaves the second matrix out.
    """
    own = fitted[name]
    before = Stage("before training", (), base.key, prompted(base.predictor).model)
    answered = _metrics_of_answers(bench) if answers else {}
    asked = {task: subsample(bench.examples[task], answers, seed, "stages") for task in answered}
    stages = [
        _measured(name, number, stage, fitted, bench, asked) for number, stage in enumerate((before, *own.stages))
    ]
    loss = METRICS["loss"]
    found = [stage_matrix(stages, dict.fromkeys(bench.tasks, loss), "loss", seed)]
    if answered:
        found.append(stage_matrix(stages, answered, "answers", seed))
    return found


def _metrics_of_answers(bench: Bench) -> dict[str, Metric]:
    """Task → the first of its metrics that judges an answer; the deciding one may be the loss of the reference."""
    found = {task: [one for one in own if not one.needs_logprobs] for task, own in bench.metrics.items()}
    return {task: own[0] for task, own in found.items() if own}


def _measured(
    name: str, number: int, stage: Stage, fitted: Mapping[str, Fitted], bench: Bench, asked: Examples
) -> StageResult:
    """A stage's losses and answers, from the folder where they are there already."""
    predictor, what = fitted[name].predictor, f"{name}: {_title(number, stage)}"
    metrics = _metrics_of_answers(bench) if asked else {}
    texts = _answers(what, stage, name, fitted, bench, asked) if asked else {}
    scores: dict[str, dict[str, list[Score]]] = {}
    judged: dict[str, dict[str, list[Answer]]] = {}
    for task_name in bench.examples:
        task = bench.tasks[task_name]
        losses = stage_losses(what, stage, predictor, task, bench)
        scores[task_name], judged[task_name] = {"loss": [s for s, _ in losses]}, {"loss": [a for _, a in losses]}
        if (metric := metrics.get(task_name)) is not None:
            options: Mapping[str, str] = task.metric_options.get(metric.name, {})
            answered = list(zip(asked[task_name], texts[task_name], strict=True))
            scores[task_name][metric.name] = [score(metric, t, e, task.labels, options, None) for e, t in answered]
            judged[task_name][metric.name] = [answer_to(e, t, task.labels, None) for e, t in answered]
    apart = tuple(task for task in stage.learned if task in stage.routes)
    return StageResult(_title(number, stage), stage.learned, scores, judged, apart)


def _answers(
    what: str, stage: Stage, name: str, fitted: Mapping[str, Fitted], bench: Bench, asked: Examples
) -> dict[str, list[str]]:
    """Task → a stage's answers to the examples that are asked, from the folder where they are there already."""
    predictor = fitted[name].predictor
    file = bench.folder.stage(
        stage_key(stage, predictor, bench, answers={task: examples_key(own) for task, own in asked.items()})
    )
    if not file.is_file():
        own = replace(prompted(predictor), model=stage.model, routes=stage.routes)
        same = next((other for other, one in fitted.items() if one.predictor == own), None)
        known = {} if same is None else _answers_of(same, bench)
        found = {}
        for task_name, examples in asked.items():
            task = bench.tasks[task_name]
            if all((task_name, example.id) in known for example in examples):
                found[task_name] = [known[task_name, example.id] for example in examples]
                continue
            with bench.progress.track(f"{what}: answering {task_name}", len(examples)) as advance:
                prompts = [example.prompt for example in examples]
                given = bench.engine.answer(own.asked(task, bench.target), prompts, task.labels, advance=advance)
            found[task_name] = [one.text for one in given]
        write_json(file, found)
    texts: dict[str, list[str]] = read_json(file)
    return texts


def _title(number: int, stage: Stage) -> str:
    if not stage.learned:
        return f"{number}: {stage.step}" if number else stage.step
    learned = " + ".join(stage.learned) if len(stage.learned) < 4 else f"{len(stage.learned)} tasks"
    return f"{number}: {stage.step} on {learned}"


def _answers_of(name: str, bench: Bench) -> dict[tuple[str, str], str]:
    """What an approach answered to the test: task and example → text."""
    rows = read_jsonl(bench.folder.approach(name) / "predictions.jsonl")
    return {(row["task"], row["id"]): row["completion"] for row in rows}
