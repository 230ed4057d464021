"""What a benchmark found: one JSON line, and a table for reading."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
RESULTS = Path(__file__).parent / "results"


def options(what: str, script: str, example: str = "") -> argparse.ArgumentParser:
    """The options that every benchmark takes; `example` is what stands behind the script in the help's example."""
    found = argparse.ArgumentParser(
        description=what, epilog=f"Example: .venv/bin/python bench/{script}.py --quick{example}"
    )
    found.add_argument("--quick", action="store_true", help="fewer steps, under ten minutes; the result is not kept")
    found.add_argument("--json", action="store_true", help="only the JSON line on standard output")
    found.add_argument("--model", default=MODEL, help="a folder or a built-in name")
    return found


def build(
    benchmark: str,
    unit: str,
    ours: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
    targets: Mapping[str, float],
    *,
    quick: bool,
    **more: Any,
) -> dict[str, Any]:
    """The JSON line of a benchmark that compares rates; every side is what `Clock.result` gives, and more.

    Args:
        targets: How many times as fast as each peer Luthier means to be.
        more: Further keys, as they are.
    """
    return {
        "benchmark": benchmark,
        "ours": ours["rate"],
        "peers": {name: peer["rate"] for name, peer in peers.items()},
        "unit": unit,
        "ratios": {name: ours["rate"] / peer["rate"] for name, peer in peers.items()},
        "targets": dict(targets),
        "sides": {
            name: {key: side[key] for key in _SIDE if side.get(key) is not None}
            for name, side in {"luthier": ours, **peers}.items()
        },
        **more,
        **frame(quick),
    }


_SIDE = (
    *("rate", "overall", "step_s", "timed_steps", "warmup_steps", "work_a_step", "peak_bytes", "precision"),
    *("options", "examples", "same_tokens", "tiny_warmup"),
)


def frame(quick: bool) -> dict[str, Any]:
    """When, with what and on what it was measured."""
    from machine import machine, versions

    return {
        "quick": quick,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "machine": machine(),
    }


def finish(outcome: Mapping[str, Any], given: argparse.Namespace) -> None:
    """Print the outcome as the options say; a full run with the built-in model is kept in bench/results."""
    line = json.dumps(outcome, ensure_ascii=False)
    if not given.json:
        _print_table(outcome)
    print(line)
    if not given.quick and given.model == MODEL:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{outcome['benchmark']}.json").write_text(line + "\n", encoding="utf-8")


def _print_table(outcome: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(Console().width, 120))
    if "sides" in outcome:
        table = Table(title=outcome["benchmark"])
        for heading in ("", outcome["unit"], "luthier is", "aim", "a step", "timed steps", "peak memory", "of ceiling"):
            table.add_column(heading, justify="left" if not heading else "right")
        for name in outcome["sides"]:
            table.add_row(*side_cells(outcome, name))
        console.print(table)
    for title, rows in outcome.get("tables", {}).items():
        table = Table(title=title)
        for heading in rows[0]:
            table.add_column(str(heading), justify="right")
        for row in rows[1:]:
            table.add_row(*map(str, row))
        console.print(table)
    for note in outcome.get("notes", ()):
        console.print(f"- {note}", highlight=False, markup=False)
    versions = ", ".join(f"{name} {version}" for name, version in outcome["versions"].items())
    own = outcome["machine"]
    console.print(
        f"{versions}; {own['cpu']}, {own['cores']} cores, {own['torch_threads']} threads; {outcome['date']}",
        highlight=False,
        markup=False,
    )


def side_cells(outcome: Mapping[str, Any], name: str) -> list[str]:
    """A side's row of the table."""
    side = outcome["sides"][name]
    ratio, target = outcome["ratios"].get(name), outcome["targets"].get(name)
    share = outcome.get("ceiling_share", {}).get(name)
    return [
        name,
        number(side["rate"]),
        "" if ratio is None else times(ratio),
        "" if target is None else f"{target:g}×",
        f"{side['step_s']:.3g} s",
        str(side["timed_steps"]),
        f"{side['peak_bytes'] / 1e9:.2f} GB",
        "" if share is None else f"{share:.0%}",
    ]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def memory_ratios(ours: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Luthier's peak memory as a share of each peer's."""
    return {name: ours["peak_bytes"] / peer["peak_bytes"] for name, peer in peers.items()}


def few_steps(peers: Mapping[str, Mapping[str, Any]], quick: bool) -> list[str]:
    """What has to be said where fewer than seven steps were timed."""
    few = [f"{name} {side['timed_steps']}" for name, side in peers.items() if side["timed_steps"] < 7]
    if quick:
        own = f" ({', '.join(few)})" if few else ""
        return [f"Quick: short warm-up, and only as many timed steps as fit in a minute, at least one{own}."]
    return [f"Fewer than seven timed steps, because each takes more than a minute: {', '.join(few)}."] if few else []
