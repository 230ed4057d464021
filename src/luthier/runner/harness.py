"""Whole tasks of EleutherAI's lm-evaluation-harness as probes of forgetting; the harness itself asks and scores.

The harness is an extra (`pip install 'luthier[lm-eval]'`). Models are asked as the harness asks them: plain text
without the model's chat template, and without shots unless the task says so.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from luthier.errors import DataError, EvaluationError, StudyError
from luthier.evaluate.forgetting import ProbeResult
from luthier.types import ModelRef

if TYPE_CHECKING:
    from luthier.infer.engine import Engine

_ROWS = 16  # sequences that go through the model at a time


@dataclass(frozen=True, slots=True)
class HarnessTasks:
    """Tasks of the harness, with their data.

    Attributes:
        names: As the study names them.
        loaded: What the harness made of them; a group gives several tasks.
        limit: Examples of each task, the first ones.
    """

    names: tuple[str, ...]
    loaded: Any
    limit: int

    @property
    def key(self) -> dict[str, Any]:
        """What results depend on beside the model."""
        configs = {name: str(task.dump_config()) for name, task in self.loaded["tasks"].items()}
        # A file of the user's own may change and keep its name.
        asked = {name: list(islice(task.eval_docs, self.limit)) for name, task in self.loaded["tasks"].items()}
        return {"tasks": configs, "documents": asked, "limit": self.limit, "lm_eval": version("lm_eval")}


def load_harness(names: Sequence[str], limit: int, root: Path) -> HarnessTasks | None:
    """The tasks with their data; None where the study names none.

    Args:
        names: Of tasks or groups that the harness knows, or YAML files of one's own in its format, which may hold no
            code.
        root: Folder against which the files, and data files that they name, resolve.

    Raises:
        StudyError: The harness is not installed, has no task of a name, or a file is not in its format.
        DataError: The data of a task cannot be had.
    """
    if not names:
        return None
    if find_spec("lm_eval") is None:
        raise StudyError(
            f"forgetting.lm_eval names {', '.join(names)}, and lm-evaluation-harness is not installed. Install it with "
            "pip install 'luthier[lm-eval]', or leave lm_eval out."
        )
    from lm_eval.tasks import TaskManager

    specs = [_from_file(root / name, root) if name.endswith((".yaml", ".yml")) else name for name in names]
    with _quiet():
        # Its own tasks are thousands of files, which files of one's own need not wait for.
        manager = TaskManager(include_defaults=not all(isinstance(spec, dict) for spec in specs))
        for name in names:
            if not name.endswith((".yaml", ".yml")) and name not in manager.all_tasks:
                near = [known for known in manager.all_tasks if name.split("_")[0] in known][:6]
                raise StudyError(
                    f"forgetting.lm_eval: lm-evaluation-harness {version('lm_eval')} has no task or group '{name}'"
                    + (f" (it has: {', '.join(near)}, …)." if near else ".")
                )
        loaded: dict[str, dict[str, Any]] = {"tasks": {}}
        for name, spec in zip(names, specs, strict=True):
            try:
                found = manager.load([spec])["tasks"]
            except Exception as error:  # whatever a task's data set raises
                raise DataError(
                    f"forgetting.lm_eval: '{name}' cannot be loaded: {type(error).__name__}: {error}. Its data set is "
                    "fetched from the Hugging Face Hub at first use, if the task says so; a YAML file of your own may "
                    "name local files."
                ) from error
            loaded["tasks"] |= found
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise StudyError(
                f"forgetting.lm_eval: '{name}' gives one number for all its texts together (perplexity), so two models "
                "cannot be compared in pairs. Leave it out: the loss on general text is measured by default."
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=0)  # all models see the same shots
    return HarnessTasks(tuple(names), loaded, limit)


def harness_probes(tasks: HarnessTasks, ref: ModelRef, engine: Engine) -> list[ProbeResult]:
    """What a model scores on the tasks, each by the first metric that it has a number for with every example.

    Raises:
        EvaluationError: A task gives no number for single examples.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from luthier.model.load import load_model, load_tokenizer, window_of

    engine.release()
    model = load_model(ref, device=engine.device, precision=engine.precision)
    window = window_of(model.config.get_text_config())
    with _quiet():
        asked = HFLM(
            pretrained=model,
            tokenizer=load_tokenizer(ref.base),
            batch_size=_ROWS,
            max_length=window,
            softmax_dtype="float32",
        )
        found = evaluate(asked, tasks.loaded, limit=tasks.limit, bootstrap_iters=0, log_samples=True)
    del model, asked
    engine.release()
    return [
        _result(name, rows, found["higher_is_better"][name])
        for name, rows in found["samples"].items()
        if name in tasks.loaded["tasks"]
    ]


def _result(name: str, rows: Sequence[Mapping[str, Any]], higher_is_better: Mapping[str, bool]) -> ProbeResult:
    first = [row for row in rows if row["filter"] == rows[0]["filter"]]
    first.sort(key=lambda row: int(row["doc_id"]))
    # Of single examples the harness gives as perplexity the log-likelihood; others are taken before it.
    for metric in sorted(first[0]["metrics"], key=lambda own: own == "perplexity"):
        values = [row.get(metric) for row in first]
        if all(isinstance(value, int | float) for value in values):
            numbers = tuple(float(value) for value in values)  # type: ignore[arg-type]
            if metric == "perplexity":
                return ProbeResult(f"lm-eval {name}", "loss", False, tuple(-value for value in numbers))
            return ProbeResult(f"lm-eval {name}", metric, bool(higher_is_better.get(metric, True)), numbers)
    raise EvaluationError(
        f"forgetting.lm_eval: '{name}' has no metric of single examples (found: {', '.join(first[0]['metrics'])}), so "
        "two models cannot be compared in pairs. Leave it out."
    )


def _from_file(file: Path, root: Path) -> dict[str, Any]:
    """A task of one's own, its data files found from the root."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"forgetting.lm_eval: {file} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        if "!function" in str(error):
            raise StudyError(
                f"forgetting.lm_eval: {file} names Python code (!function), which Luthier does not run from a task "
                "file. Write the prompt as a Jinja template."
            ) from error
        raise StudyError(f"forgetting.lm_eval: {file} is not YAML: {error}.") from error
    if not isinstance(config, dict) or "task" not in config:
        raise StudyError(
            f"forgetting.lm_eval: {file} is no task of lm-evaluation-harness: it has no `task:`, its name."
        )
    options = config.get("dataset_kwargs")
    if isinstance(options, dict) and "data_files" in options:
        config["dataset_kwargs"] = {**options, "data_files": _below(options["data_files"], root)}
    return config


def _below(files: Any, root: Path) -> Any:
    """File names with the root before them, in whatever they are held."""
    if isinstance(files, dict):
        return {split: _below(own, root) for split, own in files.items()}
    if isinstance(files, list):
        return [_below(own, root) for own in files]
    return str(root / files)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log, its progress bars and what it prints."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
