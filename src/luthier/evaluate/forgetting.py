"""What a model forgets: general probes, measured before and after its weights changed.

The probes are few and small, so that they run on any machine with every study: how well the model predicts general
English, whether it prefers a grammatical sentence to its ungrammatical twin, and a true answer to a common error.
`probes/SOURCE.md` says where the texts come from. They find damage to general ability; they cannot show that none was
done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from luthier.errors import EvaluationError
from luthier.evaluate.answer import SummedLogProb
from luthier.evaluate.statistics import bootstrap_interval, paired_difference

TotalLogProb = Callable[[Sequence[str]], Sequence[SummedLogProb]]
"""The summed log-probability of each raw text under a model, and the number of tokens it was summed over."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one model scores on one probe.

    Attributes:
        metric: `loss` (nats per token), `accuracy`, or a metric of lm-evaluation-harness.
        values: One a text or pair, in the probe's order, so that two models can be compared in pairs.
    """

    probe: str
    metric: str
    higher_is_better: bool
    values: tuple[float, ...]


def general_text() -> list[str]:
    """100 passages of WikiText-2, some 70 words each, with its spacing undone and no word left out."""
    return _read("general_text.txt").splitlines()


def general_text_validation() -> list[str]:
    """80 further passages, of articles that no probe holds: for choices, so that the probes stay unseen by them."""
    return _read("general_text_validation.txt").splitlines()


def minimal_pairs() -> list[tuple[str, str]]:
    """100 pairs of BLiMP: a grammatical sentence, and one that differs in a word and is not."""
    rows = [json.loads(line) for line in _read("minimal_pairs.jsonl").splitlines()]
    return [(row["good"], row["bad"]) for row in rows]


def truthful_answers() -> list[tuple[str, str]]:
    """100 questions of TruthfulQA, each with its best answer and with the best incorrect one."""
    rows = [json.loads(line) for line in _read("truthful_answers.jsonl").splitlines()]
    asked = ((f"Q: {row['question']}\nA: ", row) for row in rows)
    return [(before + row["true"], before + row["false"]) for before, row in asked]


def _read(name: str) -> str:
    return (files("luthier.evaluate") / "probes" / name).read_text(encoding="utf-8")


def general_loss(total_logprob: TotalLogProb) -> float:
    """The loss on general text that is kept for choices: the mean over its texts of their nats a token.

    Raises:
        EvaluationError: A log-probability is missing, not finite, or greater than 0.
    """
    losses = _losses(total_logprob, general_text_validation())
    return sum(losses) / len(losses)


def measure_probes(total_logprob: TotalLogProb) -> list[ProbeResult]:
    """Score a model on all probes.

    The loss of a text is its nats per token; all texts weigh the same. A pair counts 1 where the good sentence or the
    true answer has the higher summed log-probability (Warstadt et al. 2020; of answers, Lin et al. 2022), 0 otherwise,
    also where both have the same. A question is the same text before both of its answers, so it weighs nothing.

    Raises:
        EvaluationError: A log-probability is missing, not finite, or greater than 0.
    """
    return [
        ProbeResult("general_text", "loss", False, _losses(total_logprob, general_text())),
        ProbeResult("minimal_pairs", "accuracy", True, _preferences(total_logprob, minimal_pairs())),
        ProbeResult("truthful_answers", "accuracy", True, _preferences(total_logprob, truthful_answers())),
    ]


def _preferences(total_logprob: TotalLogProb, pairs: Sequence[tuple[str, str]]) -> tuple[float, ...]:
    """Of each pair 1 where the first is the likelier, else 0."""
    found = _checked(total_logprob, [text for pair in pairs for text in pair])
    return tuple(float(good.nats > bad.nats) for good, bad in zip(found[::2], found[1::2], strict=True))


def _losses(total_logprob: TotalLogProb, texts: Sequence[str]) -> tuple[float, ...]:
    """Of each text its nats a token."""
    return tuple(-logprob.nats / logprob.tokens for logprob in _checked(total_logprob, texts))


def _checked(total_logprob: TotalLogProb, texts: Sequence[str]) -> list[SummedLogProb]:
    logprobs = list(total_logprob(texts))
    if len(logprobs) != len(texts):
        raise EvaluationError(f"{len(texts)} probe texts were scored, and {len(logprobs)} log-probabilities came back.")
    for text, logprob in zip(texts, logprobs, strict=True):
        if logprob.tokens < 1 or not math.isfinite(logprob.nats) or logprob.nats > 1e-3:
            raise EvaluationError(
                f"The probe text '{text[:60]}' got the log-probability {logprob.nats} over {logprob.tokens} tokens; it "
                "must be finite, at most 0, and over at least one token."
            )
    return logprobs


def compare_probes(before: Sequence[ProbeResult], after: Sequence[ProbeResult], seed: int) -> list[dict[str, object]]:
    """What changed between two models on the same probes, in the form of `forgotten` in `comparison.json`.

    `difference` is after minus before, with its paired 95% interval.
    """
    earlier = {result.probe: result for result in before}
    if set(earlier) != {result.probe for result in after}:
        raise EvaluationError(
            f"Before and after were measured on different probes: {', '.join(earlier)} and "
            f"{', '.join(result.probe for result in after)}. Measure both again."
        )
    return [_change(earlier[result.probe], result, seed) for result in after]


def _change(before: ProbeResult, after: ProbeResult, seed: int) -> dict[str, object]:
    right_or_wrong = after.higher_is_better and {*before.values, *after.values} <= {0.0, 1.0}
    change = paired_difference(after.values, before.values, right_or_wrong, seed=seed)
    return {
        "probe": after.probe,
        "metric": after.metric,
        "higher_is_better": after.higher_is_better,
        "n": change.n,
        "before": sum(before.values) / len(before.values),
        "after": sum(after.values) / len(after.values),
        "difference": change.difference,
        "low": change.low,
        "high": change.high,
    }


def mean_divergence(nats: Sequence[float], tokens: Sequence[int], seed: int) -> dict[str, object]:
    """The mean over texts of the divergence a token between two models, with its 95% interval over texts.

    All texts weigh the same, as in the loss on general text. It is no probe: it has no before, and no limit on it.

    Args:
        nats: Of each text, the summed divergence KL(before‖after).
        tokens: Of each text, the tokens that it was summed over; at least 1.
    """
    found = bootstrap_interval([own / count for own, count in zip(nats, tokens, strict=True)], seed)
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return {"n": found.n, "mean": found.mean, "low": low, "high": high}


def worsening(change: Mapping[str, object]) -> float:
    """How much worse a probe got, as a fraction that a limit can be set on; negative where it got better.

    Of a probe where higher is better (accuracy) the points lost: 0.90 → 0.85 is 0.05. Of a loss the relative rise:
    3.0 → 3.3 is 0.10, since nats have no natural ceiling.
    """
    before, after = _number(change, "before"), _number(change, "after")
    if change["higher_is_better"]:
        return before - after
    if before <= 0:
        return math.inf if after > before else 0.0
    return (after - before) / before


def _number(change: Mapping[str, object], key: str) -> float:
    value = change[key]
    if not isinstance(value, (int, float)):
        raise EvaluationError(f"probe '{change.get('probe')}': {key} is {value!r}, not a number.")
    return float(value)
