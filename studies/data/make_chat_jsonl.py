"""Turn a task of Instruction Induction into conversations, one JSON object a line (OpenAI's `messages`).

    python studies/data/make_chat_jsonl.py path/to/data/raw studies/data/negation

The folder given first holds `induce/negation.json` and `execute/negation.json`. Doubled spaces are made single,
sentences that are equal but for case are taken once, and what is left is shuffled and cut in two.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

TASK, NUM_TRAIN, NUM_TEST, SEED = "negation", 384, 200, 0
SYSTEM = "You are given a sentence. Reply with the same sentence made negative, and with nothing else."


def main(source: Path, folder: Path) -> None:
    pairs: dict[str, tuple[str, str]] = {}
    for part in ("induce", "execute"):
        read = json.loads((source / part / f"{TASK}.json").read_text(encoding="utf-8"))
        for row in read["examples"].values():
            asked, wanted = (" ".join(row[key].split()) for key in ("input", "output"))
            pairs.setdefault(asked.casefold(), (asked, wanted))
    drawn = random.Random(SEED).sample(list(pairs.values()), NUM_TRAIN + NUM_TEST)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.jsonl", drawn[:NUM_TRAIN]), ("test.jsonl", drawn[NUM_TRAIN:])):
        with open(folder / name, "w", encoding="utf-8") as handle:
            for asked, wanted in rows:
                handle.write(json.dumps({"messages": conversation(asked, wanted)}, ensure_ascii=False) + "\n")
        print(f"{folder / name}: {len(rows)} conversations")


def conversation(asked: str, wanted: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": wanted},
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
