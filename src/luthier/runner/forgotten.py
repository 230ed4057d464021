"""What an approach that changed weights forgot: general probes, and the tasks beside the target."""

from __future__ import annotations

from luthier.evaluate.forgetting import ProbeResult, compare_probes
from luthier.runner.fitted import Fitted, Stage
from luthier.runner.harness import HarnessTasks
from luthier.runner.measure import Bench, ask_harness, probe
from luthier.runner.stage_losses import stage_losses

BASE = "the base model"


def general_changes(
    name: str, fitted: Fitted, base: Fitted, bench: Bench, harness: HarnessTasks | None, seed: int
) -> list[dict[str, object]]:
    """How the general probes changed from the approach's base; nothing where the model that they ask did not,
    or where no language model answers."""
    own, start = fitted.language_model, base.language_model
    if own is None or start is None or own.model == start.model:
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
    if fitted.language_model is None or base.language_model is None:
        return []
    own = Stage("", (), fitted.key, fitted.language_model.model, fitted.language_model.routes)
    untouched = Stage(BASE, (), base.key, base.language_model.model)
    found = []
    for task_name in bench.examples:
        if task_name in bench.targets:
            continue
        learned = next((n for n, stage in enumerate(fitted.stages) if task_name in stage.learned), None)
        since = untouched if learned is None or learned == len(fitted.stages) - 1 else fitted.stages[learned]
        if since.routes.get(task_name, since.model) == own.routes.get(task_name, own.model):
            continue
        task = bench.tasks[task_name]
        losses = (stage_losses(name, stage, fitted.predictor, task, bench) for stage in (since, own))
        pairs = [(b.value, a.value) for (b, _), (a, _) in zip(*losses, strict=True)]
        scored = [(b, a) for b, a in pairs if b is not None and a is not None]
        if not scored:
            continue
        before, after = (ProbeResult(task_name, "loss", False, values) for values in zip(*scored, strict=True))
        (change,) = compare_probes([before], [after], seed)
        found.append({**change, "since": BASE if since is untouched else f"{since.step} on it"})
    return found
