"""The metrics, by name: `METRICS`, checks of their names and settings, and `score`.

Every metric of quality runs from 0 to 1, BLEU and chrF included, so that one margin means the same for all. An answer
that cannot be scored has the value None and a reason; means are over the scored answers, and `n` counts those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from luthier.errors import EvaluationError
from luthier.evaluate import corpus, per_answer
from luthier.evaluate.answer import Answer, SummedLogProb, Unscored, answer_to
from luthier.evaluate.corpus import Corpus
from luthier.evaluate.per_answer import Options, Value
from luthier.evaluate.user_metric import load_user_metric
from luthier.types import Example, Score
from luthier.user_code import names_function


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric.

    Attributes:
        value: Of one answer.
        proportion: Values are 0 or 1, and the mean is their share. None for a user's function: seen from its values.
        higher_is_better: False for `loss` and `perplexity`.
        bounded: Values and the metric itself lie between 0 and 1.
        needs_labels: Only for tasks with a closed label set.
        needs_logprobs: The log-probability of the wanted completion must come with every answer.
        corpus: How the metric of many answers is computed, where it is not their mean.
        options: Settings that it takes; `required` are those that it cannot do without.
    """

    name: str
    value: Callable[[Answer, Options], Value]
    proportion: bool | None = False
    higher_is_better: bool = True
    bounded: bool = True
    needs_labels: bool = False
    needs_logprobs: bool = False
    corpus: Corpus | None = None
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("exact_match", per_answer.exact_match, proportion=True),
            Metric("exact_match_normalised", per_answer.exact_match_normalised, proportion=True),
            Metric("accuracy", per_answer.accuracy, proportion=True, needs_labels=True),
            Metric(
                "label_f1", per_answer.label_f1, needs_labels=True, corpus=Corpus(corpus.label_sums, corpus.label_f1)
            ),
            Metric(
                "macro_f1", per_answer.accuracy, needs_labels=True, corpus=Corpus(corpus.label_rows, corpus.macro_f1)
            ),
            Metric("token_f1", per_answer.token_f1),
            Metric("contains", per_answer.contains, proportion=True),
            Metric("rouge_l", per_answer.rouge_l),
            Metric("chrf", corpus.chrf, corpus=Corpus(corpus.chrf_rows, corpus.corpus_chrf)),
            Metric("bleu", corpus.bleu, corpus=Corpus(corpus.bleu_rows, corpus.corpus_bleu)),
            Metric("numeric_match", per_answer.numeric_match, proportion=True, options=("tolerance",)),
            Metric("json_valid", per_answer.json_valid, proportion=True, options=("compare",)),
            Metric("regex", per_answer.regex, proportion=True, options=("pattern", "match"), required=("pattern",)),
            Metric("loss", per_answer.loss, higher_is_better=False, bounded=False, needs_logprobs=True),
            Metric(
                "perplexity",
                per_answer.perplexity,
                higher_is_better=False,
                bounded=False,
                needs_logprobs=True,
                corpus=Corpus(corpus.loss_rows, corpus.corpus_perplexity),
            ),
        )
    }
)

_CHOICES = {"compare": ("parse", "equal"), "match": ("fullmatch", "search")}


def score(
    metric: str | Metric,
    completion_text: str,
    example: Example,
    labels: tuple[str, ...] = (),
    options: Options = MappingProxyType({}),
    logprob: SummedLogProb | None = None,
) -> Score:
    """One metric's value for one answer, None with a reason where it cannot be scored.

    Args:
        metric: A name of `METRICS`, or what `load_metric` gave (which a user's own metric needs).
        labels: The task's closed label set, as it stands there.
        logprob: Of the wanted completion, for `loss` and `perplexity`.
    """
    chosen = load_metric(metric) if isinstance(metric, str) else metric
    value = chosen.value(answer_to(example, completion_text, labels, logprob), options)
    if isinstance(value, Unscored):
        return Score(example.id, chosen.name, None, value.reason)
    return Score(example.id, chosen.name, value)


def metric_value(metric: Metric, scores: Sequence[Score], answers: Sequence[Answer]) -> float:
    """The metric of all scored answers together: their mean, or what a corpus metric makes of them.

    Args:
        answers: The answers that `scores` are of, in the same order.

    Raises:
        EvaluationError: None of them could be scored; the first reason is given.
    """
    kept = [(s.value, answer) for s, answer in zip(scores, answers, strict=True) if s.value is not None]
    if not kept:
        reason = scores[0].reason if scores else "there are none"
        raise EvaluationError(
            f"None of {len(scores)} answers could be scored by {metric.name} ({reason}). "
            "Correct the metric or its options, or choose another."
        )
    if metric.corpus is not None:
        return corpus.corpus_value(metric.corpus, [answer for _, answer in kept])
    return sum(value for value, _ in kept) / len(kept)


def load_metric(name: str, folder: Path | None = None, allow_code: bool = False) -> Metric:
    """The metric of this name; a user's own (`file.py:function`) is read from the study's `folder`.

    Raises:
        CodeRefused: It is the user's own, and code is not allowed.
        EvaluationError: There is no such metric, or the user's file does not give it.
    """
    check_metric_names([name])
    if name in METRICS:
        return METRICS[name]
    return _user(name, load_user_metric(name, folder or Path(), allow_code))


def metric_traits(name: str) -> Metric:
    """What is known of a metric without running any code: enough to compare scores that exist already."""
    check_metric_names([name])
    return METRICS.get(name) or _user(name, _not_loaded)


def _user(name: str, value: Callable[[Answer, Options], Value]) -> Metric:
    return Metric(name, value, proportion=None, bounded=False)


def _not_loaded(answer: Answer, options: Options) -> Value:
    raise EvaluationError("A user's own metric scores answers only after load_metric has read it.")


def check_metric_names(names: Sequence[str]) -> None:
    """That every name is a metric's, or has the form of a user's own. Nothing is loaded.

    Raises:
        EvaluationError: A name is unknown; the message names what comes close.
    """
    for name in names:
        if name in METRICS or names_function(name):
            continue
        close = get_close_matches(name, METRICS, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(METRICS)}."
        raise EvaluationError(f"metric '{name}' is not known. {hint} Your own is written 'file.py:function'.")


def validate_metric(name: str, labels: Sequence[str] = (), options: Options = MappingProxyType({})) -> None:
    """That the metric exists, suits the task, and has the settings it needs and no others.

    Raises:
        EvaluationError: Something of this is not so.
    """
    metric = metric_traits(name)
    if metric.needs_labels and not labels:
        raise EvaluationError(
            f"metric '{name}' needs a closed label set, and the task has none. Give the task labels, or use a metric "
            "for free text, such as exact_match_normalised."
        )
    unknown = [key for key in options if key not in metric.options]
    if unknown:
        raise EvaluationError(
            f"metric '{name}' has no setting '{unknown[0]}' (it has: {', '.join(metric.options) or 'none'})."
        )
    missing = [key for key in metric.required if key not in options]
    if missing:
        raise EvaluationError(f"metric '{name}' needs the setting '{missing[0]}'.")
    for key, value in options.items():
        _check_option(name, key, value)


def _check_option(name: str, key: str, value: str) -> None:
    if key in _CHOICES and value not in _CHOICES[key]:
        raise EvaluationError(f"metric '{name}': {key} is '{value}'; it can be {' or '.join(_CHOICES[key])}.")
    if key == "pattern":
        try:
            re.compile(value)
        except re.error as error:
            raise EvaluationError(
                f"metric '{name}': pattern '{value}' is not a regular expression: {error}."
            ) from error
    if key == "tolerance" and not _is_distance(value):
        raise EvaluationError(f"metric '{name}': tolerance is '{value}'; it must be a number, 0 or greater.")


def _is_distance(value: str) -> bool:
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False
    return number.is_finite() and number >= 0
