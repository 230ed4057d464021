"""Scores on the validation split, for every choice that is made before the test is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import EvaluationError
from luthier.evaluate.metrics import Metric, score
from luthier.progress import Advance
from luthier.types import Completion, Example, Predictor, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine


def validation_metrics(
    engine: Engine,
    predictor: Predictor,
    task: Task,
    metric: Metric,
    *,
    model: Any = None,
    advance: Advance = lambda done: None,
) -> dict[str, float]:
    """The task's deciding metric and the loss of the references, on the validation split.

    Args:
        model: A model in training to use in place of the predictor's own.
    """
    examples = task.validation
    if metric.needs_logprobs:
        metrics = {"loss": _loss(engine, predictor, examples, model)}
        advance(len(examples))
        return metrics
    answers = engine.answer(predictor, [e.prompt for e in examples], task.labels, model=model, advance=advance)
    options = task.metric_options.get(metric.name, {})
    scores = [
        score(metric, answer.text, example, task.labels, options)
        for answer, example in zip(answers, examples, strict=True)
    ]
    values = [s.value for s in scores if s.value is not None]
    if not values:
        raise EvaluationError(
            f"none of the {len(scores)} validation answers could be scored by {metric.name} ({scores[0].reason}). "
            "Correct the metric or its options, or choose another."
        )
    mean = sum(values) / len(values)
    if all(answer.label_logprobs is not None for answer in answers):
        loss = _loss_of_choices(engine, predictor, examples, answers)
    else:
        loss = _loss(engine, predictor, examples, model)
    return {metric.name: mean, "loss": loss}


def _loss(engine: Engine, predictor: Predictor, examples: Sequence[Example], model: Any) -> float:
    """Mean nats a token of the references."""
    logprobs = engine.reference_logprobs(predictor, examples, model=model)
    return -sum(own.nats for own in logprobs) / sum(own.tokens for own in logprobs)


def _loss_of_choices(
    engine: Engine, predictor: Predictor, examples: Sequence[Example], answers: Sequence[Completion]
) -> float:
    """The same, from the log-probabilities that choosing has computed already."""
    renderer = engine.renderer(predictor.model)
    nats, tokens = 0.0, 0
    for example, answer in zip(examples, answers, strict=True):
        assert answer.label_logprobs is not None
        nats -= answer.label_logprobs[example.completion]
        tokens += len(renderer.completion(answer.messages, example.completion))
    return nats / tokens


def score_of(metrics: dict[str, float], metric: Metric) -> tuple[float, float]:
    """What is to be raised: the deciding metric, and between equals the lower loss."""
    value = metrics["loss"] if metric.needs_logprobs else metrics[metric.name]
    return (value if metric.higher_is_better else -value, -metrics["loss"])
