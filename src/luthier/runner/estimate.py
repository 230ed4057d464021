"""What a study will take, before it is run: a short timing of the model, times the tokens that each part needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from luthier.evaluate.power import describe_power
from luthier.infer.batches import CACHE_TOKENS
from luthier.model.load import count_parameters
from luthier.runner.describe import data_report, example_counts
from luthier.runner.prepare import Prepared, prepare
from luthier.runner.show import prompting_of
from luthier.settings import Choose, closed
from luthier.steps import SftStep
from luthier.study import Approach, Study
from luthier.types import Predictor

# A training step's cost in forward passes of the same tokens: forward, and backward through activations and weights.
_FORWARDS_A_STEP = 3.2
# Tokens of the timed passes: as many as a training step has in flight, and as one decoding step has.
_TIMED_TOKENS = 1024
_SAMPLE = 16


@dataclass(frozen=True, slots=True)
class ApproachForecast:
    """One approach's share: mean prompt tokens, and seconds of fitting and measuring."""

    name: str
    prompt_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a study will take, and what its test can show.

    Attributes:
        tasks: Task name → sizes, labels, metric.
        reports: Task name → the contents of `data.json`.
        power: A sentence on the smallest difference that the test can show.
        stored_bytes: What the run will leave on disk.
    """

    tasks: Mapping[str, Any]
    reports: Mapping[str, dict[str, Any]]
    parameters: int
    device: str
    precision: str
    power: str
    approaches: tuple[ApproachForecast, ...]
    peak_bytes: float
    stored_bytes: float
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(approach.seconds for approach in self.approaches)


@dataclass(frozen=True, slots=True)
class _Speed:
    """Seconds a token in a large pass, and seconds of one decoding step of a full batch."""

    token_s: float
    step_s: float


def forecast(study: Study, root: Path, *, allow_code: bool = False) -> Forecast:
    """Read and check a study, time its model for a moment, and reckon."""
    prepared = prepare(study, root, allow_code=allow_code)
    base = prepared.base().predictor
    reports = {
        name: data_report(task, prepared.engine, Predictor(base.model, task.decoding))
        for name, task in prepared.tasks.items()
    }
    model = prepared.engine.load(base.model)
    parameters = count_parameters(model)
    speed = _time(model)
    approaches = tuple(_forecast_approach(name, a, prepared, speed) for name, a in study.approaches.items())
    warnings = tuple(f"{name}: {warning}" for name, report in reports.items() for warning in report["warnings"])
    return Forecast(
        tasks=example_counts(prepared.tasks),
        reports=reports,
        parameters=parameters,
        device=prepared.device,
        precision=prepared.precision,
        power=describe_power(len(prepared.target.test), prepared.target.metric),
        approaches=approaches,
        peak_bytes=max(_memory(a, prepared, parameters, reports) for a in study.approaches.values()),
        stored_bytes=sum(_stored(a, parameters) for a in study.approaches.values()),
        warnings=warnings,
    )


def _time(model: Any) -> _Speed:
    import torch

    ids = torch.randint(10, 1000, (8, _TIMED_TOKENS // 8), device=model.device)
    few = ids[:, :1].repeat(4, 1)
    with torch.inference_mode():
        token_s = min(_seconds(lambda: model(input_ids=ids, logits_to_keep=1)) for _ in range(3)) / ids.numel()
        step_s = min(_seconds(lambda: model(input_ids=few, logits_to_keep=1)) for _ in range(3))
    return _Speed(token_s, step_s)


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _forecast_approach(name: str, approach: Approach, prepared: Prepared, speed: _Speed) -> ApproachForecast:
    engine, task, study = prepared.engine, prepared.target, prepared.study
    predictor = prompting_of(prepared, name)
    sample = [example.prompt for example in task.validation[:_SAMPLE]]
    rendered = engine.render(predictor, sample, reserve=task.decoding.max_new_tokens)
    mean = sum(len(r.ids) for r in rendered) / len(rendered)
    renderer = engine.renderer(predictor.model)
    answers = [len(renderer.completion(sample[0].messages, e.completion)) for e in task.train[: 4 * _SAMPLE]]
    answer = sum(answers) / len(answers)
    shares_shots = predictor.shots is None or predictor.shots.by in ("random", "spread")
    own = _own_tokens(rendered) if shares_shots else mean  # what all prompts begin with is computed once
    if predictor.decoding.answer == "generate":
        request = own * speed.token_s + answer * speed.step_s / 16
    else:
        request = (
            own + sum(len(renderer.completion(sample[0].messages, label)) for label in task.labels)
        ) * speed.token_s
    alone = study.latency_requests * (request + (mean - own) * speed.token_s)
    seconds = len(task.test) * request + alone
    for step in approach.steps:
        combinations = prod(len(v.choose) for k in type(step).model_fields if isinstance(v := getattr(step, k), Choose))
        if combinations > 1:
            seconds += combinations * len(task.validation) * request
        if isinstance(step, SftStep):
            for candidate in closed(step):
                assert isinstance(candidate, SftStep)
                seen = float(candidate.epochs) * len(task.train) * (mean + answer)  # type: ignore[arg-type]
                seconds += seen * _FORWARDS_A_STEP * speed.token_s
                seconds += candidate.evaluations * len(task.validation) * request
    if approach.trains and study.forgetting.probe:
        seconds += 8000 * speed.token_s  # about the tokens of the general probes
    return ApproachForecast(name, mean, seconds)


def _own_tokens(rendered: Any) -> float:
    from luthier.infer.prefix import common_prefix

    ids = [r.ids for r in rendered]
    return sum(map(len, ids)) / len(ids) - common_prefix(ids)


def _memory(approach: Approach, prepared: Prepared, parameters: int, reports: Mapping[str, dict[str, Any]]) -> float:
    """Bytes at the peak: weights, and for training gradients, moments, best weights and activations."""
    from luthier.model.load import load_config
    from luthier.train.batches import micro_batch_tokens

    config = load_config(prepared.base(approach.model).predictor.model.base)
    width = 2 if prepared.precision == "bfloat16" else 4
    overhead = 0.6e9  # the interpreter and its libraries
    need = parameters * width + overhead + CACHE_TOKENS[prepared.device] * _cache_bytes(config, width)
    for step in approach.steps:
        if not isinstance(step, SftStep):
            continue
        full = step.adapter == "none" or isinstance(step.adapter, Choose)
        trained = parameters if full else parameters // 25
        longest = reports[prepared.target.name]["tokens"]["train"]["max"]
        tokens = micro_batch_tokens(prepared.device, longest)
        per_token = 18 * config.hidden_size + 7 * config.intermediate_size + 3 * config.num_attention_heads * longest
        activations = config.num_hidden_layers * tokens * per_token * width
        weights = parameters * (4 if full else width) + trained * 16
        need = max(need, weights + activations + overhead)
    return need


def _cache_bytes(config: Any, width: int) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * width)


def _stored(approach: Approach, parameters: int) -> float:
    """Bytes that the approach's weights take on disk, every value tried counted."""
    total = 0.0
    for step in approach.steps:
        if isinstance(step, SftStep):
            for candidate in closed(step):
                assert isinstance(candidate, SftStep)
                total += parameters * 4 if candidate.adapter == "none" else parameters * 4 / 25
    return total
