"""Applying a step to what the steps before it gave: computed once, kept in the run folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from luthier.errors import RunError
from luthier.progress import Progress
from luthier.record import places_of, predictor_from_json, predictor_to_json, with_models
from luthier.runner.curves import curves
from luthier.runner.fitted import Fitted, Spent, Stage
from luthier.runner.folder import (
    RunFolder,
    append_jsonl,
    bytes_below,
    free_bytes,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from luthier.runner.keys import key_of, text_key, training_key
from luthier.runner.pruning import MedianRule, track_of
from luthier.settings import clipped
from luthier.steps.base import Step, StepContext, StepOutcome, Tried
from luthier.steps.lesson import Lesson, TextLesson
from luthier.train.checkpoint import Score, checkpoint_step, drop_checkpoint
from luthier.train.outcome import GivenUp, TrainingOutcome
from luthier.types import ModelRef, Predictor, PromptedModel, prompted

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.retrieve.library import Library

# Stands in a step's folder where its training was given up, beside what it logged.
_GIVEN_UP = "given_up.json"
# What folders of weights begin with, in a step's folder.
_WEIGHTS = ("adapter", "part", "model", "retriever", "reranker", "nearest", "classifier", "head", "rule")


@dataclass(frozen=True, slots=True)
class Workshop:
    """What folding needs beside the approach: what steps learn from, the engine, the folder.

    Attributes:
        lesson: Gives what a step learns from.
        target: The task that steps learn from where they name none; `mean` where there are several.
        others: What the step or the approach may use, by name: approaches that were folded before.
        embedder_keys: Hashes of the embedders and cross-encoders that steps begin with, by name.
        step_code: Hashes of the files of functions that steps name, by name.
        root: The study's folder.
        prune: Whether settings that do badly are given up before their training is over.
        draw: Whether steps draw what takes further work, such as a learning curve.
    """

    lesson: Callable[[Step], Lesson]
    target: str
    engine: Engine
    folder: RunFolder
    seed: int
    environment: Mapping[str, str]
    progress: Progress
    library: Library | None = None
    others: Mapping[str, Fitted] = field(default_factory=dict)
    embedder_keys: Mapping[str, str] = field(default_factory=dict)
    step_code: Mapping[str, str] = field(default_factory=dict)
    root: Path = Path()
    prune: bool = True
    draw: bool = True


class CandidateGivenUp(Exception):
    """A candidate's training was ended by the rule.

    Attributes:
        key: Of what it would have come to.
        best: The best score that it had come to.
        evaluation: The number of the evaluation that ended it, from 1.
    """

    def __init__(self, key: str, spent: Spent, best: Score, evaluation: int) -> None:
        super().__init__(key)
        self.key, self.spent, self.best, self.evaluation = key, spent, best, evaluation


def apply_step(
    step: Step, before: Fitted, start: ModelRef | None, shop: Workshop, name: str, rule: MedianRule | None = None
) -> Fitted:
    """The step's result, from the folder where it is there already.

    Raises:
        CandidateGivenUp: The rule ended its training, now or when it was done.
    """
    settings = step.model_dump(mode="json")
    lesson = shop.lesson(step)
    parts = {
        part: apply_step(own, before, start, shop, f"{name} {part}") for part, own in step.parts(shop.target).items()
    }
    others = {**{used: shop.others[used] for used in step.uses}, **parts}
    shop = replace(shop, others=others)
    # The target's data stand in the base's key.
    seen = (*lesson.tasks, *lesson.rehearsed)
    data = {task.name: training_key(task) for task in seen if task.name != shop.target}
    text = text_key(lesson.text) if isinstance(lesson, TextLesson) else ""
    beside = {
        "data": data,
        "text": text,
        "others": {used: own.key for used, own in others.items()},
        "embedders": {embedder: shop.embedder_keys[embedder] for embedder in step.embedders},
        "code": {name: shop.step_code[name] for name in step.code},
    }
    key = key_of(
        before=before.key, settings=_of_key(step, shop.target), seed=shop.seed, **{k: v for k, v in beside.items() if v}
    )
    folder = shop.folder.step(key)
    record = folder / "step.json"
    if rule is not None:
        _see_that_it_may_go_on(folder, key, lesson, rule)
    reused = record.is_file() and _weights_are_there(record, shop)
    if not reused:
        _fit(step, settings, before, start, shop, key, name, rule)
    if shop.draw:
        _draw(step, before, start, shop, folder, name)
    row = read_json(record)
    predictor = _on_base(predictor_from_json(row["predictor"], shop.folder.path), start, shop)
    learned = tuple(task.name for task in lesson.tasks) if step.learns else _learned(others.values())
    stages = before.stages
    if step.trains:
        after = prompted(predictor)
        stages = (*stages, Stage(settings["step"], learned, key, after.model, after.routes))
    spent = {key: _spent(row), **{f"index/{made}": Spent(seconds) for made, seconds in row["indexes"].items()}}
    taken = set(spent)
    spent[f"{key}/tried"] = Spent(row["search_s"])
    done = {
        "hash": key,
        "step": settings["step"],
        "settings": step.described(),
        "reused": reused,
        "seconds": row["seconds"],
    }
    if parts:
        done["parts"] = [{**own.steps[-1], "step": f"{own.steps[-1]['step']} {part}"} for part, own in parts.items()]
    made_of = [before, *others.values()]
    return replace(
        before,
        predictor=predictor,
        key=key,
        spent={at: own for fitted in made_of for at, own in fitted.spent.items()} | spent,
        taken=frozenset().union(*(fitted.taken for fitted in made_of)) | taken,
        trainable_parameters=max(row["trainable_parameters"], *(own.trainable_parameters for own in made_of)),
        trainable_share=max(row["trainable_share"], *(own.trainable_share for own in made_of)),
        stages=stages,
        steps=(*before.steps, done),
        choices=(*before.choices, row["choice"]) if row["choice"] else before.choices,
        applied=(*before.applied, step.with_settings(**row["taken"]) if row["taken"] else step),
        warnings=(*before.warnings, *row["warnings"]),
    )


def _of_key(step: Step, target: str) -> dict[str, Any]:
    """The settings that decide what the step comes to; the target is meant by its name and by none alike."""
    found = step.model_dump(mode="json", exclude=set(step.drawing))
    return {**found, "data": None} if found.get("data") == target else found


def _see_that_it_may_go_on(folder: Path, key: str, lesson: Lesson, rule: MedianRule) -> None:
    """Whether a training that was given up, or is done, would be ended by the rule as it is now.

    What is decided from the evaluations that it logged does not depend on what else the folder holds.
    """
    files = (folder / name for name in ("step.json", _GIVEN_UP))
    record = next((file for file in files if file.is_file()), None)
    if record is None:
        return
    row = read_json(record)
    track = track_of(read_jsonl(folder / "metrics.jsonl"), lesson)
    to_the_end = record.name != _GIVEN_UP and not row["facts"]["stopped_early"]
    number = rule.given_up_at(track[:-1] if to_the_end else track)
    if number is not None:
        raise CandidateGivenUp(key, _spent(row), track[number - 1], number)


def _spent(row: Mapping[str, Any]) -> Spent:
    return Spent(**{part: row[part] for part in ("train_s", "loop_s", "trained_tokens", "peak_bytes", "stored_bytes")})


def _learned(others: Iterable[Fitted]) -> tuple[str, ...]:
    """The tasks that approaches learned from, in whichever step."""
    return tuple(dict.fromkeys(task for own in others for stage in own.stages for task in stage.learned))


def _on_base(predictor: Predictor, start: ModelRef | None, shop: Workshop) -> Predictor:
    """On the base as it lies now: it may have moved since, its content is what the key holds."""
    if start is None:
        return predictor
    base = start.base

    def moved(ref: ModelRef) -> ModelRef:
        return ref if _is_inside(ref.base, shop) else replace(ref, base=base)

    on_base: Predictor = with_models(predictor, moved)
    return on_base


def _is_inside(folder: str, shop: Workshop) -> bool:
    return Path(folder).is_relative_to(shop.folder.path.resolve())


def _weights_are_there(record: Path, shop: Workshop) -> bool:
    """Whether what the step trained, and the index that it made, are still in the run folder."""
    predictor = predictor_from_json(read_json(record)["predictor"], shop.folder.path)
    return all(Path(place).is_dir() for place in places_of(predictor) if _is_inside(place, shop))


def _fit(
    step: Step,
    settings: dict[str, Any],
    before: Fitted,
    start: ModelRef | None,
    shop: Workshop,
    key: str,
    name: str,
    rule: MedianRule | None,
) -> None:
    folder = shop.folder.step(key)
    folder.mkdir(parents=True, exist_ok=True)
    if step.trains:
        _check_room(folder, step, before)
    metrics = folder / "metrics.jsonl"
    done = checkpoint_step(folder)  # rows behind the checkpoint will be written again
    if metrics.is_file():
        write_jsonl(metrics, [row for row in read_jsonl(metrics) if row["step"] <= done])
    started = time.perf_counter()
    shop.progress.say(f"{name}: {short(step)}")
    context = _context(step, before, start, shop, folder)
    if rule is not None:
        context = replace(context, give_up=rule.gives_up)
    try:
        outcome = step.fit(before.predictor, context)
    except GivenUp as given_up:
        _keep_given_up(folder, given_up.outcome, time.perf_counter() - started)
        raise CandidateGivenUp(
            key, _spent(read_json(folder / _GIVEN_UP)), given_up.outcome.best_score, given_up.evaluation
        ) from None
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise RunError(
            f"{folder} cannot be written: {error}. Free some space, or choose another disk with --output; "
            "what is computed is kept."
        ) from error
    _write_results(folder, {**outcome.results, **curves(read_jsonl(metrics))})
    predictor = predictor_to_json(outcome.predictor, shop.folder.path)
    weights = [p for p in folder.iterdir() if p.is_dir() and p.name.split("-")[0] in _WEIGHTS]
    write_json(
        folder / "step.json",
        {
            "step": settings["step"],
            "settings": settings,
            "seed": shop.seed,
            "before": before.key,
            "environment": dict(shop.environment),
            "seconds": time.perf_counter() - started,
            "train_s": outcome.train_s - outcome.search_s,
            "search_s": outcome.search_s,
            "choice": _choice(settings["step"], shop.lesson(step).metric_name, outcome.tried),
            "taken": dict(outcome.taken),
            "warnings": list(outcome.warnings),
            "loop_s": outcome.loop_s,
            "indexes": dict(outcome.indexes),
            "trained_tokens": outcome.trained_tokens,
            "trainable_parameters": outcome.trainable_parameters,
            "trainable_share": outcome.trainable_share,
            "peak_bytes": outcome.peak_bytes,
            "stored_bytes": sum(bytes_below(part) for part in weights) + _beside(step, before, outcome, predictor),
            "facts": dict(outcome.facts),
            "predictor": predictor,
            "drawn": None,
        },
    )
    drop_checkpoint(folder)


def _choice(step: str, metric: str, tried: Sequence[Tried]) -> dict[str, Any] | None:
    """What a step chose by itself, as `approach.json` has it."""
    if not tried:
        return None
    rows = [{**asdict(one), "metric": metric, "given_up_at": None} for one in tried]
    return {"step": step, "tried": rows}


def _draw(step: Step, before: Fitted, start: ModelRef | None, shop: Workshop, folder: Path, name: str) -> None:
    """Add the results that take further work to those of a step that is done; only what is not there is measured."""
    if not step.drawing:
        return
    row = read_json(folder / "step.json")
    wanted = step.model_dump(mode="json", include=set(step.drawing))
    if wanted == row["drawn"]:
        return
    shop.progress.say(f"{name}: further results of {row['step']}")
    _write_results(
        folder, step.more_results(before.predictor, _context(step, before, start, shop, folder), row["facts"])
    )
    write_json(folder / "step.json", {**row, "drawn": wanted})


def _context(step: Step, before: Fitted, start: ModelRef | None, shop: Workshop, folder: Path) -> StepContext:
    return StepContext(
        lesson=shop.lesson(step),
        start=start,
        engine=shop.engine,
        folder=folder,
        seed=shop.seed,
        progress=shop.progress,
        log=lambda row: append_jsonl(folder / "metrics.jsonl", row),
        before=tuple(stage.model for stage in before.stages),
        others={used: own.predictor for used, own in shop.others.items()},
        library=shop.library,
        root=shop.root,
    )


def _write_results(folder: Path, results: Mapping[str, Any]) -> None:
    for name, value in results.items():
        write_json(folder / "results" / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}.json", value)


def _keep_given_up(folder: Path, outcome: TrainingOutcome, elapsed_s: float) -> None:
    """Record what a training took that was given up, loading and what it wrote before included; no weights are kept."""
    spent = Spent(
        train_s=max(elapsed_s, outcome.seconds + outcome.validation_s),  # an interrupted training counts whole
        loop_s=outcome.seconds,
        trained_tokens=outcome.tokens,
        peak_bytes=outcome.peak_bytes,
    )
    write_json(folder / _GIVEN_UP, asdict(spent))
    drop_checkpoint(folder)


def _beside(step: Step, before: Fitted, outcome: StepOutcome, predictor: Mapping[str, Any]) -> int:
    """Bytes of what the step has added beside weights: its pool of shots, its index."""
    if step.trains:
        return 0
    found, after, given = 0, outcome.predictor, before.language_model
    if not isinstance(after, PromptedModel) or given is None:
        return 0
    if (after.shots, after.task_shots) != (given.shots, given.task_shots):
        pools = [own for own in (predictor["shots"], *predictor["task_shots"].values()) if own is not None]
        found += sum(len(json.dumps(own, ensure_ascii=False).encode()) for own in pools)
    retrieval = after.retrieval
    if retrieval is not None and retrieval != given.retrieval:
        found += bytes_below(Path(retrieval.index))
    return found


def _check_room(folder: Path, step: Step, before: Fitted) -> None:
    size = sum(file.stat().st_size for file in Path(prompted(before.predictor).model.base).glob("*.safetensors"))
    needed, free = step.disk_bytes(size), free_bytes(folder)
    if free < needed:
        raise RunError(
            f"the disk of {folder} has {free / 1e6:.0f} MB free, and this training may take {needed / 1e6:.0f} MB with "
            "its checkpoints. Free some space, or choose another disk with --output; what is computed is kept."
        )


def short(step: Step) -> str:
    row = step.model_dump(mode="json", exclude_unset=True)
    kind = row.pop("step", step.model_dump()["step"])
    settings = ", ".join(f"{k} {_in_words(v)}" for k, v in row.items())
    return f"{kind} ({settings})" if settings else str(kind)


def _in_words(value: object) -> str:
    if isinstance(value, dict) and set(value) == {"choose"}:
        value = f"one of {', '.join(map(str, value['choose']))}"
    if isinstance(value, dict) and "kind" in value:
        inner = [f"{k} {v}" for k, v in value.items() if k != "kind"]
        value = f"{value['kind']}: {', '.join(inner)}" if inner else value["kind"]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return clipped(value)
