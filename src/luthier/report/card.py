"""A model card in Markdown, for one approach of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from luthier.report import units
from luthier.report.comparing import difference_to_best, handed_over, probe_unit, target_unit
from luthier.report.floors import scored_floors, unbeaten, unbeaten_floors
from luthier.report.folder import ApproachFolder, Record, RunFolder, read_run

# a Hugging Face id, or the plain name of a model; not a folder on somebody's machine
_MODEL_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def model_card(run_dir: Path, approach: str, kind: str, usage: str = "") -> str:
    """The card of what `approach` produced: how good it is, beside what, and how to use and repeat it.

    The license is left out: it follows from the base model and the data, which the author knows.

    Args:
        kind: What the card lies beside: an `adapter`, a whole `model`, a `classifier` (a model with a classification
            head), or `files` of what answers in a model's place.
        usage: Of such files: Markdown that says how they are loaded.

    Raises:
        RunError: The folder is not a finished run, or has no such approach.
    """
    folder = read_run(run_dir)
    one = folder.approach(approach)
    sections = [
        _header(folder, one, kind),
        f"# {_line(folder.run['name'])}: {_line(approach)}",
        _introduction(folder, one),
        "## How it compares",
        "\n".join(_comparison(folder, approach)),
        "\n".join(_forgetting(folder.row(approach))),
        "## Data",
        "\n".join(_data(folder)),
        "## How it was made",
        "\n".join(_making(folder, one)),
        "## How to use it",
        usage or _usage(folder, one, kind),
        "## Limits",
        "\n".join(_limits(folder, approach)),
        "## How to repeat it",
        _repeating(folder),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _header(folder: RunFolder, one: ApproachFolder, kind: str) -> str:
    """The YAML that the Hugging Face hub reads; each value is written as JSON, which is YAML too."""
    tags = ["luthier", *dict.fromkeys(one.kinds), *(["lora"] if _names_lora(one) else [])]
    if kind == "files":
        return "\n".join(["---", f"tags: {json.dumps(tags, ensure_ascii=False)}", "---"])
    adapted = kind == "adapter"
    model = str(folder.run["model"] or "")
    fields: dict[str, object] = {}
    if _MODEL_ID.fullmatch(model):
        fields["base_model"] = model
    fields |= {
        "library_name": "peft" if adapted else "transformers",
        "pipeline_tag": "text-classification" if kind == "classifier" else "text-generation",
        "tags": tags,
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _split(folder: RunFolder) -> str:
    return str(folder.comparison.get("split", "test"))


def _names_lora(one: ApproachFolder) -> bool:
    adapters = [(step.get("settings") or {}).get("adapter") for step in one.approach["steps"]]
    return any(isinstance(adapter, dict) and adapter.get("kind") == "lora" for adapter in adapters)


def _introduction(folder: RunFolder, one: ApproachFolder) -> str:
    targets, unit, row = folder.comparison["targets"], target_unit(folder.comparison), folder.row(one.name)
    named = f"the task *{_line(targets[0])}*" if len(targets) == 1 else f"the tasks *{_line(', '.join(targets))}*"
    steps, split, model = " → ".join(one.kinds), _split(folder), folder.run["model"]
    reached = handed_over(row)
    made = f"made from {_line(model)} by {steps}" if steps else f"{_line(model)} as it comes"
    if not _asks_model(folder, one):
        made = f"made by {steps} without a language model"
    return (
        f"A model for {named}, {made}. On {units.plural(row['n'], f'{split} example')} it reaches "
        f"**{unit.value(reached['mean'])}** {_line(row['metric'])} (95% interval "
        f"{unit.interval(reached['low'], reached['high'])})."
        f"\n\n> **{_line(folder.comparison['headline'])}** {_line(folder.comparison['verdict'])}"
    )


def _asks_model(folder: RunFolder, one: ApproachFolder) -> bool:
    """Whether the run's language model has a part in its answers."""
    kind, model = one.predictor.get("kind", "prompted model"), one.predictor.get("model")
    return folder.run["model"] is not None and (kind == "prompted model" or model is not None)


def _comparison(folder: RunFolder, approach: str) -> Iterator[str]:
    comparison = folder.comparison
    unit = target_unit(comparison)
    metric = _line(comparison["metric"])
    yield f"All approaches answered the same {units.plural(comparison['n'], f'{_split(folder)} example')}."
    yield ""
    head = ["approach", metric, "95% interval", "n", "to the best", "training", "a request", "prompt tokens", "stored"]
    rows = []
    for row in comparison["approaches"]:
        cost, behind = row["cost"], difference_to_best(comparison, row["name"])
        name = _cell(row["name"])
        rows.append(
            [
                f"**{name}**" if row["name"] == approach else name,
                unit.value(row["mean"]),
                unit.interval(row["low"], row["high"]),
                str(row["n"]) + (f" ({row['unscored']} unscored)" if row.get("unscored") else ""),
                f"{unit.difference(behind['difference'])} {unit.points}".strip() if behind else "best",
                _trained(row),
                units.seconds(cost["seconds_per_request"]),
                units.tokens(cost["prompt_tokens"]),
                units.size(cost["stored_bytes"]),
            ]
        )
    floors = scored_floors(comparison)
    yield from _table(head, [*rows, *(_floor(floor, unit) for floor in floors)])
    if floors:
        yield ""
        yield "Floors are rules that every approach has to beat; they take no part in the ranking."
        yield ""
        yield from (f"- *{_line(floor['name'])}*: {_line(floor['words'])}." for floor in floors)
    for floor, names in unbeaten_floors(comparison).items():
        yield ""
        yield f"Not shown to beat *{_line(floor)}*: {_line(', '.join(names))}."
    reasons = comparison.get("reasons") or ()
    if reasons:
        yield ""
        yield from (f"- {_line(reason)}" for reason in reasons)


def _trained(row: Record) -> str:
    """The seconds of training and search, and what was trained."""
    taken = units.seconds(row["cost"]["train_s"]) if row["cost"]["train_s"] else "none"
    return taken if row["training"] == "none" else f"{taken}, {row['training']}"


def _floor(floor: Record, unit: units.ScoreUnit) -> list[str]:
    """Its row below the approaches, in the columns that it has something for."""
    scored = [unit.value(floor["mean"]), unit.interval(floor["low"], floor["high"]), str(floor["n"])]
    return [f"*{_cell(floor['name'])}* (floor)", *scored, "", "", "", "", ""]


def _forgetting(row: Record) -> Iterator[str]:
    if row.get("forgotten") or row.get("other_tasks"):
        yield "### What it forgot"
        yield ""
        head = ["probe", "metric", "n", "before", "after", "change", "95% interval"]
        rows = []
        for probe in (*(row.get("forgotten") or ()), *(row.get("other_tasks") or ())):
            unit = probe_unit(probe)
            rows.append(
                [
                    _cell(probe["probe"]) + (f", since {_cell(probe['since'])}" if "since" in probe else ""),
                    _cell(probe["metric"]) + ("" if probe.get("higher_is_better", True) else " (lower is better)"),
                    str(probe["n"]),
                    unit.value(probe["before"]),
                    unit.value(probe["after"]),
                    f"{unit.difference(probe['difference'])} {unit.points}".strip(),
                    unit.difference_interval(probe.get("low"), probe.get("high")),
                ]
            )
        yield from _table(head, rows)
    if row.get("divergence"):
        yield ""
        yield "How far its predictions moved: KL divergence from those of the model before training, in nats a token."
        yield ""
        yield from _table(
            ["on", "n", "mean", "95% interval"],
            [
                [
                    _cell(one["on"]),
                    str(one["n"]),
                    units.plain(one["mean"]),
                    units.ScoreUnit(share=False).interval(one["low"], one["high"]),
                ]
                for one in row["divergence"]
            ],
        )


def _data(folder: RunFolder) -> Iterator[str]:
    for task, about in folder.data.items():
        run = folder.run["tasks"].get(task) or {}
        splits = ", ".join(f"{split['n']:,} {name}" for name, split in about["splits"].items())
        labels = f" {len(run['labels'])} labels." if run.get("labels") else ""
        yield f"- *{_line(task)}*: {about['read']:,} rows read; {splits}.{labels}"
        dropped = sum(drop["count"] for drop in about.get("dropped") or ())
        if dropped:
            reasons = "; ".join(f"{_line(drop['reason'])}: {drop['count']:,}" for drop in about["dropped"])
            yield f"  - {units.plural(dropped, 'row')} dropped ({reasons})."
        for pair in about.get("duplicates") or ():
            first, second = pair["between"]
            where = f"within {first}" if first == second else f"between {first} and {second}"
            yield f"  - {units.plural(pair['count'], 'duplicate')} {where}: {_line(pair['done'])}."
        for pair in about.get("near_duplicates") or ():
            count, (first, second) = units.plural(pair["count"], "example"), pair["between"]
            yield f"  - {count} nearly the same between {first} and {second}: {_line(pair['done'])}."


def _making(folder: RunFolder, one: ApproachFolder) -> Iterator[str]:
    if not one.approach["steps"]:
        yield "Nothing was done to the base model."
    for number, step in enumerate(one.approach["steps"], start=1):
        yield f"{number}. **{_line(step['step'])}**, {units.seconds(step['seconds'])}"
        for key, value in units.settings_taken(step.get("settings") or {}).items():
            yield f"   - {_line(key)}: `{_line(value).replace('`', '')}`"
    yield from _which_training(folder, one.name)
    cost = folder.row(one.name)["cost"]
    if cost["trainable_parameters"] and folder.row(one.name)["training"] == "small model":
        yield ""
        yield (
            f"A small model of {units.large(cost['trainable_parameters'])} parameters was trained, with all search in "
            f"{units.seconds(cost['train_s'])}; peak memory {units.size(cost['peak_bytes'])}."
        )
    elif cost["trainable_parameters"]:
        yield ""
        yield (
            f"{units.large(cost['trainable_parameters'])} parameters were trained "
            f"({units.percent(cost['trainable_share'])} of the model) on {units.large(cost['tokens_seen'])} tokens "
            f"in {units.seconds(cost['train_s'])}, {units.seconds(cost['search_s'])} of it for settings not taken; "
            f"peak memory {units.size(cost['peak_bytes'])}."
        )


def _which_training(folder: RunFolder, name: str) -> Iterator[str]:
    """Of several trainings the one that this is."""
    unit = target_unit(folder.comparison)
    for row in (folder.comparison.get("seeds") or {}).get("approaches", ()):
        if row["name"] == name and "handed_over" in row:
            yield ""
            yield (
                f"It was trained {units.plural(len(row['seeds']), 'time')}, each with another seed; this is the "
                f"training with seed {row['handed_over']}, which does best on validation. On the {_split(folder)} "
                f"examples they reach {unit.value(row['mean'])} in the mean ({unit.value(row['least'])} to "
                f"{unit.value(row['most'])})."
            )


def _usage(folder: RunFolder, one: ApproachFolder, kind: str) -> str:
    predictor, adapted = one.predictor, kind == "adapter"
    where = str(folder.run["model"] or "")
    if not adapted:
        where = "path/to/this/folder"
    elif not _MODEL_ID.fullmatch(where):
        where = "path/to/the/base/model"
    of_labels = kind == "classifier"
    loader = "AutoModelForSequenceClassification" if of_labels else "AutoModelForCausalLM"
    lines = ["import torch"] if of_labels else []
    lines += [f"from transformers import {loader}, AutoTokenizer", ""]
    if adapted:
        lines.insert(0, "from peft import PeftModel")
    lines += [
        f"tokenizer = AutoTokenizer.from_pretrained({_python('path/to/this/folder')})",
        f"model = {loader}.from_pretrained({_python(where)})",
    ]
    if adapted:
        lines.append(f"model = PeftModel.from_pretrained(model, {_python('path/to/this/folder')})")
    system = (predictor.get("wording") or {}).get("system")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "…"})
    decoding = predictor.get("decoding") or {}
    limit, drawn = decoding.get("max_new_tokens", 64), "do_sample=False"
    if decoding.get("temperature"):
        drawn = f"do_sample=True, temperature={decoding['temperature']}, top_p={decoding['top_p']}, top_k=0"
    lines += [
        "",
        f"messages = {_python(messages)}",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
    ]
    if of_labels:
        lines += [
            "with torch.no_grad():",
            "    probabilities = model(**inputs).logits[0].softmax(-1)",
            "print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))",
        ]
    else:
        lines += [
            f"output = model.generate(**inputs, max_new_tokens={limit}, {drawn})",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", *_prompt_notes(predictor)])


def _prompt_notes(predictor: Record) -> Iterator[str]:
    """What has to stand around the question so that the figures above hold."""
    template = (predictor.get("wording") or {}).get("template")
    if template:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", template)), default=0))
        yield f"The question is put through this Jinja template:\n\n{fence}jinja\n{template}\n{fence}"
    shots = predictor.get("shots")
    if shots:
        yield (
            f"The figures hold with {units.plural(shots['count'], 'worked example')} in front of the question "
            f"(chosen by {_line(shots['by'])}), as user and assistant turns; they are in `predictor.json`."
        )
    if retrieval := predictor.get("retrieval"):
        yield (
            f"The figures hold with up to {units.plural(retrieval['k'], 'passage')} of the task's documents before the "
            f"question, found by {_line(retrieval['kind'])} search. The index is in `retrieval/`; `luthier.json` says "
            "how it is searched and how passages are shown. Without them the model answers from its weights alone."
        )
    answer = (predictor.get("decoding") or {}).get("answer", "generate")
    if answer != "generate" and not (predictor.get("model") or {}).get("head"):
        yield (
            "Answers were got by comparing the log-probabilities of the labels"
            f"{' per token' if answer == 'choose-normalised' else ''}; generating, as above, can differ."
        )


def _limits(folder: RunFolder, approach: str) -> Iterator[str]:
    row, run = folder.row(approach), folder.run
    least, unit = folder.comparison.get("minimum_detectable"), target_unit(folder.comparison)
    repeated = [own["name"] for own in (folder.comparison.get("seeds") or {}).get("approaches", ())]
    seed = "with several seeds" if approach in repeated else f"with one seed ({run['seed']})"
    n = units.plural(row["n"], "example")
    if _split(folder) == "test":
        yield f"- Measured on one test set of {n}, {seed}."
    else:
        yield f"- Measured on the validation split ({n}), where settings were chosen too, {seed}: hopeful figures."
    if least is not None:
        size = f"{100 * least:.1f} points" if unit.share else units.plain(least)
        yield f"- Differences smaller than {size} would probably not show with so many examples."
    if floor := unbeaten(row):
        yield f"- It is not shown to beat a simple rule, {_line(floor)}, so it is of no use yet."
    if row.get("unscored"):
        yield f"- {units.plural(row['unscored'], 'answer')} could not be scored and stand in no mean."
    if _split(folder) == "test" and run["test_openings"] > 1:
        yield f"- This test set had been opened {run['test_openings']} times, which makes the figures hopeful ones."
    yield "- It says nothing about inputs unlike the examples, and nothing about safety."
    yield from (f"- {_line(warning)}" for warning in run.get("warnings") or ())


def _repeating(folder: RunFolder) -> str:
    run, machine = folder.run, folder.run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if name != "luthier")
    return (
        "```\nluthier run STUDY --output DIR\n```\n\n"
        "STUDY is the study file, kept as `study.yaml` in the run folder; where it names Python files, add "
        "`--allow-code`. "
        f"It ran with luthier {run['luthier']} ({versions}) on {run['device']} in {run['precision']}, "
        f"seed {run['seed']}, on {_line(machine['cpu'])} with {machine['cores']} cores and "
        f"{units.size(machine['memory_bytes'])}, {_line(machine['platform'])}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join(" --- " if index == 0 else " ---: " for index in range(len(head))) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _line(value: object) -> str:
    """Text from the data in one line, without what Markdown or HTML would act on."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", text)


def _cell(value: object) -> str:
    return _line(value).replace("|", "\\|")


def _python(value: object) -> str:
    """A Python literal of strings, lists and dicts."""
    return json.dumps(value, ensure_ascii=False)
