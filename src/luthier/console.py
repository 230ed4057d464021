"""What the command line draws besides the report: progress, the forecast, rendered examples, errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from luthier.evaluate.verdict import duration
from luthier.progress import Advance

if TYPE_CHECKING:
    from luthier.runner.estimate import Forecast
    from luthier.runner.show import ShownSequence
    from luthier.study import Study

console = Console()
errors = Console(stderr=True)


def print_error(text: str) -> None:
    """An error, without a traceback."""
    errors.print(Text("error: ", style="bold red") + Text(text), highlight=False, soft_wrap=True)


class RichProgress:
    """Draws bars on a terminal, and plain lines where there is none."""

    def __init__(self, to: Console = console) -> None:
        self._to = to
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=to,
            transient=True,
        )

    def __enter__(self) -> RichProgress:
        if self._to.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        if not self._to.is_terminal:
            self._to.print(f"  {description} ({total})", markup=False, highlight=False)
            yield lambda done: None
            return
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda done: self._bars.advance(task, done)
        finally:
            self._bars.remove_task(task)

    def say(self, text: str) -> None:
        self._to.print(text, markup=False, highlight=False)


def print_sequences(to: Console, sequences: Sequence[ShownSequence]) -> None:
    """Rendered examples: trained tokens in green (or, without colours, between ⟦ and ⟧), special tokens spelled out."""
    plain = to.no_color or not to.is_terminal
    for sequence in sequences:
        to.rule(Text(f"{sequence.place} · {sequence.tokens} tokens, {sequence.trained} trained"))
        text = Text()
        before = False
        for piece, trained, special in sequence.pieces:
            if plain and trained != before:
                text.append("⟦" if trained else "⟧")
            text.append(piece, style="bold green" if trained else "dim" if special else "")
            before = trained
        text.append("⟧" if plain and before else "")
        to.print(text, soft_wrap=True)
    legend = "⟦between these⟧" if plain else "[bold green]green[/bold green]"
    to.print(f"\n{legend}: trained, the loss counts predicting it")


def say(to: Console, text: str, style: str = "") -> None:
    """A line as it is: what stands in brackets is text, not markup."""
    to.print(Text(text, style=style), highlight=False)


def print_forecast(to: Console, settings: Study, found: Forecast, folder: Path | None, *, details: bool) -> None:
    """What a study will take and can show."""
    say(to, settings.name, "bold")
    say(to, f"{settings.model}: {found.parameters / 1e6:.0f} M parameters, on {found.device} in {found.precision}")
    for name, task in found.tasks.items():
        labels = f", {len(task['labels'])} labels" if task["labels"] else ""
        sizes = f"{task['train']} training, {task['validation']} validation, {task['test']} test examples"
        say(to, f"{name}: {sizes}{labels}")
    say(to, found.power)
    if details:
        for name, report in found.reports.items():
            _print_data(to, name, report)
    table = Table(box=None, pad_edge=False)
    for column in ("approach", "prompt tokens", "about"):
        table.add_column(column, justify="left" if column == "approach" else "right")
    for row in found.approaches:
        table.add_row(Text(row.name), f"{row.prompt_tokens:.0f}", duration(row.seconds))
    to.print(table)
    say(
        to,
        f"In all about {duration(found.seconds)} from nothing (from one short timing, good to a factor of about two; "
        f"what is computed already is kept), at most {found.peak_bytes / 1e9:.1f} GB of memory, "
        f"{found.stored_bytes / 1e6:.0f} MB on disk.",
        "bold",
    )
    for warning in found.warnings:
        say(to, f"note: {warning}", "yellow")
    if folder is not None:
        say(to, f"Writing to {folder}\n")


def _print_data(to: Console, name: str, report: dict[str, Any]) -> None:
    for file in report["files"]:
        say(to, f"  {file['file']}: {file['rows']} rows")
    for row in report["dropped"]:
        say(to, f"  dropped {row['count']}: {row['reason']} ({_first_places(row)})")
    for row in report["duplicates"]:
        say(to, f"  duplicates {_where(row['between'])}: {row['count']}, {row['done']} ({_first_places(row)})")
    table = Table(box=None, pad_edge=False, title=Text(f"{name}: tokens, prompt and answer"), title_justify="left")
    for column in ("split", "min", "median", "p95", "max", "all", "histogram"):
        table.add_column(column, justify="left" if column in ("split", "histogram") else "right")
    for split, tokens in report["tokens"].items():
        table.add_row(
            split,
            *(f"{tokens[key]:,.0f}" for key in ("min", "median", "p95", "max", "total")),
            _bars([count for _, _, count in tokens["histogram"]]),
        )
    to.print(table)
    say(to, f"  cut to fit: {report['truncated']}")
    labels = report["splits"]["train"].get("labels") or {}
    if labels:
        counts = sorted(labels.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{label} {count}" for label, count in counts[:20]) + (", …" if len(counts) > 20 else "")
        say(to, f"  labels in train: {shown}")


def _first_places(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row["places"][:3]))


def _where(between: Sequence[str]) -> str:
    return f"within {between[0]}" if len(set(between)) == 1 else f"between {' and '.join(between)}"


def _bars(counts: Sequence[int]) -> str:
    marks = " ▁▂▃▄▅▆▇█"
    top = max(counts) or 1
    return "".join(marks[-(-count * (len(marks) - 1) // top)] for count in counts)
