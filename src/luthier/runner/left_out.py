"""What approaches left out: shots or passages that did not all fit, examples of a mixture, answers to be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.runner.folder import RunFolder, read_json, read_jsonl
from luthier.runner.prepare import Prepared


def left_out(prepared: Prepared, folder: RunFolder) -> list[str]:
    """A warning for each approach that left something out, in answering or in training."""
    warnings = []
    for name in prepared.study.approaches:
        rows = read_jsonl(folder.approach(name) / "predictions.jsonl")
        steps = read_json(folder.approach(name) / "approach.json")["steps"]
        all_steps = [own for step in steps for own in (step, *step.get("parts", ()))]
        facts = [read_json(folder.step(own["hash"]) / "step.json")["facts"] for own in all_steps]
        for what, room in (("shots", "in the model's window"), ("passages", "in their tokens or the model's window")):
            dropped = [row[f"dropped_{what}"] for row in rows if row.get(f"dropped_{what}")]
            trained = sum(own.get(f"dropped_{what}", 0) for own in facts)
            if dropped or trained:
                warnings.append(
                    f"{name}: {what} that did not fit {room} were left out: {sum(dropped)} in {len(dropped)} of "
                    f"{len(rows)} prompts, {trained} in training"
                )
        sizes = {task: len(own.train) for task, own in prepared.tasks.items()}
        found = [warning for own in facts for warning in (*unseen_examples(own, sizes), *not_replayed(own))]
        warnings += [f"{name}: {warning}" for warning in dict.fromkeys(found)]
    return warnings


def unseen_examples(facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
    """Examples that a mixture has no room for in a pass; every pass has the same."""
    seen = {task: count for task, count in facts.get("examples_of_tasks", {}).items() if count < sizes[task]}
    if seen:
        listed = ", ".join(f"{count:,} of {sizes[task]:,} of {task}" for task, count in seen.items())
        yield f"training holds not all examples, and never sees the others: {listed}"


def not_replayed(facts: Mapping[str, Any]) -> Iterator[str]:
    """What of the model's own answers was not replayed, or not whole."""
    own = facts.get("replay")
    if own and (own["dropped"] or own["cut"]):
        cut = f" ({own['cut']} of them cut off at max_new_tokens)" if own["cut"] else ""
        reasons = "".join(f", {count} left out ({reason})" for reason, count in own["dropped"].items())
        yield f"of {own['asked']} answers that the model wrote to be replayed {own['kept']} were kept{cut}{reasons}"
