"""Measuring a fitted approach: answers and scores on the examples kept apart, latency, what the model forgot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.busy import OtherWork
from luthier.compare.comparison import ApproachResult
from luthier.evaluate.answer import Answer, LogProb, answer_to
from luthier.evaluate.cost import latency, throughput
from luthier.evaluate.forgetting import ProbeResult, measure_probes
from luthier.evaluate.metrics import Metric, score
from luthier.infer.budget import MAX_ROWS
from luthier.infer.timing import AnswerSpeed, measure_answering, median_speed
from luthier.model.device import peak_bytes, reset_peak
from luthier.model.load import load_config
from luthier.progress import Progress
from luthier.runner.describe import machine
from luthier.runner.fitted import Fitted
from luthier.runner.folder import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from luthier.runner.harness import HarnessTasks, harness_probes
from luthier.runner.keys import examples_key, key_of, source_key, versions
from luthier.tree.work import Work, counted, total_work
from luthier.types import Completion, Cost, Example, ModelRef, Passage, PromptedModel, Score, Task, prompted

if TYPE_CHECKING:
    from luthier.infer.engine import Engine


Speeds = Mapping[str, AnswerSpeed]


@dataclass(frozen=True, slots=True)
class Bench:
    """What measuring needs: the examples to be answered, by task, and how they are scored.

    Attributes:
        examples: Task name → the examples kept apart (test, or validation while working on a study).
        metrics: Task name → its metrics, the deciding one first.
        metric_code: The text of the user's own metrics, by name.
        target: What predictors are made for: the task that the verdict concerns, or `mean` for several.
        targets: The tasks that the verdict concerns.
    """

    tasks: Mapping[str, Task]
    examples: Mapping[str, Sequence[Example]]
    metrics: Mapping[str, Sequence[Metric]]
    metric_code: Mapping[str, str]
    target: str
    targets: Sequence[str]
    engine: Engine
    folder: RunFolder
    latency_requests: int
    progress: Progress

    def alone(self) -> list[Example]:
        """The examples that are asked one by one: of each target in turn."""
        turns = zip_longest(*(self.examples[name] for name in self.targets))
        return [example for turn in turns for example in turn if example is not None][: self.latency_requests]


def is_answered(folder: Path, fitted: Fitted, bench: Bench) -> bool:
    """Whether the answers to these examples are in the folder already."""
    file = folder / "measured.json"
    answers = folder / "predictions.jsonl"
    return file.is_file() and answers.is_file() and read_json(file)["key"] == _answers_key(fitted, bench)


def measure(name: str, fitted: Fitted, bench: Bench) -> None:
    """See that the folder holds the approach's answers, its latencies and all scores; only what is missing is done."""
    folder = bench.folder.approach(name)
    if not is_answered(folder, fitted, bench):
        _answer(name, folder, fitted, bench)
    measured = read_json(folder / "measured.json")
    alone = bench.alone()
    if len(measured["latencies"]) < len(alone):
        measured["latencies"] = _latencies(name, fitted, bench, alone)
        write_json(folder / "measured.json", measured)
    _see_that_it_is_scored(folder, fitted, bench)


def measure_answers(name: str, folder: Path, fitted: Fitted, bench: Bench) -> None:
    """See that the folder holds answers and all scores, without latencies; only what is missing is done."""
    if not is_answered(folder, fitted, bench):
        _answer(name, folder, fitted, bench)
    _see_that_it_is_scored(folder, fitted, bench)


def _see_that_it_is_scored(folder: Path, fitted: Fitted, bench: Bench) -> None:
    measured = read_json(folder / "measured.json")
    if measured["scored"] != _scores_key(bench):
        _score(folder, fitted, bench)
        write_json(folder / "measured.json", {**measured, "scored": _scores_key(bench)})


def _answer(name: str, folder: Path, fitted: Fitted, bench: Bench) -> None:
    """Answer all examples with the approach; write `predictions.jsonl`, not scored yet, and `measured.json`."""
    engine = bench.engine
    first = bench.alone()[0]
    asked = fitted.predictor.asked(bench.tasks[first.prompt.task], bench.target)
    if asked.models:
        engine.load(asked.models[0])
    else:
        engine.release()  # a language model that is not asked is no part of its memory
    _ask(fitted, bench, first)  # the first call pays for warming up
    speed = _speed(engine, asked.model) if isinstance(asked, PromptedModel) else None
    reset_peak(engine.device)
    others = OtherWork()
    rows: list[dict[str, Any]] = []
    seconds, works = 0.0, []
    for task_name, examples in bench.examples.items():
        task = bench.tasks[task_name]
        if reason := fitted.predictor.declines(task_name):
            rows += [_unserved(example, reason) for example in examples]
            continue
        with bench.progress.track(f"{name}: answering {task_name}", len(examples)) as advance:
            started, own = time.perf_counter(), fitted.predictor.asked(task, bench.target)
            with counted() as work:
                answers = engine.answer(own, [e.prompt for e in examples], task.labels, advance=advance)
            if task_name in bench.targets:
                seconds += time.perf_counter() - started
                works.append(work)
        rows += [_row(answer, example) for answer, example in zip(answers, examples, strict=True)]
    (folder / "measured.json").unlink(missing_ok=True)  # it would vouch for other answers
    write_jsonl(folder / "predictions.jsonl", rows)
    write_json(
        folder / "measured.json",
        {
            "key": _answers_key(fitted, bench),
            "scored": None,
            "requests": sum(len(bench.examples[name]) for name in bench.targets),
            "seconds": seconds,
            "work": asdict(total_work(works)) if isinstance(asked, PromptedModel) else None,
            "model": _size(asked.model) if isinstance(asked, PromptedModel) else None,
            "speed": None if speed is None else asdict(speed),
            "latencies": [],
            "others": others.cores,
            "peak_bytes": peak_bytes(engine.device),
            "window": engine.renderer(asked.models[0]).window if asked.models else None,
            "not_on_tree": engine.refusal(asked.model) if isinstance(asked, PromptedModel) else "",
        },
    )


def _speed(engine: Engine, ref: ModelRef) -> AnswerSpeed | None:
    """How fast the model answers now; None where it takes other tokens than a plain one, or gives other outputs."""
    from luthier.model.virtual import count_virtual_tokens

    if ref.head is not None or any(map(count_virtual_tokens, ref.adapters)) or engine.refusal(ref):
        return None
    return measure_answering(engine.load(ref), MAX_ROWS[engine.device])


def _size(ref: ModelRef) -> str:
    """What a model's speed depends on, whatever its weights."""
    config = load_config(ref.base).get_text_config()
    return f"{config.model_type}, {config.num_hidden_layers} x {config.hidden_size}, {config.vocab_size}"


def _latencies(name: str, fitted: Fitted, bench: Bench, examples: Sequence[Example]) -> list[float]:
    """Seconds that each request takes when it is asked alone, nothing shared with others."""
    latencies = []
    _ask(fitted, bench, examples[0])  # loading the model is no part of it
    with bench.progress.track(f"{name}: latency, one request at a time", len(examples)) as advance:
        for example in examples:
            started = time.perf_counter()
            _ask(fitted, bench, example)
            latencies.append(time.perf_counter() - started)
            advance(1)
    return latencies


def _ask(fitted: Fitted, bench: Bench, example: Example) -> None:
    task = bench.tasks[example.prompt.task]
    bench.engine.answer(fitted.predictor.asked(task, bench.target), [example.prompt], task.labels)


def _score(folder: Path, fitted: Fitted, bench: Bench) -> None:
    """Write the scores of all answers into `predictions.jsonl`."""
    file = folder / "predictions.jsonl"
    rows = {(row["task"], row["id"]): row for row in read_jsonl(file)}
    for task_name, examples in bench.examples.items():
        task, metrics = bench.tasks[task_name], bench.metrics[task_name]
        own = [rows[task_name, example.id] for example in examples]
        missing = any(row["reference_logprob"] is None for row in own)
        if fitted.language_model and missing and any(metric.needs_logprobs for metric in metrics):
            found = bench.engine.reference_logprobs(fitted.language_model.asked(task, bench.target), examples)
            for row, logprob in zip(own, found, strict=True):
                row["reference_logprob"] = asdict(logprob)
        for row, example in zip(own, examples, strict=True):
            if (reason := row["unserved"]) is not None:
                row["scores"] = dict.fromkeys((metric.name for metric in metrics), None)
                row["unscored"] = dict.fromkeys(row["scores"], reason)
                continue
            scores = [
                score(
                    metric,
                    row["completion"],
                    example,
                    task.labels,
                    task.metric_options.get(metric.name, {}),
                    _logprob_of(row),
                )
                for metric in metrics
            ]
            row["scores"] = {s.metric: s.value for s in scores}
            row["unscored"] = {s.metric: s.reason for s in scores if s.value is None}
    write_jsonl(file, rows.values())


def _logprob_of(row: Mapping[str, Any]) -> LogProb | None:
    return None if row["reference_logprob"] is None else LogProb(**row["reference_logprob"])


def result_of(
    name: str,
    fitted: Fitted,
    bench: Bench,
    forgotten: Sequence[Mapping[str, object]],
    other_tasks: Sequence[Mapping[str, object]],
    *,
    changes_model: bool,
    validation: float | None,
    speeds: Speeds,
) -> ApproachResult:
    """The approach as the comparison takes it, from the files that `measure` wrote."""
    folder = bench.folder.approach(name)
    scores, answers = scores_and_answers(folder, bench)
    return ApproachResult(
        name=name,
        training=fitted.training,
        kind=fitted.predictor.kind,
        changes_model=changes_model,
        scores=scores,
        deciding={task_name: metrics[0].name for task_name, metrics in bench.metrics.items()},
        cost=cost_in(folder, fitted, bench, speeds),
        answers=answers,
        forgotten=forgotten,
        other_tasks=other_tasks,
        validation=validation,
    )


def scores_and_answers(folder: Path, bench: Bench) -> tuple[dict[str, dict[str, list[Score]]], dict[str, list[Answer]]]:
    """Task → metric → scores, and task → answers, in the order of the examples, from `predictions.jsonl`."""
    rows = read_jsonl(folder / "predictions.jsonl")
    scores: dict[str, dict[str, list[Score]]] = {}
    answers: dict[str, list[Answer]] = {}
    for task_name, examples in bench.examples.items():
        own = {row["id"]: row for row in rows if row["task"] == task_name}
        ordered = [own[example.id] for example in examples]
        scores[task_name] = {
            metric.name: [
                Score(row["id"], metric.name, row["scores"][metric.name], row["unscored"].get(metric.name))
                for row in ordered
            ]
            for metric in bench.metrics[task_name]
        }
        labels = bench.tasks[task_name].labels
        answers[task_name] = [
            answer_to(example, row["completion"], labels, _logprob_of(row))
            for row, example in zip(ordered, examples, strict=True)
        ]
    return scores, answers


def speeds_in(folders: Sequence[Path]) -> Speeds:
    """Size of a model → how fast it answers here.

    It is the median of the timings beside each approach's answers, so that none is charged for what else the machine
    did while it was timed.
    """
    timed: dict[str, list[AnswerSpeed]] = {}
    for folder in folders:
        measured = read_json(folder / "measured.json")
        if measured["speed"] is not None:
            timed.setdefault(measured["model"], []).append(AnswerSpeed(**measured["speed"]))
    return {model: median_speed(own) for model, own in timed.items()}


def cost_in(folder: Path, fitted: Fitted, bench: Bench, speeds: Speeds) -> Cost:
    """What fitting and answering took, from the files in the folder of its answers; without latencies, they are 0.

    What a language model computes for a request is counted, and turned into seconds by its speed; what answers without
    one is timed.
    """
    measured = read_json(folder / "measured.json")
    own = [row for row in read_jsonl(folder / "predictions.jsonl") if row["task"] in bench.targets]
    prompt_tokens = sum(row["prompt_tokens"] for row in own) / len(own)
    speed = throughput(measured["requests"], measured["seconds"])
    request_s = speed.seconds_per_request
    if measured["work"] is not None and measured["model"] in speeds:
        request_s = speeds[measured["model"]].seconds(Work(**measured["work"])) / measured["requests"]
    alone = latency(measured["latencies"][: bench.latency_requests] or [0.0])
    return Cost(
        train_s=fitted.train_s,
        search_s=fitted.search_s,
        tokens_seen=fitted.trained_tokens,
        tokens_per_s=fitted.trained_tokens / fitted.loop_s if fitted.loop_s else None,
        peak_bytes=fitted.peak_bytes or measured["peak_bytes"],
        trainable_parameters=fitted.trainable_parameters,
        trainable_share=fitted.trainable_share,
        stored_bytes=fitted.stored_bytes,
        prompt_tokens=prompt_tokens,
        window_share=prompt_tokens / measured["window"] if measured["window"] else 0.0,
        latency_p50_s=alone.latency_p50_s,
        latency_p95_s=alone.latency_p95_s,
        throughput_per_s=speed.throughput_per_s,
        seconds_per_request=request_s,
        passage_tokens=sum(row["passage_tokens"] for row in own) / len(own),
        completion_tokens=sum(row["completion_tokens"] for row in own) / len(own),
    )


def probe(fitted: Fitted, model_hash: str, bench: Bench, what: str) -> list[ProbeResult]:
    """What the approach's model scores on the general probes, from the folder where it is there already.

    General text belongs to no task: where tasks have models of their own, it is the one for all others that is probed.
    """
    file = bench.folder.probe(model_hash)
    if not file.is_file():
        with bench.progress.track(f"{what}: general probes", 1) as advance:
            model = prompted(fitted.predictor).model.writing
            results = measure_probes(lambda texts: bench.engine.text_logprobs(model, texts))
            advance(1)
        write_json(file, [asdict(result) for result in results])
    return _read_probes(file)


def ask_harness(tasks: HarnessTasks, fitted: Fitted, model_hash: str, bench: Bench, what: str) -> list[ProbeResult]:
    """What the approach's model scores on tasks of lm-evaluation-harness, from the folder where it is there already."""
    file = bench.folder.probe(f"{model_hash}-{key_of(**tasks.key)}")
    if not file.is_file():
        with bench.progress.track(f"{what}: {', '.join(tasks.names)}", 1) as advance:
            results = harness_probes(tasks, prompted(fitted.predictor).model.writing, bench.engine)
            advance(1)
        write_json(file, [asdict(result) for result in results])
    return _read_probes(file)


def _read_probes(file: Path) -> list[ProbeResult]:
    return [ProbeResult(**{**row, "values": tuple(row["values"])}) for row in read_json(file)]


def _answers_key(fitted: Fitted, bench: Bench) -> str:
    """The hash of all that answers and their timing depend on."""
    return key_of(
        fitted=fitted.key,
        examples={name: examples_key(examples) for name, examples in bench.examples.items()},
        decoding={name: asdict(task.decoding) for name, task in bench.tasks.items()},
        labels={name: task.labels for name, task in bench.tasks.items()},
        machine={name: machine()[name] for name in ("cpu", "cores")},
    )


def _scores_key(bench: Bench) -> str:
    """The hash of all that scores depend on beside the answers."""
    return key_of(
        metrics={name: [metric.name for metric in metrics] for name, metrics in bench.metrics.items()},
        options={name: {k: dict(v) for k, v in task.metric_options.items()} for name, task in bench.tasks.items()},
        code=bench.metric_code,
        source=source_key(),
        versions=versions(),
    )


def _is_right(example: Example, passage: Passage) -> bool | None:
    """Whether a passage holds the answer; None where the example does not say."""
    return None if example.relevance is None else example.relevance.holds(passage)


def _row(answer: Completion, example: Example) -> dict[str, Any]:
    """A row of `predictions.jsonl`, its scores still to come."""
    return {
        "id": example.id,
        "task": example.prompt.task,
        "place": str(example.place),
        "messages": [{"role": m.role, "content": m.content} for m in answer.messages],
        "completion": answer.text,
        "references": list(example.references),
        "label": example.label,
        "scores": {},
        "unscored": {},
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "dropped_shots": answer.dropped_shots,
        "stopped": answer.stopped,
        "passages": [{"id": own.id, "place": own.place, "right": _is_right(example, own)} for own in answer.passages],
        "passage_tokens": answer.passage_tokens,
        "dropped_passages": answer.dropped_passages,
        "cited": list(answer.cited),
        "label_logprobs": None if answer.label_logprobs is None else dict(answer.label_logprobs),
        "reference_logprob": None,
        "confidence": answer.confidence,
        "unserved": None,
    }


def _unserved(example: Example, reason: str) -> dict[str, Any]:
    """The row of an example that the approach does not answer, for it serves other tasks."""
    nothing = Completion(example.id, "", example.prompt.messages, 0, 0, "abstained")
    return {**_row(nothing, example), "unserved": reason}
