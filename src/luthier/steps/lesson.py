"""What a step learns from: a task, several together, or raw text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.data.text import Halves, Text, halves
from luthier.evaluate.over_tasks import MEAN
from luthier.progress import Advance
from luthier.steps.validate import score_of, validation_metrics
from luthier.types import Predictor, PromptedModel, Task, prompted

if TYPE_CHECKING:
    from luthier.evaluate.metrics import Metric
    from luthier.infer.engine import Engine
    from luthier.infer.logprobs import LogProb

# Examples that tell two models apart.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a step learns from.

    Attributes:
        tasks: Without their test splits; at least one.
        metrics: The deciding metric of each.
        target: The task that the predictor's wording, shots and decoding are made for; `mean` for none alone.
        rehearsed: Tasks whose training prompts or validation the step uses without learning from their answers;
            without their test splits.
    """

    tasks: tuple[Task, ...]
    metrics: tuple[Metric, ...]
    target: str
    rehearsed: tuple[Task, ...] = field(default=(), kw_only=True)

    @property
    def task(self) -> Task:
        """The only one."""
        (task,) = self.tasks
        return task

    @property
    def metric_name(self) -> str:
        """What choices are made by; of several tasks the mean, metrics of which less is better taken negative."""
        return self.metrics[0].name if len(self.tasks) == 1 else MEAN

    @property
    def validated(self) -> int:
        """Examples that `validate` asks."""
        return sum(len(task.validation) for task in self.tasks)

    def validate(
        self, engine: Engine, predictor: Predictor, *, model: Any = None, advance: Advance = lambda done: None
    ) -> dict[str, float]:
        """The deciding metric on validation, and the loss (nats a token) where a language model answers; of several
        tasks the means, and each one's.

        Args:
            model: A model in training to use in place of the predictor's own.
        """
        found = {
            task.name: validation_metrics(
                engine, predictor.asked(task, self.target), task, metric, model=model, advance=advance
            )
            for task, metric in zip(self.tasks, self.metrics, strict=True)
        }
        return self.of_tasks(found)

    def few_logprobs(self, engine: Engine, predictor: PromptedModel, *, model: Any = None) -> list[LogProb]:
        """Of a few answers that are kept apart the log-probability: enough to tell two models apart.

        Args:
            model: A model in training to use in place of the predictor's own.
        """
        task = self.tasks[0]
        asked = prompted(predictor.asked(task, self.target))
        return engine.reference_logprobs(asked, task.validation[:_FEW], model=model)

    def of_tasks(self, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The same from what each task gave by itself.

        Args:
            found: Task → its deciding metric, and its loss where there is one.
        """
        if len(self.tasks) == 1:
            return dict(found[self.task.name])
        values = [score_of(found[t.name], m)[0] for t, m in zip(self.tasks, self.metrics, strict=True)]
        own = {f"{task}/{name}": value for task, metrics in found.items() for name, value in metrics.items()}
        losses = [metrics["loss"] for metrics in found.values() if "loss" in metrics]
        loss = {"loss": sum(losses) / len(losses)} if len(losses) == len(found) else {}
        return {**loss, MEAN: sum(values) / len(values), **own}

    def metric_of(self, score: Sequence[float]) -> float:
        """The metric that choices are made by, as it is written, from what `score_of` gave."""
        turned = len(self.tasks) == 1 and not self.metrics[0].higher_is_better
        return -score[0] if turned else score[0]

    def score_of(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """What is to be raised, from what `validate` gave."""
        if len(self.tasks) == 1:
            return score_of(metrics, self.metrics[0])
        return metrics[MEAN], -metrics.get("loss", 0.0)


@dataclass(frozen=True, slots=True)
class TextLesson(Lesson):
    """Raw text, of which a part is kept apart. It has no tasks.

    Attributes:
        block_tokens: Most tokens of a block.
        held_out: Share of the documents that is kept apart.
        seed: Decides which.
    """

    text: Text
    block_tokens: int
    held_out: float
    seed: int

    @property
    def documents(self) -> Halves:
        """Those to learn from and those kept apart."""
        return halves(self.text.documents, self.held_out, self.seed)

    @property
    def metric_name(self) -> str:
        return "loss"

    @property
    def validated(self) -> int:
        return len(self.documents.held)

    def validate(
        self, engine: Engine, predictor: Predictor, *, model: Any = None, advance: Advance = lambda done: None
    ) -> dict[str, float]:
        """The loss of the documents kept apart, in nats a token."""
        texts = [document.text for document in self.documents.held]
        found = engine.block_logprobs(prompted(predictor).model, texts, self.block_tokens, model=model)
        advance(len(texts))
        return {"loss": -sum(own.nats for own in found) / sum(own.tokens for own in found)}

    def few_logprobs(self, engine: Engine, predictor: PromptedModel, *, model: Any = None) -> list[LogProb]:
        texts = [document.text for document in self.documents.held[:_FEW]]
        return engine.block_logprobs(predictor.model, texts, self.block_tokens, model=model)

    def metric_of(self, score: Sequence[float]) -> float:
        return -score[0]

    def score_of(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        return -metrics["loss"], 0.0
