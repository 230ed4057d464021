"""The command line: parse, call, print. What it does, a few lines of Python can do (see `luthier.__init__`)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier import __version__ as luthier_version
from luthier.busy import wait_as_the_machine_is
from luthier.errors import LuthierError
from luthier.index_cli import index_app
from luthier.quiet import quiet
from luthier.types import PromptedModel

app = typer.Typer(
    name="luthier",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Prompt it, show it examples, fine-tune it, or leave it: measured side by side on your own data.\n\n"
    "Begin with `luthier init data.csv`, then `luthier check study.yaml` and `luthier run study.yaml`.",
)

app.add_typer(index_app, name="index")

# What typer makes of Ctrl-C: 128 and the number of the signal, as shells do.
_INTERRUPTED = 130

StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).", show_default=False)]
RunDir = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as approaches.lora.0.adapter.rank=16."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let Python files that the study or run names (reader, metric, rule) run.")
]
ApproachName = Annotated[
    str | None, typer.Option("--approach", help="Name of an approach. Default: the recommended one.")
]

TaskName = Annotated[
    str | None, typer.Option("--task", help="Whose prompts are answered. Default: the target, where there is one.")
]


@app.callback()
def luthier(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"luthier {luthier_version}")
        raise typer.Exit


@app.command()
def run(
    study: StudyFile,
    output: Annotated[Path | None, typer.Option("--output", help="The run folder. Default: runs/STUDY.")] = None,
    overrides: Overrides = None,
    allow_code: AllowCode = False,
    validation_only: Annotated[
        bool, typer.Option("--validation-only", help="Compare on validation and leave the test split closed.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train no language model and try no prompts; minutes instead of hours.")
    ] = False,
    no_forecast: Annotated[
        bool, typer.Option("--no-forecast", help="Begin at once, without saying first how long it will take.")
    ] = False,
) -> None:
    """Run a study: fit every approach, measure all on the test split, recommend one.

    Run it again to go on after an interruption, or after an edit: only what changed is computed.

    Example: `luthier run studies/quickstart.yaml --output runs/quickstart`
    """
    from luthier.console import RichProgress, console, say
    from luthier.report.console import comparison_table
    from luthier.report.html import write_report
    from luthier.runner import run as run_study
    from luthier.study import load_study, quick_study

    settings = load_study(study, tuple(overrides or ()))
    folder = output or Path("runs") / study.stem
    narrowed = quick_study(settings) if quick else None
    _begin()
    if not no_forecast:
        _print_forecast(study, narrowed.study if narrowed else settings, allow_code, folder)
    with RichProgress() as progress:
        result = run_study(
            settings,
            folder,
            root=study.parent,
            study_text=study.read_text(encoding="utf-8"),
            allow_code=allow_code,
            validation_only=validation_only,
            quick=quick,
            progress=progress,
        )
    console.print(comparison_table(result.comparison))
    if narrowed:
        say(console, f"\nA quick run. {narrowed.given_up}")
    say(console, f"\nReport: {write_report(folder)}")


@app.command()
def check(study: StudyFile, overrides: Overrides = None, allow_code: AllowCode = False) -> None:
    """Check a study without running it: examples, tokens, labels, and what it will take.

    Example: `luthier check studies/quickstart.yaml`
    """
    from luthier.study import load_study

    _begin()
    settings = load_study(study, tuple(overrides or ()))
    _print_forecast(study, settings, allow_code, None, details=True)


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A file of examples.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="The study file to write.")] = Path("study.yaml"),
    model: Annotated[str, typer.Option("--model", help="The base model.")] = "smollm2-135m-instruct",
    documents: Annotated[
        Path | None, typer.Option("--documents", help="A folder of documents that hold the answers.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the study file.")] = False,
) -> None:
    """Look at a data file and write a study for it that runs.

    Example: `luthier init studies/data/banking77/train.csv --output study.yaml`

    Example: `luthier init studies/data/xquad/train.csv --documents studies/data/xquad/documents`
    """
    from luthier.console import console
    from luthier.study.initial import initial_study

    if output.exists() and not force:
        raise LuthierError(f"{output} exists. Write elsewhere with --output, or overwrite it with --force.")
    text, notes = initial_study(data, output, model, documents)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    for note in notes:
        console.print(f"• {note}", highlight=False, markup=False)
    console.print(f"\nWrote {output}. Next: luthier check {output}", highlight=False)


@app.command()
def show(
    study: StudyFile,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many examples of each training. Default: 3.")] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="Draw the first training step, what its examples share only once.")
    ] = False,
    approach: Annotated[
        str | None, typer.Option("--approach", help="Name of an approach. Default: the first that trains.")
    ] = None,
    overrides: Overrides = None,
    allow_code: AllowCode = False,
) -> None:
    """Show examples exactly as the model gets them: trained tokens coloured, special tokens spelled out.

    Example: `luthier show studies/quickstart.yaml -n 3 --approach lora`

    Example: `luthier show studies/quickstart.yaml --tree`
    """
    from luthier.console import console, print_sequences, print_tree
    from luthier.runner.show import token_tree, training_examples
    from luthier.study import load_study

    if tree and n is not None:
        raise LuthierError("-n counts examples, and --tree draws the whole first step; leave one of them out.")
    _begin()
    settings = load_study(study, tuple(overrides or ()))
    if tree:
        print_tree(console, token_tree(settings, study.parent, approach, allow_code=allow_code))
    else:
        print_sequences(console, training_examples(settings, study.parent, n or 3, approach, allow_code=allow_code))


@app.command()
def report(run_dir: RunDir) -> None:
    """Write a run's report anew from the files in its folder.

    Example: `luthier report runs/quickstart`
    """
    from luthier.console import console, say
    from luthier.report.console import comparison_table
    from luthier.report.html import write_report
    from luthier.runner.folder import RunFolder, read_json

    path = write_report(run_dir)
    console.print(comparison_table(read_json(RunFolder(run_dir).comparison)))
    say(console, f"\nReport: {path}")


@app.command()
def predict(
    run_dir: RunDir,
    file: Annotated[Path, typer.Argument(help="Rows with the columns that the prompt names.", show_default=False)],
    approach: ApproachName = None,
    task: TaskName = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write JSONL here instead of printing.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is there, and columns of the answer's names.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Answer new rows with the recommended approach, one JSON object a line.

    Example: `luthier predict runs/quickstart new.csv --output answers.jsonl`
    """
    import json

    from luthier.console import RichProgress, console, errors
    from luthier.runner.folder import write_jsonl
    from luthier.runner.open import open_run
    from luthier.runner.predict import Unanswered, as_row, plain_row, predict_file, see_that_it_can_be_written

    _begin()
    if output is not None:
        see_that_it_can_be_written(output, file, force=force)
    opened = open_run(run_dir, approach, task, allow_code=allow_code)
    with RichProgress(errors) as progress:  # the answers may go into a pipe
        answered = predict_file(opened, file, progress, replace=force)
        found = list(answered)
    rows: list[dict[str, Any]] = [{**plain_row(row), **as_row(answer)} for row, answer in found]
    without = [answer for _, answer in found if isinstance(answer, Unanswered)]
    if output is None:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        write_jsonl(output, rows)
        answers = len(rows) - len(without)
        console.print(f"{answers} answers by {opened.name} in {output}", highlight=False, markup=False)
    if without:
        shown = "\n".join(f"  {own.place}: {own.why}" for own in without[:5])
        more = "\n  …" if len(without) > 5 else ""
        raise LuthierError(f"{len(without)} of {len(rows)} rows have no answer; all others do:\n{shown}{more}")


@app.command()
def chat(run_dir: RunDir, approach: ApproachName = None, task: TaskName = None, allow_code: AllowCode = False) -> None:
    """Talk to the recommended approach; an empty line or Ctrl-D ends.

    Example: `luthier chat runs/quickstart`
    """
    from luthier.console import console
    from luthier.runner.open import open_run
    from luthier.runner.predict import prompt_columns, reply, sources
    from luthier.types import Message

    _begin()
    opened = open_run(run_dir, approach, task, allow_code=allow_code)
    if opened.predictor.reads_columns and len(prompt_columns(opened.task)) != 1:
        raise LuthierError(
            f"{opened.name} reads the columns of a row, which a conversation does not have. Answer rows of a file with "
            "luthier predict, or name another approach with --approach."
        )
    named = opened.study.approaches[opened.name].model or opened.study.model
    on = f" on {named}" if opened.predictor.models else ""
    console.print(f"{opened.name}{on}. An empty line ends.", style="dim", markup=False)
    turns: list[Message] = []
    while True:
        try:
            text = console.input("[bold]› [/bold]").strip()
        except EOFError:
            break
        if not text:
            break
        answer = reply(opened, [*turns, Message("user", text)])
        console.print(answer.text, markup=False, highlight=False)
        if answer.passages:
            console.print("; ".join(sources(answer)), style="dim", markup=False, highlight=False)
        if not opened.labels and not prompt_columns(opened.task):  # else each question stands for itself
            turns += [Message("user", text), Message("assistant", answer.text)]


@app.command()
def export(
    run_dir: RunDir,
    to: Annotated[Path, typer.Option("--to", help="A new folder.", show_default=False)],
    approach: ApproachName = None,
    task: TaskName = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into a whole model.")] = False,
    check: Annotated[int, typer.Option("--check", min=0, help="Test prompts to answer again.")] = 50,
    allow_code: AllowCode = False,
) -> None:
    """Write the approach as a folder that plain transformers and PEFT load, and check that it answers alike.

    Example: `luthier export runs/quickstart --to my-model --merge`
    """
    from luthier.console import RichProgress, console, say
    from luthier.report.card import model_card
    from luthier.runner.export import export as export_run
    from luthier.runner.open import open_run

    _begin()
    opened = open_run(run_dir, approach, task, allow_code=allow_code)
    with RichProgress() as progress:
        card = partial(model_card, run_dir, opened.name)  # of its kind and usage
        done = export_run(opened, to, merge=merge, card=card, check=check, progress=progress)
    kind = {
        "adapter": " as an adapter",
        "model": " as a whole model",
        "classifier": " as a whole model with a classification head",
    }.get(done.kind, "")
    say(console, f"Wrote {opened.name}{kind} to {done.folder}.")
    if opened.routed:
        say(console, f"The approach has a model for each task; this is the one for {opened.task_name} (see --task).")
    if done.checked:
        say(console, f"Loaded from there, it gave the run's answer to all of {done.checked} test prompts.")
    if done.score is not None and done.score_in_run is not None:
        say(console, f"{done.metric} on them: {done.score:.3f} (in the run: {done.score_in_run:.3f})")
    asked = opened.predictor
    if isinstance(asked, PromptedModel) and (asked.shots or asked.wording.template or asked.wording.system):
        say(console, "The approach also words its prompts; luthier.json in that folder says how to ask the model.")


def _begin() -> None:
    """What comes before the libraries that compute are loaded."""
    wait_as_the_machine_is()
    quiet()


def _print_forecast(
    study: Path, settings: Any, allow_code: bool, folder: Path | None, *, details: bool = False
) -> None:
    from luthier.console import console, print_forecast, print_survey
    from luthier.runner.estimate import forecast
    from luthier.runner.survey import survey

    with console.status("reading the data"):
        read = survey(settings, study.parent, allow_code=allow_code)
    print_survey(console, settings, read, details=details)
    with console.status("timing the model"):
        found = forecast(read.prepared)
    print_forecast(console, found, folder)


def _explained(error: Exception) -> str:
    """What a library's error means to the user; raised again where that is not known."""
    usage = getattr(error, "format_message", None)
    if usage is not None:
        return str(usage())
    if type(error).__name__ == "SafetensorError":  # how safetensors says that the disk is full
        return f"weights cannot be written or read: {error}. Free some space; what is computed is kept."
    if type(error).__name__ == "OutOfMemoryError":
        return f"{str(error).splitlines()[0]} Lower batch_size, or use a smaller model; what is computed is kept."
    raise error


def main() -> None:
    """Entry point: errors that a user can act on are printed without a traceback."""
    from luthier.console import print_error

    try:
        code = app(standalone_mode=False)
    except LuthierError as error:
        print_error(str(error))
        sys.exit(1)
    except MemoryError:
        print_error("out of memory. Lower batch_size, or use a smaller model; what is computed is kept.")
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print_error(f"{error.strerror or error}{where}. What is computed is kept; run the same command again to go on.")
        sys.exit(1)
    except Exception as error:
        print_error(_explained(error))
        sys.exit(2)
    if code == _INTERRUPTED:
        print_error("interrupted. What is computed is kept; run the same command again to go on.")
    sys.exit(code or 0)
