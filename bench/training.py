"""What the training benchmarks have in common: Luthier, TRL by default and TRL tuned on the same rows."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

import outcome
from ours import Adapter, model_folder
from peers_trl import DEFAULT, TUNED, Options, tuned
from sides import progress, run_side
from timing import FULL, QUICK
from workloads import Workload


def compare(
    benchmark: str,
    workload: Workload,
    adapter: Adapter,
    batch_size: int,
    targets: Mapping[str, float],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Time each side in a process of its own and put the rates side by side."""
    if importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed in this environment. Install it with: make bench-setup")
    quick: bool = given.quick
    what = {"workload": workload, "adapter": adapter, "batch": batch_size, "model": model_folder(given.model)}
    pace = QUICK if quick else FULL
    progress("matrix products of the model's shapes")
    ceiling = run_side("ceiling:measure", what)
    ours = run_side("ours:train", {**what, "pace": dataclasses.asdict(pace)})
    # A slow peer would spend most of a quick run on warming up, so it gets a single row for that.
    peer_pace = dataclasses.replace(pace, warmup=0) if quick else pace

    best = tuned(workload, adapter)
    if ours["precision"] == "float32":  # this processor would only emulate bfloat16
        best = dataclasses.replace(best, dtype=None, bf16=False)

    def peer(name: str, options: Options) -> dict[str, Any]:
        side = {"name": name, "options": dataclasses.asdict(options), "tiny_warmup": quick}
        return run_side("peers_trl:train", {**what, **side, "pace": dataclasses.asdict(peer_pace)})

    peers = {"trl-default": peer("trl-default", DEFAULT), "trl-tuned": peer("trl-tuned", best)}
    gflops = ceiling[ours["precision"]]["gflops"]
    notes = [
        f"{workload} rows: {ours['mean_tokens']:.0f} tokens on average, {ours['trained_share']:.0%} of them trained; "
        "useful tokens are those of whole sequences, without padding.",
        f"trl-tuned is the candidate '{TUNED[workload, adapter]}' of bench/peers_trl.py.",
        f"The ceiling is {gflops:.0f} GFLOP/s, torch's {ours['precision']} products of the model's own shapes; "
        f"a useful token takes {ours['flops_per_token'] / 1e9:.3g} GFLOP.",
    ]
    if workload == "shared":
        notes.append("The share of the ceiling counts the shared part for every row, so it can pass 100%.")
    for name, side in peers.items():
        if side["same_tokens"] not in (None, side["examples"]):
            notes.append(f"{name}: only {side['same_tokens']} of {side['examples']} rows have the same trained tokens.")
    return outcome.build(
        benchmark,
        "useful tokens/s",
        ours,
        peers,
        targets,
        quick=quick,
        batch=batch_size,
        memory=outcome.memory_ratios(ours, peers),
        ceiling=ceiling,
        flops_per_token=ours["flops_per_token"],
        ceiling_share={
            name: side["rate"] * ours["flops_per_token"] / 1e9 / gflops
            for name, side in {"luthier": ours, **peers}.items()
        },
        notes=notes + outcome.few_steps(peers, quick),
    )
