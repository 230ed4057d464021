"""Another kind of predictor and a step that makes it, as somebody would add them: no command knows of either."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from luthier.cli import main
from luthier.prompt.similar import Reading
from luthier.record import predictor_from_json, predictor_to_json
from luthier.runner.folder import read_json, read_jsonl
from luthier.simple.classifier import Classifier
from luthier.simple.floors import BestSentence, DrawByFrequency, FirstSentences, MostFrequent
from luthier.simple.nearest import Nearest
from luthier.simple.rule import Rule
from luthier.steps import AnyStep
from luthier.steps.base import ShownText, Step, StepContext, StepForecast, StepOutcome
from luthier.study.schema import Approach, Study
from luthier.types import (
    FOLDER,
    Completion,
    Decoding,
    ModelRef,
    Nothing,
    Predictor,
    Prompt,
    PromptedModel,
    Retrieval,
    Tools,
    Wording,
)


@dataclass(frozen=True, slots=True)
class LastLetter(Predictor):
    """Answers by the last letter of a prompt, from a table in a folder."""

    kind: ClassVar[str] = "last letter"

    table: str = field(metadata=FOLDER)
    otherwise: str = ""

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        known = json.loads((Path(self.table) / "table.json").read_text())
        advance(len(prompts))
        return [
            Completion(p.id, known.get(p.messages[-1].content[-1], self.otherwise), p.messages, 0, 0, "copy")
            for p in prompts
        ]

    def export(self, folder: Path, tools: Tools) -> LastLetter:
        (folder / "table.json").write_text((Path(self.table) / "table.json").read_text())
        return LastLetter(str(folder), self.otherwise)

    def usage(self) -> str:
        return "Look the last letter up in `table.json`."


class LastLetterStep(Step):
    """Learn which answer goes with which last letter."""

    answers: ClassVar[bool] = True

    step: Literal["last-letter"] = "last-letter"

    @property
    def needs_model(self) -> bool:
        return False

    def forecast(self, context: StepContext) -> StepForecast:
        return StepForecast(fit_s=1.0, request_s=0.001, alone_s=0.001)

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        return [
            ShownText(str(e.place), ((e.prompt.messages[-1].content[-1], False), (e.completion, True)))
            for e in context.task.train[:count]
        ]

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        table = {e.prompt.messages[-1].content[-1]: e.completion for e in context.task.train}
        folder = context.folder / "model"
        folder.mkdir(parents=True)
        (folder / "table.json").write_text(json.dumps(table))
        return StepOutcome(LastLetter(str(folder), context.task.train[0].completion))


class OpenApproach(Approach):
    steps: tuple[Annotated[AnyStep | LastLetterStep, Field(union_mode="left_to_right")], ...] = ()


class OpenStudy(Study):
    approaches: dict[str, OpenApproach] = Field(min_length=1)  # type: ignore[assignment]


STUDY = """
task:
  data: {train: train.csv, test: test.csv}
  split: {validation: 6}
  prompt: "{{ text }}"
  completion: "{{ kind }}"
  labels: auto
latency_requests: 2
approaches:
  letters: [{step: last-letter}]
  nearest: [{step: nearest, by: bm25}]
"""


@pytest.fixture
def luthier(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command line in the folder of the tiny study, where studies may have the new step."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("luthier.study.schema.Study", OpenStudy)
    monkeypatch.setattr("luthier.runner.open.Study", OpenStudy)
    (root / "study.yaml").write_text(STUDY)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["luthier", *words])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    return call


def test_every_command_works_with_a_kind_and_a_step_that_it_does_not_know(
    luthier: Callable[..., tuple[int, str]], root: Path
):
    code, out = luthier("check", "study.yaml")
    assert code == 0, out
    assert "letters – " in out  # no prompt tokens, for no language model is asked

    code, out = luthier("show", "study.yaml", "--approach", "letters", "-n", "2")
    assert code == 0, out
    assert "1: last-letter" in out

    code, out = luthier("show", "study.yaml", "--approach", "letters", "--tree")
    assert code == 1
    assert "letters asks no language model" in out

    code, out = luthier("run", "study.yaml", "--output", "out")
    assert code == 0, out
    row = next(r for r in read_json(root / "out" / "comparison.json")["approaches"] if r["name"] == "letters")
    assert row["training"] == "none"
    assert (row["cost"]["prompt_tokens"], row["cost"]["window_share"]) == (0, 0)
    assert "forgotten" not in row
    assert (root / "out" / "report.html").is_file()
    rows = read_jsonl(root / "out" / "approaches" / "letters" / "predictions.jsonl")
    answers = [answer["completion"] for answer in rows]
    assert len(answers) == 24

    code, out = luthier("predict", "out", "test.csv", "--approach", "letters", "--output", "new.jsonl")
    assert code == 0, out
    assert [row["prediction"] for row in read_jsonl(root / "new.jsonl")] == answers

    code, out = luthier("export", "out", "--to", "given", "--approach", "letters")
    assert code == 0, out
    assert (root / "given" / "table.json").is_file()
    assert "Look the last letter up" in (root / "given" / "README.md").read_text()

    code, out = luthier("export", "out", "--to", "merged", "--approach", "letters", "--merge")
    assert code == 1
    assert "nothing to merge" in out

    assert luthier("report", "out")[0] == 0


def test_nothing_that_nobody_asks_is_loaded(luthier: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch):
    """A study that needs no language model loads none; by words alone, no embedder either."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("this study needs no such thing")

    monkeypatch.setattr("luthier.infer.engine.load_model", refuse)
    monkeypatch.setattr("luthier.model.embed._load", refuse)
    monkeypatch.setattr(sys.modules["luthier.runner.prepare"], "find_model", refuse)
    code, out = luthier("run", "study.yaml", "--output", "out")
    assert code == 0, out


EXAMPLES: Mapping[str, Predictor] = {
    own.kind: own
    for own in (
        Nothing(),
        PromptedModel(
            ModelRef("/base", ("/adapter",), "/head"),
            Decoding("choose", 7, ("\n",), 0.5, 0.9, 3),
            Wording("System.", "{{ text }}"),
            routes={"other": ModelRef("/other")},
            retrieval=Retrieval("/index", "minilm-l6", "dense", 5, "{{ text }}", "/cross", 9, 99, "best-last", "Read."),
            retriever="/retriever",
            reranker="/reranker",
        ),
        Nearest({"task": "/known"}, "both", 3, "minilm-l6", 0.5, "ask us"),
        Classifier({"task": "/head"}, "minilm-l6", PromptedModel(ModelRef("/base"), Decoding()), 0.5, "ask us"),
        MostFrequent({"task": "yes"}),
        DrawByFrequency({"task": {"yes": 3, "no": 1}}, 7),
        FirstSentences({"task": 2}, {"task": Reading("Read: ", "!", True)}),
        BestSentence("task", Retrieval("/index", "minilm-l6"), "minilm-l6"),
        Rule("/code", "rule.py:answer", ("task",), "?", Retrieval("/index", "minilm-l6")),
        LastLetter("/table", "?"),
    )
}


def test_every_kind_has_an_example_here():
    assert set(EXAMPLES) == set(Predictor.kinds)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_field_is_read_back(kind: str, tmp_path: Path):
    given = EXAMPLES[kind]
    written = json.loads(json.dumps(predictor_to_json(given, tmp_path)))
    assert predictor_from_json(written, tmp_path) == given
    for own in fields(given):  # type: ignore[arg-type]
        default = own.default_factory() if own.default_factory is not MISSING else own.default
        lacking = {"shots", "task_shots"}  # in tests/steps/test_record.py
        assert own.name in lacking or getattr(given, own.name) != default, f"{own.name} would not be missed"


def test_a_field_that_is_not_read_back_is_noticed(tmp_path: Path):
    from luthier.errors import RunError

    written = json.loads(json.dumps(predictor_to_json(EXAMPLES["nearest"], tmp_path)))
    for changed in (
        {**written, "more": 1},
        {k: v for k, v in written.items() if k != "k"},
        {**written, "kind": "none"},
    ):
        with pytest.raises(RunError, match="another version of Luthier"):
            predictor_from_json(changed, tmp_path)
