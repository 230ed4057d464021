"""Floors: what rules score that every approach has to beat, measured in every study without being asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from luthier.compare.comparison import ApproachResult, FloorResult
from luthier.model.embed import DEFAULT_EMBEDDER
from luthier.progress import Progress
from luthier.prompt.similar import whole_prompts
from luthier.retrieve.passages import ChunkSettings
from luthier.runner.fitted import Fitted
from luthier.runner.keys import key_of, training_key
from luthier.runner.measure import Bench, cost_in, is_answered, measure_answers, scores_and_answers
from luthier.runner.prepare import Prepared, documents_embedder
from luthier.simple.floors import (
    BestSentence,
    DrawByFrequency,
    FirstSentences,
    MostFrequent,
    most_frequent,
    sentences_that_fit,
)
from luthier.simple.known import write_known
from luthier.simple.nearest import Nearest
from luthier.types import Predictor, Retrieval, Task

# Inputs of so many words are long enough for their first sentences to be an answer, if answers are so much shorter.
_LONG_INPUT, _SHORTER = 80, 3
_COUNTED = 200


@dataclass(frozen=True, slots=True)
class Floor:
    """A rule.

    Attributes:
        words: What it does, to stand behind "better than".
    """

    name: str
    words: str
    predictor: Predictor


def floors_of(prepared: Prepared, bench: Bench) -> list[Floor]:
    """The rules that can answer all targets."""
    targets = prepared.targets
    found = [
        Floor(
            "most-frequent",
            "always giving the most frequent answer",
            MostFrequent({task.name: most_frequent([own.completion for own in task.train]) for task in targets}),
        )
    ]
    if all(task.labels for task in targets):
        counts = {task.name: dict(Counter(str(own.label) for own in task.train)) for task in targets}
        drawn = DrawByFrequency(counts, prepared.study.seed)
        return [*found, Floor("draw", "drawing labels by their frequency", drawn)]
    if all(not task.labels for task in targets):
        found.append(_nearest(targets, bench))
    if all(map(_is_summed_up, targets)):
        reading = {task.name: whole_prompts([own.prompt for own in task.train]) for task in targets}
        counted = {
            task.name: sentences_that_fit(
                [reading[task.name].text(own.prompt) for own in task.train[:_COUNTED]],
                [own.completion for own in task.train[:_COUNTED]],
            )
            for task in targets
        }
        found.append(Floor("first-sentences", "giving the first sentences", FirstSentences(counted, reading)))
    if len(targets) == 1 and targets[0].documents is not None:
        found.append(_best_sentence(targets[0], prepared, bench.progress))
    return found


def _nearest(targets: Sequence[Task], bench: Bench) -> Floor:
    """By words, which cost nothing and need no embedder."""
    known = {}
    for number, task in enumerate(targets):
        folder = bench.folder.floor("nearest-answer") / "nearest" / str(number)
        write_known(folder, task.train, whole_prompts([own.prompt for own in task.train]))
        known[task.name] = str(folder)
    copying = Nearest(known, "bm25", 1, DEFAULT_EMBEDDER)
    return Floor("nearest-answer", "copying the answer of the most similar training example", copying)


def _is_summed_up(task: Task) -> bool:
    """Whether a task has long inputs, and answers that are much shorter."""
    if task.labels:
        return False
    sample = task.train[:_COUNTED]
    reading = whole_prompts([own.prompt for own in sample])
    asked = median(len(reading.text(own.prompt).split()) for own in sample)
    return asked >= _LONG_INPUT and asked >= _SHORTER * median(len(own.completion.split()) for own in sample)


def _best_sentence(task: Task, prepared: Prepared, progress: Progress) -> Floor:
    """With the embedder that the study searches with, where it names one."""
    assert task.documents is not None
    embedder = documents_embedder(prepared.study)
    index = prepared.library.index(task.documents.folder, embedder, ChunkSettings(), progress)
    retrieval = Retrieval(index=str(index.folder), embedder=embedder, k=1)
    return Floor(
        "best-sentence", "giving the best sentence of the best passage", BestSentence(task.name, retrieval, embedder)
    )


def measure_floors(prepared: Prepared, bench: Bench) -> list[FloorResult]:
    """What each floor scores on the targets' examples kept apart, from the folder where it is there already."""
    judged = replace(bench, examples={name: bench.examples[name] for name in bench.targets})
    return [_measured(floor, prepared, judged) for floor in floors_of(prepared, bench)]


def unanswered_floors(prepared: Prepared, bench: Bench) -> list[str]:
    """Floors that have still to answer the examples kept apart."""
    judged = replace(bench, examples={name: bench.examples[name] for name in bench.targets})
    return [
        floor.name
        for floor in floors_of(prepared, bench)
        if not is_answered(bench.folder.floor(floor.name), _fitted(floor, prepared), judged)
    ]


def _fitted(floor: Floor, prepared: Prepared) -> Fitted:
    tasks = {task.name: training_key(task) for task in prepared.targets}
    key = key_of(floor=floor.name, tasks=tasks, seed=prepared.study.seed, environment=prepared.environment)
    return Fitted(floor.predictor, key)


def _measured(floor: Floor, prepared: Prepared, bench: Bench) -> FloorResult:
    folder, fitted = bench.folder.floor(floor.name), _fitted(floor, prepared)
    measure_answers(f"floor: {floor.name}", folder, fitted, bench)
    scores, answers = scores_and_answers(folder, bench)
    deciding = {name: bench.metrics[name][0].name for name in bench.examples}
    result = ApproachResult(floor.name, "none", scores, deciding, cost_in(folder, fitted, bench, {}), answers)
    return FloorResult(floor.predictor.kind, floor.words, result)
