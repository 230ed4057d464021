"""What ran, where and on what: the contents of `run.json` and `data.json`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from luthier.data.audit import standing_in
from luthier.data.normalise import fingerprint
from luthier.data.text import Text
from luthier.errors import DataError, TooLong
from luthier.evaluate.forgetting import general_text
from luthier.evaluate.forms import taken_for_same
from luthier.types import Example, PromptedModel, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine

_BARS = 20


def machine() -> dict[str, Any]:
    """The machine, as far as it matters for speed."""
    import psutil

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def data_report(task: Task, engine: Engine, base: PromptedModel | None) -> dict[str, Any]:
    """A task's own report with the token counts of its examples, prompt and answer, under the base's prompts; without
    them where there is no language model.

    Raises:
        DataError: An example does not fit in the model's window.
    """
    if base is None:
        return {**task.report, "tokens": {}, "warnings": [*_warnings(task), *_alike(task)]}
    base = PromptedModel(base.model, task.decoding)
    tokens = {}
    for split, examples in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        if examples:
            tokens[split] = token_statistics(_lengths(examples, engine, base))
    return {
        **task.report,
        "tokens": tokens,
        "warnings": [
            *_warnings(task),
            *_alike(task),
            *_too_short(task, engine, base),
            *_special(task, engine, base),
            *_silent_system(task, engine, base),
        ],
    }


def seen_elsewhere(tasks: Mapping[str, Task], learned: Iterable[str]) -> list[str]:
    """A warning for each task whose test prompts stand in what a step learns from another task.

    Questions are compared without their system texts, which differ from task to task.

    Args:
        learned: The tasks that steps learn from.
    """
    asked = {name: [_question(e) for e in task.test] for name, task in tasks.items()}
    warnings = []
    for name in dict.fromkeys(learned):
        seen = {_question(e) for e in (*tasks[name].train, *tasks[name].validation)}
        for other, questions in asked.items():
            if other != name and (count := sum(question in seen for question in questions)):
                warnings.append(
                    f"{other}: {count} of {len(questions)} test prompts stand in the training or validation split of "
                    f"'{name}', which an approach learns from; its scores on {other} are too good by them"
                )
    return warnings


def text_warnings(texts: Iterable[Text], tasks: Mapping[str, Task]) -> list[str]:
    """What was left out of raw text that steps learn from, and what of the tests stands word for word in it.

    Of a test example its columns, its prompt and its right answers are looked for, as far as they have eight words.
    """
    warnings = []
    for text in texts:
        if text.empty or text.repeated:
            warnings.append(
                f"{text.name}: documents left out: {text.empty} empty, {text.repeated} equal to an earlier one; "
                f"{len(text.documents)} are left"
            )
        documents = [document.text for document in text.documents]
        for name, task in tasks.items():
            passages = [_passages(example) for example in task.test]
            seen = standing_in((passage for own in passages for passage in own), documents)
            if count := sum(not seen.isdisjoint(own) for own in passages):
                warnings.append(
                    f"{name}: of {count} of {len(passages)} test examples the prompt or an answer stands word for word "
                    f"in {text.name}, which an approach is pretrained on; its scores on {name} are too good by them"
                )
        if count := len(standing_in(general_text(), documents)):
            warnings.append(
                f"{count} of the {len(general_text())} general texts that show what was forgotten stand in "
                f"{text.name}; what is pretrained on it seems to forget less than it does"
            )
    return warnings


def _passages(example: Example) -> set[str]:
    asked = (message.content for message in example.prompt.messages if message.role != "system")
    return {*example.prompt.fields.values(), *asked, *example.references}


def _question(example: Example) -> str:
    return fingerprint(message for message in example.prompt.messages if message.role != "system")


def _warnings(task: Task) -> list[str]:
    warnings = task.report["warnings"]
    assert isinstance(warnings, list)
    return warnings


def _alike(task: Task) -> list[str]:
    """A warning where the metric that decides takes different answers of the task for the same."""
    examples = (*task.train, *task.validation, *task.test)
    found = taken_for_same(task.metric, (own for example in examples for own in example.references))
    if not found:
        return []
    pairs = "; ".join(f"{_short(one)!r} and {_short(other)!r}" for one, other in found[:3])
    return [
        f"{task.metric} takes different answers of this task for the same, {len(found)} of them: {pairs}"
        f"{'; …' if len(found) > 3 else ''}; if they differ to you, let a stricter metric decide, such as exact_match"
    ]


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"


def _too_short(task: Task, engine: Engine, base: PromptedModel) -> list[str]:
    """A warning where wanted answers are longer than answers may be: no approach could write them."""
    if task.decoding.answer != "generate":
        return []
    renderer = engine.renderer(base.model)
    examples = (*task.validation, *task.test)
    lengths = [len(renderer.completion(example.prompt.messages, example.completion)) for example in examples]
    over = sum(length > task.decoding.max_new_tokens for length in lengths)
    if not over:
        return []
    return [
        f"{over} of {len(examples)} wanted answers in validation and test are longer than max_new_tokens "
        f"({task.decoding.max_new_tokens}; the longest takes {max(lengths)}), so no approach can write them whole"
    ]


def _special(task: Task, engine: Engine, base: PromptedModel) -> list[str]:
    """A warning where texts spell out the model's control tokens: they may have been rendered for a model before."""
    encoder = engine.renderer(base.model).encoder
    examples = (*task.train, *task.validation, *task.test)
    found = [(e, own) for e in examples if (own := encoder.spelled("\n".join([e.completion, *_contents(e)])))]
    if not found:
        return []
    places = ", ".join(str(example.place) for example, _ in found[:3])
    tokens = list(dict.fromkeys(token for _, own in found for token in own))
    return [
        f"{len(found)} examples spell out control tokens of the model ({', '.join(tokens[:4])}): {places}"
        f"{', …' if len(found) > 3 else ''}. They are read and answered as plain text; if they are there because the "
        "texts were rendered for a chat before, take them out, since the model's own template is put around every text"
    ]


def _silent_system(task: Task, engine: Engine, base: PromptedModel) -> list[str]:
    """A warning where the model's template leaves out the system texts that examples have."""
    examples = (*task.train, *task.validation, *task.test)
    count = sum(any(own.role == "system" for own in example.prompt.messages) for example in examples)
    if not count or engine.renderer(base.model).shows_system():
        return []
    return [
        f"the model's chat template leaves out system texts, which {count} of {len(examples)} examples have, so the "
        "model never reads them: put what they say into the prompt"
    ]


def _contents(example: Example) -> list[str]:
    return [message.content for message in example.prompt.messages]


def token_statistics(lengths: Sequence[int]) -> dict[str, Any]:
    """Minimum, median, 95th percentile, maximum, and a histogram of `[from, to, count]` (to excluded)."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // _BARS))
    bars = [[edge, edge + width, 0] for edge in range(low, high + 1, width)]
    for length in lengths:
        bars[(length - low) // width][2] += 1
    p95 = quantiles(lengths, n=20, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
    return {"min": low, "median": median(lengths), "p95": p95, "max": high, "total": sum(lengths), "histogram": bars}


def example_counts(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Task name → sizes of the splits, labels, deciding metric, way of answering."""
    return {
        name: {
            "train": len(task.train),
            "validation": len(task.validation),
            "test": len(task.test),
            "labels": list(task.labels),
            "label_separator": task.label_separator,
            "metric": task.metric,
            "answer": task.decoding.answer,
        }
        for name, task in tasks.items()
    }


def _lengths(examples: Sequence[Example], engine: Engine, base: PromptedModel) -> list[int]:
    renderer = engine.renderer(base.model)
    reserve = base.decoding.max_new_tokens if base.decoding.answer == "generate" else 0
    lengths, too_long = [], []
    for example in examples:
        try:
            lengths.append(len(renderer.training(example, base.wording, ()).ids))
            renderer.prompt(example.prompt, base.wording, (), reserve)
        except TooLong:
            too_long.append(example)
    if too_long:
        places = ", ".join(str(example.place) for example in too_long[:5])
        raise DataError(
            f"{len(too_long)} of {len(examples)} examples do not fit in the model's window of {renderer.window} "
            f"tokens, answer included ({places}{', …' if len(too_long) > 5 else ''}).\n"
            "Nothing is cut. Shorten them, lower max_new_tokens, set max_chars with on_bad_row: drop to leave them out "
            "(they are counted), or use a model with a longer window."
        )
    return lengths


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            names = [line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
