"""How far training moved the model's predictions: on general text, and on the examples kept apart of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from luthier.data.split import subsample
from luthier.evaluate.forgetting import general_text, mean_divergence
from luthier.runner.fitted import Fitted
from luthier.runner.folder import read_json, write_json
from luthier.runner.keys import examples_key, key_of
from luthier.runner.measure import Bench
from luthier.types import Example, ModelRef, PromptedModel, prompted

if TYPE_CHECKING:
    from luthier.infer.divergence import Predictions
    from luthier.prompt.render import TrainingSequence

# Examples of each task, drawn by the seed: what one text more adds to the interval is little by then.
EXAMPLES = 100
GENERAL = "general_text"


def measure_divergence(
    fitted: Mapping[str, Fitted], bases: Mapping[str, Fitted], bench: Bench, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """KL(base‖tuned) in nats a token of each approach whose weights changed, from the folder where it is there already.

    Args:
        bases: For each approach the model that it began from.

    Returns:
        In the form of `divergence` in `comparison.json`.
    """
    known: dict[tuple[ModelRef, tuple[TrainingSequence, ...]], Predictions] = {}
    examples = {task: subsample(own, EXAMPLES, seed, "divergence") for task, own in bench.examples.items()}
    found = {}
    for name, own in fitted.items():
        base = bases[name]
        if own.language_model is None or own.predictor.models == base.predictor.models:
            continue
        file = bench.folder.divergence(_key(own, base, bench, examples))
        if not file.is_file():
            write_json(file, _measured(name, own, base, bench, examples, known))
        learned = {task for stage in own.stages for task in stage.learned}
        found[name] = [
            {"on": on, "learned": on in learned}
            | mean_divergence([row["nats"] for row in rows], [row["tokens"] for row in rows], seed)
            for on, rows in read_json(file).items()
        ]
    return found


def _measured(
    name: str,
    fitted: Fitted,
    base: Fitted,
    bench: Bench,
    examples: Mapping[str, Sequence[Example]],
    known: dict[tuple[ModelRef, tuple[TrainingSequence, ...]], Predictions],
) -> dict[str, list[dict[str, Any]]]:
    """For each set of texts the divergence of each of them.

    Args:
        known: What bases predict, by model and sequences: approaches mostly ask alike, and begin from the same base.
    """
    engine, before, after_all = bench.engine, prompted(base.predictor).model, _writing(fitted)
    asked = _sequences(fitted, bench, examples)
    of_model: dict[ModelRef, list[str]] = {}
    for on in asked:
        of_model.setdefault(after_all.routed(on).model, []).append(on)
    found: dict[str, list[dict[str, Any]]] = {}
    total = 2 * sum(map(len, asked.values()))
    with bench.progress.track(f"{name}: how far its predictions moved", total) as advance:
        for after, names in of_model.items():
            every = tuple(sequence for on in names for sequence in asked[on])
            if (before, every) in known:
                advance(len(every))
            else:
                known[before, every] = engine.predictions(before, every, advance=advance)
            nats = engine.divergences(known[before, every], engine.predictions(after, every, advance=advance))
            rows = iter([asdict(own) for own in nats])
            found |= {on: [next(rows) for _ in asked[on]] for on in names}
    return {on: found[on] for on in asked}


def _writing(fitted: Fitted) -> PromptedModel:
    """The approach's predictor with a model that writes: a classification head has other predictions to compare."""
    predictor = prompted(fitted.predictor)
    return replace(predictor, model=predictor.model.writing)


def _sequences(
    fitted: Fitted, bench: Bench, examples: Mapping[str, Sequence[Example]]
) -> dict[str, list[TrainingSequence]]:
    """What is compared, set by set: general texts, and references after their prompts as the approach words them."""
    engine, predictor = bench.engine, _writing(fitted)
    texts = {GENERAL: engine.text_sequences(predictor.model, general_text())}
    return texts | {
        task: engine.reference_sequences(predictor.asked(bench.tasks[task], bench.target), own)
        for task, own in examples.items()
    }


def _key(fitted: Fitted, base: Fitted, bench: Bench, examples: Mapping[str, Sequence[Example]]) -> str:
    return key_of(
        before=base.key,
        after=fitted.key,
        examples={task: examples_key(own) for task, own in examples.items()},
        target=bench.target,
    )
