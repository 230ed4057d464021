"""Handing an approach over as a folder that others load: a model by plain transformers and PEFT, and what answers in a
model's place by what its card says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, RunError
from luthier.evaluate.metrics import METRICS, score
from luthier.infer.engine import Engine
from luthier.model.classify import as_sequence_classifier, saved_labels
from luthier.model.load import load_model, load_tokenizer
from luthier.model.part import is_part
from luthier.model.whole import write_whole
from luthier.progress import Progress
from luthier.prompt.passages import without_citations
from luthier.record import predictor_to_json
from luthier.retrieve.index import copy_index
from luthier.runner.folder import read_jsonl, write_json, write_text
from luthier.runner.open import OpenRun
from luthier.types import Example, Message, ModelRef, Place, Predictor, Prompt, PromptedModel

# Largest difference of a label's log-probability that rounding in float32 explains.
_LOGITS_DIFFER = 1e-2


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how the exported model did on test examples of the run.

    Attributes:
        kind: `adapter`, `model` for a whole one, `classifier` for one with a classification head, or `files` for what
            answers in a model's place.
        checked: Test examples that were answered again; the model from the run and the exported one agree on all.
        metric: The deciding metric.
        score: Its value on them with the exported model, `score_in_run` as it was in the run.
    """

    folder: Path
    kind: str
    checked: int
    metric: str
    score: float | None
    score_in_run: float | None


def export(
    run: OpenRun, to: Path, *, merge: bool, card: Callable[[str, str], str], check: int, progress: Progress
) -> Exported:
    """Write what answers for the approach to the folder `to`, load it from there, and score test examples again.

    Args:
        merge: Write a whole model, the adapter merged in; else the adapter, where there is one alone.
        card: Gives the model card, as Markdown, for the kind of what is written and how it is used, where that is no
            matter of the kind alone.
        check: How many of the run's test examples are answered again.

    Raises:
        RunError: The folder is not empty, the exported model answers differently, or a whole model was asked for and
            cannot be had.
    """
    to = to.resolve()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RunError(f"{to} is not empty. Choose a new folder with --to, or empty this one.")
    work = to.with_name(f".{to.name}.exporting")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        predictor = run.predictor
        if isinstance(predictor, PromptedModel) and predictor.model.head is not None:
            write_text(work / "README.md", card("classifier", ""))
            write_json(work / "luthier.json", _prompting(run, predictor, work))
            done = _write_classifier(run, predictor, work, to, check, progress)
        elif isinstance(predictor, PromptedModel):
            ref, kind = _write(run, predictor.model, work, merge)
            write_text(work / "README.md", card(kind, ""))
            write_json(work / "luthier.json", _prompting(run, predictor, work))
            # The messages of the run's answers carry wording, shots and passages already.
            own, exported = (PromptedModel(model, predictor.decoding) for model in (predictor.model, ref))
            done = _score_again(run, own, exported, kind, to, check, progress)
        else:
            done = _write_files(run, work, to, merge, card, check, progress)
        if to.exists():
            to.rmdir()
        work.rename(to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def _write_classifier(
    run: OpenRun, predictor: PromptedModel, work: Path, to: Path, check: int, progress: Progress
) -> Exported:
    """Write a model with a classification head as transformers' own class, whole, and see that it answers alike.

    Raises:
        RunError: It answers otherwise, beyond what another precision explains.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    ref = predictor.model
    assert ref.head is not None
    model = load_model(ref, device="cpu", precision="float32")
    as_sequence_classifier(model).save_pretrained(work)
    load_tokenizer(ref.base).save_pretrained(work)
    rows, prompts = _answered(run, check)
    with progress.track("answering with the exported model", len(prompts)) as advance:
        # In the precision that is exported; the messages carry wording and shots already.
        asked = PromptedModel(ref, replace(predictor.decoding, answer="choose"))
        answers = Engine("cpu", "float32").answer(asked, prompts, run.labels)
        wanted = [[(answer.label_logprobs or {})[label] for label in saved_labels(ref.head)] for answer in answers]
        exported = AutoModelForSequenceClassification.from_pretrained(work)
        rendered = run.engine.render(PromptedModel(ref.writing, predictor.decoding), prompts, reserve=0)
        texts = []
        for own, logs in zip(rendered, wanted, strict=True):
            with torch.inference_mode():
                found = exported(input_ids=torch.tensor([own.ids])).logits[0].log_softmax(-1)
            if float((found - torch.tensor(logs)).abs().max()) > _LOGITS_DIFFER:
                raise RunError(
                    f"the exported model gives other probabilities to test prompt {own.id} than the model of "
                    f"{run.name} does; nothing was exported. Please report this with the run folder."
                )
            texts.append(exported.config.id2label[int(found.argmax())])
            advance(1)
    metric = run.about["tasks"][run.task_name]["metric"]
    scores = _mean_score(run, metric, rows, texts), _mean_of_rows(metric, rows)
    return Exported(to, "classifier", len(rows), metric, *scores)


def _write_files(
    run: OpenRun, work: Path, to: Path, merge: bool, card: Callable[[str, str], str], check: int, progress: Progress
) -> Exported:
    """Export what answers in a model's place."""
    if merge:
        raise RunError(f"{run.name} trained no adapter, so there is nothing to merge; export it without --merge.")
    exported = run.predictor.export(work, run.engine)
    write_text(work / "README.md", card("files", exported.usage()))
    write_json(work / "luthier.json", {"approach": run.name, "labels": list(run.labels)})
    again = 0 if run.predictor.reads_columns else check
    return _score_again(run, run.predictor, exported, "files", to, again, progress)


def _write(run: OpenRun, ref: ModelRef, folder: Path, merge: bool) -> tuple[ModelRef, str]:
    """Write the weights and the tokenizer; give what loads them, and what they are."""
    tokenizer = load_tokenizer(ref.base)
    base_is_ours = Path(ref.base).is_relative_to(
        run.folder.path.resolve()
    )  # tuned by an earlier step: nobody else has it
    if len(ref.adapters) == 1 and not merge and not base_is_ours and not is_part(ref.adapters[0]):
        for file in Path(ref.adapters[0]).iterdir():
            if file.suffix in (".safetensors", ".json"):
                shutil.copy2(file, folder / file.name)
        config = folder / "adapter_config.json"
        row = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, {**row, "base_model_name_or_path": _name_of_base(run, ref)})
        tokenizer.save_pretrained(folder)
        return ModelRef(ref.base, (str(folder),)), "adapter"
    try:
        return write_whole(ref, folder), "model"
    except ModelError as error:
        raise RunError(
            f"{run.name} cannot be exported as a whole model: {error}. An approach of this one step is exported "
            "without --merge; of others, answer with `luthier predict`."
        ) from error


def _name_of_base(run: OpenRun, ref: ModelRef) -> str:
    """The base as others can find it: its Hugging Face id, or the folder on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    base = Path(ref.base)
    from_hub = base.resolve().is_relative_to(Path(HF_HUB_CACHE).resolve())
    named = run.study.approaches[run.name].model or run.study.model
    return named if from_hub and named is not None else str(base)


def _prompting(run: OpenRun, predictor: PromptedModel, folder: Path) -> dict[str, Any]:
    """How the model is to be asked: wording, shots, passages, decoding and labels, which are no part of its weights.

    The index and what was trained to search it are copied into the folder; their names are relative to it.
    """
    row = predictor_to_json(predictor, run.folder.path)
    del row["kind"], row["model"], row["routes"], row["task_shots"]
    if predictor.retrieval is not None:
        for name in ("index", "embedder", "reranker"):
            own = getattr(predictor.retrieval, name)
            if own is not None and Path(own).is_relative_to(run.folder.path.resolve()):
                copy = copy_index if name == "index" else shutil.copytree
                copy(Path(own), folder / "retrieval" / name)
                row["retrieval"][name] = f"retrieval/{name}"
        row["retriever"] = row["reranker"] = None  # said by the retrieval
    return {"approach": run.name, "labels": list(run.labels), **row}


def _score_again(
    run: OpenRun, own: Predictor, exported: Predictor, kind: str, to: Path, check: int, progress: Progress
) -> Exported:
    """Answer test prompts, exactly as they were sent in the run, with what the run has and with what was exported.

    Both answer the same batches, so that rounding cannot tell them apart; the run itself may have batched otherwise,
    so against it the scores are compared.
    """
    rows, prompts = _answered(run, check)
    texts, retrieval = [], run.predictor.retrieval if isinstance(run.predictor, PromptedModel) else None
    cites = retrieval is not None and retrieval.cite
    for what, predictor in (("the run's", own), ("the exported", exported)):
        with progress.track(f"answering with {what}", len(prompts)) as advance:
            answers = run.engine.answer(predictor, prompts, run.labels, advance=advance)
        texts.append(
            [
                without_citations(answer.text, len(row["passages"]))[0] if cites else answer.text
                for answer, row in zip(answers, rows, strict=True)
            ]
        )
    differing = sum(a != b for a, b in zip(*texts, strict=True))
    if differing:
        raise RunError(
            f"the exported model gives another answer to {differing} of {len(rows)} test prompts than the model of "
            f"{run.name} does; nothing was exported. Please report this with the run folder."
        )
    metric = run.about["tasks"][run.task_name]["metric"]
    return Exported(to, kind, len(rows), metric, _mean_score(run, metric, rows, texts[1]), _mean_of_rows(metric, rows))


def _answered(run: OpenRun, check: int) -> tuple[list[dict[str, Any]], list[Prompt]]:
    """The first of the run's answers, and their prompts exactly as they were sent."""
    rows = read_jsonl(run.folder.approach(run.name) / "predictions.jsonl")
    rows = [row for row in rows if row["task"] == run.task_name][:check]
    prompts = [
        Prompt(row["id"], row["task"], tuple(Message(**m) for m in row["messages"]), {}, fingerprint=row["id"])
        for row in rows
    ]
    return rows, prompts


def _mean_score(run: OpenRun, metric: str, rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> float | None:
    """The metric over answers with the rows' references; None where only the run itself can compute it."""
    if metric not in METRICS or METRICS[metric].needs_logprobs:
        return None
    values = []
    options = run.task.metric_options.get(metric, {})
    for row, text in zip(rows, texts, strict=True):
        prompt = Prompt(row["id"], row["task"], (), {}, fingerprint=row["id"])
        example = Example(prompt, row["references"][0], tuple(row["references"]), row["label"], Place(row["place"]))
        values.append(score(metric, text, example, run.labels, options).value)
    scored = [value for value in values if value is not None]
    return sum(scored) / len(scored) if scored else None


def _mean_of_rows(metric: str, rows: Sequence[dict[str, Any]]) -> float | None:
    scored = [row["scores"][metric] for row in rows if row["scores"][metric] is not None]
    return sum(scored) / len(scored) if scored else None
