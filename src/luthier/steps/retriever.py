"""`retriever`: the sentence embedder fine-tuned on the task's questions and the passages that answer them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

from luthier.settings import Count
from luthier.steps.base import StepContext, StepOutcome
from luthier.steps.search_tuning import (
    MOST_RANKED,
    SearchTuningStep,
    epochs_of,
    ranking_score,
    share_of,
    tuning_facts,
    validation_result,
)
from luthier.types import Predictor, prompted

_PASSES = 4


class RetrieverStep(SearchTuningStep):
    """Train the embedder that `rag` searches with; the one before is kept where validation is not better."""

    step: Literal["retriever"] = "retriever"
    embedder: str = "minilm-l6"
    """A folder, a built-in name (minilm-l6), or the Hugging Face id of the sentence embedder to begin with."""
    batch_size: Count = 32
    """Questions told apart from each other's passages at once. Larger batches tell more apart, and take fewer
    steps; they are computed in parts, so that memory does not grow with them."""

    @property
    def embedders(self) -> tuple[str, ...]:
        return (self.embedder,)

    def seconds(self, text_s: float, passages: int, train: int, validation: int) -> float:
        # A question is short. A text goes through twice before its gradients, which take as long as both.
        learned = self.epochs * train * (1 + self.negatives) * _PASSES * text_s
        ranked = (self.epochs + 1) * min(passages, MOST_RANKED) * text_s
        return learned + ranked + passages * text_s

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with the trained embedder, if nDCG@10 on validation is better with it."""
        from luthier.model.sentence_trainer import total_steps
        from luthier.retrieve.library import query_of
        from luthier.retrieve.tuning import tune_embedder

        predictor = prompted(predictor)
        assert context.library is not None
        begin, task = predictor.retriever or self.embedder, context.task
        index, made = context.index(begin, self.chunks)
        started = time.perf_counter()
        mined = self.mined(task, index, "dense", context.seed)
        mining_s = time.perf_counter() - started
        right, _ = self.judged(task, index, "dense")
        asked = {example.id: query_of(self.query, example.prompt) for example in task.validation}
        validate = ranking_score(index, right, asked)
        settings, output = self.settings(self.batch_size, context), context.folder / "retriever"
        context.engine.release()
        with context.progress.track("training the retriever", total_steps(len(mined.pairs), settings)) as advance:
            tuned = tune_embedder(context.library.folder_of(begin), mined.pairs, settings, output, validate, advance)
        scores = {"before": tuned.scores[0], **epochs_of(tuned)}
        return StepOutcome(
            replace(predictor, retriever=str(output) if tuned.kept else begin),
            train_s=time.perf_counter() - started,
            loop_s=tuned.seconds,
            indexes=made,
            trained_tokens=tuned.tokens,
            trainable_parameters=tuned.parameters,
            trainable_share=share_of(tuned.parameters, predictor),
            results={"retriever": validation_result("Retriever", scores, list(scores)[tuned.kept])},
            facts=tuning_facts(mined, tuned, mining_s),
        )
