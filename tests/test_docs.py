"""The documentation says what the code does: commands, settings, snippets and links are checked, not run."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import luthier
from luthier.cli import app
from luthier.steps import PretrainStep
from luthier.study import load_study

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")])
STUDIES = sorted(ROOT.glob("studies/*.yaml"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def _ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_study_reference", ROOT / "docs/make_study_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_reference_is_up_to_date() -> None:
    page = (ROOT / "docs/study-file.md").read_text(encoding="utf-8")
    assert _generator().with_reference(page) == page, "run: python docs/make_study_reference.py"


def _commands(page: Path) -> list[str]:
    """Every `luthier …` of a page, from blocks without a language and from code in the text."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in _FENCE.findall(text):
        if not language:
            found += [line for line in block.splitlines() if line.startswith("luthier ")]
    prose = _FENCE.sub("", text)
    found += [" ".join(code.split()) for code in re.findall(r"`(luthier [^`]+)`", prose)]
    return found


def _studies_head_commands() -> list[tuple[Path, str]]:
    found = []
    for path in STUDIES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#") and "luthier " in line:
                found.append((path, line[line.index("luthier ") :]))
    return found


COMMANDS = [(page, command) for page in PAGES for command in _commands(page)] + _studies_head_commands()


def _parse(command: str) -> None:
    """Parse a command line as the program does, without running it. A bare `luthier predict` names the command only."""
    words = shlex.split(command, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, *words = command.commands[words[0]], *words[1:]
    if words:
        command.make_context(command.name, words)


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{_ids(p)}: {c}" for p, c in COMMANDS])
def test_every_command_in_the_docs_parses(page: Path, command: str) -> None:
    _parse(command)


def test_a_command_with_an_unknown_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        _parse("luthier run studies/quickstart.yaml --outptu runs/x")


def test_the_readme_shows_every_command() -> None:
    group: Any = typer.main.get_command(app)
    shown = {shlex.split(command)[1] for command in _commands(ROOT / "README.md")}
    assert set(group.commands) <= shown


def test_the_help_of_every_command_shows_a_command_that_parses() -> None:
    group: Any = typer.main.get_command(app)
    for names, command in _leaves(group):
        result = CliRunner().invoke(app, [*names, "--help"])
        assert result.exit_code == 0
        examples = re.findall(r"Example: `(luthier [^`]+)`", command.help)
        assert examples, names
        for example in examples:
            _parse(example)


def _leaves(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands that do something, with their names, those of groups before them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, (*names, name))
        else:
            yield (*names, name), command


def _snippets() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", ROOT / "docs/study-file.md"]
    return [
        (f"{_ids(page)}: snippet {number}", block)
        for page in pages
        for number, (language, block) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")), 1)
        if language == "yaml"
    ]


@pytest.mark.parametrize(("name", "snippet"), _snippets(), ids=[name for name, _ in _snippets()])
def test_every_snippet_of_a_study_is_valid(name: str, snippet: str, tmp_path: Path) -> None:
    """What a part of a study leaves out is filled in, so that parts are checked as strictly as whole studies."""
    rest = {
        "model": "some-model",
        "task": {"data": "data.csv", "prompt": "{{ question }}", "completion": "{{ answer }}"},
        "approaches": {"zero-shot": []},
    }
    given = yaml.safe_load(snippet)
    present = {"task" if key == "tasks" else key for key in given}
    missing = {key: value for key, value in rest.items() if key not in present}
    file = tmp_path / "study.yaml"
    file.write_text(snippet + "\n" + (yaml.safe_dump(missing) if missing else ""), encoding="utf-8")
    load_study(file)


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {"".join(c for c in h.lower().replace(" ", "-") if c.isalnum() or c in "-_") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_relative_link_resolves(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for link in _LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=_ids)
def test_every_make_target_in_the_docs_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def test_the_python_of_the_readme_uses_public_names() -> None:
    blocks = [b for language, b in _FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8")) if "py" in language]
    tree = ast.parse("\n".join(blocks))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "luthier"
    }
    assert used
    assert used <= set(luthier.__all__)


@pytest.mark.parametrize("path", STUDIES, ids=_ids)
def test_a_shipped_study_is_valid_and_its_data_name_their_source(path: Path) -> None:
    study = load_study(path)
    names = [name for task in study.tasks.values() for own in task.sources().values() for name in own]
    assert names
    steps = [step for approach in study.approaches.values() for step in approach.steps]
    names += [name for step in steps if isinstance(step, PretrainStep) for name in step.text.names]
    for name in names:
        file = path.parent / name
        assert file.is_file()
        assert "Licence" in (file.parent / "SOURCE.md").read_text(encoding="utf-8")


def test_the_e2e_sample_has_no_meaning_representation_on_both_sides() -> None:
    folder = ROOT / "studies/data/e2e_nlg"
    train, test = (_column(folder / name, "mr") for name in ("train.csv", "test.csv"))
    assert len(train) == len(set(train)) == 304
    assert len(set(test)) == 200
    assert not set(train) & set(test)


def test_the_medical_chain_has_no_topic_on_both_sides() -> None:
    folder = ROOT / "studies/data/medical"
    asked: dict[str, list[str]] = {}
    for name, sizes in {"maths": (340, 100), "medical": (340, 100), "pediatric": (266, 100)}.items():
        for split, size in zip(("train", "test"), sizes, strict=True):
            questions = _column(folder / f"{name}-{split}.csv", "question")
            assert len(questions) == size
            asked[f"{name}-{split}"] = [question.casefold() for question in questions]
        topics = [set(_column(folder / f"{name}-{split}.csv", "topic")) - {""} for split in ("train", "test")]
        assert not topics[0] & topics[1]
    for trained in (key for key in asked if key.endswith("train")):
        for tested in (key for key in asked if key.endswith("test")):
            assert not set(asked[trained]) & set(asked[tested])


def test_the_medical_articles_stand_in_one_file_each() -> None:
    folder = ROOT / "studies/data/pubmed"
    train, test = (_column(folder / name, "abstract") for name in ("train.csv", "test.csv"))
    text = (folder / "medicine.txt").read_text(encoding="utf-8")
    assert (len(set(train)), len(set(test)), text.count("\n\n") + 1) == (180, 120, 260)
    assert not set(train) & set(test)
    assert not [abstract for abstract in (*train, *test) if abstract in text]


def test_no_message_of_the_intermediate_tasks_is_tested() -> None:
    tested = {text.casefold() for text in _column(ROOT / "studies/data/banking77/test.csv", "text")}
    for name in ("money", "household"):
        train, test = (
            _column(ROOT / f"studies/data/clinc150/{name}-{split}.csv", "text") for split in ("train", "test")
        )
        assert (len(train), len(test)) == (750, 120)
        assert not {text.casefold() for text in train} & (tested | {text.casefold() for text in test})


def test_the_negations_have_no_sentence_on_both_sides() -> None:
    folder = ROOT / "studies/data/negation"
    train, test = (
        {
            json.loads(line)["messages"][1]["content"].casefold()
            for line in (folder / name).read_text(encoding="utf-8").splitlines()
        }
        for name in ("train.jsonl", "test.jsonl")
    )
    assert (len(train), len(test)) == (384, 200)
    assert not train & test


def _column(file: Path, name: str) -> list[str]:
    with open(file, encoding="utf-8", newline="") as handle:
        return [row[name] for row in csv.DictReader(handle)]
