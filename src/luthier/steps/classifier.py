"""`classifier`: features of the prompt and a linear head choose among the labels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from luthier.data.labels import join_labels, split_labels
from luthier.prompt.shots import spread_order
from luthier.settings import Choose, Count, Open, values_of
from luthier.simple.classifier import Classifier, write_classifier
from luthier.simple.contrastive import EPOCHS, MOST_PAIRS
from luthier.simple.features import Embedding, Features, Hidden, Tfidf
from luthier.simple.head import Head, chosen_labels, fit_head, fit_head_of_several
from luthier.steps.base import ShownText, StepContext, StepForecast, StepOutcome, Tried
from luthier.steps.in_place import AnsweringStep, embedding_notes, judged, reading_of, seconds_a_text
from luthier.steps.learning_curve import CurvePoint, curve_result
from luthier.types import Example, Predictor, Prompt, PromptedModel, Task, Training

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from luthier.model.sentence_trainer import Tuned

Kind = Literal["tfidf", "embedding", "hidden"]
# About the seconds that a fit takes for each example, label and hundred features, cross-validation included.
_FIT_S = {"tfidf": 4e-5, "embedding": 1.2e-5, "hidden": 3e-5}
# About the seconds that TF-IDF takes for each character, and the features that it makes of a training set.
_CHARACTER_S, _MOST_FEATURES = 2e-6, 100_000


@dataclass(frozen=True, slots=True)
class _Fit:
    """Features and head of each task, and how they do on validation."""

    kind: Kind
    parts: Mapping[str, tuple[Features, Head]]
    score: tuple[float, float]
    tried: Tried


class ClassifierStep(AnsweringStep):
    """Choose the label by a linear head (logistic regression, its strength by cross-validation) on features of the
    prompt. It is trained in seconds and gives probabilities, and no language model is asked unless its hidden states
    are the features (Buckmann and Hill 2024: on par with large models with tens of labelled examples)."""

    chooses: ClassVar[frozenset[str]] = frozenset({"features"})
    training: ClassVar[Training] = "small model"
    drawing: ClassVar[frozenset[str]] = frozenset({"learning_curve"})

    step: Literal["classifier"] = "classifier"
    features: Open[Kind] = Choose[Kind](choose=("tfidf", "embedding"))
    """What is seen of a prompt: `tfidf` of its words and characters, its sentence `embedding`, or the `hidden` states
    of the study's language model, of which validation takes the layer and the pooling."""
    tune: Open[Literal["none", "contrastive"]] = "none"
    """`contrastive`: the embedder is trained on the labels first, so that texts of one label come near each other
    (SetFit, Tunstall et al. 2022); kept if it is better on validation."""
    examples: Count | None = None
    """So many of the training examples, drawn by the seed, every label as often as may be. Default: all."""
    learning_curve: tuple[Count, ...] = ()
    """Train also on so many examples each, and draw what validation gives: whether more examples would help. These
    trainings serve the picture alone and are not counted as the approach's cost."""

    @property
    def needs_model(self) -> bool:
        return "hidden" in self._kinds

    @property
    def embedders(self) -> tuple[str, ...]:
        return (self.embedder,) if "embedding" in self._kinds else ()

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        return values_of(self.features)

    @model_validator(mode="after")
    def _what_is_tuned_is_an_embedder(self) -> ClassifierStep:
        if "contrastive" in values_of(self.tune) and "embedding" not in self._kinds:
            raise ValueError("tune: contrastive trains the embedder, and features has no embedding; name it there")
        return self

    def check(self, task: Task) -> list[str]:
        """It needs labels."""
        if not task.labels:
            return [f"classifier chooses among labels, and task '{task.name}' has none; use nearest, or give labels."]
        most = max((*self.learning_curve, self.examples or 0))
        if most > len(task.train):
            return [f"{most} training examples are asked for; task '{task.name}' has {len(task.train)}."]
        return []

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Fit a head on each kind of features, and keep what does best on validation."""
        started = time.perf_counter()
        notes: list[str] = []
        taught = {task.name: self._taught(task, context.seed) for task in context.lesson.tasks}
        kinds = self._seen(taught, context, notes)
        tuned = None
        if self.tune == "contrastive" and "embedding" in kinds:
            tuned = self._tuned(taught, context, notes)
        embedder = str(_embedder_folder(context)) if tuned is not None and tuned.kept else self.embedder
        fits = [own for kind in kinds for own in self._fits(kind, predictor, taught, context, embedder)]
        best = max(fits, key=lambda one: one.score)  # the first of equals
        heads = {}
        for number, (name, (features, head)) in enumerate(best.parts.items()):
            folder = context.folder / "classifier" / str(number)
            write_classifier(folder, features, head)
            heads[name] = str(folder)
            if head.kind == "means":
                notes.append(
                    f"{len(head.labels):,} labels and {len(taught[name]):,} examples are too many for logistic "
                    "regression; labels are told apart by the means of their examples"
                )
        rows = tuple(Tried(one.tried.settings, one.tried.score, one.tried.seconds, one is best) for one in fits)
        weights = sum(int(head.weights.size) + head.bias.size for _, head in best.parts.values())
        return StepOutcome(
            Classifier(
                heads=heads,
                embedder=embedder,
                model=predictor if best.kind == "hidden" and isinstance(predictor, PromptedModel) else None,
                threshold=self.threshold,
                otherwise=self.otherwise,
            ),
            train_s=time.perf_counter() - started,
            search_s=sum(one.seconds for one in rows if not one.taken),
            tried=rows if len(rows) > 1 else (),
            **({} if tuned is None else _of_training(tuned)),
            trainable_parameters=weights + (tuned.parameters if tuned is not None and tuned.kept else 0),
            results={} if tuned is None else {"tuning": _tuning_table(tuned)},
            facts={
                **best.tried.settings,
                "examples": {name: len(own) for name, own in taught.items()},
                "heads": {name: {"kind": own.kind, "strength": own.strength} for name, (_, own) in best.parts.items()},
                "best_score": best.score,
                "tuned_embedder": embedder != self.embedder,
                "seconds": best.tried.seconds,
            },
            warnings=tuple(notes),
        )

    def _taught(self, task: Task, seed: int) -> list[Example]:
        return list(task.train if self.examples is None else spread_order(task.train, seed)[: self.examples])

    def _seen(
        self, taught: Mapping[str, Sequence[Example]], context: StepContext, notes: list[str]
    ) -> tuple[Kind, ...]:
        """The kinds of features, without embeddings of a language that the embedder does not know."""
        kinds = self._kinds
        for task in context.lesson.tasks if "embedding" in kinds else ():
            reading = reading_of(task)
            texts = [reading.text(example.prompt) for example in taught[task.name]]
            found, knows = embedding_notes(context.engine.embedder(self.embedder), self.embedder, texts)
            notes += found
            if not knows and "tfidf" in kinds:
                kinds = tuple(kind for kind in kinds if kind != "embedding")
        return kinds

    def _tuned(self, taught: Mapping[str, Sequence[Example]], context: StepContext, notes: list[str]) -> Tuned:
        """The embedder trained on the labels of all tasks together."""
        from luthier.simple.contrastive import tune_on_labels

        texts, labels, held = [], [], []
        for task in context.lesson.tasks:
            reading = reading_of(task)
            texts += [reading.text(example.prompt) for example in taught[task.name]]
            labels += [f"{task.name}/{example.label}" for example in taught[task.name]]
            held += [(reading.text(own.prompt), f"{task.name}/{own.label}") for own in task.validation]
        if single := sum(count == 1 for count in Counter(labels).values()):
            notes.append(f"{single} labels have one example each, which the embedder cannot bring near another")
        base = context.engine.embedder(self.embedder).folder
        context.engine.release()
        return tune_on_labels(
            base,
            texts,
            labels,
            held,
            _embedder_folder(context),
            context.seed,
            context.engine.device,
            lambda steps: context.progress.track("training the embedder on the labels", steps),
        )

    def _fits(
        self,
        kind: Kind,
        predictor: Predictor,
        taught: Mapping[str, Sequence[Example]],
        context: StepContext,
        embedder: str,
    ) -> list[_Fit]:
        """A fit on one kind of features; of hidden states one for each layer and pooling."""
        tasks = context.lesson.tasks
        if kind == "hidden":
            return self._fits_on_states(predictor, taught, context)
        started = time.perf_counter()
        parts, texts = {}, {}
        for task in tasks:
            examples, reading = taught[task.name], reading_of(task)
            prompts = [example.prompt for example in examples]
            features: Features = Tfidf.fitted(reading, prompts) if kind == "tfidf" else Embedding(reading, embedder)
            seen, held = (features.matrix(own, context.engine) for own in (prompts, _prompts(task.validation)))
            head = _head(seen, examples, task, context.seed)
            parts[task.name], texts[task.name] = (features, head), _answers(head, held, task)
        return [self._fit(kind, {"features": kind}, parts, texts, context, time.perf_counter() - started)]

    def _fits_on_states(
        self, predictor: Predictor, taught: Mapping[str, Sequence[Example]], context: StepContext
    ) -> list[_Fit]:
        assert isinstance(predictor, PromptedModel), "hidden states need a language model, as was checked"
        engine, tasks = context.engine, context.lesson.tasks
        depth = engine.layers(predictor.model)
        layers = sorted({max(1, round(depth * share)) for share in (0.25, 0.5, 0.75, 1.0)})
        started = time.perf_counter()
        asked = {task.name: predictor.asked(task, context.lesson.target) for task in tasks}
        states = {
            task.name: [
                engine.hidden(asked[task.name], own, layers)
                for own in (_prompts(taught[task.name]), _prompts(task.validation))
            ]
            for task in tasks
        }
        shared_s = (time.perf_counter() - started) / (2 * len(layers))
        found = []
        for number, layer in enumerate(layers):
            for pooling, name in enumerate(("mean", "last")):
                started = time.perf_counter()
                parts, texts = {}, {}
                for task in tasks:
                    seen, held = (own[:, number, pooling] for own in states[task.name])
                    features = Hidden.fitted(asked[task.name], layer, pooling, seen)
                    head = _head(features.scaled(seen), taught[task.name], task, context.seed)
                    parts[task.name] = (features, head)
                    texts[task.name] = _answers(head, features.scaled(held), task)
                settings = {"features": "hidden", "layer": layer, "pooling": name}
                seconds = shared_s + time.perf_counter() - started
                found.append(self._fit("hidden", settings, parts, texts, context, seconds))
        return found

    def _fit(
        self,
        kind: Kind,
        settings: Mapping[str, Any],
        parts: Mapping[str, tuple[Features, Head]],
        texts: Mapping[str, Sequence[str]],
        context: StepContext,
        seconds: float,
    ) -> _Fit:
        score = context.lesson.score_of(judged(context.lesson, texts))
        return _Fit(kind, parts, score, Tried(settings, context.lesson.metric_of(score), seconds, False))

    def more_results(self, predictor: Predictor, context: StepContext, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The learning curve, on the features that were taken."""
        if not self.learning_curve:
            return {}
        used = max(facts["examples"].values())
        points = []
        for count in sorted(set(self.learning_curve)):
            if count >= used:
                continue
            started = time.perf_counter()
            part = self.model_copy(update={"examples": count, "learning_curve": ()})
            taught = {task.name: part._taught(task, context.seed) for task in context.lesson.tasks}
            embedder = str(_embedder_folder(context)) if facts["tuned_embedder"] else self.embedder
            score = max(own.score for own in part._fits(facts["features"], predictor, taught, context, embedder))
            points.append(CurvePoint(count, context.lesson.metric_of(score), time.perf_counter() - started))
        last = CurvePoint(used, context.lesson.metric_of(facts["best_score"]), facts["seconds"])
        return {"learning-curve": curve_result([*points, last], context.lesson)}

    def forecast(self, context: StepContext) -> StepForecast:
        examples = sum(min(len(task.train), self.examples or len(task.train)) for task in context.lesson.tasks)
        asked = sum(len(task.validation) for task in context.lesson.tasks)
        labels = max(len(task.labels) for task in context.lesson.tasks)
        texts = [reading_of(t).text(own.prompt) for t in context.lesson.tasks for own in t.train[:256]]
        mean_length = sum(map(len, texts)) / len(texts)
        a_text = {"tfidf": mean_length * _CHARACTER_S}
        alone = {"tfidf": mean_length * _CHARACTER_S}
        if "embedding" in self._kinds:
            a_text["embedding"], alone["embedding"] = seconds_a_text(context.engine.embedder(self.embedder), texts)
        if "hidden" in self._kinds:
            a_text["hidden"] = alone["hidden"] = mean_length * 2e-3  # a token for each four characters, slowly
        fit_s = sum((examples + asked) * a_text[kind] + examples * labels * _FIT_S[kind] for kind in self._kinds)
        if self.tune == "contrastive":  # both texts of a pair, forward and backward
            fit_s += EPOCHS * min(MOST_PAIRS, examples * labels) * 2 * 3 * a_text.get("embedding", 0.0)
        last = self._kinds[-1]
        features = _MOST_FEATURES if "tfidf" in self._kinds else 1024
        return StepForecast(
            fit_s=fit_s,
            request_s=a_text[last],
            alone_s=alone[last],
            peak_bytes=8.0 * (examples * 2000 + labels * features),
            stored_bytes=4.0 * labels * features,
        )

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        found = []
        for task in context.lesson.tasks:
            reading = reading_of(task)
            for example in self._taught(task, context.seed)[:count]:
                pieces = ((reading.text(example.prompt), False), ("\n→ ", False), (example.completion, True))
                found.append(ShownText(str(example.place), pieces))
        return found[:count]


def _embedder_folder(context: StepContext) -> Path:
    return context.folder / "classifier" / "embedder"


def _of_training(tuned: Tuned) -> dict[str, Any]:
    """What training the embedder took, as `StepOutcome` has it."""
    return {"loop_s": tuned.seconds, "trained_tokens": tuned.tokens, "trainable_share": 1.0}


def _tuning_table(tuned: Tuned) -> dict[str, Any]:
    names = ["before", *(f"epoch {number}" for number in range(1, len(tuned.scores)))]
    return {
        "kind": "table",
        "title": "The embedder on the labels: validation examples whose label's mean is nearest",
        "columns": ["weights", "share", ""],
        "rows": [
            [name, round(score, 4), "used" if number == tuned.kept else ""]
            for number, (name, score) in enumerate(zip(names, tuned.scores, strict=True))
        ],
    }


def _prompts(examples: Sequence[Example]) -> list[Prompt]:
    return [example.prompt for example in examples]


def _head(features: Any, examples: Sequence[Example], task: Task, seed: int) -> Head:
    """The head for the examples' labels, of which an answer has one, or where the task separates them several."""
    labels = [str(example.label) for example in examples]
    if task.label_separator:
        return fit_head_of_several(features, [split_labels(own, task.label_separator) for own in labels], seed)
    return fit_head(features, labels, seed)


def _answers(head: Head, features: Any, task: Task) -> list[str]:
    found = (chosen_labels(head, logs)[0] for logs in head.log_probabilities(features))
    return [join_labels(own, task.labels, task.label_separator) for own in found]
