"""A run folder as a study would leave it, made of seeded random numbers: no model is run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

ACCURACY = {
    "few-shot+lora": 0.875,
    "lora": 0.86,
    "full": 0.83,
    "classifier": 0.79,
    "nearest": 0.7,
    "few-shot": 0.66,
    "one-shot": 0.52,
    "zero-shot": 0.44,
}
PROMPTED = ("zero-shot", "one-shot", "few-shot", "lora", "full", "few-shot+lora")
STEPS: dict[str, list[str]] = {
    "zero-shot": [],
    "one-shot": ["few-shot"],
    "few-shot": ["few-shot"],
    "lora": ["sft"],
    "full": ["sft"],
    "few-shot+lora": ["few-shot", "sft"],
    "classifier": ["classifier"],
    "nearest": ["nearest"],
}
LABELS = (
    *("card arrival", "card lost or stolen", "cash withdrawal", "change of address", "declined payment"),
    *("exchange rate", "fees and charges", "identity check", "pending transfer", "refund", "top up", "virtual card"),
)
FLOORS = {
    "most-frequent": ("most frequent answer", "always giving the most frequent answer", 0.14),
    "draw": ("draw by frequency", "drawing labels by their frequency", 0.085),
}
UNSCORED = 17  # the example that zero-shot gives too long an answer to
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_run(
    folder: Path,
    approaches: Sequence[str] = PROMPTED,
    labels: Sequence[str] = LABELS,
    examples: int = 200,
    question: str = "Hello, I have a question about my {label}: it has been {days} days, what should I do?",
    seed: int = 7,
) -> Path:
    """Write a finished run of `approaches` on a task with `labels` (none: an open-ended task).

    Where no approach asks a language model the run has none, and no tokens are counted.
    """
    chance = random.Random(seed)
    ranked = sorted(approaches, key=lambda name: -ACCURACY[name])
    gold = [chance.choice(labels) if labels else f"answer {index}" for index in range(examples)]
    right = {name: _right(name, examples, seed) for name in ranked}
    for name in ranked:
        _approach(folder, name, gold, right[name], labels, question, chance)
    prompted = any(name in PROMPTED for name in ranked)
    _write(folder / "run.json", _run(examples, labels, prompted))
    _write(folder / "data.json", {"support-tickets": _data(gold, labels, chance, prompted)})
    _write(folder / "comparison.json", _comparison(ranked, right, examples))
    _write(folder / "study.json", {"name": "support-tickets", "seed": seed})
    (folder / "study.yaml").write_text("name: support-tickets\n", encoding="utf-8")
    return folder


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _right(name: str, examples: int, seed: int) -> list[bool]:
    """Better approaches are mostly right where worse ones are, so that the answers are paired."""
    hard, own = random.Random(seed + 1), random.Random(f"{seed}{name}")
    return [0.75 * hard.random() + 0.25 * own.random() < ACCURACY[name] - 0.02 for _ in range(examples)]


def _approach(
    folder: Path,
    name: str,
    gold: Sequence[str],
    right: Sequence[bool],
    labels: Sequence[str],
    question: str,
    chance: random.Random,
) -> None:
    rows = []
    for index, (label, is_right) in enumerate(zip(gold, right, strict=True)):
        wrong = chance.choice([*[other for other in labels if other != label], "I am not sure"]) if labels else "42"
        user = question.format(label=label, days=index % 9 + 1)
        shots = {"one-shot": 1, "few-shot": 8, "few-shot+lora": 8}.get(name, 0)
        system = {"role": "system", "content": "Answer with the category of the customer's message."}
        messages = [system] if name in PROMPTED else []
        for shot in range(shots):
            messages.append({"role": "user", "content": f"An example message about case {shot}."})
            messages.append({"role": "assistant", "content": gold[shot]})
        is_cut = index == UNSCORED and name == "zero-shot"
        unscored = {"exact_match": "the answer was cut at 64 tokens"} if is_cut else {}
        rows.append(
            {
                "id": f"t{index:04d}",
                "task": "support-tickets",
                "place": f"tickets.jsonl:{index + 1}",
                "messages": [*messages, {"role": "user", "content": user}],
                "completion": label if is_right else wrong,
                "references": [label],
                "label": label if labels else None,
                "scores": {"exact_match": None if unscored else float(is_right), "f1": float(is_right) * 0.98},
                "unscored": unscored,
                "prompt_tokens": 48 + 45 * shots if name in PROMPTED else 0,
                "completion_tokens": 4 if name in PROMPTED else 0,
                "dropped_shots": 0,
                "stopped": "copy" if name == "nearest" else "choice" if labels else "end",
                "label_logprobs": None,
                "confidence": None if name in PROMPTED else _confidence(name, is_right, chance),
                "unserved": None,
            }
        )
    place = folder / "approaches" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = [_step(folder, name, kind, chance) for kind in STEPS[name]]
    choices = [_choice()] if name == "lora" else []
    _write(place / "approach.json", {"name": name, "steps": steps, "choices": choices, "cost": _cost(name)})
    if name not in PROMPTED:
        _write(place / "predictor.json", {"kind": name, "model": None, "threshold": None, "otherwise": ""})
        return
    adapters = [f"steps/{steps[-1]['hash']}/adapter"] if "lora" in name else []
    base = f"steps/{steps[-1]['hash']}/model" if name == "full" else "example/small-model"
    _write(
        place / "predictor.json",
        {
            "kind": "prompted model",
            "model": {"base": base, "adapters": adapters},
            "decoding": {"answer": "choose" if labels else "generate", "max_new_tokens": 64, "stop": []},
            "wording": {"system": "Answer with the category of the customer's message.", "template": None},
            "shots": {"count": 8, "by": "spread", "pool": []} if name.startswith("few-shot") else None,
        },
    )


def _confidence(name: str, is_right: bool, chance: random.Random) -> float:
    """Higher where the answer is right, for the classifier more clearly so; nearest counts votes of five."""
    value = chance.betavariate(6, 2) if is_right else chance.betavariate(3, 3)
    return value if name == "classifier" else round(value * 5) / 5


def _step(folder: Path, name: str, kind: str, chance: random.Random) -> dict[str, Any]:
    step_hash = f"{kind}-{name}" if kind == "sft" else f"shots-{name.split('+')[0]}"
    settings: dict[str, Any] = {"count": 1 if name == "one-shot" else 8} if name in PROMPTED else {"threshold": None}
    if kind == "sft":
        adapter = {"kind": "none"} if name == "full" else {"kind": "lora", "rank": 16}
        settings = {"adapter": adapter, "learning_rate": 2e-4, "epochs": 3}
        results = folder / "steps" / step_hash / "results"
        _write(results / "loss.json", _loss(chance))
        _write(results / "movement.json", _movement(chance))
        _write(results / "lengths.json", _lengths())
    _write(folder / "steps" / step_hash / "step.json", {"settings": settings})
    return {
        "hash": step_hash,
        "step": kind,
        "settings": settings,
        "reused": "+" in name and kind != "sft",
        "seconds": 61.0,
    }


def _loss(chance: random.Random) -> dict[str, Any]:
    steps = list(range(150))
    train = [0.3 + 2.4 * 0.97**step + chance.gauss(0, 0.06) for step in steps]
    checks = list(range(0, 150, 25))
    return {
        "kind": "series",
        "title": "Loss while training",
        "x_label": "optimizer steps",
        "y_label": "nats per token",
        "lines": [
            {"name": "train", "x": steps, "y": train},
            {"name": "validation", "x": checks, "y": [0.5 + 2.2 * 0.965**step for step in checks]},
        ],
    }


def _movement(chance: random.Random) -> dict[str, Any]:
    values: list[list[float | None]] = [
        [0.004 + 0.0004 * layer * chance.random() + 0.001 * column for column in range(len(MODULES))]
        for layer in range(30)
    ]
    values[3][2] = None
    return {
        "kind": "matrix",
        "title": "How far each weight matrix moved",
        "rows": [str(layer) for layer in range(30)],
        "columns": list(MODULES),
        "values": values,
        "value_label": "change of the weights relative to their size (Frobenius norm)",
        "note": "Rows are layers, from the embedding (0) to the output (29).",
    }


def _lengths() -> dict[str, Any]:
    rows = [["prompt", 48.0, 122], ["completion", 4.0, 9]]
    return {"kind": "table", "title": "Tokens trained on", "columns": ["part", "mean", "most"], "rows": rows}


def _choice() -> dict[str, Any]:
    tried = [
        {
            "settings": {"adapter": {"kind": "lora", "rank": rank}, "learning_rate": rate},
            "metric": "exact_match",
            "score": 0.7 + 0.01 * rank**0.5 + 200 * rate,
            "seconds": 40.0 + rank,
            "taken": rank == 16 and rate == 2e-4,
        }
        for rank in (4, 16)
        for rate in (1e-4, 2e-4)
    ]
    return {"step": "sft", "tried": tried}


def _cost(name: str) -> dict[str, Any]:
    trained = "sft" in STEPS[name]
    tokens = {"one-shot": 93, "few-shot": 408, "few-shot+lora": 408}.get(name, 48 if name in PROMPTED else 0)
    per_request = 0.02 + 0.0007 * tokens if name in PROMPTED else 0.004
    return {
        "train_s": {"lora": 412.0, "full": 655.0, "few-shot+lora": 1530.0, "classifier": 2.9}.get(name, 0.0),
        "search_s": 201.0 if name == "lora" else 0.0,
        "tokens_seen": 182_000 if trained else 0,
        "tokens_per_s": 880.0 if trained else None,
        "peak_bytes": 1_900_000_000 if trained else 720_000_000,
        "trainable_parameters": {
            "lora": 4_884_480,
            "full": 134_515_008,
            "few-shot+lora": 4_884_480,
            "classifier": 4_620,
        }.get(name, 0),
        "trainable_share": {"lora": 0.0363, "full": 1.0, "few-shot+lora": 0.0363}.get(name, 0.0),
        "stored_bytes": {"lora": 19_600_000, "full": 538_000_000, "few-shot+lora": 19_700_000}.get(name, 2_100),
        "prompt_tokens": float(tokens),
        "window_share": tokens / 8192,
        "latency_p50_s": per_request * 1.6,
        "latency_p95_s": per_request * 2.4,
        "throughput_per_s": 1 / per_request,
        "seconds_per_request": per_request,
        "completion_tokens": 4.0 if name in PROMPTED else 0.0,
    }


def _forgotten(name: str) -> list[dict[str, Any]]:
    lost = {"lora": 0.012, "full": 0.094, "few-shot+lora": 0.018}[name]
    return [
        {"probe": "general knowledge", "metric": "accuracy", "higher_is_better": True, "n": 120, "before": 0.55,
         "after": 0.55 - lost, "difference": -lost, "low": -lost - 0.03, "high": -lost + 0.03},
        {"probe": "plain text", "metric": "nats_per_token", "higher_is_better": False, "n": 120, "before": 3.21,
         "after": 3.21 + 4 * lost, "difference": 4 * lost, "low": 3 * lost, "high": 5 * lost},
    ]  # fmt: skip


def _scored(name: str, right: Sequence[bool]) -> Sequence[bool]:
    """Without the one answer that could not be scored."""
    return [*right[:UNSCORED], *right[UNSCORED + 1 :]] if name == "zero-shot" else right


def _training(name: str) -> str:
    return "language model" if "sft" in STEPS[name] else "small model" if name == "classifier" else "none"


def _against_floor(mean: float) -> dict[str, Any]:
    difference = mean - FLOORS["most-frequent"][2]
    return {"name": "most-frequent", "difference": difference, "low": difference - 0.05, "high": difference + 0.05,
            "p": 1e-6, "above": difference > 0.05}  # fmt: skip


def _floor(name: str, n: int) -> dict[str, Any]:
    kind, words, mean = FLOORS[name]
    half = 1.96 * (mean * (1 - mean) / n) ** 0.5
    return {"name": name, "kind": kind, "words": words, "n": n, "mean": mean, "low": max(0.0, mean - half),
            "high": mean + half, "total_s": 1e-6}  # fmt: skip


def _comparison(ranked: Sequence[str], right: dict[str, list[bool]], n: int) -> dict[str, Any]:
    rows, pairs, break_even = [], [], []
    means = {name: mean(_scored(name, right[name])) for name in ranked}
    for name in ranked:
        half = 1.96 * (means[name] * (1 - means[name]) / n) ** 0.5
        cost = _cost(name)
        row: dict[str, Any] = {
            "name": name,
            "n": n,
            "metric": "exact_match",
            "mean": means[name],
            "low": max(0.0, means[name] - half),
            "high": min(1.0, means[name] + half),
            "interval": "Wilson score interval",
            "scores": {
                "support-tickets": [
                    {
                        "metric": metric,
                        "n": n,
                        "mean": means[name],
                        "low": means[name] - half,
                        "high": means[name] + half,
                    }
                    for metric in ("exact_match", "f1")
                ]
            },
            "unscored": 1 if name == "zero-shot" else 0,
            "cost": cost,
            "total_s": cost["train_s"] + 1000 * cost["seconds_per_request"],
            "training": _training(name),
            "floor": _against_floor(means[name]),
        }
        if "sft" in STEPS[name]:
            row["forgotten"] = _forgotten(name)
            row["divergence"] = [
                {"on": "general_text", "learned": False, "n": 40, "mean": 0.0312, "low": 0.0287, "high": 0.0345},
                {"on": "support-tickets", "learned": True, "n": 100, "mean": 1.25, "low": 1.1, "high": 1.4},
            ]
        elif name == "classifier":
            row["forgotten"] = []
        rows.append(row)
    for a, b in combinations(ranked, 2):
        difference = means[a] - means[b]
        p = max(1e-6, 0.6 - 8 * difference)
        pairs.append(
            {"a": a, "b": b, "difference": difference, "low": difference - 0.05, "high": difference + 0.05,
             "p": min(1.0, 3 * p)}
        )  # fmt: skip
    for trained in (name for name in ranked if "sft" in STEPS[name]):
        for plain in (name for name in ranked if "sft" not in STEPS[name]):
            a, b = _cost(trained), _cost(plain)
            saved = b["seconds_per_request"] - a["seconds_per_request"]
            requests = int(a["train_s"] / saved) if saved > 1e-9 else None
            break_even.append({"trained": trained, "untrained": plain, "requests": requests})
    recommended = "lora" if "lora" in ranked else ranked[0]
    return {
        "target": "support-tickets",
        "targets": ["support-tickets"],
        "metric": "exact_match",
        "n": n,
        "requests": 1000,
        "hour_price": None,
        "margin": 0.02,
        "forgetting_limit": 0.05,
        "minimum_detectable": 0.081,
        "approaches": rows,
        "floors": [_floor(name, n) for name in FLOORS],
        "pairs": pairs,
        "break_even": break_even,
        "recommended": recommended,
        "headline": f"Use {recommended}.",
        "verdict": f"{recommended} is 8.0 points (1.3 to 14.5) better than few-shot on 100 examples, p = 0.02.",
        "reasons": [
            "few-shot+lora is not shown to be better than lora (difference 1.5 points, interval −3.5 to 6.5).",
            "lora forgets less than the limit of 5 points; full does not.",
        ],
    }


def _run(examples: int, labels: Sequence[str], prompted: bool) -> dict[str, Any]:
    return {
        "name": "support-tickets",
        "luthier": "0.1.0",
        "started": "2030-01-02T10:00:00Z",
        "finished": "2030-01-02T10:41:12Z",
        "seconds": 2472.0,
        "target": "support-tickets",
        "targets": ["support-tickets"],
        "model": "example/small-model" if prompted else None,
        "model_parameters": 134_515_008 if prompted else None,
        "device": "cpu",
        "precision": "float32",
        "seed": 7,
        "machine": {"cpu": "Example CPU", "cores": 4, "memory_bytes": 16_000_000_000, "platform": "Linux-6.1-x86_64"},
        "versions": {"python": "3.11.7", "torch": "2.11.0", "transformers": "5.17.0"},
        "requests": 1000,
        "margin": 0.02,
        "tasks": {
            "support-tickets": {"train": 600, "validation": 100, "test": examples, "labels": list(labels),
                                "metric": "exact_match", "answer": "choose" if labels else "generate"}
        },
        "minimum_detectable": 0.081,
        "warnings": ["3 near-duplicates between train and test were removed from train."],
        "test_openings": 2,
    }  # fmt: skip


def _data(gold: Sequence[str], labels: Sequence[str], chance: random.Random, prompted: bool) -> dict[str, Any]:
    def counts(n: int) -> dict[str, int]:
        return {label: max(1, n // len(labels) + chance.randint(-2, 2)) for label in labels}

    histogram = [[start, start + 10, int(120 * 0.8 ** abs(start / 10 - 4)) + 1] for start in range(10, 130, 10)]
    tokens = {"min": 11, "median": 48, "p95": 93, "max": 122, "histogram": histogram}
    return {
        "files": [{"file": "tickets.jsonl", "rows": 912}],
        "read": 912,
        "dropped": [{"reason": "the completion is empty", "count": 4, "places": ["tickets.jsonl:33"]}],
        "duplicates": [
            {"between": ["train", "test"], "count": 3, "done": "removed from train", "places": ["tickets.jsonl:99"]}
        ],
        "splits": {
            "train": {"n": 600, "labels": counts(600)},
            "validation": {"n": 100, "labels": counts(100)},
            "test": {"n": len(gold), "labels": {label: gold.count(label) for label in labels}},
        },
        "tokens": {"train": tokens, "validation": tokens, "test": tokens} if prompted else {},
        "truncated": 0,
    }
