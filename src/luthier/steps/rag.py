"""`rag`: passages of the task's documents in front of the question (Lewis et al. 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.errors import DataError, StudyError
from luthier.prompt.passages import ABSENT, INSTRUCTION
from luthier.prompt.wording import check_template
from luthier.retrieve.passages import ChunkSettings
from luthier.settings import Choose, Count, Open
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.types import Predictor, Retrieval, Task, prompted

SearchKind = Literal["dense", "lexical", "hybrid"]


class RagStep(Step):
    """Search the task's documents for each question, and show what is found before it."""

    for_one_task: ClassVar[bool] = True

    step: Literal["rag"] = "rag"
    k: Open[Count] = 3
    """Passages a prompt, at most."""
    kind: Open[SearchKind] = "hybrid"
    """`dense`: by embeddings. `lexical`: by words (BM25). `hybrid`: both rankings fused by reciprocal ranks (Cormack et
    al. 2009)."""
    chunks: Open[ChunkSettings] = ChunkSettings()
    """How documents are cut into passages."""
    embedder: str = "minilm-l6"
    """A folder, a built-in name (minilm-l6), or the Hugging Face id of a sentence embedder. Behind a step `retriever`,
    the one that it trained is used."""
    query: str | None = None
    """Jinja template of what is searched for, over the prompt's columns and `prompt`, its last turn. Default: the last
    turn; where the task's prompt holds more than the question, name the question here."""
    reranker: str | None = None
    """A folder or Hugging Face id of a cross-encoder that orders what was found. Behind a step `reranker`, the one that
    it trained is used. Default: none."""
    depth: Annotated[int, Field(ge=2)] = 20
    """With a reranker: passages that it is given."""
    tokens: Count = 1000
    """Tokens of the model that passages may take together; the worst are left out, and counted."""
    order: Open[Literal["document", "best-first", "best-last"]] = "document"
    """How passages follow each other. `document`: as they stand in the documents, so that prompts with the same
    passages share their beginning, which is computed once."""
    instruction: Open[str] = INSTRUCTION
    """What the model is told before the passages."""
    absent: Open[str] = ABSENT
    """The answer that the model is told to give where the passages do not hold it; empty: it is not told."""
    cite: Open[bool] = True
    """Whether the model is told to name the passage behind its answer by its number. Numbers are taken out of the
    answer before it is scored. Where answers are chosen among labels, neither this nor `absent` is told."""
    shot_passages: Annotated[int, Field(ge=0)] = 1
    """Beside `few-shot`: passages that stand with each worked example, so that it shows how to answer from them: one
    that holds its answer, where that is known or its words stand in one, then others that search finds. 0: none."""
    guarded: bool = True
    """Fence passages off as quoted material, and break what could close the fence or pass for a control token. Without
    this, a document can give the model orders more easily."""

    @property
    def embedders(self) -> tuple[str, ...]:
        return (self.embedder, *([] if self.reranker is None else [self.reranker]))

    def check(self, task: Task) -> list[str]:
        """It needs documents, and a query over columns that there are."""
        return search_problems(self.step, self.query, task)

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with the index and how it is searched; the index is made where it is not there yet."""
        predictor = prompted(predictor)
        embedder = predictor.retriever or self.embedder
        assert isinstance(self.chunks, ChunkSettings)
        index, made = context.index(embedder, self.chunks)
        if not index.passages:
            raise DataError(f"task {context.task.name}: the documents give no passage to search.")
        given = {
            name: getattr(self, name)
            for name in (
                "k",
                "kind",
                "query",
                "depth",
                "tokens",
                "order",
                "instruction",
                "absent",
                "cite",
                "guarded",
                "shot_passages",
            )
        }
        assert not any(isinstance(value, Choose) for value in given.values())
        if predictor.decoding.answer != "generate":  # a label is chosen, and nothing is written beside it
            given |= {"cite": False, "absent": ""}
        retrieval = Retrieval(
            index=str(index.folder), embedder=embedder, reranker=predictor.reranker or self.reranker, **given
        )
        assert context.library is not None
        too_long = context.library.making(index).too_long
        if too_long and self.kind != "lexical":
            context.progress.say(
                f"  {too_long} of {len(index.passages)} passages are longer than the embedder's "
                f"{index.embedder.window} tokens: dense search does not see their ends (chunks.tokens)"
            )
        facts = {
            "documents": len(index.documents),
            "passages": len(index.passages),
            "too_long": too_long,
            "store": index.kind,
        }
        return StepOutcome(replace(predictor, retrieval=retrieval), indexes=made, facts=facts)


def search_problems(step: str, query: str | None, task: Task) -> list[str]:
    """What is wrong where a step searches a task's documents: there are none, or its query names no column."""
    problems = []
    if task.documents is None:
        problems.append(f"{step} needs documents; give task '{task.name}' a folder of them with documents.")
    if query is not None:
        try:
            check_template(query, tuple(task.train[0].prompt.fields))
        except StudyError as error:
            problems.append(f"query: {str(error).replace('the wording', 'the template')}")
    return problems
