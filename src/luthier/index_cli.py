"""`luthier index`: an index of documents made, changed and searched from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.busy import wait_as_the_machine_is
from luthier.quiet import quiet

if TYPE_CHECKING:
    from luthier.retrieve.index import Index
    from luthier.retrieve.update import Update

index_app = typer.Typer(no_args_is_help=True, help="Make an index of documents, change it, search it.")

IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index's folder.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
_SHOWN = 5  # of what is listed by name


@index_app.command()
def build(
    index: IndexFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of documents.", show_default=False)],
    embedder: Annotated[
        str, typer.Option("--embedder", help="Built-in name, folder, or Hugging Face id.")
    ] = "minilm-l6",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Most tokens of a passage.")] = 200,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", min=0, help="Tokens that the next passage repeats; default: a fifth."),
    ] = None,
    store: Annotated[
        Literal["auto", "exact", "lancedb"], typer.Option("--store", help="auto: lancedb from 10,000 passages on.")
    ] = "auto",
    device: Device = "auto",
) -> None:
    """Index all documents below a folder, or bring the index up to date with it.

    Example: `luthier index build runs/docs docs`
    """
    from luthier.console import RichProgress
    from luthier.errors import LuthierError
    from luthier.model.device import resolve_device
    from luthier.model.embed import SentenceEmbedder
    from luthier.retrieve.passages import ChunkSettings
    from luthier.retrieve.update import build as build_index

    wait_as_the_machine_is()
    quiet()
    if overlap is not None and overlap > tokens // 2:
        raise LuthierError(f"--overlap {overlap}: at most half of --tokens ({tokens // 2}).")
    # A folder is kept by its whole path, so that the index can be opened from elsewhere.
    place = Path(embedder).expanduser()
    known = str(place.resolve()) if place.is_dir() else embedder
    own = SentenceEmbedder.named(known, Path(), resolve_device(device))  # type: ignore[arg-type]
    chunks = ChunkSettings(tokens=tokens) if overlap is None else ChunkSettings(tokens=tokens, overlap=overlap)
    with RichProgress() as progress:
        update = build_index(index, folder, own, chunks, store, progress)
    _print_update(update)


@index_app.command()
def add(
    index: IndexFolder,
    documents: Annotated[list[Path], typer.Argument(metavar="DOCUMENT…", help="Files.", show_default=False)],
    device: Device = "auto",
) -> None:
    """Add files, or put their new versions in the place of the old ones.

    Example: `luthier index add runs/docs docs/guide.md`
    """
    from luthier.console import RichProgress
    from luthier.retrieve.update import add_files

    wait_as_the_machine_is()
    quiet()
    with RichProgress() as progress:
        update = add_files(_opened(index, device), documents, progress)
    _print_update(update)


@index_app.command()
def remove(
    index: IndexFolder,
    documents: Annotated[
        list[str], typer.Argument(metavar="DOCUMENT…", help="Names as `list` shows them; * is anything.")
    ],
    device: Device = "auto",
) -> None:
    """Take documents out; none of them is found from then on.

    Example: `luthier index remove runs/docs guide.md "decisions/*"`
    """
    from luthier.console import console, say

    wait_as_the_machine_is()
    quiet()
    changes = _opened(index, device).remove(documents)
    say(console, f"Removed {_named(changes.removed)} with {_counted(changes.passages, 'passage')}.")


@index_app.command()
def search(
    index: IndexFolder,
    query: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    kind: Annotated[Literal["dense", "lexical", "hybrid"], typer.Option("--kind", help="How to search.")] = "hybrid",
    only: Annotated[list[str] | None, typer.Option("--in", help="Only in these documents; * is anything.")] = None,
    device: Device = "auto",
) -> None:
    """Show the passages that answer best to a query, with their places.

    Example: `luthier index search runs/docs "what is a token tree?" -k 3`
    """
    from rich.text import Text

    from luthier.console import console, say
    from luthier.errors import RetrievalError

    wait_as_the_machine_is()
    quiet()
    opened = _opened(index, device)
    if unknown := [pattern for pattern in only or () if not opened.matching(pattern)]:
        raise RetrievalError(f"{index} has no document {', '.join(unknown)}. `luthier index list {index}` shows them.")
    hits = opened.search(query, k, kind, only or None)
    if not hits:
        say(console, "No passage was found.")
    for rank, hit in enumerate(hits, 1):
        console.rule(Text(f"{rank}. {hit.passage.place} · {hit.score:.3f}"), align="left")
        console.print(Text(hit.passage.text))


@index_app.command("list")
def list_documents(index: IndexFolder, device: Device = "auto") -> None:
    """List the documents with their titles and numbers of passages.

    Example: `luthier index list runs/docs`
    """
    from rich.table import Table
    from rich.text import Text

    from luthier.console import console, say

    wait_as_the_machine_is()
    quiet()
    own = _opened(index, device)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("document", "title"):
        table.add_column(heading)
    table.add_column("passages", justify="right")
    for name, (title, passages) in sorted(own.documents.items()):
        table.add_row(Text(name), Text(title), str(passages))
    console.print(table)
    say(
        console,
        f"{_counted(len(own.documents), 'document')}, {_counted(len(own.passages), 'passage')}; {own.kind} store",
    )


def _opened(folder: Path, device: str) -> Index:
    from luthier.model.device import resolve_device
    from luthier.model.embed import SentenceEmbedder
    from luthier.retrieve.index import open_index

    return open_index(
        folder,
        lambda name: SentenceEmbedder.named(name, Path(), resolve_device(device)),  # type: ignore[arg-type]
    )


def _print_update(update: Update) -> None:
    """What was changed, and everything that was left out or will be cut, with the reason."""
    from luthier.console import console, say

    changes = update.changes
    done = [
        f"{len(names)} {what}"
        for what, names in (
            ("added", changes.added),
            ("revised", changes.revised),
            ("unchanged", changes.unchanged),
            ("removed", changes.removed),
        )
        if names
    ]
    say(console, f"Documents: {', '.join(done) or 'none'}; {_counted(changes.passages, 'passage')} embedded.")
    say(
        console,
        f"The index holds {_counted(len(update.index.passages), 'passage')} in a store of kind {update.index.kind}.",
    )
    if changes.removed:
        say(console, f"Removed: {_named(changes.removed)}.")
    if changes.too_long:
        longest = max(changes.too_long, key=lambda own: changes.too_long[own])
        say(
            console,
            f"{_counted(len(changes.too_long), 'passage')} longer than the {update.index.embedder.window} tokens that "
            "the embedder reads; dense search does not see the end of them (the longest: "
            f"{longest}, {changes.too_long[longest]} tokens).",
            "yellow",
        )
    if update.skipped:
        say(console, f"Not read: {_counted(len(update.skipped), 'file or page', 'files or pages')}.", "yellow")
        for own in update.skipped[:_SHOWN]:
            say(console, f"  {own.name}: {own.reason}", "yellow")
        if len(update.skipped) > _SHOWN:
            say(console, f"  … and {len(update.skipped) - _SHOWN} more", "yellow")


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
