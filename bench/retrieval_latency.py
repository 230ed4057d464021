"""An index of passages at growing sizes: build time, disk, memory and query times, beside LanceDB by itself."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import outcome

NAME = "retrieval_latency"
SIDES = {"exact": "luthier", "lancedb": "luthier", "plain LanceDB": "lancedb"}
K = 10


def parser() -> argparse.ArgumentParser:
    return outcome.options(__doc__, NAME)


def measure(*, quick: bool) -> dict[str, Any]:
    from sides import run_side

    sizes, queries = ((1_000, 4_000), 20) if quick else ((1_000, 10_000, 100_000), 200)
    heading = ["passages", "store", "build", "on disk", "memory", "first search"]
    heading += [f"{kind} p50 / p95" for kind in ("dense", "lexical", "hybrid")]
    rows: list[list[str]] = [heading]
    measured: dict[str, Any] = {}
    for size in sizes:
        for name, function in SIDES.items():
            with tempfile.TemporaryDirectory(prefix="luthier-bench-") as folder:
                what = {"folder": folder, "store": name, "passages": size, "queries": queries, "k": K}
                found = run_side(f"retrieval_sides:{function}_built", what)
                found |= run_side(f"retrieval_sides:{function}_asked", what)
            measured[f"{name} {size}"] = found
            rows.append(
                [
                    f"{size:,}",
                    name,
                    f"{found['build_s']:.1f} s",
                    f"{found['bytes'] / 1e6:.1f} MB",
                    f"{found['memory'] / 1e6:.0f} MB",
                    f"{1000 * found['first_s']:.0f} ms",
                    *(_quantiles(found["seconds"].get(kind)) for kind in ("dense", "lexical", "hybrid")),
                ]
            )
    return {
        "benchmark": NAME,
        "tables": {"time to build and to ask, by passages": rows},
        "dense_p50_ms": {name: _ms(found["seconds"]["dense"], 50) for name, found in measured.items()},
        "notes": [
            "Vectors of 384 dimensions, drawn at random, for passages of 100 words drawn from English text: embedding "
            "is no part of it, for documents or queries.",
            f"{queries} queries one after the other, {K} passages each; every vector is compared on all sides. The "
            "first search reads what the others find in memory; the first lexical one makes its index (not shown).",
            "Luthier gives whole passages with their places, checks for changes of other processes before each search, "
            "and computes similarities again; plain LanceDB gives id and text.",
            "Memory is that of a process that has opened the store and asked all queries, with Python and libraries "
            "(without torch).",
        ],
        **outcome.frame(quick),
    }


def _quantiles(seconds: list[float] | None) -> str:
    return "—" if seconds is None else f"{_ms(seconds, 50):.1f} / {_ms(seconds, 95):.1f} ms"


def _ms(seconds: list[float], percent: float) -> float:
    return float(1000 * np.percentile(seconds, percent))


def main(given: argparse.Namespace) -> None:
    outcome.finish(measure(quick=given.quick), given)


if __name__ == "__main__":
    main(parser().parse_args())
