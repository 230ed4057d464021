"""What each approach scores on validation, by which the pair is chosen that the verdict asks about, before the test is
opened."""

from __future__ import annotations

from collections.abc import Mapping

from luthier.runner.apply import Workshop
from luthier.runner.fitted import Fitted
from luthier.runner.fold import validated
from luthier.runner.keys import key_of, training_key
from luthier.runner.prepare import Prepared
from luthier.study import Study

Validation = Mapping[str, float]


def asked_on_validation(study: Study) -> tuple[str, ...]:
    """The approaches that stand for election: of each kind where there is more than one of it, and all where a small
    model is trained, which stands against those that train nothing and those that train the language model."""
    kinds = [own.training for own in study.approaches.values()]
    if "small model" in kinds and len(kinds) > 1:
        return tuple(study.approaches)
    return tuple(name for name, own in study.approaches.items() if kinds.count(own.training) > 1)


def on_validation(prepared: Prepared, fitted: Mapping[str, Fitted], shop: Workshop) -> Validation:
    """Their scores, turned so that more is better."""
    return {name: target_score(prepared, fitted[name], shop, name)[0] for name in asked_on_validation(prepared.study)}


def target_score(prepared: Prepared, own: Fitted, shop: Workshop, name: str) -> tuple[float, ...]:
    """What an approach scores on the target's validation, as choices compare it; what was scored when settings were
    chosen is not asked again."""
    lesson = prepared.target_lesson
    learned = prepared.lesson(own.applied[-1]).tasks if own.applied else ()
    # A step that learned the target has its data in its key; others keep a file for each target.
    targets = key_of(
        targets=[training_key(task) for task in lesson.tasks], metrics=[metric.name for metric in lesson.metrics]
    )
    file = "validation" if learned == lesson.tasks else f"validation-{targets}"
    metrics, _ = validated(own, lesson, shop, f"{name}: validation", file)
    return lesson.score_of(metrics)
