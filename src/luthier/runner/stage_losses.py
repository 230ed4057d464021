"""The loss of a task's references under one model of an approach, measured once for all that show it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from luthier.evaluate.answer import Answer, LogProb, answer_to
from luthier.evaluate.metrics import METRICS, score
from luthier.record import predictor_to_json
from luthier.runner.fitted import Stage
from luthier.runner.folder import read_json, write_json
from luthier.runner.keys import examples_key, key_of
from luthier.runner.measure import Bench
from luthier.types import Predictor, Score, Task, prompted


def stage_losses(what: str, stage: Stage, predictor: Predictor, task: Task, bench: Bench) -> list[tuple[Score, Answer]]:
    """The loss of each example kept apart, in nats a token, from the folder where it is there already.

    Args:
        what: Whose they are, for people.
        stage: The model that is asked.
        predictor: The approach's, which words the prompts.
    """
    examples = bench.examples[task.name]
    file = bench.folder.stage(stage_key(stage, predictor, bench, losses_of=task.name))
    if not file.is_file():
        asked = replace(prompted(predictor), model=stage.model, routes=stage.routes).asked(task, bench.target)
        with bench.progress.track(f"{what}: losses on {task.name}", len(examples)) as advance:
            found = bench.engine.reference_logprobs(asked, examples, advance=advance)
        write_json(file, [asdict(one) for one in found])
    logprobs = [LogProb(**row) for row in read_json(file)]
    return [
        (
            score(METRICS["loss"], example.completion, example, task.labels, {}, logprob),
            answer_to(example, example.completion, task.labels, logprob),
        )
        for example, logprob in zip(examples, logprobs, strict=True)
    ]


def stage_key(stage: Stage, predictor: Predictor, bench: Bench, **more: Any) -> str:
    """The hash of all that a model's losses and answers on the study's tasks depend on.

    Args:
        more: What is measured of it.
    """
    asked = predictor_to_json(predictor, bench.folder.path)
    del asked["model"], asked["routes"]
    return key_of(
        model=stage.key,
        asked=asked,
        target=bench.target,
        examples={name: examples_key(examples) for name, examples in bench.examples.items()},
        decoding={name: asdict(task.decoding) for name, task in bench.tasks.items()},
        labels={name: task.labels for name, task in bench.tasks.items()},
        **more,
    )
