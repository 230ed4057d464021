"""What an approach that changed weights forgot: general probes, and the tasks beside the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from luthier.evaluate.forgetting import ProbeResult, compare_probes
from luthier.evaluate.metrics import METRICS, score
from luthier.record import predictor_to_json
from luthier.runner.fitted import Fitted, Stage
from luthier.runner.folder import read_json, write_json
from luthier.runner.harness import HarnessTasks
from luthier.runner.keys import examples_key, key_of
from luthier.runner.measure import Bench, ask_harness, probe
from luthier.types import Task

BASE = "the base model"


def general_changes(
    name: str, fitted: Fitted, base: Fitted, bench: Bench, harness: HarnessTasks | None, seed: int
) -> list[dict[str, object]]:
    """How the general probes changed from the approach's base; nothing where the model that they ask did not."""
    if fitted.predictor.model == base.predictor.model:
        return []
    before = probe(base, base.key, bench, "before training")
    after = probe(fitted, fitted.key, bench, name)
    if harness is not None:
        before += ask_harness(harness, base, base.key, bench, "before training")
        after += ask_harness(harness, fitted, fitted.key, bench, name)
    return compare_probes(before, after, seed)


def task_changes(name: str, fitted: Fitted, base: Fitted, bench: Bench, seed: int) -> list[dict[str, object]]:
    """How the loss of the references of each task that is no target changed, on the examples kept apart.

    Of a task that the approach learned in a step before its last one it is the change since that step, and of every
    other the change from the base; both as the approach words the task's prompts.

    Returns:
        As `compare_probes` gives them, with `since`.
    """
    own = Stage("", (), fitted.key, fitted.predictor.model, fitted.predictor.routes)
    untouched = Stage(BASE, (), base.key, base.predictor.model)
    found = []
    for task_name in bench.examples:
        if task_name in bench.targets:
            continue
        learned = next((n for n, stage in enumerate(fitted.stages) if task_name in stage.learned), None)
        since = untouched if learned is None or learned == len(fitted.stages) - 1 else fitted.stages[learned]
        if since.routes.get(task_name, since.model) == own.routes.get(task_name, own.model):
            continue
        before, after = (_losses(name, stage, fitted, bench.tasks[task_name], bench) for stage in (since, own))
        (change,) = compare_probes([before], [after], seed)
        found.append({**change, "since": BASE if since is untouched else f"{since.step} on it"})
    return found


def _losses(name: str, stage: Stage, fitted: Fitted, task: Task, bench: Bench) -> ProbeResult:
    """A model's loss on each example of a task, asked as the approach asks, from the folder where it is there."""
    examples = bench.examples[task.name]
    asked = replace(fitted.predictor, model=stage.model, routes=stage.routes).asked(task, bench.target)
    file = bench.folder.probe(_key(stage, fitted, task, bench))
    if not file.is_file():
        with bench.progress.track(f"{name}: what is left of {task.name}", len(examples)) as advance:
            logprobs = bench.engine.reference_logprobs(asked, examples, advance=advance)
        loss = METRICS["loss"]
        scores = [
            score(loss, example.completion, example, task.labels, {}, own)
            for example, own in zip(examples, logprobs, strict=True)
        ]
        write_json(file, [own.value for own in scores])
    return ProbeResult(task.name, "loss", False, tuple(read_json(file)))


def _key(stage: Stage, fitted: Fitted, task: Task, bench: Bench) -> str:
    asked: dict[str, Any] = predictor_to_json(fitted.predictor, bench.folder.path)
    del asked["model"], asked["routes"]
    return key_of(
        model=stage.key,
        asked=asked,
        task=task.name,
        target=bench.target,
        labels=task.labels,
        examples=examples_key(bench.examples[task.name]),
    )
