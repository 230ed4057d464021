"""Scores on the validation split, for every choice that is made before the test is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.evaluate.metrics import Metric, score
from luthier.progress import Advance
from luthier.types import Predictor, Task

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
    logprobs = engine.reference_logprobs(predictor, examples, model=model)
    metrics = {"loss": -sum(own.nats for own in logprobs) / sum(own.tokens for own in logprobs)}
    if metric.needs_logprobs:
        advance(len(examples))
    else:
        answers = engine.answer(predictor, [e.prompt for e in examples], task.labels, model=model, advance=advance)
        options = task.metric_options.get(metric.name, {})
        scores = [
            score(metric, answer.text, example, task.labels, options)
            for answer, example in zip(answers, examples, strict=True)
        ]
        values = [s.value for s in scores if s.value is not None]
        # Nothing that could be scored is worse than any score.
        metrics[metric.name] = sum(values) / len(values) if values else float("-inf")
    return metrics


def score_of(metrics: dict[str, float], metric: Metric) -> tuple[float, float]:
    """What is to be raised: the deciding metric, and between equals the lower loss."""
    value = metrics["loss"] if metric.needs_logprobs else metrics[metric.name]
    return (value if metric.higher_is_better else -value, -metrics["loss"])
