"""What the benchmarks run on: rows from bench/data, the same for every side."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Workload = Literal["varied", "shared"]

DATA = Path(__file__).parent / "data"
NUM_SHOTS = 8
NEW_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation up to the answer, as (role, content) pairs, and the answer that is wanted."""

    id: str
    turns: tuple[tuple[str, str], ...]
    completion: str

    def messages(self) -> list[dict[str, str]]:
        """The turns as transformers and TRL take them."""
        return [{"role": role, "content": content} for role, content in self.turns]


def training_rows(workload: Workload) -> list[Row]:
    return varied_rows() if workload == "varied" else shared_rows()


def varied_rows() -> list[Row]:
    """320 instructions with answers, 196 tokens on average, from 45 to 710."""
    with open(DATA / "varied/rows.jsonl", encoding="utf-8") as handle:
        found = [json.loads(line)["messages"] for line in handle]
    return [
        Row(f"varied-{number}", tuple((m["role"], m["content"]) for m in messages[:-1]), messages[-1]["content"])
        for number, messages in enumerate(found)
    ]


def shared_rows() -> list[Row]:
    """640 messages to a bank behind one instruction that names all 77 intents; the answer is the intent."""
    with open(DATA / "banking77/queries.csv", encoding="utf-8", newline="") as handle:
        found = list(csv.DictReader(handle))
    instruction = (
        "Name the intent of the customer's message. Answer with one of the following 77 intents only: "
        + ", ".join(sorted({row["category"] for row in found}))
        + "."
    )
    return [
        Row(f"banking-{number}", (("system", instruction), ("user", row["text"])), row["category"])
        for number, row in enumerate(found)
    ]


def labels() -> list[str]:
    """The 77 intents."""
    return sorted({row.completion for row in shared_rows()})


def few_shot_rows() -> tuple[list[Row], list[Row]]:
    """Eight worked examples of eight intents, and the messages to be answered behind them."""
    rows = shared_rows()
    first_of_intent = {row.completion: row for row in reversed(rows)}
    shots = [first_of_intent[label] for label in sorted(first_of_intent)[6 :: len(first_of_intent) // NUM_SHOTS]]
    taken = {shot.id for shot in shots}
    return shots, [row for row in rows if row.id not in taken]
