"""`interpolate`: a model between one before a training and the one that it ended with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.errors import TrainingError
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.types import ModelRef, Predictor, PromptedModel, Training, prompted

if TYPE_CHECKING:
    from luthier.model.blend import Blend

Part = Annotated[float, Field(ge=0, le=1)]


class InterpolateStep(Step):
    """Go back a part of the way to the model before training, to keep more of what it could do.

    Every weight becomes a mean of the two models' (WiSE-FT, Wortsman et al. 2022); of LoRA this is its update scaled.
    What is gained at each point is measured on validation, and what is forgotten on general text that no probe holds,
    or on the validation of an earlier task; and both are drawn.
    """

    trains: ClassVar[bool] = True
    training: ClassVar[Training] = "language model"
    learns: ClassVar[bool] = False

    step: Literal["interpolate"] = "interpolate"
    back_to: Literal["start", "stage"] = "start"
    """The model before training: `start` is the one that the approach began from, `stage` the one before the last step
    that changed weights, with which the steps before it stay as they are."""
    at: Part | Literal["best"] = "best"
    """How far to go: 0 is the model before training, 1 the trained one. `best`: the point with the best validation
    score (the nearest to the start of equals) among those that forget no more than is allowed."""
    points: tuple[Part, ...] = (0.25, 0.5, 0.75, 1.0)
    """Where the curve is measured; the start is measured in any case."""
    remember: str | None = None
    """The task whose validation loss says what is forgotten. Default: general text."""
    forget_at_most: Annotated[float, Field(gt=0)] | None = None
    """For `at: best`: how much that loss may rise over the model before, as a share (0.02 is two per cent). Default:
    any."""

    @model_validator(mode="after")
    def _no_limit_where_nothing_is_chosen(self) -> InterpolateStep:
        if self.at != "best" and self.forget_at_most is not None:
            raise ValueError("forget_at_most chooses among points, and at is given; leave one of them out")
        return self

    @property
    def rehearses(self) -> tuple[str, ...]:
        """The task by which forgetting is measured."""
        return () if self.remember is None else (self.remember,)

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """There must be a training to go back from, and it must have changed the model's own weights."""
        if not any(step.trains for step in before):
            return ["step: interpolate goes back from what was trained, and no step before it trains"]
        return [
            f"step: step {number} of the approach {step.unmergeable}, so interpolate finds no way back from it"
            for number, step in enumerate(before, start=1)
            if step.unmergeable
        ]

    def disk_bytes(self, model_bytes: int) -> int:
        """The whole model, where its weights were trained themselves."""
        return 2 * model_bytes

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Measure the curve, and take the point.

        Raises:
            TrainingError: No weight was trained before.
        """
        from luthier.model.blend import Blend
        from luthier.model.device import peak_bytes, reset_peak
        from luthier.model.load import load_model

        predictor = prompted(predictor)
        near = self._near(context)
        if predictor.model == near:
            raise TrainingError(
                "interpolate comes behind a step that trains; here the model is as it was "
                f"{'loaded' if near == context.start else 'before'}."
            )
        engine, started = context.engine, time.perf_counter()
        engine.release()
        reset_peak(engine.device)
        model, start = (load_model(ref, device=engine.device, precision="float32") for ref in (predictor.model, near))
        blend = Blend(model, start)
        del start
        places = sorted({0.0, *self.points, *(() if self.at == "best" else (self.at,))})
        with context.progress.track("measuring the curve", len(places)) as advance:
            curve = [self._measured(blend, place, predictor, context) for place in places]
            advance(len(places))
        taken = self._taken(curve, context)
        ref = self._kept(blend, taken.at, predictor.model, near, context)
        del blend, model
        engine.release()
        return StepOutcome(
            replace(predictor, model=ref),
            train_s=time.perf_counter() - started,
            peak_bytes=peak_bytes(engine.device),
            results=_pictures(curve, taken, context.lesson.metric_name, self.remember),
            facts={"at": taken.at},
        )

    def _near(self, context: StepContext) -> ModelRef:
        earlier = context.before[:-1] if self.back_to == "stage" else ()
        began = earlier[-1] if earlier else context.start
        assert began is not None, "interpolate works on a language model"
        return began

    def _measured(self, blend: Blend, place: float, predictor: PromptedModel, context: StepContext) -> _Point:
        from luthier.evaluate.forgetting import general_loss
        from luthier.steps.validate import validation_loss

        blend.move(place)
        engine, lesson = context.engine, context.lesson
        if self.remember is None:
            kept = general_loss(lambda texts: engine.text_logprobs(predictor.model, texts, model=blend.model))
        else:
            (task,) = lesson.rehearsed
            kept = validation_loss(engine, predictor.asked(task, lesson.target), task, model=blend.model)
        return _Point(place, lesson.validate(engine, predictor, model=blend.model), kept)

    def _taken(self, curve: Sequence[_Point], context: StepContext) -> _Point:
        if self.at != "best":
            return next(point for point in curve if point.at == self.at)
        allowed = [
            p for p in curve if self.forget_at_most is None or p.kept <= curve[0].kept * (1 + self.forget_at_most)
        ]
        return max(allowed, key=lambda point: context.lesson.score_of(point.metrics)[0])  # the first of equals

    def _kept(self, blend: Blend, at: float, ref: ModelRef, near: ModelRef, context: StepContext) -> ModelRef:
        from luthier.model.adapter import save_full
        from luthier.model.blend import scaled_adapters

        if at == 1.0:
            return ref
        if scaled := scaled_adapters(ref, near, at, context.folder):
            return scaled
        blend.move(at)
        folder = context.folder / "model"
        save_full(blend.model, context.engine.renderer(ref).tokenizer, folder)
        return ModelRef(str(folder))


@dataclass(frozen=True, slots=True)
class _Point:
    """A place on the way: what validation gives there, and the loss of what is to be kept."""

    at: float
    metrics: dict[str, float]
    kept: float


def _pictures(curve: Sequence[_Point], taken: _Point, metric: str, task: str | None) -> dict[str, Any]:
    of = "on general text" if task is None else f"on {task}"
    name, places = metric.replace("_", " "), [point.at for point in curve]
    gained = {"name": f"validation {name}", "x": places, "y": [point.metrics[metric] for point in curve]}
    forgot = {"name": task or "general text", "x": places, "y": [point.kept for point in curve]}
    both = {
        "name": name,
        "x": [point.kept for point in curve],
        "y": [point.metrics[metric] for point in curve],
        "labels": [f"{point.at:g}{', taken' if point is taken else ''}" for point in curve],
        "marked": curve.index(taken),
    }
    shown = {name: metric, "loss": "loss"}  # once where the loss decides
    way = "way from the model before training (0) to the trained one (1)"
    return {
        "gain-against-forgetting": {
            "kind": "series",
            "title": f"Gain against forgetting {of}, from the model before training (0) to the trained one (1)",
            "x_label": f"loss {of}, nats a token (what was forgotten)",
            "y_label": f"{name} on validation",
            "lines": [both],
        },
        "interpolation": {
            "kind": "series",
            "title": "Gain on the way to the trained model",
            "x_label": way,
            "y_label": name,
            "lines": [gained],
        },
        "interpolation-forgetting": {
            "kind": "series",
            "title": f"Loss {of} on the way to the trained model",
            "x_label": way,
            "y_label": "nats a token",
            "lines": [forgot],
        },
        "points": {
            "kind": "table",
            "title": "Points between the model before training and the trained one",
            "columns": ["at", *(f"validation {own}" for own in shown), f"loss {of}", ""],
            "rows": [
                [p.at, *(p.metrics[own] for own in shown.values()), p.kept, "taken" if p is taken else ""]
                for p in curve
            ],
        },
    }
