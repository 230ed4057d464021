"""Metrics of one answer: pure functions of an `Answer` and the metric's options.

An answer that is wrong, empty or of the wrong form scores 0. `Unscored` is for what the answer cannot help: a
reference in which there is nothing to compare with.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from luthier.data.labels import separator_of, split_labels
from luthier.errors import EvaluationError
from luthier.evaluate.answer import Answer, SummedLogProb, Unscored
from luthier.evaluate.forms import last_number, normalised, rouge_tokens, tokens
from luthier.words import stands_in, visible

Options = Mapping[str, str]
Value = float | Unscored


def exact_match(answer: Answer, options: Options) -> Value:
    """1 where the answer is one of the references, character for character."""
    return float(answer.text in answer.references)


def exact_match_normalised(answer: Answer, options: Options) -> Value:
    """1 where the answer is one of the references after `normalised`."""
    return float(normalised(answer.text) in {normalised(reference) for reference in answer.references})


def token_f1(answer: Answer, options: Options) -> Value:
    """Overlap of words as F1 (SQuAD, Rajpurkar et al. 2016), the best over the references; of scripts without spaces
    each letter is a word."""
    return max(_token_f1(answer.text, reference) for reference in answer.references)


def _token_f1(text: str, reference: str) -> float:
    found, wanted = tokens(text), tokens(reference)
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def contains(answer: Answer, options: Options) -> Value:
    """1 where the words of a reference stand in the answer one after the other. It does not mind what stands around
    them, so put a metric that does beside it."""
    return float(any(stands_in(reference, answer.text) for reference in answer.references))


def accuracy(answer: Answer, options: Options) -> Value:
    """1 where the answer names the right label (where there are several, all of them) and nothing else."""
    if answer.label is None:
        return Unscored("the example has no label")
    judged = judged_labels(answer)
    return float(judged.right == judged.wanted and not judged.wrong)


def label_f1(answer: Answer, options: Options) -> Value:
    """F1 of the labels that the answer names against those that are right."""
    if answer.label is None:
        return Unscored("the example has no label")
    judged = judged_labels(answer)
    return 2 * len(judged.right) / (len(judged.right) + len(judged.wrong) + len(judged.wanted))


@dataclass(frozen=True, slots=True)
class JudgedLabels:
    """What an answer names beside the labels that are wanted.

    Attributes:
        right, wrong: Labels that it names. What names none of the task's labels is among the wrong ones, as it is.
    """

    right: frozenset[str]
    wrong: frozenset[str]
    wanted: frozenset[str]


def judged_labels(answer: Answer) -> JudgedLabels:
    """The labels in an answer, one or several, whatever their order.

    Raises:
        EvaluationError: What is wanted is none of the labels, or several without a separator being known.
    """
    separator = separator_of(answer.labels)
    wanted = frozenset(() if answer.label is None else split_labels(answer.label, separator))
    if strange := wanted.difference(answer.labels):
        raise EvaluationError(
            f"The label {min(strange)!r} is wanted, and the labels are {', '.join(answer.labels[:8])}. Pass the labels "
            "as they stand in the task: those of which an answer may have several know their separator."
        )
    named = frozenset(named_label(part, answer.labels) or part for part in split_labels(answer.text, separator))
    return JudgedLabels(named & wanted, named - wanted, wanted)


def named_label(text: str, labels: tuple[str, ...]) -> str | None:
    """The label that `text` spells, None where it spells none.

    Case, white space around and between words, and underscore against space make no difference, unless that would
    make two labels one: then only the exact spelling counts.
    """
    if text.strip() in labels:
        return text.strip()
    alike = [label for label in labels if _folded(label) == _folded(text)]
    return alike[0] if len(alike) == 1 else None


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", visible(text)).casefold().replace("_", " ").split())


def rouge_l(answer: Answer, options: Options) -> Value:
    """ROUGE-L F1 (Lin 2004) by rouge-score without stemming, the best over the references.

    rouge-score by itself reads nothing but a-z and 0-9; here it is given the words of every script, of scripts without
    spaces their letters.
    """
    references = [reference for reference in answer.references if rouge_tokens(reference)]
    if not references:
        return Unscored("no reference holds a letter or a digit, and ROUGE-L reads nothing else")
    scorer = _rouge_scorer()
    return max(float(scorer.score(reference, answer.text)["rougeL"].fmeasure) for reference in references)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_RougeTokens())


class _RougeTokens:
    """A tokenizer in the form that rouge-score takes."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


def numeric_match(answer: Answer, options: Options) -> Value:
    """1 where the answer's last number is that of a reference, give or take `tolerance` (absolute, default 0)."""
    wanted = [number for reference in answer.references if (number := last_number(reference)) is not None]
    if not wanted:
        return Unscored("no number in the reference")
    found = last_number(answer.text)
    tolerance = Fraction(options.get("tolerance", "0"))
    return float(found is not None and any(abs(found - number) <= tolerance for number in wanted))


def json_valid(answer: Answer, options: Options) -> Value:
    """1 where the answer is JSON (RFC 8259); with `compare: equal`, where it is a reference's JSON.

    Order of keys and spelling of numbers make no difference. A fence of backticks around the JSON is not JSON.
    """
    found = _parsed(answer.text)
    if options.get("compare", "parse") == "parse":
        return float(not isinstance(found, Unscored))
    wanted = [value for value in map(_parsed, answer.references) if not isinstance(value, Unscored)]
    if not wanted:
        return Unscored("no reference is JSON")
    return float(not isinstance(found, Unscored) and any(_same_json(found, value) for value in wanted))


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Unscored("not JSON")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _same_json(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same_json, a, b))
    # Python has True == 1; JSON has not
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def regex(answer: Answer, options: Options) -> Value:
    """1 where the stripped answer matches `pattern`, whole (`match: fullmatch`, the default) or in part (`search`)."""
    pattern = re.compile(options["pattern"])
    match = pattern.search if options.get("match", "fullmatch") == "search" else pattern.fullmatch
    return float(match(answer.text.strip()) is not None)


def loss(answer: Answer, options: Options) -> Value:
    """Mean nats per token of the wanted completion, from outside: the text of the answer plays no part."""
    return (
        Unscored("no log-probability of the wanted completion")
        if answer.logprob is None
        else nats_per_token(answer.logprob)
    )


def perplexity(answer: Answer, options: Options) -> Value:
    """exp of `loss`."""
    nats = loss(answer, options)
    if isinstance(nats, Unscored):
        return nats
    return math.exp(nats) if nats < 700 else Unscored("the perplexity is too large for a number")


def nats_per_token(logprob: SummedLogProb) -> Value:
    """Loss in nats per token, unscored where there is no token or no finite log-probability."""
    if logprob.tokens < 1:
        return Unscored("no token to predict")
    if not math.isfinite(logprob.nats):
        return Unscored(f"the log-probability is {logprob.nats}")
    return -logprob.nats / logprob.tokens
