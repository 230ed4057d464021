"""`rag` and what learns on its prompts: passages found, given and mixed with distractors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colours import make_task
from luthier.errors import DataError, StudyError
from luthier.evaluate.metrics import METRICS
from luthier.infer.engine import Engine
from luthier.model.sentence_trainer import Tuned
from luthier.progress import Silent
from luthier.record import predictor_from_json, predictor_to_json
from luthier.retrieve.library import Library
from luthier.retrieve.passages import ChunkSettings
from luthier.runner.grounding import _conditions
from luthier.settings import closed
from luthier.steps import RagStep, RerankerStep, RetrieverStep, SftStep
from luthier.steps.base import StepContext
from luthier.steps.lesson import Lesson
from luthier.steps.raft import Raft
from luthier.study import build_study
from luthier.types import Decoding, Documents, ModelRef, Passage, PromptedModel, Relevance, Task


class LetterEmbedder:
    """Vectors of letter counts: enough to search by."""

    name, key, dimension, window = "letters", "letters-1", 26, 100

    def embed(self, texts, role="text"):  # type: ignore[no-untyped-def]
        import numpy as np

        found = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        found = found.reshape(len(texts), 26)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)

    def count(self, texts):  # type: ignore[no-untyped-def]
        return [len(text.split()) for text in texts]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """The tiny task, with a document for each of its labels."""
    own = make_task(labelled=False)
    folder = tmp_path / "documents"
    folder.mkdir()
    wanted = sorted({e.completion for e in (*own.train, *own.validation)})
    for name in wanted:
        (folder / f"{name}.md").write_text(f"Things of this kind are called {name} by everybody.", encoding="utf-8")
    for number in range(4):
        (folder / f"other{number}.md").write_text(f"Nothing to be found in number {number} here.", encoding="utf-8")

    def known(examples: Any) -> Any:
        return tuple(replace(e, relevance=Relevance((f"{e.completion}.md",))) for e in examples)

    splits = {"train": known(own.train), "validation": known(own.validation), "test": ()}
    return replace(own, documents=Documents(str(folder), "d"), **splits)


@pytest.fixture
def rag_context(task: Task, tmp_path: Path, tiny_model_folder: Path) -> StepContext:
    library = Library(tmp_path / "indexes", lambda name: LetterEmbedder(), lambda name: None)  # type: ignore[arg-type, return-value]
    return StepContext(
        lesson=Lesson((task,), (METRICS["token_f1"],), task.name),
        start=ModelRef(str(tiny_model_folder)),
        engine=Engine("cpu", "float32", source=library),
        folder=tmp_path / "step",
        seed=0,
        progress=Silent(),
        log=lambda row: None,
        library=library,
    )


@pytest.fixture
def base(rag_context: StepContext) -> PromptedModel:
    return PromptedModel(rag_context.start, Decoding(max_new_tokens=4))


def grounded(step: RagStep, base: PromptedModel, context: StepContext) -> PromptedModel:
    return step.fit(base, context).predictor


def test_the_predictor_shows_passages_it_finds(base: PromptedModel, rag_context: StepContext, task: Task) -> None:
    outcome = RagStep(k=2, embedder="letters").fit(base, rag_context)
    assert outcome.facts["passages"] == outcome.facts["documents"] > 4
    answers = rag_context.engine.answer(outcome.predictor, [e.prompt for e in task.validation])
    assert all(len(answer.passages) == 2 and answer.passage_tokens > 0 for answer in answers)
    assert all("<passage" in answer.messages[-1].content for answer in answers)
    closed_book = rag_context.engine.answer(base, [e.prompt for e in task.validation])
    assert all(answer.passages == () and answer.passage_tokens == 0 for answer in closed_book)


def test_passages_given_with_a_prompt_stand_in_place_of_those_found(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    predictor = grounded(RagStep(embedder="letters"), base, rag_context)
    own = Passage("mine#1", "mine", "Mine", (), None, 0, 5, "Given.", "d")
    prompt = replace(task.validation[0].prompt, passages=(own,))
    (answer,) = rag_context.engine.answer(predictor, [prompt])
    assert answer.passages == (own,)
    (none,) = rag_context.engine.answer(predictor, [replace(prompt, passages=())])
    assert none.passages == ()
    assert "No passage was found" in none.messages[-1].content


def test_other_tasks_are_asked_without_passages(base: PromptedModel, rag_context: StepContext, task: Task) -> None:
    predictor = grounded(RagStep(embedder="letters"), base, rag_context)
    assert predictor.asked(replace(task, name="other"), task.name).retrieval is None
    assert predictor.asked(task, task.name).retrieval is not None


def test_a_predictor_with_retrieval_is_kept_and_moves_with_its_run(
    base: PromptedModel, rag_context: StepContext, tmp_path: Path
) -> None:
    predictor = grounded(RagStep(embedder="letters", reranker="some/model"), base, rag_context)
    predictor = replace(predictor, retriever=str(tmp_path / "steps" / "x" / "retriever"))
    row = predictor_to_json(predictor, tmp_path)
    assert predictor_from_json(row, tmp_path) == predictor
    assert row["retrieval"]["index"].startswith("run:indexes/")
    moved = predictor_from_json(row, tmp_path / "elsewhere")
    assert moved.retrieval is not None
    assert moved.retrieval.index.startswith(str(tmp_path / "elsewhere" / "indexes"))
    assert moved.retrieval.embedder == "letters"
    assert moved.retriever == str(tmp_path / "elsewhere" / "steps" / "x" / "retriever")


def test_open_settings_are_tried_over_one_index(base: PromptedModel, rag_context: StepContext) -> None:
    step = RagStep.model_validate({"k": {"choose": [1, 2]}, "kind": {"choose": ["dense", "lexical"]},
                                   "embedder": "letters"})  # fmt: skip
    found = [grounded(one, base, rag_context).retrieval for one in closed(step) if isinstance(one, RagStep)]
    assert {(own.k, own.kind) for own in found if own} == {(1, "dense"), (1, "lexical"), (2, "dense"), (2, "lexical")}
    assert len({own.index for own in found if own}) == 1


def test_sizes_of_passages_may_be_left_open(base: PromptedModel, rag_context: StepContext) -> None:
    step = RagStep.model_validate({"chunks": {"choose": [{"tokens": 4}, {"tokens": 64}]}, "embedder": "letters"})
    found = [grounded(one, base, rag_context).retrieval for one in closed(step) if isinstance(one, RagStep)]
    assert len({own.index for own in found if own}) == 2


def test_training_prompts_show_what_search_finds_and_answers_cite_it(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    predictor = grounded(RagStep(k=30, embedder="letters", tokens=5000), base, rag_context)
    sequences = SftStep().sequences(predictor, rag_context.lesson, rag_context.engine, 0)
    tokenizer = rag_context.engine.renderer(base.model).tokenizer
    texts = [tokenizer.decode(s.ids) for s in sequences]
    assert all(text.count("<passage number") == len({*Path(str(task.documents.folder)).iterdir()}) for text in texts)  # type: ignore[union-attr]
    learned = [tokenizer.decode([i for i, t in zip(s.ids, s.trained, strict=True) if t]) for s in sequences]
    for example, text, answer in zip(task.train, texts, learned, strict=True):
        number = answer.partition("[")[2].partition("]")[0]
        assert f'number="{number}" source="{example.completion}.md' in text


def raft(task: Task, base: PromptedModel, context: StepContext, **settings: Any) -> list[tuple[str, str]]:
    """What is learned and the sources that are shown, for each training example."""
    predictor = grounded(RagStep(embedder="letters"), base, context)
    examples, grounds = Raft(**settings).grounded(predictor, task.train, context.engine, 0)
    return [(e.completion, " ".join(p.document for p in g.passages)) for e, g in zip(examples, grounds, strict=True)]


def test_raft_shows_the_right_passage_in_the_share_that_is_wanted(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    always = raft(task, base, rag_context, right=1.0, distractors=2)
    assert all(f"{answer}.md" in shown and len(shown.split()) == 3 for answer, shown in always)
    never = raft(task, base, rag_context, right=0.0, distractors=2, otherwise="absent")
    # As many passages as with the right one, or their number would say what to answer.
    assert all(answer == "not in the documents" and len(shown.split()) == 3 for answer, shown in never)
    half = raft(task, base, rag_context, right=0.5, distractors=1, otherwise="answer")
    share = sum(f"{answer}.md" in shown for answer, shown in half) / len(half)
    assert 0.2 < share < 0.8
    assert half == raft(task, base, rag_context, right=0.5, distractors=1, otherwise="answer")


def test_raft_teaches_an_answer_where_the_right_passage_is_not_known(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    predictor = grounded(RagStep(embedder="letters"), base, rag_context)
    unknown = [replace(e, relevance=None, references=("nowhere to be found",)) for e in task.train]
    settings = Raft(right=0.0, otherwise="absent")
    mixed = [*unknown[:3], *task.train[3:]]
    examples, grounds = settings.grounded(predictor, mixed, rag_context.engine, 0)
    assert [e.completion for e in examples[:3]] == [e.completion for e in unknown[:3]]
    assert {e.completion for e in examples[3:]} == {"not in the documents"}
    assert len({len(ground.passages) for ground in grounds}) == 1
    with pytest.raises(DataError, match=r"of none of the .* training examples a right passage is known"):
        settings.grounded(predictor, unknown, rag_context.engine, 0)


def test_what_the_draw_of_passages_came_to_is_counted(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    predictor = grounded(RagStep(embedder="letters"), base, rag_context)
    step = SftStep(passages=Raft(right=0.5, distractors=1, otherwise="absent"))
    sequences = step.sequences(predictor, rag_context.lesson, rag_context.engine, 0)
    facts = step.learned_facts(sequences, rag_context.lesson, 0)
    assert facts["right_passage_shown"] + facts["taught_absent"] == len(task.train)
    assert 0 < facts["taught_absent"] < len(task.train)


def study(steps: list[dict[str, Any]], **task: Any) -> None:
    build_study(
        model="m",
        task={"data": "d.csv", "prompt": "{{ q }}", "completion": "{{ a }}", "documents": "docs", **task},
        approaches={"one": steps},
    )


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"step": "sft", "passages": {}}], "put a step rag before this one"),
        ([{"step": "rag", "absent": ""}, {"step": "sft", "passages": {"otherwise": "absent"}}], "has no answer for"),
        (
            [
                {"step": "rag", "absent": {"choose": ["", "unknown"]}},
                {"step": "sft", "passages": {"otherwise": "absent"}},
            ],
            "has no answer for",
        ),
        ([{"step": "rag"}, {"step": "retriever"}], "put it before"),
        ([{"step": "rag", "k": 0}], "k"),
    ],
)
def test_steps_that_do_not_go_together_are_refused(steps: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study(steps)


def test_a_task_without_documents_is_refused(task: Task) -> None:
    bare = replace(task, documents=None)
    for step in (RagStep(), RetrieverStep()):
        assert "needs documents" in step.check(bare)[0]
    assert "names nothing" in RagStep(query="{{ nothing }}").check(task)[0]


def test_documents_are_named_for_what_is_said_of_them() -> None:
    with pytest.raises(StudyError, match="name their folder too"):
        build_study(
            model="m",
            task={"data": "d.csv", "prompt": "{{ q }}", "completion": "{{ a }}", "relevant": "doc"},
            approaches={"one": []},
        )


def test_chunks_are_the_index_s_own(base: PromptedModel, rag_context: StepContext) -> None:
    small = RagStep(embedder="letters", chunks=ChunkSettings(tokens=4, overlap=0, headings=False))
    whole = RagStep(embedder="letters")
    counts = [step.fit(base, rag_context).facts["passages"] for step in (small, whole)]
    assert counts[0] > counts[1]


@pytest.mark.parametrize(
    ("scores", "kept", "used"),
    [([1.1, 0.2], 0, "given/model"), ([1.1, 1.2], 1, "reranker"), ([0.0, 0.1], 0, None)],
)
def test_the_best_of_the_given_the_trained_and_no_reranker_is_used(
    scores: list[float], kept: int, used: str | None, base: PromptedModel, rag_context: StepContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("luthier.retrieve.tuning.tune_reranker", lambda *_, **__: Tuned(scores, kept))
    outcome = RerankerStep(embedder="letters", model="given/model").fit(base, rag_context)
    found = outcome.predictor.reranker
    assert (found and found.removeprefix(f"{rag_context.folder}/")) == used
    rows = outcome.results["reranker"]["rows"]
    assert [row[0] for row in rows] == ["none", "before", "epoch 1"]
    assert [row[2] for row in rows].count("used") == 1


@pytest.mark.parametrize(("scores", "kept", "used"), [([0.5, 0.4], 0, "letters"), ([0.5, 0.6], 1, "retriever")])
def test_the_embedder_before_is_kept_where_validation_is_not_better(
    scores: list[float], kept: int, used: str, base: PromptedModel, rag_context: StepContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("luthier.retrieve.tuning.tune_embedder", lambda *_, **__: Tuned(scores, kept))
    outcome = RetrieverStep(embedder="letters").fit(base, rag_context)
    found = outcome.predictor.retriever
    assert (found and found.removeprefix(f"{rag_context.folder}/")) == used
    assert [row[2] for row in outcome.results["retriever"]["rows"]].index("used") == kept


def test_each_condition_of_the_diagnosis_shows_what_it_says(
    base: PromptedModel, rag_context: StepContext, task: Task
) -> None:
    retrieval = grounded(RagStep(k=2, embedder="letters"), base, rag_context).retrieval
    assert retrieval is not None
    assert rag_context.library is not None
    conditions = _conditions(task, retrieval, rag_context.library)
    assert {len(own) for own in conditions.values()} == {len(task.validation)}
    for n, example in enumerate(task.validation):
        right = f"{example.completion}.md"
        shown = {name: own[n].prompt.passages for name, own in conditions.items()}
        assert shown["closed book"] is None
        assert shown["retrieved"] is not None
        assert len(shown["retrieved"]) == 2
        assert [own.document for own in shown["oracle"] or ()] == [right]
        among = [own.document for own in shown["oracle among distractors"] or ()]
        assert (among.count(right), len(among)) == (1, 2)
        for own in conditions.values():  # passages may be given, answers never
            assert (own[n].completion, own[n].references) == (example.completion, example.references)
