"""What retrieval does in an approach: how well passages are found, whether answers stand on them, what is weak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.evaluate.answer import Answer, answer_to
from luthier.evaluate.diagnosis import CONDITIONS, diagnosis
from luthier.evaluate.metrics import Metric, score
from luthier.evaluate.ranking import ranking_values
from luthier.evaluate.statistics import bootstrap_interval, wilson_interval
from luthier.evaluate.support import Shown, support_values
from luthier.prompt.passages import distinct, right_ones, wrong_ones
from luthier.retrieve.pairs import answers_found, judged_by
from luthier.runner.fitted import Fitted
from luthier.runner.folder import read_json, read_jsonl, write_json
from luthier.runner.keys import examples_key, key_of, source_key
from luthier.runner.measure import Bench
from luthier.types import Example, Passage, PromptedModel, Retrieval, Score, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.retrieve.library import Library

# So far down the ranking it is scored, and wrong passages are taken for distractors.
_DEPTH = 10
# Measures that are 0 or 1 for every answer.
_SHARES = ("abstained", "string_support", "cited", "citation_supports", "citation_right")


def grounding_of(name: str, fitted: Fitted, bench: Bench, library: Library, seed: int) -> dict[str, Any] | None:
    """How well an approach that retrieves finds passages and stands on them, on the examples kept apart; None for one
    that does not retrieve.

    Returns:
        `k`, `passages` (in the index), `too_long` (of these, for the embedder), `shown` (passages a prompt, mean),
        `dropped` (passages that were found and had no room), `ranking` and `support`: rows of `measure`, `mean`, `low`,
        `high`, `n`.
    """
    asked = fitted.language_model
    retrieval = None if asked is None else asked.retrieval
    if retrieval is None:
        return None
    examples = bench.examples[bench.targets[0]]
    known = [example for example in examples if example.relevance is not None]
    values = _ranking(known, retrieval, library) if known else {}
    rows = {row["id"]: row for row in read_jsonl(bench.folder.approach(name) / "predictions.jsonl")}
    index = library.opened(retrieval.index, retrieval.embedder)
    supports = [_support(rows[example.id], index.passages, retrieval) for example in examples]
    measures = list(dict.fromkeys(measure for own in supports for measure in own))
    return {
        "k": retrieval.k,
        "passages": len(index.passages),
        "too_long": library.making(index).too_long,
        "shown": sum(len(rows[example.id]["passages"]) for example in examples) / len(examples),
        "dropped": sum(rows[example.id]["dropped_passages"] for example in examples),
        "ranking": [_mean_row(measure, list(own.values()), seed) for measure, own in values.items()],
        "support": [
            _mean_row(measure, [own[measure] for own in supports if measure in own], seed) for measure in measures
        ],
    }


def _ranking(examples: Sequence[Example], retrieval: Retrieval, library: Library) -> dict[str, dict[str, float]]:
    index = library.opened(retrieval.index, retrieval.embedder)
    hits = library.rank(retrieval, [example.prompt for example in examples], max(_DEPTH, retrieval.k))
    judged = {
        example.id: judged_by(example, index, [hit.passage for hit in own])
        for example, own in zip(examples, hits, strict=True)
    }
    right = {own: ids for own, (ids, _) in judged.items() if ids}
    return ranking_values(right, {own: ids for own, (_, ids) in judged.items()}, retrieval.k) if right else {}


def _support(row: Mapping[str, Any], passages: Mapping[str, Passage], retrieval: Retrieval) -> dict[str, float]:
    shown = [(passages[own["id"]].text, own["right"]) for own in row["passages"] if own["id"] in passages]
    cited = row["cited"] if retrieval.cite else None
    return support_values(
        Shown(row["completion"], [text for text, _ in shown], [r for _, r in shown], cited, retrieval.absent)
    )


def _mean_row(measure: str, values: Sequence[float], seed: int) -> dict[str, Any]:
    share = measure.startswith("found@") or measure in _SHARES
    found = wilson_interval(sum(values), len(values)) if share else bootstrap_interval(values, seed, bounded=True)
    return {"measure": measure, "mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def diagnose(
    name: str, fitted: Fitted, task: Task, metric: Metric, bench: Bench, library: Library, seed: int
) -> dict[str, Any] | None:
    """Which half of an approach that retrieves holds its score back, on those validation examples whose right passage
    is known, or found by their answer; None where nothing is retrieved, or there is no such example.

    It decides what to work on, so the test has no part in it.
    """
    model = fitted.language_model
    retrieval = None if model is None else model.retrieval
    if model is None or retrieval is None:
        return None
    file = bench.folder.approach(name) / "diagnosis.json"
    key = key_of(
        fitted=fitted.key, examples=examples_key(task.validation), decoding=repr(task.decoding), source=source_key()
    )
    if file.is_file() and (kept := read_json(file))["key"] == key:
        found: dict[str, Any] | None = kept["diagnosis"]
        return found
    conditions = _conditions(task, retrieval, library)
    result = None
    if conditions["oracle"]:
        scores, answers = {}, {}
        with bench.progress.track(f"{name}: which half is weak", len(CONDITIONS) * len(task.validation)) as advance:
            for condition, examples in conditions.items():
                asked = model.asked(task, bench.target)
                asked = replace(asked, retrieval=None) if condition == "closed book" else asked
                scores[condition], answers[condition] = _scored(bench.engine, asked, examples, task, metric)
                advance(len(task.validation))
        result = diagnosis(scores, answers, metric, seed)
    write_json(file, {"key": key, "diagnosis": result})
    return result


def _conditions(task: Task, retrieval: Retrieval, library: Library) -> dict[str, list[Example]]:
    """Condition → the validation examples that have a right passage, with the passages that it shows.

    Where an example does not say where its answer stands, it is looked for among what its question finds, and then
    among what question and answer find: by the question alone, all that search misses would be left out.
    """
    index = library.opened(retrieval.index, retrieval.embedder)
    ranked = library.rank(retrieval, [e.prompt for e in task.validation], max(_DEPTH, retrieval.k))
    unknown = [example for example in task.validation if example.relevance is None]
    by_answer = answers_found(unknown, index, retrieval.query, retrieval.kind) if unknown else []
    helped = {example.id: own for example, own in zip(unknown, by_answer, strict=True)}
    found: dict[str, list[Example]] = {name: [] for name in CONDITIONS}
    for example, hits in zip(task.validation, ranked, strict=True):
        passages = [hit.passage for hit in hits]
        rights = right_ones(example, passages, index.by_document) or helped.get(example.id, [])
        if not rights:
            continue
        right, wrong = rights[:1], wrong_ones(example, passages, rights)
        found["closed book"].append(example)
        found["retrieved"].append(_showing(example, distinct(passages)[: retrieval.k]))
        found["oracle"].append(_showing(example, right))
        found["oracle among distractors"].append(_showing(example, [*right, *wrong][: max(retrieval.k, 2)]))
    return found


def _showing(example: Example, passages: Sequence[Passage]) -> Example:
    return replace(example, prompt=replace(example.prompt, passages=tuple(passages)))


def _scored(
    engine: Engine, predictor: PromptedModel, examples: Sequence[Example], task: Task, metric: Metric
) -> tuple[list[Score], list[Answer]]:
    logprobs: Sequence[Any] = [None] * len(examples)
    if metric.needs_logprobs:
        logprobs, texts = engine.reference_logprobs(predictor, examples), [e.completion for e in examples]
    else:
        texts = [own.text for own in engine.answer(predictor, [e.prompt for e in examples], task.labels)]
    options = task.metric_options.get(metric.name, {})
    found = list(zip(texts, examples, logprobs, strict=True))
    return (
        [score(metric, text, example, task.labels, options, logprob) for text, example, logprob in found],
        [answer_to(example, text, task.labels, logprob) for text, example, logprob in found],
    )
