"""Approaches of several training steps: the model after each of them on every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from luthier.evaluate.answer import Answer, LogProb, answer_to
from luthier.evaluate.metrics import METRICS, Metric, score
from luthier.evaluate.stages import StageResult, stage_matrix
from luthier.record import predictor_to_json
from luthier.runner.fitted import Fitted, Stage
from luthier.runner.folder import read_json, read_jsonl, write_json
from luthier.runner.keys import examples_key, key_of
from luthier.runner.measure import Bench
from luthier.types import Example, Predictor, Score, Task


def has_stages(fitted: Fitted, bench: Bench) -> bool:
    """Whether there is a matrix to be made: two training steps or more, and two tasks or more."""
    return len(fitted.stages) > 1 and len(bench.tasks) > 1


def stage_matrices(
    name: str, fitted: Mapping[str, Fitted], base: Fitted, bench: Bench, *, answers: int, seed: int
) -> list[dict[str, Any]]:
    """The matrix of the reference loss, over all examples, and that of a metric of answers, over some.

    Args:
        name: The approach that it is of.
        fitted: All approaches, by name, whose answers to the test are there already: a stage that is one of them does
            not answer again.
        answers: Examples of each task that every stage answers; 0 leaves the second matrix out.
    """
    own = fitted[name]
    before = Stage("before training", (), base.key, base.predictor.model)
    stages = [
        _measured(name, number, stage, fitted, bench, answers) for number, stage in enumerate((before, *own.stages))
    ]
    loss = METRICS["loss"]
    found = [stage_matrix(stages, dict.fromkeys(bench.tasks, loss), "loss", seed)]
    if answers and (answered := _metrics_of_answers(bench)):
        found.append(stage_matrix(stages, answered, "answers", seed))
    return found


def _metrics_of_answers(bench: Bench) -> dict[str, Metric]:
    """Task → the first of its metrics that judges an answer; the deciding one may be the loss of the reference."""
    found = {task: [one for one in own if not one.needs_logprobs] for task, own in bench.metrics.items()}
    return {task: own[0] for task, own in found.items() if own}


def _measured(
    name: str, number: int, stage: Stage, fitted: Mapping[str, Fitted], bench: Bench, answers: int
) -> StageResult:
    """A stage's losses and answers, from the folder where they are there already."""
    predictor = fitted[name].predictor
    asked = replace(predictor, model=stage.model, routes=stage.routes)
    metrics = _metrics_of_answers(bench)
    file = bench.folder.stage(_key(stage, predictor, bench, answers, list(metrics)))
    if not file.is_file():
        what = f"{name}: {_title(number, stage)}"
        total = sum(len(examples) + len(examples[:answers]) for examples in bench.examples.values())
        same = next((other for other, own in fitted.items() if own.predictor == asked), None)
        known = {} if same is None else _answers_of(same, bench)
        with bench.progress.track(f"{what}, on every task", total) as advance:
            rows = {
                task: _rows(
                    asked.asked(bench.tasks[task], bench.target),
                    bench.tasks[task],
                    examples,
                    examples[:answers] if task in metrics else (),
                    known,
                    bench,
                    advance,
                )
                for task, examples in bench.examples.items()
            }
        write_json(file, rows)
    rows = read_json(file)
    scores: dict[str, dict[str, list[Score]]] = {}
    judged: dict[str, dict[str, list[Answer]]] = {}
    for task_name, examples in bench.examples.items():
        task, own = bench.tasks[task_name], rows[task_name]
        losses = [LogProb(**row) for row in own["losses"]]
        wanted = [_scored(METRICS["loss"], e, e.completion, task, p) for e, p in zip(examples, losses, strict=True)]
        scores[task_name], judged[task_name] = {"loss": [s for s, _ in wanted]}, {"loss": [a for _, a in wanted]}
        if (metric := metrics.get(task_name)) is not None:
            answered = zip(examples[:answers], own["answers"], strict=True)
            given = [_scored(metric, example, text, task, None) for example, text in answered]
            scores[task_name][metric.name] = [s for s, _ in given]
            judged[task_name][metric.name] = [a for _, a in given]
    return StageResult(_title(number, stage), stage.learned, scores, judged)


def _title(number: int, stage: Stage) -> str:
    if not stage.learned:
        return f"{number}: {stage.step}" if number else stage.step
    learned = " + ".join(stage.learned) if len(stage.learned) < 4 else f"{len(stage.learned)} tasks"
    return f"{number}: {stage.step} on {learned}"


def _answers_of(name: str, bench: Bench) -> dict[tuple[str, str], str]:
    """What an approach answered to the test: task and example → text."""
    rows = read_jsonl(bench.folder.approach(name) / "predictions.jsonl")
    return {(row["task"], row["id"]): row["completion"] for row in rows}


def _rows(
    predictor: Predictor,
    task: Task,
    examples: Sequence[Example],
    answered: Sequence[Example],
    known: Mapping[tuple[str, str], str],
    bench: Bench,
    advance: Any,
) -> dict[str, Any]:
    losses = bench.engine.reference_logprobs(predictor, examples, advance=advance)
    if all((task.name, example.id) in known for example in answered):
        texts = [known[task.name, example.id] for example in answered]
        advance(len(texts))
    else:
        prompts = [example.prompt for example in answered]
        texts = [a.text for a in bench.engine.answer(predictor, prompts, task.labels, advance=advance)]
    return {"losses": [asdict(one) for one in losses], "answers": texts}


def _scored(metric: Metric, example: Example, text: str, task: Task, logprob: LogProb | None) -> tuple[Score, Answer]:
    options: Mapping[str, str] = task.metric_options.get(metric.name, {})
    return (
        score(metric, text, example, task.labels, options, logprob),
        answer_to(example, text, task.labels, logprob),
    )


def _key(stage: Stage, predictor: Predictor, bench: Bench, answers: int, answered: Sequence[str]) -> str:
    asked = predictor_to_json(predictor, bench.folder.path)
    del asked["model"], asked["routes"]
    return key_of(
        model=stage.key,
        asked=asked,
        target=bench.target,
        examples={name: examples_key(examples) for name, examples in bench.examples.items()},
        decoding={name: asdict(task.decoding) for name, task in bench.tasks.items()},
        labels={name: task.labels for name, task in bench.tasks.items()},
        answers=dict.fromkeys(answered, answers),
    )
