"""A tiny study that runs in seconds: three labels that a word gives away, a random model of two layers."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from luthier.study import Study, build_study

WORDS = {"fruit": ["apple", "pear", "plum"], "tool": ["hammer", "saw", "drill"], "animal": ["cat", "dog", "horse"]}


def write_rows(file: Path, a_label: int, seed: int) -> None:
    draw = random.Random(seed)
    with open(file, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "kind"])
        for number in range(a_label):
            for kind, words in WORDS.items():
                writer.writerow([f"{draw.choice(words)} number {seed}{number:03d}", kind])


def tiny_study(model: Path, **changes: object) -> Study:
    settings: dict[str, object] = {
        "name": "tiny",
        "model": str(model),
        "task": {
            "data": {"train": "train.csv", "test": "test.csv"},
            "split": {"validation": 6},
            "prompt": "{{ text }}",
            "completion": "{{ kind }}",
            "labels": "auto",
            "answer": "choose",
        },
        "approaches": {
            "zero-shot": [],
            "few-shot": [{"step": "few-shot", "shots": {"choose": [1, 2]}, "by": "bm25"}],
            "lora": [{"step": "sft", "adapter": {"rank": 2, "dropout": 0.1}, "epochs": 1, "evaluations": 2}],
            "full": [{"step": "sft", "adapter": "none", "epochs": 1, "evaluations": 1}],
        },
        "device": "cpu",
        "precision": "float32",
        "latency_requests": 2,
        "seeds": 1,
        "forgetting": {"probe": False},
    }
    return build_study(**{**settings, **changes})
