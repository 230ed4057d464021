"""`nearest`: the answer of the most similar training example."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.settings import Choose, Open, values_of
from luthier.simple.known import Known, known_in, write_known
from luthier.simple.nearest import By, Nearest, voted
from luthier.steps.base import ShownText, Step, StepContext, StepForecast, StepOutcome, Tried
from luthier.steps.in_place import AnsweringStep, embedding_notes, judged, reading_of, seconds_a_text
from luthier.types import Predictor, Task

# About the seconds that comparing two prompts by their words, or by their vectors, takes.
_COMPARED_S = 3e-7
# Bytes of a vector of the usual size.
_VECTOR = 4 * 384


class NearestStep(AnsweringStep):
    """Copy the answer of the most similar training example, or what the most similar ones vote for. Nothing is trained,
    and no language model is asked; its confidence is the similarity."""

    chooses: ClassVar[frozenset[str]] = frozenset({"by", "k"})

    step: Literal["nearest"] = "nearest"
    by: Open[By] | None = None
    """What similarity is: the words that prompts share (`bm25`), their `embedding`, or `both` rankings put together.
    Default: what validation takes of the three."""
    k: Open[Annotated[int, Field(gt=0)]] | None = None
    """Most similar examples that vote. Default: what validation takes of 1, 3, 5 and 10 for labels, and 1 for written
    answers, of which hardly two are the same."""

    @property
    def needs_model(self) -> bool:
        return False

    @property
    def embedders(self) -> tuple[str, ...]:
        return () if self._ways == ("bm25",) else (self.embedder,)

    @property
    def _ways(self) -> tuple[By, ...]:
        return ("bm25", "embedding", "both") if self.by is None else values_of(self.by)

    def for_data(self, tasks: Sequence[Task]) -> Step:
        """With the values that validation chooses among."""
        own: dict[str, Any] = {}
        if self.by is None:
            own["by"] = Choose[By](choose=self._ways)
        if self.k is None:
            most = min(len(task.train) for task in tasks)
            counts = [k for k in (1, 3, 5, 10) if k <= most]
            labelled = all(task.labels for task in tasks)
            own["k"] = Choose[int](choose=tuple(counts)) if labelled and len(counts) > 1 else 1
        return self.with_settings(**own)

    @model_validator(mode="after")
    def _a_threshold_has_a_unit(self) -> NearestStep:
        if self.threshold is not None and len(self._ways) > 1:
            raise ValueError(
                "threshold is in the unit of the similarity, so say of which: by: embedding or both (cosine, at most "
                "1), or by: bm25 (a sum over words, without a bound)"
            )
        return self

    def check(self, task: Task) -> list[str]:
        """There must be as many examples as vote."""
        most = max(values_of(self.k or 1))
        if most > len(task.train):
            return [f"k: {most} examples cannot vote where task '{task.name}' has {len(task.train)} to train on."]
        return []

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Keep the training examples, and take the similarity and the number of votes that do best on validation."""
        started = time.perf_counter()
        lesson, engine = context.lesson, context.engine
        known, notes, ways = {}, [], list(self._ways)
        for number, task in enumerate(lesson.tasks):
            folder = context.folder / "nearest" / str(number)
            write_known(folder, task.train, reading_of(task))
            known[task.name] = Known(folder)
            if ways != ["bm25"]:
                found, knows = embedding_notes(engine.embedder(self.embedder), self.embedder, known[task.name].texts)
                notes += found
                ways = ways if knows or "bm25" not in ways else ["bm25"]
        if ways != ["bm25"]:
            for own in known.values():
                own.embed(self.embedder, engine)
        tried = self._tried(known, ways, context)
        best = max(tried, key=lambda one: one[0])[1]  # the first of equals
        taken = best.settings
        made = Nearest(
            known={name: str(own.folder) for name, own in known.items()},
            by=taken["by"],
            k=taken["k"],
            embedder=self.embedder,
            threshold=self.threshold,
            otherwise=self.otherwise,
        )
        if made.by == "bm25":
            for own in known.values():
                own.forget_vectors()
        known_in.cache_clear()  # the folder may have held others before
        rows = tuple(Tried(one.settings, one.score, one.seconds, one is best) for _, one in tried)
        return StepOutcome(
            made,
            train_s=time.perf_counter() - started,
            search_s=sum(one.seconds for one in rows if not one.taken),
            tried=rows if len(rows) > 1 else (),
            taken={"by": taken["by"], "k": taken["k"]},
            facts={**taken, "known": {name: len(own.texts) for name, own in known.items()}},
            warnings=tuple(notes),
        )

    def _tried(
        self, known: Mapping[str, Known], ways: Sequence[By], context: StepContext
    ) -> list[tuple[tuple[float, float], Tried]]:
        """Each way and number of votes with its score on validation, from one ranking a way."""
        lesson, counts = context.lesson, values_of(self.k or 1)
        found = []
        for by in ways:
            started = time.perf_counter()
            rankings = {
                task.name: known[task.name].neighbours(
                    [example.prompt for example in task.validation], by, self.embedder, max(counts), context.engine
                )
                for task in lesson.tasks
            }
            seconds = (time.perf_counter() - started) / len(counts)
            for k in counts:
                texts = {
                    name: [voted([known[name].answers[one.number] for one in own[:k]], own[:k])[0] for own in rows]
                    for name, rows in rankings.items()
                }
                score = lesson.score_of(judged(lesson, texts))
                found.append((score, Tried({"by": by, "k": k}, lesson.metric_of(score), seconds, False)))
        return found

    def forecast(self, context: StepContext) -> StepForecast:
        tasks = context.lesson.tasks
        examples, asked = sum(len(task.train) for task in tasks), sum(len(task.validation) for task in tasks)
        ways = self._ways
        text_s = alone_s = 0.0
        if ways != ("bm25",):
            texts = [reading_of(task).text(example.prompt) for task in tasks for example in task.train[:256]]
            text_s, alone_s = seconds_a_text(context.engine.embedder(self.embedder), texts)
        compared = examples * _COMPARED_S
        return StepForecast(
            fit_s=examples * text_s + len(ways) * asked * (text_s + compared),
            request_s=text_s + compared,
            alone_s=alone_s + compared,
            peak_bytes=examples * _VECTOR,
            stored_bytes=examples * (_VECTOR if text_s else 0)
            + sum(
                len(example.completion) + len(example.prompt.messages[-1].content) for t in tasks for example in t.train
            ),
        )

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        found = []
        for task in context.lesson.tasks:
            reading = reading_of(task)
            for example in task.train[:count]:
                pieces = ((reading.text(example.prompt), False), ("\n→ ", False), (example.completion, True))
                found.append(ShownText(str(example.place), pieces))
        return found[:count]
