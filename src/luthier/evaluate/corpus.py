"""Metrics of a whole test set that are not means of their answers' values: F1 of labels, BLEU, chrF, perplexity.

Each is a function of sums: an answer gives a row of counts, and the metric of any set of answers is computed from the
sum of their rows. So the bootstrap and the permutation test resample rows and never score an answer twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer
from luthier.evaluate.per_answer import Options, Value, judged_labels
from luthier.evaluate.statistics import Aggregate, Floats


@dataclass(frozen=True, slots=True)
class Corpus:
    """A metric as a function of summed rows: `rows` gives (N, K), one row an answer."""

    rows: Callable[[Sequence[Answer]], Floats]
    aggregate: Aggregate


def corpus_value(corpus: Corpus, answers: Sequence[Answer]) -> float:
    """The metric of all `answers` together."""
    if not answers:
        raise EvaluationError("There is no answer to compute a metric of: an empty set has none.")
    return float(corpus.aggregate(corpus.rows(answers).sum(axis=0, keepdims=True))[0])


def label_rows(answers: Sequence[Answer]) -> Floats:
    """(N, 3L): right, found and wanted counts of each label. An answer that is no label is found nowhere."""
    number = {label: place for place, label in enumerate(answers[0].labels)}
    rows = np.zeros((len(answers), 3, len(number)))
    for row, answer in zip(rows, answers, strict=True):
        judged = judged_labels(answer)
        for counts, labels in zip(row, (judged.right, judged.right | judged.wrong, judged.wanted), strict=True):
            counts[[number[label] for label in labels if label in number]] = 1
    return rows.reshape(len(answers), -1)


def macro_f1(sums: Floats) -> Floats:
    """Unweighted mean of the labels' F1, over the labels that occur among the wanted ones."""
    right, found, wanted = sums.reshape(len(sums), 3, -1).transpose(1, 0, 2)  # (R, L) each
    f1 = np.divide(2 * right, found + wanted, out=np.zeros_like(right), where=found + wanted > 0)
    present = wanted > 0
    return np.asarray((f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1))


def label_sums(answers: Sequence[Answer]) -> Floats:
    """(N, 3): labels that are right, found and wanted. What is no label counts among those found."""
    judged = [judged_labels(answer) for answer in answers]
    return np.array([[len(j.right), len(j.right) + len(j.wrong), len(j.wanted)] for j in judged], dtype=float)


def label_f1(sums: Floats) -> Floats:
    """F1 over the labels of all answers together (micro F1)."""
    right, found, wanted = sums.T
    return np.asarray(np.divide(2 * right, found + wanted, out=np.zeros_like(right), where=found + wanted > 0))


def bleu(answer: Answer, options: Options) -> Value:
    """Sentence BLEU from 0 to 1 by sacrebleu, with effective order so that short answers are not all 0."""
    return float(_bleu().sentence_score(answer.text, list(answer.references)).score) / 100


def bleu_rows(answers: Sequence[Answer]) -> Floats:
    """(N, 10): matching and all n-grams of the orders 1 to 4, length of the answer and of the closest reference."""
    scores = [_bleu().sentence_score(answer.text, list(answer.references)) for answer in answers]
    return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores], dtype=float)


def corpus_bleu(sums: Floats) -> Floats:
    """Corpus BLEU from 0 to 1 (Papineni et al. 2002), as sacrebleu's `corpus_bleu` with its defaults, over 100."""
    from sacrebleu.metrics import BLEU

    def one(row: Floats) -> float:
        counts = [round(number) for number in row]
        return float(BLEU.compute_bleu(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp").score) / 100

    return np.array([one(row) for row in sums])


@lru_cache(maxsize=1)
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


def chrf(answer: Answer, options: Options) -> Value:
    """Sentence chrF2 from 0 to 1 by sacrebleu, the best over the references."""
    return float(_chrf().sentence_score(answer.text, list(answer.references)).score) / 100


def chrf_rows(answers: Sequence[Answer]) -> Floats:
    """(N, 18): for the orders 1 to 6, character n-grams of the answer, of its best reference, and in both."""
    # sacrebleu offers these counts under a private name only; a test holds the result against its corpus_chrf
    return np.array(
        [_chrf()._extract_corpus_statistics([answer.text], [[r] for r in answer.references])[0] for answer in answers],
        dtype=float,
    )


def corpus_chrf(sums: Floats) -> Floats:
    """Corpus chrF2 from 0 to 1 (Popović 2015), as sacrebleu's `corpus_chrf` with its defaults, over 100."""
    found, wanted, shared = sums.reshape(len(sums), 6, 3).transpose(2, 0, 1)  # (R, 6) each
    counted = (found > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(axis=1), 1)
    precision = (np.divide(shared, found, out=np.zeros_like(shared), where=counted)).sum(axis=1) / orders
    recall = (np.divide(shared, wanted, out=np.zeros_like(shared), where=counted)).sum(axis=1) / orders
    weighted = 4 * precision + recall  # beta = 2: recall counts four times
    return np.asarray(np.divide(5 * precision * recall, weighted, out=np.zeros_like(recall), where=weighted > 0))


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def loss_rows(answers: Sequence[Answer]) -> Floats:
    """(N, 2): nats and tokens of the wanted completions.

    Raises:
        EvaluationError: An answer comes without its log-probability.
    """
    logprobs = [answer.logprob for answer in answers if answer.logprob is not None]
    if len(logprobs) < len(answers):
        raise EvaluationError(
            f"perplexity: {len(answers) - len(logprobs)} of {len(answers)} answers come without the log-probability "
            "and the token count of the wanted completion. Pass both with every answer."
        )
    return np.array([[-logprob.nats, logprob.tokens] for logprob in logprobs], dtype=float)


def corpus_perplexity(sums: Floats) -> Floats:
    """exp of all nats over all tokens: long completions weigh more."""
    return np.asarray(np.exp(sums[:, 0] / sums[:, 1]))
