"""Training examples as the model gets them, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import StudyError
from luthier.progress import Silent
from luthier.runner.prepare import Prepared, prepare
from luthier.settings import closed
from luthier.steps.base import Step, StepContext
from luthier.study import Study
from luthier.types import Predictor


@dataclass(frozen=True, slots=True)
class ShownSequence:
    """A rendered example.

    Attributes:
        pieces: The text of each token, whether it is trained, and whether it is a special token.
    """

    place: str
    pieces: tuple[tuple[str, bool, bool], ...]

    @property
    def tokens(self) -> int:
        return len(self.pieces)

    @property
    def trained(self) -> int:
        return sum(trained for _, trained, _ in self.pieces)


def training_examples(
    study: Study, root: Path, n: int, approach: str | None = None, *, allow_code: bool = False
) -> list[ShownSequence]:
    """The first `n` training examples under an approach's prompts (default: the first that trains).

    Open settings are shown with their first value; no model is loaded.

    Raises:
        StudyError: There is no such approach.
    """
    prepared = prepare(study, root, allow_code=allow_code)
    name = approach or next((name for name, a in study.approaches.items() if a.trains), next(iter(study.approaches)))
    if name not in study.approaches:
        raise StudyError(f"the study has no approach '{name}' (there are: {', '.join(study.approaches)}).")
    predictor = prompting_of(prepared, name)
    loss_on = next((s.loss_on for s in study.approaches[name].steps if s.step == "sft"), "completion")
    renderer = prepared.engine.renderer(predictor.model)
    examples = prepared.target.train[:n]
    shots = prepared.engine.select_shots(predictor, [e.prompt for e in examples])
    return [
        _shown(str(e.place), renderer.training(e, predictor.wording, own, loss_on=loss_on), renderer.tokenizer)
        for e, own in zip(examples, shots, strict=True)
    ]


def prompting_of(prepared: Prepared, name: str) -> Predictor:
    """The predictor of an approach as far as steps that train nothing make it, open settings at their first value."""
    approach = prepared.study.approaches[name]
    predictor = prepared.base(approach.model).predictor
    for step in approach.steps:
        first = next(closed(step))
        assert isinstance(first, Step)
        if first.trains:
            continue
        context = StepContext(
            task=prepared.target,
            metric=prepared.metrics[prepared.target.name][0],
            engine=prepared.engine,
            folder=Path(),
            seed=prepared.study.seed,
            progress=Silent(),
            log=lambda row: None,
        )
        predictor = first.fit(predictor, context).predictor
    return predictor


def _shown(place: str, sequence: Any, tokenizer: Any) -> ShownSequence:
    special = set(tokenizer.all_special_ids)
    pieces = tuple(
        (tokenizer.decode([token]), trained, token in special)
        for token, trained in zip(sequence.ids, sequence.trained, strict=True)
    )
    return ShownSequence(place, pieces)
