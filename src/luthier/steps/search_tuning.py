"""What training search has in common, of the embedder and of the reranker: pairs, validation, results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from luthier.errors import TrainingError
from luthier.retrieve.passages import ChunkSettings
from luthier.settings import Count, Positive, Share
from luthier.steps.base import Step, StepContext
from luthier.steps.rag import RagStep, search_problems
from luthier.types import PromptedModel, Task, Training

if TYPE_CHECKING:
    from luthier.model.sentence_trainer import Tuned, TuningSettings
    from luthier.retrieve.index import Index, Kind
    from luthier.retrieve.pairs import Mined

# Documents of the index that validation ranks at most, the right ones among them.
MOST_RANKED = 5000


class SearchTuningStep(Step):
    """Trains what finds passages, on questions of the training split and the passages that answer them."""

    for_one_task: ClassVar[bool] = True
    training: ClassVar[Training] = "small model"

    if TYPE_CHECKING:
        step: str

    query: str | None = None
    """Jinja template of what is searched for, as in `rag`."""
    chunks: ChunkSettings = ChunkSettings()
    """How documents are cut into the passages that are learned from."""
    negatives: Annotated[int, Field(ge=1, le=20)] = 2
    """Wrong passages beside each right one, drawn from those that search ranks highest (hard negatives)."""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.95
    """A passage whose similarity to the question is above this share of the right one's is no negative: it may be right
    as well (Moreira et al. 2024, "NV-Retriever")."""
    epochs: Count = 3
    """Passes over the pairs; the weights after the best of them are kept, if it is better than none."""
    learning_rate: Positive = 5e-5
    """Peak learning rate."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises."""

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """It must come before what searches with it."""
        if any(isinstance(step, RagStep) for step in before):
            return [f"step: {self.step} stands behind rag, which searches without it; put it before"]
        return []

    def check(self, task: Task) -> list[str]:
        return search_problems(self.step, self.query, task)

    def settings(self, batch_size: int, context: StepContext) -> TuningSettings:
        from luthier.model.sentence_trainer import TuningSettings

        return TuningSettings(
            self.epochs, batch_size, self.learning_rate, self.warmup, context.seed, context.engine.device
        )

    def seconds(self, text_s: float, passages: int, train: int, validation: int) -> float:
        """About how long `fit` takes.

        Args:
            text_s: Seconds that embedding a passage takes.
            passages: How many there are; `train` and `validation` count the examples.
        """
        raise NotImplementedError

    def mined(self, task: Task, index: Index, kind: Kind, seed: int) -> Mined:
        """Pairs of the training examples.

        Raises:
            TrainingError: No example has a right passage.
        """
        from luthier.retrieve.pairs import mine

        found = mine(
            task.train, index, query=self.query, negatives=self.negatives, margin=self.margin, kind=kind, seed=seed
        )
        if not found.pairs:
            raise TrainingError(_nothing_found(self.step, f"{found.without} training"))
        return found

    def judged(self, task: Task, index: Index, kind: Kind) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
        """The right passages of the validation examples, and what search gives.

        Raises:
            TrainingError: No example has a right passage.
        """
        from luthier.retrieve.pairs import judged

        right, ranking = judged(task.validation, index, self.query, kind)
        if not right:
            raise TrainingError(_nothing_found(self.step, f"{len(task.validation)} validation"))
        return right, ranking


def _nothing_found(step: str, examples: str) -> str:
    return (
        f"{step}: to none of the {examples} examples a passage was found that holds the answer. Say in the task which "
        "documents do (relevant), or by which words (evidence)."
    )


def validation_result(what: str, scores: Mapping[str, float], used: str) -> Mapping[str, Any]:
    """The scores of weights as a table to be drawn, the ones that are used marked."""
    return {
        "kind": "table",
        "title": f"{what}: right passages on validation",
        "columns": ["weights", "nDCG@10", ""],
        "rows": [[name, round(score, 4), "used" if name == used else ""] for name, score in scores.items()],
    }


def epochs_of(tuned: Tuned) -> dict[str, float]:
    """What validation gave after each epoch, by its name."""
    return {epoch_name(number): score for number, score in enumerate(tuned.scores) if number}


def epoch_name(number: int) -> str:
    return f"epoch {number}"


def share_of(parameters: int, predictor: PromptedModel) -> float:
    """The share of a number of parameters in those of the model and what searches for it."""
    from luthier.model.load import count_parameters, empty_model

    return parameters / (parameters + count_parameters(empty_model(predictor.model)))


def tuning_facts(mined: Mined, tuned: Tuned, seconds: float) -> dict[str, Any]:
    """What is worth keeping in `step.json`."""
    return {
        "pairs": len(mined.pairs),
        "without_right_passage": mined.without,
        "negatives_left_out": mined.filtered,
        "scores": tuned.scores,
        "kept_epoch": tuned.kept,
        "mining_s": seconds,
    }


def ranking_score(
    index: Index, right: Mapping[str, Collection[str]], asked: Mapping[str, str]
) -> Callable[[Any], float]:
    """How well an embedder ranks the index's passages, or the right ones and others up to a number: mean nDCG@10.

    Args:
        right: Question → ids of its right passages.
        asked: Question → what is searched for.

    Returns:
        Takes a SentenceTransformer.
    """
    wanted = {own for ids in right.values() for own in ids}
    others = [own for own in index.passages if own not in wanted]
    pool = [*sorted(wanted), *others[: max(0, MOST_RANKED - len(wanted))]]
    texts = [index.passages[own].searched(headings=index.chunks.headings) for own in pool]

    def score(model: Any) -> float:
        passages, queries = (
            np.asarray(model.encode(own, normalize_embeddings=True, show_progress_bar=False), np.float32)
            for own in (texts, [asked[question] for question in right])
        )
        orders = (-(queries @ passages.T)).argsort(axis=1, kind="stable")
        return mean_ndcg(right, {q: [pool[i] for i in own[:10]] for q, own in zip(right, orders, strict=True)})

    return score


def ordering_score(
    index: Index,
    right: Mapping[str, Collection[str]],
    asked: Mapping[str, str],
    found: Mapping[str, Sequence[str]],
) -> Callable[[Any], float]:
    """How well a cross-encoder orders the passages that were found for each question: mean nDCG@10.

    Args:
        right, asked: As of `ranking_score`.
        found: Question → ids of passages, best first.

    Returns:
        Takes a CrossEncoder.
    """
    from luthier.model.rerank import pair_scores

    texts = {own: passage.searched(headings=True) for own, passage in index.passages.items()}

    def score(model: Any) -> float:
        scores = iter(pair_scores(model, [(asked[own], texts[i]) for own, ids in found.items() for i in ids]))
        scored = {own: {i: float(next(scores)) for i in ids} for own, ids in found.items()}
        return mean_ndcg(right, {own: sorted(ids, key=ids.__getitem__, reverse=True) for own, ids in scored.items()})

    return score


def mean_ndcg(right: Mapping[str, Collection[str]], ranking: Mapping[str, Sequence[str]]) -> float:
    """Mean nDCG@10 over the questions."""
    from luthier.evaluate.ranking import ranking_values

    values = ranking_values(right, ranking, 10)["ndcg@10"]
    return sum(values.values()) / len(values)
