"""Studies that retrieve, from documents to the report, with the shipped sentence embedder and a tiny model."""

from __future__ import annotations

import csv
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DataError, StudyError
from luthier.model.embed import SentenceEmbedder
from luthier.progress import Silent
from luthier.report.card import model_card
from luthier.report.html import write_report
from luthier.retrieve.index import open_index
from luthier.runner import run
from luthier.runner.estimate import forecast
from luthier.runner.export import export
from luthier.runner.folder import read_json, read_jsonl
from luthier.runner.open import open_run
from luthier.runner.predict import predict_rows, sources
from luthier.runner.prepare import prepare
from luthier.runner.show import training_examples
from luthier.study import Study, build_study

TOWNS = ("Aven", "Borel", "Cadiz", "Delmo", "Esker", "Fjord", "Gally", "Hexam", "Inver", "Jarno")
MAYOR = ("Who is the mayor of {0}?", "The mayor of {0} is {1}.")
RIVER = ("Which river runs through {0}?", "The river {1} runs through {0}.")
FIRST = ("Ann", "Bob", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo")
LAST = ("Lee", "Stone", "Young", "Moss", "Ford", "Reed", "Hill", "Wood", "Park", "Marsh")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    documents = tmp_path / "documents"
    documents.mkdir()
    rows = []
    for number, town in enumerate(TOWNS):
        mayor, river = f"{FIRST[number]} {LAST[number]}", f"{LAST[-number - 1]} Water"
        mayor_line, river_line = MAYOR[1].format(town, mayor), RIVER[1].format(town, river)
        (documents / f"{town}.md").write_text(f"# {town}\n\n{mayor_line} {river_line}\n", encoding="utf-8")
        rows.append([MAYOR[0].format(town), mayor, f"{town}.md", mayor_line])
        rows.append([RIVER[0].format(town), river, f"{town}.md", river_line])
    random.Random(0).shuffle(rows)
    for name, own in (("train", rows[:12]), ("test", rows[12:])):
        write(tmp_path / f"{name}.csv", ["question", "answer", "document", "evidence"], own)
    revised = tmp_path / "revised"
    revised.mkdir()
    (revised / "Aven.md").write_text("# Aven\n\nThe mayor of Aven is Max Dunn. No river runs here.", encoding="utf-8")
    asked = [["Who is the mayor of Aven?", "Max Dunn", "Ann Lee"], ["Who is the mayor of Borel?", "", "Bob Stone"]]
    write(tmp_path / "asked.csv", ["question", "answer", "before"], asked)
    return tmp_path


def write(file: Path, columns: list[str], rows: list[list[str]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([columns, *rows])


def study(model: Path, approaches: dict[str, Any], **changes: Any) -> Study:
    task = {
        "data": {"train": "train.csv", "test": "test.csv"},
        "split": {"validation": 4},
        "documents": "documents",
        "relevant": "document",
        "evidence": "evidence",
        "prompt": "{{ question }}",
        "completion": "{{ answer }}",
        "max_new_tokens": 4,
        **changes.pop("task", {}),
    }
    settings = {"device": "cpu", "precision": "float32", "latency_requests": 1, "forgetting": {"probe": False}}
    return build_study(model=str(model), task=task, approaches=approaches, **{**settings, **changes})


RETRIEVER = {"step": "retriever", "epochs": 1, "batch_size": 4, "negatives": 1}
SFT = {"step": "sft", "epochs": 1, "evaluations": 1, "passages": {"distractors": 1}}
REVISION = {"documents": "revised", "removed": ["Borel.md"], "questions": "asked.csv"}
APPROACHES: dict[str, Any] = {
    "closed-book": [],
    "rag": [{"step": "rag", "k": {"choose": [1, 2]}}],
    "all": [RETRIEVER, {"step": "reranker", "epochs": 1, "negatives": 1, "depth": 4}, {"step": "rag", "k": 2}, SFT],
}


RULE = """
def answer(prompt, fields):
    first = fields["passages"].split("\\n\\n")[0]
    return first.split("is ")[-1].split(".")[0] if "mayor" in prompt else None
"""


def test_a_study_s_own_rows_and_runs_inside_the_folder_are_no_documents(root: Path, tiny_model_folder: Path) -> None:
    """Else the answers of the test stand in the passages, and a second run reads what the first wrote."""
    own = study(
        tiny_model_folder, {"rag": [{"step": "rag"}]}, task={"documents": ".", "relevant": None, "evidence": None}
    )
    keys = []
    for _ in range(2):
        result = run(own, root / "runs" / "first", root=root)
        report = read_json(root / "runs" / "first" / "data.json")["task"]
        keys.append(report["documents"]["documents"])
        left_out = {row["name"]: row["reason"] for row in report["documents"]["skipped"]}
        assert left_out["train.csv"] == left_out["test.csv"] == "the study's own rows, no document"
        assert any("files, pages or folders were left out" in warning for warning in report["warnings"])
        rows = read_jsonl(root / "runs" / "first" / "approaches" / "rag" / "predictions.jsonl")
        named = {passage["id"] for row in rows for passage in row["passages"]}
        assert not any(name.startswith(("train.csv", "test.csv", "runs/")) for name in named)
    assert keys[0] == keys[1]
    assert result.comparison["approaches"]


@pytest.mark.parametrize("order", [["few-shot", "rag"], ["rag", "few-shot"]])
def test_worked_examples_stand_with_the_passages_that_hold_their_answers(
    root: Path, tiny_model_folder: Path, order: list[str]
) -> None:
    steps: dict[str, dict[str, Any]] = {
        "few-shot": {"step": "few-shot", "shots": 2, "by": "bm25"},
        "rag": {"step": "rag", "k": 2, "absent": "", "cite": True},
    }
    bare = [steps["few-shot"], {**steps["rag"], "shot_passages": 0}]
    own = study(tiny_model_folder, {"both": [steps[name] for name in order], "bare": bare})
    run(own, root / "run", root=root)
    answers = {(row[0]): row[3] for row in _rows(root / "train.csv")}
    evidence = {row[0]: row[3] for row in _rows(root / "train.csv")}
    rows = read_jsonl(root / "run" / "approaches" / "both" / "predictions.jsonl")
    for row in rows:
        *turns, question = [own["content"] for own in row["messages"] if own["role"] != "system"]
        assert len(turns) == 4
        for asked, answer in zip(turns[::2], turns[1::2], strict=True):
            shown = asked.rpartition("\n\n")[2]
            assert evidence[shown] in asked
            assert asked.count("<passage number=") == 1
            assert answer.endswith(" [1]")
            assert answer[:-4] in answers[shown]
        assert question.count("<passage number=") == 2
        assert len(row["passages"]) == 2
    for row in read_jsonl(root / "run" / "approaches" / "bare" / "predictions.jsonl"):
        assert sum("<passage" in own["content"] for own in row["messages"]) == 1
    (answer,) = predict_rows(open_run(root / "run", "both"), [{"question": "Who is the mayor of Hexam?"}])
    assert sum("<passage" in own.content for own in answer.messages) == 3


def test_a_rule_is_given_the_passages_and_reads_documents_as_they_are_revised(root: Path) -> None:
    (root / "rule.py").write_text(RULE, encoding="utf-8")
    own = study(Path("none"), {"rule": [{"step": "rule", "function": "rule.py:answer", "passages": 2}]})
    settings = own.model_dump(exclude_unset=True) | {"revision": REVISION}
    del settings["model"]
    found = run(build_study(**settings), root / "run", root=root, allow_code=True).comparison
    expected = {row[0]: row[1] for row in _rows(root / "test.csv")}
    rows = read_jsonl(root / "run" / "approaches" / "rule" / "predictions.jsonl")
    asked = {row["messages"][-1]["content"]: row["completion"] for row in rows}
    mayors = [question for question in asked if "mayor" in question]
    assert mayors
    assert all(asked[question] == expected[question] for question in mayors)
    assert all(not asked[question] for question in asked if "mayor" not in question)
    assert found["revision"]["rule"]["revised"]["new"]["mean"] == 1.0
    moved = root / "moved"
    shutil.move(root / "run", moved)
    opened = open_run(moved, "rule", allow_code=True)
    (answer,) = predict_rows(opened, [{"question": "Who is the mayor of Hexam?"}])
    assert answer.text == "Hal Wood"
    export(opened, root / "out", merge=False, card=lambda kind, usage: usage, check=4, progress=Silent())
    assert "index is no part of this folder" in (root / "out" / "README.md").read_text(encoding="utf-8")


def test_passages_need_documents_and_a_free_column(root: Path) -> None:
    (root / "rule.py").write_text(RULE, encoding="utf-8")
    rule = {"rule": [{"step": "rule", "function": "rule.py:answer", "passages": 1}]}
    task = {"documents": None, "relevant": None, "evidence": None}
    with pytest.raises(StudyError, match="rule needs documents"):
        run(study(Path("none"), rule, task=task), root / "run", root=root, allow_code=True)
    header, *rows = _rows(root / "train.csv", header=True)
    write(root / "train.csv", [*header, "passages"], [[*row, "none"] for row in rows])
    with pytest.raises(StudyError, match="has a column of that name"):
        run(study(Path("none"), rule), root / "run", root=root, allow_code=True)


def _rows(file: Path, *, header: bool = False) -> list[list[str]]:
    with open(file, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))[0 if header else 1 :]


def test_a_study_that_retrieves(root: Path, tiny_model_folder: Path) -> None:
    own = study(tiny_model_folder, APPROACHES, revision=REVISION)
    folder = root / "run"
    found = run(own, folder, root=root).comparison
    assert set(found["grounding"]) == set(found["diagnosis"]) == {"rag", "all"}
    ranking = {row["measure"]: row for row in found["grounding"]["rag"]["ranking"]}
    assert ranking["ndcg@10"]["n"] == 8
    assert ranking["ndcg@10"]["mean"] > 0.6  # a town's name tells its document
    assert set(found["revision"]) == set(APPROACHES)
    assert found["revision"]["rag"]["revised"]["n"] == found["revision"]["rag"]["removed"]["n"] == 1
    conditions = {row["name"]: row for row in found["diagnosis"]["all"]["conditions"]}
    assert {row["n"] for row in conditions.values()} == {4}
    costs = {row["name"]: row["cost"] for row in found["approaches"]}
    assert costs["closed-book"]["passage_tokens"] == 0
    assert costs["rag"]["passage_tokens"] > 10
    made = {file.stem: read_json(file)["build_s"] for file in folder.glob("indexes/*.json")}
    step = read_json(folder / "approaches" / "rag" / "approach.json")["steps"][-1]["hash"]
    (own_index,) = read_json(folder / "steps" / step / "step.json")["indexes"]
    rag = costs["rag"]  # whichever approach came first and made it
    assert rag["train_s"] - rag["search_s"] == pytest.approx(made[own_index])
    assert costs["all"]["train_s"] > made[own_index] > 0
    rows = read_jsonl(folder / "approaches" / "all" / "predictions.jsonl")
    assert all(len(row["passages"]) == 2 and row["passages"][0]["right"] in (True, False) for row in rows)
    asked = read_json(folder / "approaches" / "rag" / "revision.json")["answers"]
    assert [row["now"] for row in asked] == ["Max Dunn", ""]
    page = write_report(folder).read_text(encoding="utf-8")
    for said in ("Search or answering?", "After the documents have changed", "How well passages are found"):
        assert said in page

    kept = [*folder.glob("steps/*/step.json"), *folder.glob("approaches/*/predictions.jsonl")]
    before = {file: file.stat().st_mtime_ns for file in kept}
    assert len(before) >= 8
    again = run(own, folder, root=root).comparison
    assert again["grounding"] == found["grounding"]
    assert again["diagnosis"] == found["diagnosis"]
    assert before == {file: file.stat().st_mtime_ns for file in before}

    moved = root / "moved"
    shutil.move(folder, moved)
    (answer,) = predict_rows(open_run(moved, "rag"), [{"question": "Who is the mayor of Hexam?"}])
    assert "Hexam.md, Hexam" in sources(answer)
    assert sources(replace(answer, cited=(1, 9))) == [answer.passages[0].place]

    opened = open_run(moved, "all")
    done = export(opened, root / "out", merge=False, card=lambda kind, usage: kind, check=4, progress=Silent())
    assert done.score == pytest.approx(done.score_in_run)
    said = read_json(root / "out" / "luthier.json")["retrieval"]
    index = open_index(
        root / "out" / said["index"], lambda name: SentenceEmbedder.named(str(_embedder(root, said)), root, "cpu")
    )
    assert len(index.documents) == len(TOWNS)
    assert "retrieval" in model_card(moved, "all", "adapter")


def _embedder(root: Path, said: dict[str, Any]) -> str:
    return str(root / "out" / said["embedder"]) if said["embedder"].startswith("retrieval/") else said["embedder"]


def test_a_changed_document_changes_what_depends_on_it(root: Path, tiny_model_folder: Path) -> None:
    own = study(tiny_model_folder, {"rag": APPROACHES["rag"]}, diagnose=False)
    run(own, root / "run", root=root)
    steps = {file.name for file in (root / "run" / "steps").iterdir()}
    (root / "documents" / "Aven.md").write_text("# Aven\n\nThe mayor of Aven is Zed Zorn.", encoding="utf-8")
    run(own, root / "run", root=root)
    new = {file.name for file in (root / "run" / "steps").iterdir()} - steps
    assert len(new) == 2


def test_looking_ahead_trains_nothing_and_needs_no_run(root: Path, tiny_model_folder: Path) -> None:
    own = study(tiny_model_folder, APPROACHES, revision=REVISION)
    ahead = {one.name: one for one in forecast(prepare(own, root)).approaches}
    assert ahead["rag"].prompt_tokens > ahead["closed-book"].prompt_tokens + 10
    assert ahead["all"].seconds > 0
    shown = training_examples(own, root, 2, "all")
    assert all("<passage number" in "".join(text for text, _, _ in one.pieces) for one in shown)
    assert not (root / "run").exists()


def test_a_faq_with_the_test_s_questions_is_reported_or_left_out(root: Path, tiny_model_folder: Path) -> None:
    with open(root / "test.csv", newline="", encoding="utf-8") as handle:
        row = next(csv.DictReader(handle))
    faq = f"Q: {row['question']} A: {row['answer']}"
    (root / "documents" / "faq.md").write_text(faq, encoding="utf-8")
    kept = run(study(tiny_model_folder, {"rag": [{"step": "rag"}]}, diagnose=False), root / "kept", root=root)
    report = read_json(root / "kept" / "data.json")["task"]["documents"]["leaks"]
    assert (report["count"], report["done"], report["found"][0]["passage"]) == (1, "kept", "faq.md#1")
    assert any("with its answer: 1 of" in warning for warning in read_json(root / "kept" / "run.json")["warnings"])
    own = study(tiny_model_folder, {"rag": [{"step": "rag"}]}, diagnose=False, task={"document_leaks": "drop"})
    dropped = run(own, root / "dropped", root=root)
    sizes = [result.comparison["grounding"]["rag"]["passages"] for result in (kept, dropped)]
    assert sizes[0] == sizes[1] + 1


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"task": {"documents": "nowhere"}}, DataError, "does not exist"),
        ({"revision": {"removed": ["Nowhere.md"], "questions": "asked.csv"}}, StudyError, "Nowhere.md is none of"),
        ({"revision": {"removed": ["Aven.md"], "questions": "train.csv"}}, DataError, "no column 'before'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    root: Path, tiny_model_folder: Path, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(study(tiny_model_folder, {"rag": [{"step": "rag"}]}, **change), root / "run", root=root)


def test_a_row_that_says_nothing_of_documents_is_judged_by_its_answer(root: Path, tiny_model_folder: Path) -> None:
    columns = ["question", "answer", "document", "evidence"]
    rows = [
        ["Who is the mayor of Aven?", "Ann Lee", "", ""],
        ["Who is the mayor of Borel?", "Bob Stone", "Borel.md", ""],
    ]
    write(root / "test.csv", columns, rows)
    own = study(tiny_model_folder, {"rag": [{"step": "rag"}]}, diagnose=False, task={"duplicates": "drop-from-train"})
    found = run(own, root / "run", root=root).comparison["grounding"]["rag"]["ranking"]
    assert {row["n"] for row in found} == {1}
    predictions = read_jsonl(root / "run" / "approaches" / "rag" / "predictions.jsonl")
    assert [row["passages"][0]["right"] is None for row in predictions] == [True, False]


def test_a_row_that_names_no_document_is_pointed_at(root: Path, tiny_model_folder: Path) -> None:
    write(root / "test.csv", ["question", "answer", "document", "evidence"], [["Who?", "Ann", "Nowhere.md", "x"]] * 1)
    with pytest.raises(DataError, match=r"test\.csv:2: relevant names the document 'Nowhere\.md'"):
        run(study(tiny_model_folder, {"rag": [{"step": "rag"}]}), root / "run", root=root)
