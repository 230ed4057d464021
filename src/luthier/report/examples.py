"""The test examples with every approach's answer, as data for the browser in the report.

Prompts repeat themselves: the shots of one approach stand before every question. Each distinct text is stored once and
referred to by number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.report.folder import RunFolder

BUDGET_BYTES = 12_000_000
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Browser:
    """What is embedded in the page.

    Attributes:
        json: The data, safe inside a `<script>` element.
        shown: Examples embedded.
        total: Examples in the run.
    """

    json: str
    shown: int
    total: int


def browser(folder: RunFolder, budget_bytes: int = BUDGET_BYTES) -> Browser:
    """All examples or, where they would take more than `budget_bytes`, as many as fit, evenly spaced."""
    names = [approach.name for approach in folder.approaches]
    by_example: dict[tuple[str, str], dict[str, Row]] = {}
    for approach in folder.approaches:
        for row in approach.predictions:
            by_example.setdefault((row["task"], row["id"]), {})[approach.name] = row
    examples = list(by_example.values())
    keep = len(examples)
    while True:
        chosen = [examples[index * len(examples) // keep] for index in range(keep)] if keep else []
        written = script_json(_payload(folder, names, chosen))
        size = len(written.encode())
        if size <= budget_bytes or keep <= 1:
            return Browser(written, keep, len(examples))
        keep = max(1, min(keep - 1, int(keep * budget_bytes / size * 0.98)))


def script_json(value: object) -> str:
    """JSON that cannot end the `<script>` element it stands in, whatever text it holds."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    # a lone surrogate is legal in JSON escapes but not in UTF-8
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _finite(value: object) -> object:
    """The value with numbers that JSON cannot hold as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _payload(folder: RunFolder, names: Sequence[str], examples: Sequence[Mapping[str, Row]]) -> dict[str, object]:
    texts: dict[str, int] = {}

    def number(content: str) -> int:
        return texts.setdefault(content, len(texts))

    tasks = list(dict.fromkeys(str(row["task"]) for rows in examples for row in rows.values()))
    metrics = [str(folder.run["tasks"].get(task, {}).get("metric", folder.comparison["metric"])) for task in tasks]
    written = []
    for rows in examples:
        # the shortest prompt is the question with the least around it
        first = min(rows.values(), key=lambda row: sum(len(message["content"]) for message in row["messages"]))
        task = tasks.index(first["task"])
        question = first["messages"][-1]["content"] if first["messages"] else ""
        written.append(
            {
                "id": first["id"],
                "task": task,
                "place": str(first.get("place") or ""),
                "question": number(question),
                "references": first["references"],
                "label": first["label"],
                "answers": [_answer(rows.get(name), metrics[task], number) for name in names],
            }
        )
    values = [a["score"] for example in written for a in example["answers"] if a and a["score"] is not None]
    return {
        "approaches": names,
        "tasks": [{"name": name, "metric": metric} for name, metric in zip(tasks, metrics, strict=True)],
        "rightOrWrong": all(value in (0, 1) for value in values),
        "texts": list(texts),
        "examples": written,
    }


def _answer(row: Row | None, metric: str, number: Any) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "text": row["completion"],
        "score": row["scores"].get(metric),
        "reason": (row.get("unscored") or {}).get(metric),
        "prompt": [[message["role"], number(message["content"])] for message in row["messages"]],
        "tokens": row.get("prompt_tokens"),
        "stopped": row.get("stopped"),
        "dropped": row.get("dropped_shots") or 0,
        "confidence": row.get("confidence"),
        "unserved": row.get("unserved"),
    }
