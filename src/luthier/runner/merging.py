"""What merges take by themselves, reckoned before they are done; what they merge is trained, and counted, elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from luthier.model.load import count_parameters, empty_model, load_config
from luthier.runner.prepare import Prepared
from luthier.settings import closed
from luthier.steps import MergeStep, SftStep
from luthier.steps.adapters import Lora
from luthier.steps.merge import models_of
from luthier.types import prompted


@dataclass(frozen=True, slots=True)
class PlannedMerge:
    """One merge.

    Attributes:
        bytes: Of memory.
        stored_bytes: Of disk.
    """

    seconds: float
    bytes: int
    stored_bytes: int


def planned_merges(name: str, prepared: Prepared, trained_bytes: Mapping[str, int]) -> Iterator[PlannedMerge]:
    """All merges of an approach, every value of an open setting one.

    Args:
        trained_bytes: Approach → bytes of all that is trained for it.
    """
    from luthier.model.merge import merging_speed

    study = prepared.study
    approach = study.approaches[name]
    for step in (one for own in approach.steps for one in closed(own) if isinstance(one, MergeStep)):
        base = prompted(prepared.base(name).predictor).model
        whole = count_parameters(empty_model(base))
        models = sum(models_of(study.approaches[used].steps) for used in step.of)
        adapters = all(_adds_lora(used, prepared) for used in step.of)
        width = load_config(base.base).hidden_size
        seconds = whole * merging_speed(step.recipe(models, study.seed), width, adapters=adapters)
        if adapters:
            size = sum(trained_bytes.get(used, 0) for used in step.of)
            yield PlannedMerge(seconds, size, size)
        else:
            yield PlannedMerge(seconds, (models + 1) * whole * 4, whole * 4)


def _adds_lora(name: str, prepared: Prepared) -> bool:
    """Whether LoRA adapters are all that an approach trains."""
    study = prepared.study
    steps = [one for s in study.approaches[name].steps for one in (*s.parts(study.target_name).values(), s)]
    trained = [own for own in steps if own.trains and own.learns]
    return all(isinstance(own, SftStep) and isinstance(own.adapter, Lora) for own in trained)
