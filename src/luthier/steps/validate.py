"""Scores on the validation split, for every choice that is made before the test is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.evaluate.answer import answer_to
from luthier.evaluate.metrics import Metric, metric_value, score
from luthier.infer.logprobs import LogProb
from luthier.progress import Advance
from luthier.types import Completion, Example, Predictor, PromptedModel, Task

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
    """The task's deciding metric on the validation split, and the loss of the references (nats a token) where a
    language model answers.

    Args:
        model: A model in training to use in place of the predictor's own.
    """
    if not isinstance(predictor, PromptedModel):
        return _without_loss(engine, predictor, task, metric, advance)
    examples = task.validation
    if metric.needs_logprobs:
        logprobs = engine.reference_logprobs(predictor, examples, model=model)
        texts = [example.completion for example in examples]
        advance(len(examples))
    else:
        answers = engine.answer(predictor, [e.prompt for e in examples], task.labels, model=model, advance=advance)
        texts = [answer.text for answer in answers]
        if all(answer.label_logprobs is not None for answer in answers):
            logprobs = _reference_choices(engine, predictor, examples, answers, model)
        else:
            logprobs = engine.reference_logprobs(predictor, examples, model=model)
    options = task.metric_options.get(metric.name, {})
    scores = [
        score(metric, text, example, task.labels, options, logprob)
        for text, example, logprob in zip(texts, examples, logprobs, strict=True)
    ]
    judged = [
        answer_to(example, text, task.labels, logprob)
        for text, example, logprob in zip(texts, examples, logprobs, strict=True)
    ]
    return {"loss": _loss(logprobs), metric.name: metric_value(metric, scores, judged)}


def _without_loss(
    engine: Engine, predictor: Predictor, task: Task, metric: Metric, advance: Advance
) -> dict[str, float]:
    answers = engine.answer(predictor, [e.prompt for e in task.validation], task.labels, advance=advance)
    texts = [answer.text for answer in answers]
    return {metric.name: value_of(texts, task.validation, task, metric)}


def value_of(texts: Sequence[str], examples: Sequence[Example], task: Task, metric: Metric) -> float:
    """A metric of answers to examples of a task, all together."""
    options = task.metric_options.get(metric.name, {})
    pairs = list(zip(texts, examples, strict=True))
    scores = [score(metric, text, example, task.labels, options) for text, example in pairs]
    return metric_value(metric, scores, [answer_to(example, text, task.labels) for text, example in pairs])


def validation_loss(engine: Engine, predictor: PromptedModel, task: Task, *, model: Any = None) -> float:
    """The loss of the references alone (nats a token), on the validation split."""
    return _loss(engine.reference_logprobs(predictor, task.validation, model=model))


def _loss(logprobs: Sequence[LogProb]) -> float:
    """Nats a token over all."""
    return -sum(own.nats for own in logprobs) / sum(own.tokens for own in logprobs)


def _reference_choices(
    engine: Engine,
    predictor: PromptedModel,
    examples: Sequence[Example],
    answers: Sequence[Completion],
    model: Any,
) -> list[LogProb]:
    """The log-probabilities of the references, which choosing among labels has computed already."""
    found = []
    for example, answer in zip(examples, answers, strict=True):
        assert answer.label_logprobs is not None
        (ids,) = engine.label_ids(predictor, answer.messages, [example.completion], model=model)
        found.append(LogProb(answer.label_logprobs[example.completion], len(ids)))
    return found


def score_of(metrics: Mapping[str, float], metric: Metric) -> tuple[float, float]:
    """What is to be raised: the deciding metric, and between equals the lower loss, where there is one."""
    value = metrics[metric.name]
    return (value if metric.higher_is_better else -value, -metrics.get("loss", 0.0))
