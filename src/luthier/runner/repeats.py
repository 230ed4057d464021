"""Trainings repeated with further seeds, at the settings that were taken: what their scores owe to chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.compare.comparison import ApproachResult
from luthier.compare.seeds import over_seeds, seeds_content, seeds_reasons
from luthier.record import predictor_to_json
from luthier.runner.apply import Workshop
from luthier.runner.chosen import target_score
from luthier.runner.fitted import Fitted
from luthier.runner.fold import fold
from luthier.runner.folder import write_json
from luthier.runner.measure import Bench, is_answered, measure_answers, scores_and_answers
from luthier.runner.prepare import Prepared
from luthier.runner.seals import seal
from luthier.study import Approach

Repeats = Mapping[str, Mapping[int, Fitted]]
Forgotten = Callable[[str, str, Fitted], Sequence[Mapping[str, object]]]
"""How the general probes changed, given the approach, what to call this training of it, and the training."""


def fold_repeats(prepared: Prepared, fitted: Mapping[str, Fitted], shop: Workshop) -> dict[str, dict[int, Fitted]]:
    """Train the finalists again, once for each further seed.

    Args:
        fitted: The approaches as they were folded with the study's seed.

    Returns:
        Approach → seed → what it came to; empty where the study asks for a single seed.
    """
    study = prepared.study
    if study.seeds == 1:
        return {}
    names = finalists(prepared, fitted, shop)
    repeats: dict[str, dict[int, Fitted]] = {name: {} for name in names}
    for seed in range(study.seed + 1, study.seed + study.seeds):
        done: dict[str, Fitted] = {}
        for name in study.fold_order:
            if name in _with_what_they_use(study.approaches, names):
                base = prepared.base(name)
                own = replace(shop, seed=seed, others=done, draw=False)
                done[name] = fold(fitted[name].applied, base, own, f"{name}, seed {seed}")
        for name in names:
            repeats[name][seed] = done[name]
    return repeats


def finalists(prepared: Prepared, fitted: Mapping[str, Fitted], shop: Workshop) -> list[str]:
    """The approaches to be trained again: of those that train the language model the best on validation, and the best
    that fits a small model."""
    study = prepared.study
    best: set[str] = set()
    for training, count in (("language model", study.finalists), ("small model", 1)):
        names = [name for name, approach in study.approaches.items() if approach.training == training]
        if study.finalists != "all" and count != "all" and len(names) > count:
            scores = {name: target_score(prepared, fitted[name], shop, name) for name in names}
            names = sorted(names, key=lambda name: scores[name], reverse=True)[:count]
        best.update(names)
    return [name for name in study.approaches if name in best]


@dataclass(frozen=True, slots=True)
class Handed:
    """The approaches as they are handed over, and their other trainings.

    Attributes:
        fitted: The approaches; of those trained several times the training that does best on validation.
        others: Approach → seed → a training that is not handed over.
        seeds: Approach → the seed of the training that is handed over, for those trained several times.
    """

    fitted: Mapping[str, Fitted]
    others: Repeats
    seeds: Mapping[str, int]


def hand_over(prepared: Prepared, fitted: Mapping[str, Fitted], repeats: Repeats, shop: Workshop) -> Handed:
    """Of each approach's trainings take the one that does best on validation; of equals the one with the study's seed.

    What it cost stays what the first training did, settings that were tried included.
    """
    study, handed, others, seeds = prepared.study, dict(fitted), dict(repeats), {}
    for name, more in repeats.items():
        trainings = {study.seed: fitted[name], **more}
        scores = {seed: target_score(prepared, own, shop, f"{name}, seed {seed}") for seed, own in trainings.items()}
        seeds[name] = max(scores, key=lambda seed: scores[seed])  # the first of equals
        best = trainings.pop(seeds[name])
        handed[name] = replace(fitted[name], predictor=best.predictor, key=best.key, stages=best.stages)
        others[name] = trainings
        write_json(shop.folder.approach(name) / "predictor.json", predictor_to_json(best.predictor, shop.folder.path))
        seal(best.predictor, name, shop.folder)
    return Handed(handed, others, seeds)


def with_repeats(
    repeats: Repeats, results: Sequence[ApproachResult], bench: Bench, forgotten: Forgotten
) -> list[ApproachResult]:
    """The results, each with what its further trainings scored on the targets and forgot of general texts."""
    judged = _judged(bench)
    found = []
    for result in results:
        own = []
        for seed, fitted in repeats.get(result.name, {}).items():
            folder = bench.folder.repeat(result.name, seed)
            measure_answers(f"{result.name}, seed {seed}", folder, fitted, judged)
            scores, answers = scores_and_answers(folder, judged)
            changes = forgotten(result.name, f"{result.name}, seed {seed}", fitted)
            own.append(replace(result, scores=scores, answers=answers, forgotten=changes))
        found.append(replace(result, trainings=tuple(own)))
    return found


def seeds_of(
    handed: Handed, results: Sequence[ApproachResult], bench: Bench, seed: int
) -> tuple[dict[str, Any] | None, list[str]]:
    """What stands under `seeds` in `comparison.json`, and what it says in words.

    Args:
        results: What `with_repeats` gave.
        seed: The study's.
    """
    scored = {
        own.name: {handed.seeds[own.name]: own, **dict(zip(handed.others[own.name], own.trainings, strict=True))}
        for own in results
        if own.name in handed.seeds
    }
    found = over_seeds(scored, bench.targets, seed)
    return seeds_content(found), seeds_reasons(found)


def unanswered_repeats(repeats: Repeats, bench: Bench) -> list[str]:
    """What has still to answer the examples kept apart."""
    judged = _judged(bench)
    return [
        f"{name}, seed {seed}"
        for name, own in repeats.items()
        for seed, fitted in own.items()
        if not is_answered(bench.folder.repeat(name, seed), fitted, judged)
    ]


def _judged(bench: Bench) -> Bench:
    """For the targets alone."""
    return replace(bench, examples={name: bench.examples[name] for name in bench.targets})


def _with_what_they_use(approaches: Mapping[str, Approach], names: Sequence[str]) -> set[str]:
    """These approaches, and all that they are made of."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += approaches[name].uses
    return found
