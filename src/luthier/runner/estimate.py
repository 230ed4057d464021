"""What a study will take, before it is run: a short timing of the model, times the tokens that each part needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import ceil
from statistics import mean
from typing import TYPE_CHECKING

from luthier.busy import OtherWork, busy_note
from luthier.compare.quantities import duration
from luthier.infer.budget import BATCH_TOKENS, MAX_ROWS
from luthier.infer.timing import AnswerSpeed, measure_answering
from luthier.model.load import count_parameters, empty_model, load_config
from luthier.runner.answering import Answering, answering_of
from luthier.runner.chosen import asked_on_validation
from luthier.runner.divergence import EXAMPLES
from luthier.runner.harness import load_harness
from luthier.runner.merging import PlannedMerge, planned_merges
from luthier.runner.prepare import Prepared
from luthier.runner.show import looking_ahead, prompting_of
from luthier.settings import closed
from luthier.steps.adapters import Lora
from luthier.steps.base import Step, StepForecast
from luthier.steps.interpolate import InterpolateStep
from luthier.steps.lesson import Lesson, TextLesson
from luthier.steps.replay import Replay
from luthier.steps.search_tuning import SearchTuningStep
from luthier.steps.training import TrainingStep
from luthier.study import Approach, Study
from luthier.types import PromptedModel, prompted

if TYPE_CHECKING:
    from luthier.prompt.render import TrainingSequence
    from luthier.train.loop import LoopSettings
    from luthier.train.memory import MemoryPlan, TrainingShape
    from luthier.train.timing import TrainingSpeed

# About the tokens of the general probes.
_PROBE_TOKENS = 20000
# About those of them that are general text.
_TEXT_TOKENS = 9000


@dataclass(frozen=True, slots=True)
class ApproachForecast:
    """One approach's share.

    Attributes:
        prompt_tokens: Mean of a request; None where no language model is asked.
        seconds: Of fitting and measuring, further trainings included as often as they are to be expected.
        again_s: Of those, one further training of the language model and what is measured of it.
    """

    name: str
    prompt_tokens: float | None
    seconds: float
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a study will take.

    Attributes:
        stored_bytes: What the run will leave on disk.
        notes: What is not in it, or was in its way, a sentence each.
    """

    approaches: tuple[ApproachForecast, ...]
    peak_bytes: float
    stored_bytes: float
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(approach.seconds for approach in self.approaches)


def forecast(prepared: Prepared) -> Forecast:
    """Time a study's model for a moment, and reckon."""
    others = OtherWork()
    study, base = prepared.study, prepared.language_model
    plans = {
        name: tuple(_trainings(name, approach, prepared))
        for name, approach in study.approaches.items()
        if approach.trains
    }
    speeds = {kind: _training_speed(planned, prepared) for kind, planned in _by_kind(plans).items()}
    speed = None
    asked = base or next((own for name in study.approaches if (own := prepared.base(name).language_model)), None)
    if asked is not None:
        speed = measure_answering(prepared.engine.load(asked.model), MAX_ROWS[prepared.device])
    # Trained weights are kept in float32, those of every value tried.
    trained_bytes = {
        name: sum(planned.shape.trainable * 4 for planned in own if not planned.curve) for name, own in plans.items()
    }
    merges = {name: tuple(planned_merges(name, prepared, trained_bytes)) for name in study.approaches}
    in_place = {name: found for name in study.approaches if (found := _in_the_models_place(name, prepared)) is not None}
    approaches = tuple(
        _forecast_approach(name, prepared, speed, plans.get(name, ()), speeds, merges[name], in_place.get(name))
        for name in study.approaches
    )
    notes = [busy_note(others.cores, "this forecast"), _trained_again(study, approaches)]
    if load_harness(study.forgetting.lm_eval, study.forgetting.lm_eval_limit, prepared.root) is not None:
        notes.append("what forgetting.lm_eval takes is not in this forecast")
    return Forecast(
        approaches=approaches,
        peak_bytes=max(
            [
                *([] if asked is None else [_answering_bytes(asked, prepared)]),
                *(planned.plan.bytes for own in plans.values() for planned in own),
                *(planned.bytes for own in merges.values() for planned in own),
                *(own.peak_bytes for own in in_place.values()),
            ],
            default=0.0,
        ),
        stored_bytes=_stored_bytes(plans, study)
        + sum(planned.stored_bytes for own in merges.values() for planned in own)
        + sum(own.stored_bytes for own in in_place.values()),
        notes=tuple(filter(None, notes)),
    )


def _trained_again(study: Study, approaches: Sequence[ApproachForecast]) -> str:
    """What one more training takes, where finalists are trained more than once."""
    again = [own.again_s for own in approaches if own.again_s > 0]
    if study.seeds == 1 or not again:
        return ""
    several = "" if len(again) == 1 else f" to {duration(max(again))}, whichever does best on validation"
    return (
        f"what trains the language model is trained {study.seeds} times where it is a finalist (seeds), of which each "
        f"further one takes about {duration(min(again))}{several}"
    )


def _answering_bytes(asked: PromptedModel, prepared: Prepared) -> float:
    from luthier.train.memory import answering_bytes

    config, parameters = load_config(asked.model.base), count_parameters(empty_model(asked.model))
    return answering_bytes(config, parameters, prepared.precision, BATCH_TOKENS[prepared.device])


def _in_the_models_place(name: str, prepared: Prepared) -> StepForecast | None:
    """What an approach's last step will take, all its open values together, where it answers in the model's place."""
    steps = prepared.study.approaches[name].steps
    if not steps or not steps[-1].answers:
        return None
    values = [own for own in closed(steps[-1]) if isinstance(own, Step)]
    found = [own.forecast(looking_ahead(prepared, name, own)) for own in values]
    return replace(
        found[0],
        fit_s=sum(own.fit_s for own in found),
        peak_bytes=max(own.peak_bytes for own in found),
        stored_bytes=sum(own.stored_bytes for own in found),
    )


@dataclass(frozen=True, slots=True)
class _Training:
    """A training that a study holds, with what it will compute.

    Attributes:
        number: Of the approach's step that it belongs to, from 0.
        curve: Whether it is a point of a learning curve, which is drawn once, for the settings that are taken.
        trial: Whether it is a short one, by which values are compared.
    """

    number: int
    curve: bool
    trial: bool
    step: TrainingStep
    lesson: Lesson
    predictor: PromptedModel
    sequences: list[TrainingSequence]
    shape: TrainingShape
    plan: MemoryPlan
    settings: LoopSettings


def _trainings(name: str, approach: Approach, prepared: Prepared) -> Iterator[_Training]:
    """All trainings of an approach, every value of an open setting one; planned as the step will plan them."""
    engine, predictor = prepared.engine, prompted(prompting_of(prepared, name))
    candidates = (
        (number, value, one)
        for number, step in enumerate(approach.steps)
        for value, one in enumerate(closed(step))
        if isinstance(one, Step)
    )
    for number, value, candidate in candidates:
        for training in (*candidate.parts(prepared.study.target_name).values(), candidate):
            if not isinstance(training, TrainingStep):
                continue
            # Of values on trial one is trained whole too; which one is not known yet.
            whole = () if training.whole or value else (training,)
            tested = training if training.whole else training.on_trial()
            for own in (tested, *whole, *(() if value else training.smaller)):
                lesson = prepared.lesson(own)
                sequences = own.sequences(predictor, lesson, engine, prepared.study.seed)
                shape = own.training_shape(predictor.model, sequences, engine)
                plan = own.memory_plan(shape, engine)
                settings = own.loop_settings(engine, plan, prepared.study.seed)
                curve = own is not tested and own is not training
                trial = own is tested and own is not training
                yield _Training(number, curve, trial, own, lesson, predictor, sequences, shape, plan, settings)


def _by_kind(plans: Mapping[str, tuple[_Training, ...]]) -> dict[tuple[str, ...], _Training]:
    """One training of each kind whose speed differs: what is trained, of which model, on what, and what holds it."""
    return {_kind(planned): planned for own in plans.values() for planned in own}


def _kind(planned: _Training) -> tuple[str, ...]:
    adapter = planned.step.trained
    variant = adapter.dora if isinstance(adapter, Lora) else getattr(adapter, "type", "")
    step = planned.step
    return type(adapter).__name__, str(variant), str(step.held), planned.predictor.model.base, step.step


def _training_speed(planned: _Training, prepared: Prepared) -> TrainingSpeed:
    from luthier.train.timing import training_speed

    engine = prepared.engine
    engine.release()
    model = planned.step.trainable_model(planned.predictor.model, engine, prepared.study.seed)
    pull = planned.step.pull(model, planned.predictor.model, engine)
    found = training_speed(model, planned.sequences, planned.settings, pull)
    del model, pull
    engine.release()
    return found


def _forecast_approach(
    name: str,
    prepared: Prepared,
    speed: AnswerSpeed | None,
    trainings: tuple[_Training, ...],
    speeds: Mapping[tuple[str, ...], TrainingSpeed],
    merges: tuple[PlannedMerge, ...],
    in_place: StepForecast | None,
) -> ApproachForecast:
    from luthier.train.timing import forecast_seconds

    study = prepared.study
    approach = study.approaches[name]
    common = _done_before(name, study)
    prompting = prompting_of(prepared, name)
    asked = sum(len(own.test) for own in prepared.targets)
    placed_s = 0.0
    if in_place is not None:
        placed_s = in_place.fit_s * (1 + _further_trainings(approach, study))
        placed_s += asked * in_place.request_s + study.latency_requests * in_place.alone_s
    if not isinstance(prompting, PromptedModel) or speed is None:
        return ApproachForecast(name, None, placed_s)
    all_answering = {
        own.name: answering_of(prompting.asked(own, study.target_name), own, prepared, speed, approach.trains)
        for own in prepared.tasks.values()
    }
    judged = [all_answering[task.name] for task in prepared.targets]

    def validating(lesson: Lesson) -> float:
        if isinstance(lesson, TextLesson):
            return _held_out_tokens(lesson, prepared) * (speed.token_s + speed.head_s)
        return sum(
            all_answering[own.name].scoring(metric, len(own.validation))
            for own, metric in zip(lesson.tasks, lesson.metrics, strict=True)
        )

    def training(planned: _Training) -> float:
        seconds = forecast_seconds(speeds[_kind(planned)], planned.sequences, planned.settings)
        seconds += planned.step.evaluations * validating(planned.lesson)
        if planned.step.replays is not None:
            seconds += _writing(planned.step.replays, all_answering, prepared, speed)
        return seconds

    seconds = placed_s
    if in_place is None:
        seconds += sum(all_answering[own.name].together(len(own.test)) for own in prepared.tasks.values())
        seconds += study.latency_requests * mean(own.alone() for own in judged)
    seconds += _on_documents(approach, prepared, common, prompting, all_answering)
    seconds += sum(planned.seconds for planned in merges)
    again = 0.0  # what one more seed takes, at one value of each setting
    for number, step in enumerate(approach.steps):
        values = len(list(closed(step)))
        if number < common or step.answers:
            continue
        own = sum(training(planned) for planned in trainings if planned.number == number and not planned.curve)
        seconds += sum(training(planned) for planned in trainings if planned.number == number and planned.curve)
        seconds += own + (values * validating(prepared.lesson(step)) if values > 1 else 0.0)
        whole = [p for p in trainings if p.number == number and not p.curve and not p.trial]
        again += sum(map(training, whole)) / max(1, len(whole))
        if isinstance(step, InterpolateStep):
            seconds += _measuring_the_curve(step, validating(prepared.lesson(step)), all_answering, prepared, speed)
    if name in asked_on_validation(study):
        seconds += validating(prepared.target_lesson)
    seconds += _stage_by_stage(approach, common, all_answering, prepared)
    if in_place is None:
        seconds += speed.trial_s  # its speed is taken again beside its answers
    if approach.trains and study.seeds > 1:
        again += validating(prepared.target_lesson) + sum(own.together(len(own.task.test)) for own in judged)
        if study.forgetting.probe:
            again += _PROBE_TOKENS * (speed.token_s + speed.head_s)
        seconds += again * _further_trainings(approach, study)
    if approach.trains and study.forgetting.probe:
        seconds += _PROBE_TOKENS * (speed.token_s + speed.head_s)
        # How far predictions moved: with the model before and with the one after.
        seconds += 2 * _TEXT_TOKENS * (speed.token_s + speed.head_s)
        seconds += 2 * sum(own.comparing(min(EXAMPLES, len(own.task.test))) for own in all_answering.values())
    tokens = None if in_place is not None else mean(own.prompt_tokens for own in judged)
    return ApproachForecast(name, tokens, seconds, again if approach.trains and study.seeds > 1 else 0.0)


def _on_documents(
    approach: Approach,
    prepared: Prepared,
    common: int,
    prompting: PromptedModel,
    answering: Mapping[str, Answering],
) -> float:
    """Seconds for embedding documents, for training what searches them, and for telling which half is weak."""
    task = prepared.targets[0]
    if prompting.retrieval is None or task.documents is None:
        return 0.0
    documents = prepared.library.by_document(prompting.retrieval)
    texts = [passage.searched(headings=True) for own in documents.values() for passage in own]
    text_s = prepared.library.seconds_a_text(prompting.retrieval.embedder, texts)
    seconds = text_s * len(texts)
    for number, step in enumerate(approach.steps):
        if isinstance(step, SearchTuningStep) and number >= common:
            seconds += step.seconds(text_s, len(texts), len(task.train), len(task.validation))
    if prepared.study.diagnose:
        seconds += 3 * answering[task.name].together(len(task.validation))
    return seconds


def _measuring_the_curve(
    step: InterpolateStep,
    validating: float,
    answering: Mapping[str, Answering],
    prepared: Prepared,
    speed: AnswerSpeed,
) -> float:
    """Seconds for the points of `interpolate`, which are measured in float32."""
    if step.remember is None:
        remembering = _TEXT_TOKENS * (speed.token_s + speed.head_s)
    else:
        remembering = answering[step.remember].comparing(len(prepared.tasks[step.remember].validation))
    slower = 2 if prepared.precision == "bfloat16" else 1
    return slower * (len(step.points) + 1) * (validating + remembering)


def _stage_by_stage(approach: Approach, common: int, answering: Mapping[str, Answering], prepared: Prepared) -> float:
    """Seconds for the models on the way, on every task: losses of all of them, answers of those before the last."""
    stages = [number for number, step in enumerate(approach.steps) if step.trains]
    if len(stages) < 2 or len(prepared.tasks) < 2:
        return 0.0
    asked = {
        name: min(prepared.study.stage_answers, len(task.test))
        for name, task in prepared.tasks.items()
        if prepared.study.stage_answers and not all(metric.needs_logprobs for metric in prepared.metrics[name])
    }
    losses = sum(own.comparing(len(own.task.test)) for own in answering.values())
    answers = sum(answering[name].together(count) for name, count in asked.items())
    new = [number for number in stages if number >= common]
    return len(new) * losses + (len(new) - 1) * answers if new else 0.0


def _done_before(name: str, study: Study) -> int:
    """Number of steps that an approach before this one begins with as well, so that they are done once."""
    approach = study.approaches[name]
    most = 0
    for other in study.fold_order[: study.fold_order.index(name)]:
        earlier = study.approaches[other]
        if (earlier.model or study.model) == (approach.model or study.model):
            alike = (one == own for one, own in zip(earlier.steps, approach.steps, strict=False))
            most = max(most, sum(1 for _ in takewhile(bool, alike)))
    return most


def _stored_bytes(plans: Mapping[str, tuple[_Training, ...]], study: Study) -> float:
    """Of what is trained, every value of an open setting and every further seed counted."""
    found = 0.0
    for name, own in plans.items():
        common = _done_before(name, study)
        sizes = [(p.shape.trainable * 4, p) for p in own if p.number >= common and not p.curve]
        found += sum(size for size, _ in sizes)
        again = sum(size / len(list(closed(study.approaches[name].steps[p.number]))) for size, p in sizes)
        found += again * _further_trainings(study.approaches[name], study)
    return found


def _further_trainings(approach: Approach, study: Study) -> float:
    """How often an approach is trained again, in the mean: which of its kind are finalists is not known yet."""
    if approach.training == "none":
        return 0.0
    alike = sum(own.training == approach.training for own in study.approaches.values())
    again = alike if study.finalists == "all" else study.finalists if approach.trains else 1
    return (study.seeds - 1) * min(1.0, again / alike)


def _held_out_tokens(lesson: TextLesson, prepared: Prepared) -> int:
    models = (prepared.base(name).language_model for name, own in prepared.study.approaches.items() if own.trains)
    asked = prepared.language_model or next(model for model in models if model is not None)
    renderer = prepared.engine.renderer(asked.model)
    blocks = (renderer.blocks(document.text, "", lesson.block_tokens) for document in lesson.documents.held)
    return sum(len(block.ids) for own in blocks for block in own)


def _writing(replay: Replay, answering: Mapping[str, Answering], prepared: Prepared, speed: AnswerSpeed) -> float:
    """Seconds until the model has written what it will learn along."""
    if replay.task is not None:
        return answering[replay.task].together(min(replay.examples, len(prepared.tasks[replay.task].train)))
    batches = ceil(replay.examples / MAX_ROWS[prepared.device])
    return 2 * batches * replay.decoding(None, 0).max_new_tokens * speed.batch_s  # prompts, then answers
