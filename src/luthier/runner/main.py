"""The main path: a study becomes a run folder.

Data are read and checked, each approach is folded, and only when every choice has been made is the test split opened;
then the approaches are compared and the result is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.busy import BUSY_CORES, busy_note
from luthier.compare.comparison import compare
from luthier.compare.power import minimum_detectable_difference
from luthier.compare.quantities import listed
from luthier.errors import RunError
from luthier.progress import Progress, Silent
from luthier.record import predictor_to_json
from luthier.runner.apply import Workshop
from luthier.runner.chosen import Validation, on_validation
from luthier.runner.describe import data_report, example_counts, machine, seen_elsewhere, text_warnings
from luthier.runner.divergence import measure_divergence
from luthier.runner.fitted import Fitted
from luthier.runner.floors import measure_floors, unanswered_floors
from luthier.runner.fold import fold
from luthier.runner.folder import RunFolder, append_jsonl, read_json, read_jsonl, write_json, write_text
from luthier.runner.forgotten import general_changes, task_changes
from luthier.runner.grounding import diagnose, grounding_of
from luthier.runner.harness import HarnessTasks, load_harness
from luthier.runner.keys import examples_key, key_of, versions
from luthier.runner.left_out import left_out
from luthier.runner.measure import Bench, is_answered, measure, result_of, speeds_in
from luthier.runner.prepare import Prepared, prepare
from luthier.runner.repeats import Handed, fold_repeats, hand_over, seeds_of, unanswered_repeats, with_repeats
from luthier.runner.revision import measure_revision
from luthier.runner.seals import seal
from luthier.runner.stages import has_stages, stage_matrices
from luthier.study import QuickStudy, Study, quick_study, study_as_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        comparison: The contents of `comparison.json`.
    """

    folder: Path
    comparison: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """What to do, and the evidence."""
        return f"{self.comparison['headline']} {self.comparison['verdict']}"

    @property
    def recommended(self) -> str | None:
        return self.comparison["recommended"]  # type: ignore[no-any-return]

    def frame(self) -> pd.DataFrame:
        """The approaches as a data frame, best first, costs in columns."""
        import pandas as pd

        rows = [
            {k: row[k] for k in ("name", "n", "metric", "mean", "low", "high", "unscored", "total_s")} | row["cost"]
            for row in self.comparison["approaches"]
        ]
        return pd.DataFrame(rows).set_index("name")


def run(
    study: Study,
    output: Path | str,
    *,
    root: Path | str = ".",
    study_text: str | None = None,
    allow_code: bool = False,
    validation_only: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a study into the folder `output`; what is there already and still valid is not computed again.

    Args:
        root: Folder against which the study's paths resolve.
        study_text: The study file as it was given, to be kept.
        validation_only: Compare on validation and leave the test split closed, for working on a study.
        quick: Train no language model, and try no settings by asking one; the result says what was given up.
    """
    progress = progress or Silent()
    narrowed = quick_study(study) if quick else None
    study, given_up = (narrowed.study, narrowed.given_up) if narrowed else (study, "")
    folder = RunFolder(Path(output))
    with folder.locked():
        folder.settle_leftovers()
        if narrowed:
            _see_that_no_full_run_is_lost(folder, narrowed)
        started = datetime.now(UTC)
        prepared = prepare(study, Path(root), allow_code=allow_code, indexes=folder.indexes.resolve())
        harness = load_harness(study.forgetting.lm_eval, study.forgetting.lm_eval_limit, Path(root))
        folder.comparison.unlink(missing_ok=True)  # it belongs to the study as it was
        write_json(folder.resolved_study, study_as_json(prepared.study))
        if study_text is not None:
            write_text(folder.study, study_text)
        reports: dict[str, dict[str, Any]] = {
            name: data_report(task, prepared.engine, prepared.language_model) for name, task in prepared.tasks.items()
        }
        write_json(folder.data, reports)
        shop = _workshop(prepared, folder, progress)
        fitted = _fit_all(prepared, shop)
        validation = on_validation(prepared, fitted, shop)
        handed = hand_over(prepared, fitted, fold_repeats(prepared, fitted, shop), shop)
        bench = _bench(prepared, folder, validation_only, progress)
        comparison = _compare(prepared, handed, validation, bench, harness, folder, validation_only)
        write_json(folder.run, _about(prepared, bench, folder, started, reports, validation_only, given_up))
        write_json(folder.comparison, comparison)
    return RunResult(folder.path, comparison)


def _see_that_no_full_run_is_lost(folder: RunFolder, narrowed: QuickStudy) -> None:
    """A quick run writes no comparison over one that holds what it leaves out."""
    if not folder.comparison.is_file():
        return
    there = {row["name"] for row in read_json(folder.comparison)["approaches"]}
    if lost := [name for name in narrowed.left_out if name in there]:
        raise RunError(
            f"{folder.path} holds a full run of this study, with {listed(lost)}, which a quick one would take out of "
            "its comparison. Give the quick run a folder of its own with --output."
        )


def _workshop(prepared: Prepared, folder: RunFolder, progress: Progress) -> Workshop:
    return Workshop(
        lesson=prepared.lesson,
        target=prepared.study.target_name,
        engine=prepared.engine,
        folder=folder,
        seed=prepared.study.seed,
        environment=prepared.environment,
        progress=progress,
        prune=prepared.study.prune,
        library=prepared.library,
        embedder_keys=prepared.embedder_keys,
        step_code=prepared.step_code,
        root=prepared.root,
    )


def _fit_all(prepared: Prepared, shop: Workshop) -> dict[str, Fitted]:
    folder = shop.folder
    fitted: dict[str, Fitted] = {}
    for name in prepared.study.fold_order:
        approach = prepared.study.approaches[name]
        fitted[name] = fold(approach.steps, prepared.base(name), replace(shop, others=fitted), name)
        write_json(folder.approach(name) / "predictor.json", predictor_to_json(fitted[name].predictor, folder.path))
        seal(fitted[name].predictor, name, folder)
    return {name: fitted[name] for name in prepared.study.approaches}


def _bench(prepared: Prepared, folder: RunFolder, validation_only: bool, progress: Progress) -> Bench:
    return Bench(
        tasks=prepared.tasks,
        examples={name: t.validation if validation_only else t.test for name, t in prepared.tasks.items()},
        metrics=prepared.metrics,
        metric_code=prepared.metric_code,
        target=prepared.study.target_name,
        targets=prepared.study.targets,
        engine=prepared.engine,
        folder=folder,
        latency_requests=prepared.study.latency_requests,
        progress=progress,
    )


def _compare(
    prepared: Prepared,
    handed: Handed,
    validation: Validation,
    bench: Bench,
    harness: HarnessTasks | None,
    folder: RunFolder,
    validation_only: bool,
) -> dict[str, Any]:
    study, fitted = prepared.study, handed.fitted
    missing = [name for name in fitted if not is_answered(folder.approach(name), fitted[name], bench)]
    missing += unanswered_repeats(handed.others, bench)
    missing = missing or unanswered_floors(prepared, bench)  # beside an approach they open nothing more
    if missing and not validation_only:
        _enter_in_ledger(folder, bench, missing)

    def forgotten(name: str, title: str, own: Fitted) -> list[dict[str, object]]:
        if not study.forgetting.probe:
            return []
        return general_changes(title, own, prepared.base(name), bench, harness, study.seed)

    for name, own in fitted.items():
        measure(name, own, bench)
    speeds, results = speeds_in([folder.approach(name) for name in fitted]), []
    for name, own in fitted.items():
        start = prepared.base(name)
        general = forgotten(name, name, own)
        elsewhere = task_changes(name, own, start, bench, study.seed) if study.forgetting.probe else []
        changed = own.language_model is not None and own.predictor.models[:1] != start.predictor.models
        # On validation itself the pair is chosen by what is compared.
        chosen_by = None if validation_only else validation.get(name)
        results.append(
            result_of(name, own, bench, general, elsewhere, changes_model=changed, validation=chosen_by, speeds=speeds)
        )
    results = with_repeats(handed.others, results, bench, forgotten)
    comparison: dict[str, Any] = compare(
        results,
        targets=study.targets,
        requests=study.requests,
        margin=study.margin,
        forgetting_limit=study.forgetting.limit,
        seed=study.seed,
        floors=measure_floors(prepared, bench),
        hour_price=study.hour_price,
    )
    comparison["seeds"], more_reasons = seeds_of(handed, results, bench, study.seed)
    comparison["reasons"] += more_reasons
    comparison["split"] = "validation" if validation_only else "test"
    comparison["matrix"] = {
        name: stage_matrices(
            name,
            fitted,
            prepared.base(name),
            bench,
            answers=study.stage_answers,
            seed=study.seed,
        )
        for name, own in fitted.items()
        if has_stages(own, bench)
    }
    comparison |= _grounding(prepared, fitted, bench)
    if study.forgetting.probe:
        bases = {name: prepared.base(name) for name in fitted}
        # After all answers: what is kept meanwhile would count to their peak of memory.
        moved = measure_divergence(fitted, bases, bench, study.seed)
        for row in comparison["approaches"]:
            if row["name"] in moved:
                row["divergence"] = moved[row["name"]]
    costs = {row["name"]: row["cost"] for row in comparison["approaches"]}
    for name, own in fitted.items():
        write_json(
            folder.approach(name) / "approach.json",
            {
                "name": name,
                "steps": list(own.steps),
                "choices": list(own.choices),
                "cost": costs[name],
                "warnings": list(own.warnings),
            },
        )
    return comparison


def _grounding(prepared: Prepared, fitted: Mapping[str, Fitted], bench: Bench) -> dict[str, Any]:
    """What retrieval does in the approaches that retrieve, by their names."""
    grounded, diagnosed, seed, task = {}, {}, prepared.study.seed, prepared.targets[0]
    for name, own in fitted.items():
        if (found := grounding_of(name, own, bench, prepared.library, seed)) is not None:
            grounded[name] = found
        metric = prepared.metrics[task.name][0]
        if (
            prepared.study.diagnose
            and (halves := diagnose(name, own, task, metric, bench, prepared.library, seed)) is not None
        ):
            diagnosed[name] = halves
    revision = prepared.revision
    changed = None if revision is None else measure_revision(revision, fitted, task, bench, prepared.library)
    return {"grounding": grounded, "diagnosis": diagnosed, "revision": changed}


def _enter_in_ledger(folder: RunFolder, bench: Bench, approaches: list[str]) -> None:
    for name, examples in bench.examples.items():
        append_jsonl(
            folder.ledger,
            {
                "opened": datetime.now(UTC).isoformat(timespec="seconds"),
                "task": name,
                "test": examples_key(examples),
                "n": len(examples),
                "approaches": approaches,
            },
        )


def _about(
    prepared: Prepared,
    bench: Bench,
    folder: RunFolder,
    started: datetime,
    reports: Mapping[str, dict[str, Any]],
    validation_only: bool,
    given_up: str,
) -> dict[str, Any]:
    from luthier.model.load import count_parameters, empty_model

    study, base = prepared.study, prepared.language_model
    finished = datetime.now(UTC)
    seconds = (finished - started).total_seconds()
    study_hash = key_of(study=study_as_json(study))
    earlier = read_json(folder.run) if folder.run.is_file() else {}
    if earlier.get("study_hash") == study_hash:  # the same study again: the times add up
        seconds += earlier["seconds"]
    judged = bench.targets[0]
    smallest = len(bench.targets) == 1 and bench.metrics[judged][0].proportion
    tests = {examples_key(task.test) for task in prepared.targets}
    openings = Counter(row["test"] for row in read_jsonl(folder.ledger) if row["test"] in tests)
    warnings = [f"{name}: {warning}" for name, report in reports.items() for warning in report["warnings"]]
    warnings += seen_elsewhere(prepared.tasks, study.learned_tasks)
    warnings += text_warnings(prepared.texts.values(), prepared.tasks)
    warnings += left_out(prepared, folder)
    warnings += _not_on_trees(prepared, folder)
    warnings += _said_by_steps(prepared, folder)
    warnings += _beside_other_work(prepared, folder)
    if given_up:
        warnings.insert(0, f"A quick run. {given_up}")
    if validation_only:
        warnings.append(
            "Compared on validation; the test split was not opened. These figures choose, they do not prove."
        )
    return {
        "name": study.name,
        "luthier": versions()["luthier"],
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": seconds,
        "targets": list(bench.targets),
        "model": study.model,
        "model_parameters": None if base is None else count_parameters(empty_model(base.model)),
        "device": prepared.device,
        "precision": prepared.precision,
        "seed": study.seed,
        "machine": machine(),
        "versions": versions(),
        "requests": study.requests,
        "margin": study.margin,
        "tasks": example_counts(prepared.tasks),
        "minimum_detectable": minimum_detectable_difference(len(bench.examples[judged])) if smallest else None,
        "warnings": warnings,
        "test_openings": max(openings.values(), default=0),
        "study_hash": study_hash,
        "root": str(prepared.root),
    }


def _said_by_steps(prepared: Prepared, folder: RunFolder) -> list[str]:
    """What steps left out or could not do as asked, with the approach's name."""
    return [
        f"{name}: {warning}"
        for name in prepared.study.approaches
        for warning in read_json(folder.approach(name) / "approach.json")["warnings"]
    ]


def _beside_other_work(prepared: Prepared, folder: RunFolder) -> list[str]:
    """A warning where other programs took cores while answers were timed."""
    others = {
        name: read_json(folder.approach(name) / "measured.json").get("others", 0.0)
        for name in prepared.study.approaches
    }
    busy = [name for name, cores in others.items() if cores >= BUSY_CORES]
    note = busy_note(max(others.values()), f"answering for {listed(busy)}")
    return [f"{note}; costs of approaches that were timed at other moments compare badly with these"] if note else []


def _not_on_trees(prepared: Prepared, folder: RunFolder) -> list[str]:
    """A warning for each approach whose model was run in padded batches."""
    reasons = {
        name: read_json(folder.approach(name) / "measured.json").get("not_on_tree")
        for name in prepared.study.approaches
    }
    return [
        f"{name}: the model cannot be run on token trees ({reason}); padded batches were used, and nothing was shared"
        for name, reason in reasons.items()
        if reason
    ]
