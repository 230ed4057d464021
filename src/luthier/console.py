"""What the command line draws besides the report: progress, the forecast, rendered examples and trees, errors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
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
from rich.tree import Tree

from luthier.compare.quantities import duration
from luthier.progress import Advance
from luthier.report.units import plural

if TYPE_CHECKING:
    from luthier.runner.estimate import Forecast
    from luthier.runner.show import Piece, ShownSegment, ShownSequence, ShownTree
    from luthier.runner.survey import Survey
    from luthier.study import Study

# Segments that are drawn below another; of more, the first ones.
_MOST_BRANCHES = 12
# Cells of text beside which the place of an example is drawn; on narrow screens the text has them all.
_LEAST_TEXT = 64

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
    for training, own in itertools.groupby(sequences, key=lambda sequence: sequence.training):
        if training:
            say(to, f"\n{training}", "bold")
        _print_examples(to, list(own))
    to.print(Text("\n") + _legend(to))


def _print_examples(to: Console, sequences: Sequence[ShownSequence]) -> None:
    for sequence in sequences:
        to.rule(Text(f"{sequence.place} · {sequence.tokens} tokens, {sequence.trained} trained"))
        to.print(_marked(sequence.pieces, plain=_is_plain(to)), soft_wrap=True)


def print_tree(to: Console, shown: ShownTree) -> None:
    """Examples merged at their shared beginnings, trained tokens marked as in `print_sequences`."""
    what = "example" if shown.trains else "prompt"
    say(to, f"{shown.approach}, {'first training step' if shown.trains else 'prompts to the validation split'}", "bold")
    shared = 1 - shown.computed / shown.tokens
    counts = f"{plural(shown.sequences, what)}, {shown.tokens:,} tokens, {shown.computed:,} computed"
    say(to, f"{counts} ({shared:.0%} shared)", "bold")
    digits = len(f"{max(segment.tokens for part in shown.parts for segment in _all_segments(part)):,}")
    for number, part in enumerate(shown.parts, 1):
        if len(shown.parts) > 1:
            say(to, f"part {number} of {len(shown.parts)}", "dim")
        tree = Tree("", guide_style="dim", hide_root=True)
        _grow(tree, part, digits, to, to.width)
        to.print(tree)
    say(to, f"\nNumbers count tokens; ×3 stands beside those that three {what}s share.")
    if shown.trains:
        to.print(_legend(to))
        say(to, "The last token of an example is only predicted, not computed.")
    else:
        say(to, "This approach trains nothing; the answers are no part of the picture.")


def _grow(tree: Tree, segments: Sequence[ShownSegment], digits: int, to: Console, width: int) -> None:
    """Draw the segments as branches of the tree, in `width` cells."""
    drawn = segments if len(segments) <= _MOST_BRANCHES else segments[: _MOST_BRANCHES - 1]
    for segment in drawn:
        shares = f" ×{len(segment.places)}" if segment.below else ""
        label = Text(no_wrap=True, overflow="ellipsis").append(f"{segment.tokens:>{digits},}{shares}  ", style="cyan")
        place = Text("" if segment.below else f"  {segment.places[0].rpartition('/')[2]}", style="dim")
        room = width - label.cell_len - place.cell_len
        if room < _LEAST_TEXT:
            room, place = room + place.cell_len, Text()
        label.append_text(_shortened(segment.pieces, room, plain=_is_plain(to))).append_text(place)
        _grow(tree.add(label), segment.below, digits, to, width - 4)
    if left := segments[len(drawn) :]:
        tokens = sum(segment.tokens for segment in _all_segments(left))
        tree.add(Text(f"… {len(left):,} more, {tokens:,} tokens", style="dim"))


def _all_segments(segments: Sequence[ShownSegment]) -> Iterator[ShownSegment]:
    for segment in segments:
        yield segment
        yield from _all_segments(segment.below)


def _shortened(pieces: Sequence[Piece], room: int, *, plain: bool) -> Text:
    """The pieces on one line, cut out in the middle where they take more than `room` cells."""
    line: list[Piece] = [(_on_one_line(text), trained, special) for text, trained, special in pieces]
    whole = _marked(line, plain=plain)
    letters: list[Piece] = [(letter, trained, special) for text, trained, special in line for letter in text]
    answer = sum(1 for _ in itertools.takewhile(lambda piece: piece[1], reversed(letters)))
    kept = len(letters)
    while whole.cell_len > room and kept > 4:  # marks take room too, and some letters two cells
        kept = min(kept - 1, room - 1)
        tail = max(kept // 2, min(answer, 3 * kept // 4))  # of the answer as much as can be
        gap = ("…", letters[kept - tail - 1][1] and letters[-tail][1], True)
        whole = _marked(_joined([*letters[: kept - tail], gap, *letters[-tail:]]), plain=plain)
    return whole


def _joined(letters: Sequence[Piece]) -> Iterator[Piece]:
    for (trained, special), run in itertools.groupby(letters, key=lambda piece: piece[1:]):
        yield "".join(letter for letter, _, _ in run), trained, special


def _on_one_line(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "→")


def _marked(pieces: Iterable[Piece], *, plain: bool) -> Text:
    """The pieces as text: trained ones green or, plain, between ⟦ and ⟧; special ones dim."""
    text = Text()
    before = False
    for piece, trained, special in pieces:
        if plain and trained != before:
            text.append("⟦" if trained else "⟧")
        text.append(piece, style="bold green" if trained else "dim" if special else "")
        before = trained
    text.append("⟧" if plain and before else "")
    return text


def _legend(to: Console) -> Text:
    mark = Text("⟦between these⟧") if _is_plain(to) else Text("green", style="bold green")
    return mark + Text(": trained, the loss counts predicting it")


def _is_plain(to: Console) -> bool:
    return to.no_color or not to.is_terminal


def say(to: Console, text: str, style: str = "") -> None:
    """A line as it is: what stands in brackets is text, not markup."""
    to.print(Text(text, style=style), highlight=False)


def print_survey(to: Console, settings: Study, found: Survey, *, details: bool) -> None:
    """What is in a study's data, and what its test can show."""
    say(to, settings.name, "bold")
    if found.parameters is not None:
        on = f"on {found.prepared.device} in {found.prepared.precision}"
        say(to, f"{settings.model}: {found.parameters / 1e6:.0f} M parameters, {on}")
    for name, task in found.tasks.items():
        labels = f", {len(task['labels'])} labels" if task["labels"] else ""
        sizes = f"{task['train']} training, {task['validation']} validation, {task['test']} test examples"
        say(to, f"{name}: {sizes}{labels}")
    say(to, found.power)
    if details:
        for name, report in found.reports.items():
            _print_data(to, name, report)
    for warning in found.warnings:
        say(to, f"note: {warning}", "yellow")


def print_forecast(to: Console, found: Forecast, folder: Path | None) -> None:
    """What a study will take."""
    table = Table(box=None, pad_edge=False)
    for column in ("approach", "prompt tokens", "about"):
        table.add_column(column, justify="left" if column == "approach" else "right")
    for row in found.approaches:
        table.add_row(
            Text(row.name), "–" if row.prompt_tokens is None else f"{row.prompt_tokens:.0f}", duration(row.seconds)
        )
    to.print(table)
    say(
        to,
        f"In all about {duration(found.seconds)} from nothing (from one short timing, good to a factor of about two; "
        f"what is computed already is kept), at most {found.peak_bytes / 1e9:.1f} GB of memory, "
        f"{found.stored_bytes / 1e6:.0f} MB on disk.",
        "bold",
    )
    for note in found.notes:
        say(to, f"note: {note}", "yellow")
    if folder is not None:
        say(to, f"Writing to {folder}\n")


def _print_data(to: Console, name: str, report: dict[str, Any]) -> None:
    for file in report["files"]:
        say(to, f"  {file['file']}: {file['rows']} rows")
    if unused := report["unused_columns"]:
        shown = ", ".join(unused[:12]) + (", …" if len(unused) > 12 else "")
        say(to, f"  columns that the task does not use: {shown}")
    for row in report["dropped"]:
        say(to, f"  dropped {row['count']}: {row['reason']} ({_first_places(row)})")
    for row in report["duplicates"]:
        say(to, f"  duplicates {_where(row['between'])}: {row['count']}, {row['done']} ({_first_places(row)})")
    for row in report["near_duplicates"]:
        say(to, f"  nearly the same {_where(row['between'])}: {row['count']}, {row['done']} ({_first_places(row)})")
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
