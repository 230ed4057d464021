"""Handing an approach over as a folder that plain transformers and PEFT load."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import RunError
from luthier.infer.engine import Engine
from luthier.model.load import load_model, load_tokenizer
from luthier.progress import Progress
from luthier.record import predictor_to_json
from luthier.runner.folder import read_jsonl, write_json, write_text
from luthier.runner.open import OpenRun
from luthier.types import ModelRef, Predictor

# How far a label's log-probability may move, in nats: rounding between precisions and batchings.
_LOGPROB_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how the exported model answered again.

    Attributes:
        checked: Test examples that were answered again.
        agreeing: Those with the same answer as in the run.
    """

    folder: Path
    kind: str
    checked: int
    agreeing: int


def export(run: OpenRun, to: Path, *, merge: bool, card: str, check: int, progress: Progress) -> Exported:
    """Write the approach's model to the folder `to`, load it from there, and answer test prompts again.

    Args:
        merge: Write a whole model, the adapter merged in; else the adapter, where there is one alone.
        card: The model card, as Markdown.
        check: How many of the run's test prompts are answered again.

    Raises:
        RunError: The folder is not empty, or the exported model answers differently.
    """
    if to.exists() and any(to.iterdir()):
        raise RunError(f"{to} is not empty. Choose a new folder with --to, or empty this one.")
    work = to.with_name(f".{to.name}.writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        ref, kind = _write(run, work, merge)
        write_text(work / "README.md", card)
        write_json(work / "luthier.json", _prompting(run))
        checked, agreeing = _answer_again(run, ref, check, progress)
        if agreeing < checked:
            raise RunError(
                f"the exported model gives another answer to {checked - agreeing} of {checked} test prompts than "
                f"{run.name} did in the run; nothing was exported. Please report this with the run folder."
            )
        if to.exists():
            to.rmdir()
        work.rename(to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(to, kind, checked, agreeing)


def _write(run: OpenRun, folder: Path, merge: bool) -> tuple[ModelRef, str]:
    """Write the weights and the tokenizer; give what loads them, and what they are."""
    ref = run.predictor.model
    tokenizer = load_tokenizer(ref.base)
    if len(ref.adapters) == 1 and not merge:
        for file in Path(ref.adapters[0]).iterdir():
            if file.suffix in (".safetensors", ".json"):
                shutil.copy2(file, folder / file.name)
        _name_base(folder / "adapter_config.json", run)
        tokenizer.save_pretrained(folder)
        return ModelRef(ref.base, (str(folder),)), "adapter"
    model = load_model(ref, device="cpu", precision="float32")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelRef(str(folder)), "model"


def _name_base(config: Path, run: OpenRun) -> None:
    """Let the adapter name its base as others can find it: the hub id, or the folder on this machine."""
    row = json.loads(config.read_text(encoding="utf-8"))
    named = run.study.model
    is_hub_id = (
        "/" in named and not Path(run.predictor.model.base).is_relative_to(Path.cwd()) and not Path(named).exists()
    )
    row["base_model_name_or_path"] = named if is_hub_id else run.predictor.model.base
    write_json(config, row)


def _prompting(run: OpenRun) -> dict[str, Any]:
    """How the model is to be asked: wording, shots, decoding and labels, which are no part of its weights."""
    row = predictor_to_json(run.predictor, run.folder.path)
    del row["model"]
    return {"approach": run.name, "labels": list(run.labels), **row}


def _answer_again(run: OpenRun, ref: ModelRef, check: int, progress: Progress) -> tuple[int, int]:
    """Answer test prompts with the exported model, exactly as they were sent in the run."""
    rows = read_jsonl(run.folder.approach(run.name) / "predictions.jsonl")
    rows = [row for row in rows if row["task"] == run.about["target"]][:check]
    engine = Engine(run.about["device"], run.about["precision"])
    from luthier.types import Message, Prompt

    prompts = [
        Prompt(row["id"], row["task"], tuple(Message(**m) for m in row["messages"]), {}, fingerprint=row["id"])
        for row in rows
    ]
    # The messages carry wording and shots already.
    predictor = Predictor(ref, run.predictor.decoding)
    with progress.track("answering again with the exported model", len(prompts)) as advance:
        answers = engine.answer(predictor, prompts, run.labels, advance=advance)
    agreeing = sum(
        answer.text == row["completion"] or _is_tie(answer.label_logprobs, row["label_logprobs"])
        for answer, row in zip(answers, rows, strict=True)
    )
    return len(rows), agreeing


def _is_tie(now: Any, then: Any) -> bool:
    """Whether two choices differ only because rounding decided between equals."""
    if not now or not then:
        return False
    return all(abs(now[label] - then[label]) <= _LOGPROB_TOLERANCE for label in now)
