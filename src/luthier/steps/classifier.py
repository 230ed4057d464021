"""`classifier`: features of the prompt and a linear head choose among the labels."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from luthier.data.labels import join_labels, split_labels
from luthier.model.embed import DEFAULT_EMBEDDER, forget_embedders
from luthier.prompt.shots import spread_order
from luthier.settings import Choose, Count, Open, values_of
from luthier.simple.classifier import Classifier, write_classifier
from luthier.simple.contrastive import EPOCHS, MOST_COMPARED, MOST_PAIRS
from luthier.simple.encoder import RATES, epochs_for
from luthier.simple.features import Embedding, Encoded, Features, Hidden, Tfidf
from luthier.simple.head import Head, chosen_labels, fit_head, fit_head_of_several, head_of_scores
from luthier.steps.base import ShownText, StepContext, StepForecast, StepOutcome, Tried
from luthier.steps.in_place import UNKNOWN, AnsweringStep, embedding_notes, judged, reading_of, seconds_a_text
from luthier.steps.learning_curve import CurvePoint, curve_result
from luthier.types import Example, Predictor, Prompt, PromptedModel, Task, Training

if TYPE_CHECKING:
    from luthier.model.sentence_trainer import Tuned

Kind = Literal["tfidf", "embedding", "hidden"]
Tune = Literal["none", "contrastive", "full", "lora"]
Texts = Mapping[str, Sequence[Example]]
# About the seconds that a fit takes for each example, label and hundred features, cross-validation included.
_FIT_S = {"tfidf": 4e-5, "embedding": 1.2e-5, "hidden": 3e-5}
# About the seconds that TF-IDF takes for each character, and the features that it makes of a training set.
_CHARACTER_S, _MOST_FEATURES = 2e-6, 100_000
# A text's passes in training, forward and backward; and what training holds, as a multiple of the weights.
_PASSES, _TRAINED = 3, 6.0


@dataclass(frozen=True, slots=True)
class _Fit:
    """Features and head of each task, and how they do on validation.

    Attributes:
        tuned: What each training of an embedder or encoder came to, by a name; none where nothing was trained for it.
        embedder: What embeds, as the study names it or the folder of the one that was trained.
    """

    kind: Kind | Literal["encoder"]
    parts: Mapping[str, tuple[Features, Head]]
    score: tuple[float, float]
    tried: Tried
    tuned: Mapping[str, Tuned]
    embedder: str


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
    tune: Open[Tune] = "none"
    """What is trained on the labels first. `contrastive`: the embedder, so that texts of one label come near each other
    (SetFit, Tunstall et al. 2022); kept if it is better on validation. `full` and `lora`: an encoder with a head of its
    own (Devlin et al. 2019), all of it or adapters, at the better of three learning rates; `features` have no meaning
    then."""
    encoder: str = DEFAULT_EMBEDDER
    """What `full` and `lora` train: a folder, a built-in name (minilm-l6), or the Hugging Face id of an encoder."""
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
        found = (self.embedder,) if "embedding" in self._kinds else ()
        return (*found, self.encoder) if self._of_encoder else found

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        """The features that a head is fitted on; none where the encoder has one of its own."""
        return () if len(self._of_encoder) == len(values_of(self.tune)) else values_of(self.features)

    @property
    def _of_encoder(self) -> tuple[Literal["full", "lora"], ...]:
        """The ways in which an encoder is trained."""
        return tuple(own for own in values_of(self.tune) if own in RATES)

    @model_validator(mode="after")
    def _what_is_tuned_is_an_embedder(self) -> ClassifierStep:
        if "contrastive" in values_of(self.tune) and "embedding" not in self._kinds:
            raise ValueError("tune: contrastive trains the embedder, and features has no embedding; name it there")
        return self

    def check(self, task: Task) -> list[str]:
        """It needs labels."""
        if not task.labels:
            return [f"classifier chooses among labels, and task '{task.name}' has none; use nearest, or give labels."]
        if task.label_separator and self._of_encoder:
            return [
                f"tune: {self._of_encoder[0]} learns one label an answer, and task '{task.name}' has several; use none "
                "or contrastive."
            ]
        if self.is_changed("encoder") and not self._of_encoder:
            return ["encoder names what tune: full and tune: lora train, and tune is neither."]
        most = max((*self.learning_curve, self.examples or 0))
        if most > len(task.train):
            return [f"{most} training examples are asked for; task '{task.name}' has {len(task.train)}."]
        return []

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Fit a head on each kind of features, or train an encoder, and keep what does best on validation."""
        started = time.perf_counter()
        notes: list[str] = []
        taught = {task.name: self._taught(task, context.seed) for task in context.lesson.tasks}
        kept = context.folder / "classifier"
        shutil.rmtree(kept, ignore_errors=True)  # of a fit that was interrupted
        fits = self._all_fits(predictor, taught, context, kept / "tried", notes)
        best = max(fits, key=lambda one: one.score)  # the first of equals
        answering = self._written(best, predictor, kept)
        shutil.rmtree(kept / "tried", ignore_errors=True)
        notes += [
            f"{len(head.labels):,} labels and {len(taught[name]):,} examples are too many for logistic regression; "
            "labels are told apart by the means of their examples"
            for name, (_, head) in best.parts.items()
            if head.kind == "means"
        ]
        rows = tuple(Tried(one.tried.settings, one.tried.score, one.tried.seconds, one is best) for one in fits)
        return StepOutcome(
            answering,
            train_s=time.perf_counter() - started,
            search_s=sum(one.seconds for one in rows if not one.taken),
            tried=rows if len(rows) > 1 else (),
            taken={} if best.kind == "encoder" else {"features": best.kind},
            peak_bytes=max((own.peak_bytes for one in fits for own in one.tuned.values()), default=0),
            **_of_training(best),
            results={_table_name(name): _tuning_table(best.kind, own) for name, own in best.tuned.items()},
            facts={
                **best.tried.settings,
                "examples": {name: len(own) for name, own in taught.items()},
                "heads": {name: {"kind": own.kind, "strength": own.strength} for name, (_, own) in best.parts.items()},
                "best_score": best.score,
                "kept_epoch": {name: own.kept for name, own in best.tuned.items()},
                "seconds": best.tried.seconds,
            },
            warnings=tuple(notes),
        )

    def _written(self, fit: _Fit, predictor: Predictor, folder: Path) -> Classifier:
        """Write what was fitted into a folder; what answers with it."""
        heads = {}
        for number, (name, (features, head)) in enumerate(fit.parts.items()):
            heads[name] = str(folder / str(number))
            write_classifier(Path(heads[name]), features, head)
        embedder = fit.embedder
        if embedder != self.embedder:
            shutil.move(embedder, folder / "embedder")
            embedder = str(folder / "embedder")
            forget_embedders()
        return Classifier(
            heads=heads,
            embedder=embedder,
            model=predictor if fit.kind == "hidden" and isinstance(predictor, PromptedModel) else None,
            threshold=self.threshold,
            otherwise=self.otherwise,
        )

    def _taught(self, task: Task, seed: int) -> list[Example]:
        return list(task.train if self.examples is None else spread_order(task.train, seed)[: self.examples])

    def _all_fits(
        self, predictor: Predictor, taught: Texts, context: StepContext, work: Path, notes: list[str]
    ) -> list[_Fit]:
        """All that validation chooses among.

        Args:
            work: Where what is trained is written.
        """
        if self._of_encoder:
            self._note_what_the_encoder_reads(taught, context, notes)
            return [self._fit_of_encoder(rate, taught, context, work / f"{rate:g}") for rate in RATES[str(self.tune)]]
        kinds = self._seen(taught, context, notes)
        return [own for kind in kinds for own in self._fits(kind, predictor, taught, context, work, notes)]

    def _seen(self, taught: Texts, context: StepContext, notes: list[str]) -> tuple[Kind, ...]:
        """The kinds of features, without embeddings of a language that the embedder does not know."""
        kinds = self._kinds
        for task in context.lesson.tasks if "embedding" in kinds else ():
            texts = _read(task, taught[task.name])
            found, knows = embedding_notes(context.engine.embedder(self.embedder), self.embedder, texts)
            notes += found
            if not knows and "tfidf" in kinds:
                kinds = tuple(kind for kind in kinds if kind != "embedding")
        return kinds

    def _note_what_the_encoder_reads(self, taught: Texts, context: StepContext, notes: list[str]) -> None:
        from luthier.model.encoder import how_read

        for task in context.lesson.tasks:
            texts = _read(task, taught[task.name])
            cut, unknown = how_read(context.engine.embedder(self.encoder).folder, texts)
            if cut:
                notes.append(
                    f"{cut} of {len(texts)} training prompts are longer than {self.encoder} reads; it sees their "
                    "beginning"
                )
            if unknown > UNKNOWN:
                notes.append(
                    f"{self.encoder} has no token for {100 * unknown:.0f}% of the words, so it does not know the "
                    "language. Name an encoder that knows it with encoder."
                )
            _note_empty(texts, notes)

    def _tuned(self, taught: Texts, context: StepContext, output: Path, notes: list[str]) -> Tuned | None:
        """What training the embedder on the labels of all tasks together came to; None where they leave nothing to
        learn."""
        from luthier.simple.contrastive import tune_on_labels

        texts, labels, held = [], [], []
        for task in context.lesson.tasks:
            texts += _read(task, taught[task.name])
            labels += [f"{task.name}/{example.label}" for example in taught[task.name]]
            asked = zip(_read(task, task.validation), task.validation, strict=True)
            held += [(text, f"{task.name}/{own.label}") for text, own in asked]
        _note_empty(texts, notes)
        counts = Counter(labels)
        if len(counts) < 2 or max(counts.values()) < 2:
            notes.append("the embedder is not trained: that takes two labels, and two examples of one of them")
            return None
        if single := sum(count == 1 for count in counts.values()):
            notes.append(f"{single} labels have one example each, which the embedder cannot bring near another")
        base = context.engine.embedder(self.embedder).folder
        context.engine.release()
        return tune_on_labels(
            base,
            texts,
            labels,
            held,
            output,
            context.seed,
            context.engine.device,
            lambda steps: context.progress.track("training the embedder on the labels", steps),
        )

    def _fit_of_encoder(self, rate: float, taught: Texts, context: StepContext, work: Path) -> _Fit:
        """An encoder trained for each task at a learning rate."""
        from luthier.model.sentence_trainer import TuningSettings
        from luthier.simple.encoder import BATCH, WARMUP, tune_encoder

        started = time.perf_counter()
        base = context.engine.embedder(self.encoder).folder
        context.engine.release()
        described = f"training the encoder ({self.tune}, learning rate {rate:g})"
        parts: dict[str, tuple[Features, Head]] = {}
        texts, tuned = {}, {}
        nats: list[float] = []
        for number, task in enumerate(context.lesson.tasks):
            examples, output = taught[task.name], work / str(number)
            labels = _labels(examples)
            tuned[task.name], own = tune_encoder(
                base,
                _read(task, examples),
                labels,
                list(zip(_read(task, task.validation), _labels(task.validation), strict=True)),
                output,
                TuningSettings(epochs_for(len(examples)), BATCH, rate, WARMUP, context.seed, context.engine.device),
                lambda steps: context.progress.track(described, steps),
                lora=self.tune == "lora",
            )
            features, head = Encoded(reading_of(task), str(output)), head_of_scores(sorted(set(labels)))
            parts[task.name] = (features, head)
            nats.append(own)
            texts[task.name] = _answers(head, features.matrix(_prompts(task.validation), context.engine), task)
        settings = {"tune": self.tune, "learning_rate": rate}
        found = self._fit("encoder", settings, parts, texts, context, time.perf_counter() - started, tuned)
        return replace(found, score=(found.score[0], sum(nats) / len(nats)))  # between equals the likelier answers

    def _fits(
        self,
        kind: Kind,
        predictor: Predictor,
        taught: Texts,
        context: StepContext,
        work: Path,
        notes: list[str],
    ) -> list[_Fit]:
        """A fit on one kind of features; of hidden states one for each layer and pooling."""
        if kind == "hidden":
            return self._fits_on_states(predictor, taught, context)
        started = time.perf_counter()
        tuned, embedder = None, self.embedder
        if kind == "embedding" and self.tune == "contrastive":
            tuned = self._tuned(taught, context, work / "embedder", notes)
            if tuned is not None and tuned.kept:
                embedder = str(work / "embedder")
        parts, texts = {}, {}
        for task in context.lesson.tasks:
            examples, reading = taught[task.name], reading_of(task)
            prompts = [example.prompt for example in examples]
            features: Features = Tfidf.fitted(reading, prompts) if kind == "tfidf" else Embedding(reading, embedder)
            seen, held = (features.matrix(own, context.engine) for own in (prompts, _prompts(task.validation)))
            head = _head(seen, examples, task, context.seed)
            parts[task.name], texts[task.name] = (features, head), _answers(head, held, task)
        settings = {"features": kind} if tuned is None else {"features": kind, "tune": "contrastive"}
        trained = {} if tuned is None else {"": tuned}
        seconds = time.perf_counter() - started
        return [self._fit(kind, settings, parts, texts, context, seconds, trained, embedder)]

    def _fits_on_states(self, predictor: Predictor, taught: Texts, context: StepContext) -> list[_Fit]:
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
                    features = Hidden.fitted(asked[task.name], layer, pooling, seen, _prompts(taught[task.name]))
                    head = _head(features.scaled(seen), taught[task.name], task, context.seed)
                    parts[task.name] = (features, head)
                    texts[task.name] = _answers(head, features.scaled(held), task)
                settings = {"features": "hidden", "layer": layer, "pooling": name}
                seconds = shared_s + time.perf_counter() - started
                found.append(self._fit("hidden", settings, parts, texts, context, seconds))
        return found

    def _fit(
        self,
        kind: Kind | Literal["encoder"],
        settings: Mapping[str, Any],
        parts: Mapping[str, tuple[Features, Head]],
        texts: Mapping[str, Sequence[str]],
        context: StepContext,
        seconds: float,
        tuned: Mapping[str, Tuned] = MappingProxyType({}),
        embedder: str | None = None,
    ) -> _Fit:
        score = context.lesson.score_of(judged(context.lesson, texts))
        tried = Tried(settings, context.lesson.metric_of(score), seconds, False)
        return _Fit(kind, parts, score, tried, tuned, embedder or self.embedder)

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
            with tempfile.TemporaryDirectory() as work:
                if self._of_encoder:
                    fits = [part._fit_of_encoder(facts["learning_rate"], taught, context, Path(work))]
                else:
                    fits = part._fits(facts["features"], predictor, taught, context, Path(work), [])
            score = max(own.score for own in fits)
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
        if self._of_encoder:
            return self._forecast_of_encoder(context, texts, examples, asked)
        fit_s = sum((examples + asked) * a_text[kind] + examples * labels * _FIT_S[kind] for kind in self._kinds)
        last = self._kinds[-1]
        features = _MOST_FEATURES if "tfidf" in self._kinds else 1024
        peak_bytes, stored_bytes = 8.0 * (examples * 2000 + labels * features), 4.0 * labels * features
        if self.tune == "contrastive":  # both texts of a pair; each epoch is validated
            text_s, weights = a_text.get("embedding", 0.0), _weights(context.engine.embedder(self.embedder).folder)
            fit_s += EPOCHS * min(MOST_PAIRS, examples * labels) * 2 * _PASSES * text_s
            fit_s += (EPOCHS + 1) * (min(examples, MOST_COMPARED) + asked) * text_s
            peak_bytes, stored_bytes = max(peak_bytes, _TRAINED * weights), stored_bytes + weights
        return StepForecast(fit_s, a_text[last], alone[last], peak_bytes=peak_bytes, stored_bytes=stored_bytes)

    def _forecast_of_encoder(
        self, context: StepContext, texts: Sequence[str], examples: int, asked: int
    ) -> StepForecast:
        embedder = context.engine.embedder(self.encoder)  # the same body, whatever stands on it
        text_s, alone_s = seconds_a_text(embedder, texts)
        an_epoch = (_PASSES * examples + asked) * text_s
        weights = _weights(embedder.folder)
        return StepForecast(
            fit_s=len(RATES[str(self.tune)]) * epochs_for(examples) * an_epoch,
            request_s=text_s,
            alone_s=alone_s,
            peak_bytes=_TRAINED * weights,
            stored_bytes=weights,
        )

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        found = []
        for task in context.lesson.tasks:
            reading = reading_of(task)
            for example in self._taught(task, context.seed)[:count]:
                pieces = ((reading.text(example.prompt), False), ("\n→ ", False), (example.completion, True))
                found.append(ShownText(str(example.place), pieces))
        return found[:count]


def _of_training(fit: _Fit) -> dict[str, Any]:
    """What was trained, and what that took, as `StepOutcome` has it."""
    kept = [own for own in fit.tuned.values() if own.kept]
    heads = sum(int(head.weights.size) + head.bias.size for _, head in fit.parts.values() if head.kind != "own")
    trained, every = (
        heads + sum(numbers) for numbers in ([own.parameters for own in kept], [own.all_parameters for own in kept])
    )
    return {
        "loop_s": sum(own.seconds for own in fit.tuned.values()),
        "trained_tokens": sum(own.tokens for own in fit.tuned.values()),
        "trainable_parameters": trained,
        "trainable_share": trained / every if kept else 0.0,
    }


def _table_name(name: str) -> str:
    return f"tuning-{name}" if name else "tuning"


def _tuning_table(kind: str, tuned: Tuned) -> dict[str, Any]:
    what = (
        "The encoder on the labels: validation examples answered rightly"
        if kind == "encoder"
        else "The embedder on the labels: validation examples whose label's mean is nearest"
    )
    names = ["before", *(f"epoch {number}" for number in range(1, len(tuned.scores)))]
    return {
        "kind": "table",
        "title": what,
        "columns": ["weights", "share", ""],
        "rows": [
            [name, round(score, 4), "used" if number == tuned.kept else ""]
            for number, (name, score) in enumerate(zip(names, tuned.scores, strict=True))
        ],
    }


def _weights(folder: Path) -> float:
    """Bytes of a model's weights."""
    return float(sum(file.stat().st_size for file in folder.glob("*.safetensors")))


def _read(task: Task, examples: Sequence[Example]) -> list[str]:
    """What is read of the examples' prompts."""
    reading = reading_of(task)
    return [reading.text(example.prompt) for example in examples]


def _note_empty(texts: Sequence[str], notes: list[str]) -> None:
    if empty := sum(not text.strip() for text in texts):
        notes.append(f"{empty} of {len(texts)} training prompts are empty, and are all alike to what is trained")


def _prompts(examples: Sequence[Example]) -> list[Prompt]:
    return [example.prompt for example in examples]


def _labels(examples: Sequence[Example]) -> list[str]:
    return [str(example.label) for example in examples]


def _head(features: Any, examples: Sequence[Example], task: Task, seed: int) -> Head:
    """The head for the examples' labels, of which an answer has one, or where the task separates them several."""
    labels = _labels(examples)
    if task.label_separator:
        return fit_head_of_several(features, [split_labels(own, task.label_separator) for own in labels], seed)
    return fit_head(features, labels, seed)


def _answers(head: Head, features: Any, task: Task) -> list[str]:
    found = (chosen_labels(head, logs)[0] for logs in head.log_probabilities(features))
    return [join_labels(own, task.labels, task.label_separator) for own in found]
