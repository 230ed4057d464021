"""`reranker`: a cross-encoder fine-tuned to tell the passages that answer a question from those that only look so."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from luthier.settings import Count
from luthier.steps.base import StepContext, StepOutcome
from luthier.steps.rag import SearchKind
from luthier.steps.search_tuning import (
    SearchTuningStep,
    epoch_name,
    epochs_of,
    mean_ndcg,
    ordering_score,
    share_of,
    tuning_facts,
    validation_result,
)
from luthier.types import Predictor, prompted

_PASSES = 3


class RerankerStep(SearchTuningStep):
    """Train the cross-encoder that orders what `rag` finds. What does best on validation is used: the trained one, the
    one that it began with, or none."""

    step: Literal["reranker"] = "reranker"
    embedder: str = "minilm-l6"
    """The sentence embedder of the search whose results it orders; behind a step `retriever`, the one that it trained
    is used."""
    model: str | None = None
    """A folder or Hugging Face id of the cross-encoder to begin with. Default: the body of the embedder with a new
    head, which has everything to learn."""
    kind: SearchKind = "hybrid"
    """The search whose results it orders."""
    depth: Annotated[int, Field(ge=2, le=40)] = 20
    """Passages that it orders."""
    batch_size: Count = 32
    """Pairs of a question and a passage an optimizer step."""

    @property
    def embedders(self) -> tuple[str, ...]:
        return (self.embedder, *([] if self.model is None else [self.model]))

    def seconds(self, text_s: float, passages: int, train: int, validation: int) -> float:
        # Gradients take twice as long as what comes before them.
        learned = self.epochs * train * (1 + self.negatives) * _PASSES * text_s
        ranked = self.epochs * validation * self.depth * text_s
        return learned + ranked + passages * text_s

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with the cross-encoder that gives the best nDCG@10 on validation, if it is better than none."""
        from luthier.model.sentence_trainer import total_steps
        from luthier.retrieve.library import query_of
        from luthier.retrieve.tuning import tune_reranker

        predictor = prompted(predictor)
        assert context.library is not None
        embedder, task = predictor.retriever or self.embedder, context.task
        index, made = context.index(embedder, self.chunks)
        started = time.perf_counter()
        mined = self.mined(task, index, self.kind, context.seed)
        mining_s = time.perf_counter() - started
        right, ranking = self.judged(task, index, self.kind)
        found = {own: ids[: self.depth] for own, ids in ranking.items()}
        asked = {example.id: query_of(self.query, example.prompt) for example in task.validation}
        validate = ordering_score(index, right, asked, found)
        settings, output = self.settings(self.batch_size, context), context.folder / "reranker"
        begin = context.library.folder_of(self.model or embedder)
        examples = sum(1 + len(pair.negatives) for pair in mined.pairs)
        context.engine.release()
        with context.progress.track("training the reranker", total_steps(examples, settings)) as advance:
            without = mean_ndcg(right, found)
            tuned = tune_reranker(
                begin, mined.pairs, settings, output, validate, without, advance, pretrained=self.model is not None
            )
        scores = {"none": without, **({"before": tuned.scores[0]} if self.model else {}), **epochs_of(tuned)}
        reranker: str | None
        if tuned.kept:
            used, reranker = epoch_name(tuned.kept), str(output)
        elif self.model and tuned.scores[0] > without:
            used, reranker = "before", self.model
        else:
            used, reranker = "none", predictor.reranker
        return StepOutcome(
            replace(predictor, reranker=reranker),
            train_s=time.perf_counter() - started,
            loop_s=tuned.seconds,
            indexes=made,
            trained_tokens=tuned.tokens,
            trainable_parameters=tuned.parameters,
            trainable_share=share_of(tuned.parameters, predictor),
            results={"reranker": validation_result("Reranker", scores, used)},
            facts={**tuning_facts(mined, tuned, mining_s), "without": without, "used": used},
        )
