"""`merge`: one model out of several, by what each of them changed of the model that all began from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.settings import Choose, Count, Open, given
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.steps.mixture import Mixture, tasks_named
from luthier.steps.route import RouteStep
from luthier.types import ModelRef, Predictor, Training, prompted

if TYPE_CHECKING:
    from luthier.model.merge import Merged, Recipe

Number = Annotated[float, Field(allow_inf_nan=False)]
Density = Annotated[float, Field(gt=0, le=1)]

# Weight of each model where none is given; None for equal shares of one.
_WEIGHT = {"linear": None, "task-arithmetic": 0.4, "ties": 1.0, "dare-linear": None, "dare-ties": 1.0}
_DENSITY = {"ties": 0.2, "dare-linear": 0.1, "dare-ties": 0.1}


class MergeStep(Step):
    """Make one model out of several, without training.

    What counts is what each changed (its task vector) of the model as the steps before left it: the base, or what all
    of them began with where the same steps stand first here too. Plain LoRA adapters become one adapter; where anything
    else was trained, a whole model is kept. Prompts stay those of this approach.
    """

    trains: ClassVar[bool] = True
    training: ClassVar[Training] = "language model"
    learns: ClassVar[bool] = False

    step: Literal["merge"] = "merge"
    of: tuple[str, ...] = Field(min_length=1)
    """The approaches whose models are merged; one that routes stands for the models of its tasks."""
    method: Literal["linear", "task-arithmetic", "ties", "dare-linear", "dare-ties"] = "linear"
    """`linear`: the mean of the models (model soups, Wortsman et al. 2022). `task-arithmetic`: the sum of their
    changes, each times a weight (Ilharco et al. 2023). `ties`: of each change only the largest values, and of those the
    ones that agree with the majority in sign, averaged (TIES, Yadav et al. 2023). `dare-linear`, `dare-ties`: values of
    each change are dropped at random and the rest scaled up, before the sum or the vote (DARE, Yu et al. 2024)."""
    weights: Open[Number | tuple[Number, ...]] | None = None
    """What each model's change is multiplied with: one number for all, or one a model. Those of `linear` sum to 1.
    Default: equal shares of 1 for `linear` and `dare-linear`; 0.4 for `task-arithmetic` and 1 for `ties` (what Yadav et
    al. 2023 take without validation data), and so for `dare-ties`."""
    density: Open[Density] | None = None
    """For `ties` and `dare`: the share of each change's values that is kept, matrix by matrix. Default: 0.2 for `ties`
    (Yadav et al. 2023), 0.1 for `dare` (Yu et al. 2024 drop nine of ten)."""
    rank: Count | None = None
    """For LoRA adapters merged by `ties` or `dare`, whose result has no low rank: the rank of the adapter that comes
    nearest to it, which is kept. Default: the sum of their ranks, by which `linear` and `task-arithmetic` are exact."""
    data: str | Mixture | None = None
    """The task, or tasks, by whose validation open settings are chosen. Default: the target."""

    @model_validator(mode="after")
    def _settings_go_with_the_method(self) -> MergeStep:
        if twice := sorted({name for name in self.of if self.of.count(name) > 1}):
            raise ValueError(f"of names {', '.join(twice)} twice; give it a larger weight instead")
        drops = self.method in _DENSITY
        for name, value in (("density", self.density), ("rank", self.rank)):
            if value is not None and not drops:
                raise ValueError(f"{name} has no meaning with method: {self.method}, which drops nothing; leave it out")
        return self

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The tasks on which open settings are tried."""
        return tasks_named(self.data)

    @property
    def uses(self) -> tuple[str, ...]:
        """The approaches whose models are merged."""
        return self.of

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """There must be two models or more, all of which can be merged, and as many weights."""
        problems = [
            f"of: '{name}' {step.unmergeable}, so it cannot be merged"
            for name, steps in others.items()
            for step in steps
            if step.unmergeable
        ]
        begun = _trainings(before)
        problems += [
            f"of: '{name}' does not begin with the training steps that stand before merge here, so what it changed of "
            "them is not known; let it begin with the same steps, or put merge first"
            for name, steps in others.items()
            if _trainings(steps)[: len(begun)] != begun
        ]
        count = sum(models_of(steps) for steps in others.values())
        if count < 2:
            problems.append(f"of: {', '.join(self.of)} is one model; name two or more")
        for weights in _values(self.weights):
            if isinstance(weights, tuple) and len(weights) != count:
                problems.append(f"weights: {len(weights)} are given, and there are {count} models to be merged")
            elif self.method == "linear" and abs(sum(_each(weights, count)) - 1) > 1e-6:
                total = sum(_each(weights, count))
                problems.append(
                    f"weights: those of a mean sum to 1, and these to {total:g}; with method: task-arithmetic they are "
                    "free"
                )
        return problems

    def described(self) -> dict[str, Any]:
        """The settings with those filled in that follow from the method."""
        own = super().described()
        if self.weights is None:
            own["weights"] = _WEIGHT[self.method] or "equal shares"
        if self.method in _DENSITY:
            own["density"] = own.get("density", _DENSITY[self.method])
        return own

    def disk_bytes(self, model_bytes: int) -> int:
        """The whole model, where its weights were trained themselves."""
        return 2 * model_bytes

    def recipe(self, models: int, seed: int) -> Recipe:
        """How so many models are merged, all settings given."""
        from luthier.model.merge import Recipe

        weight = _WEIGHT[self.method]
        weights = (1 / models if weight is None else weight) if self.weights is None else self.weights
        assert not isinstance(weights, Choose)
        density = _DENSITY.get(self.method, 1.0) if self.density is None else given(self.density)
        return Recipe(self.method, _each(weights, models), density, self.rank, seed)

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with the merged model.

        Raises:
            ModelError: What was trained is no change of the model's own weights.
        """
        from luthier.model.device import peak_bytes, reset_peak
        from luthier.model.merge import merge

        predictor = prompted(predictor)
        started = time.perf_counter()
        context.engine.release()
        reset_peak("cpu")  # where models are merged
        models = self._models(context)
        with context.progress.track("merging", 1) as advance:
            merged = merge(
                list(models.values()),
                predictor.model,
                self.recipe(len(models), context.seed),
                context.engine.renderer(predictor.model).tokenizer,
                context.folder,
            )
            advance(1)
        context.engine.release()
        return StepOutcome(
            replace(predictor, model=merged.ref),
            train_s=time.perf_counter() - started,
            peak_bytes=peak_bytes("cpu"),
            results=_tables(list(models), merged),
            facts={"models": list(models), "rank": merged.rank, "kept": merged.kept},
        )

    def _models(self, context: StepContext) -> dict[str, ModelRef]:
        found = {}
        for name in self.of:
            other = prompted(context.others[name])
            own = {f"{name}, {task}": ref for task, ref in other.routes.items()} or {name: other.model}
            found.update(own)
        return found


def models_of(steps: Sequence[Step]) -> int:
    """How many models an approach of these steps gives to merge."""
    return next((len(step.routed) for step in steps if isinstance(step, RouteStep)), 1)


def _trainings(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.trains]


def _each(weights: float | tuple[float, ...], models: int) -> tuple[float, ...]:
    return weights if isinstance(weights, tuple) else (float(weights),) * models


def _values(setting: Any) -> tuple[Any, ...]:
    if setting is None:
        return ()
    return tuple(setting.choose) if isinstance(setting, Choose) else (setting,)


def _tables(names: Sequence[str], merged: Merged) -> dict[str, Any]:
    found = {
        "agreement": {
            "kind": "table",
            "title": "How far the merged models' changes agree",
            "columns": ["of", "and", "cosine of the two changes", "share of weights changed in opposite directions"],
            "rows": [[names[own.first], names[own.second], own.cosine, own.opposite] for own in merged.agreements],
        }
    }
    if merged.kept is not None:
        found["kept"] = {
            "kind": "table",
            "title": "What an adapter of this rank keeps of the merged change",
            "columns": ["rank", "share kept (of the squared norm)"],
            "rows": [[merged.rank, merged.kept]],
        }
    return found
