"""What answering will take: a short timing of the model, times the tokens of prompts and answers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from luthier.evaluate.metrics import Metric
from luthier.infer.budget import MAX_ROWS
from luthier.infer.timing import AnswerSpeed
from luthier.runner.prepare import Prepared
from luthier.tree.build import build_tree
from luthier.tree.trunk import find_trunk
from luthier.types import PromptedModel, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.prompt.render import RenderedPrompt

# Prompts of a task that are looked at for their lengths and what they share.
_SAMPLE = 48
# A model that was not trained on the task seldom ends its answers; one that was writes about as much as is wanted.
_LONGER_ANSWERS = 1.2


def answering_of(
    predictor: PromptedModel, task: Task, prepared: Prepared, speed: AnswerSpeed, trained: bool
) -> Answering:
    """What it takes with a predictor on a task.

    Args:
        trained: Whether its model is trained on the task: one that is ends its answers.
    """
    sample = [example.prompt for example in (*task.validation, *task.train)[:_SAMPLE]]
    rendered = prepared.engine.render(predictor, sample, reserve=0)
    return Answering(predictor, task, rendered, prepared.engine, speed, trained=trained)


class Answering:
    """What answering takes with a predictor, from a sample of its prompts."""

    def __init__(
        self,
        predictor: PromptedModel,
        task: Task,
        rendered: Sequence[RenderedPrompt],
        engine: Engine,
        speed: AnswerSpeed,
        *,
        trained: bool,
    ) -> None:
        self.task = task
        ids = [r.ids for r in rendered]
        trunk = find_trunk(ids)
        renderer = engine.renderer(predictor.model)
        self._speed, self._rows = speed, MAX_ROWS[engine.device]
        self._shared = len(trunk)
        self._own = sum(len(own) - int(depth) for own, depth in zip(ids, trunk.depths, strict=True)) / len(ids)
        self.prompt_tokens = sum(map(len, ids)) / len(ids)
        self._generates = predictor.decoding.answer == "generate"
        messages = rendered[0].messages
        wanted = [len(renderer.completion(messages, e.completion)) for e in task.train[: 4 * _SAMPLE]]
        self._wanted = sum(wanted) / len(wanted)
        if self._generates:
            most = predictor.decoding.max_new_tokens
            self._steps = min(most, _LONGER_ANSWERS * self._wanted) if trained else most
        else:
            labels = [renderer.completion(messages, label) for label in task.labels]
            tree = build_tree([(0, *label) for label in labels], [[0.0] + [1.0] * len(label) for label in labels])
            self._below, self._heads = len(tree) - 1, len(set(tree.target_nodes.tolist()))

    def together(self, prompts: int) -> float:
        """Seconds for so many prompts in batches."""
        seconds = (self._shared + prompts * self._own) * self._speed.token_s
        if self._generates:
            batches = ceil(prompts / self._rows)
            return seconds + prompts * self._speed.head_s + self._steps * batches * self._speed.batch_s
        return seconds + prompts * (self._below * self._speed.token_s + self._heads * self._speed.head_s)

    def scoring(self, metric: Metric, prompts: int) -> float:
        """Seconds for a metric of so many prompts' answers."""
        return self.comparing(prompts) if metric.needs_logprobs else self.together(prompts)

    def comparing(self, prompts: int) -> float:
        """Seconds for the predictions of the references to so many prompts."""
        tokens = self._shared + prompts * (self._own + self._wanted)
        return tokens * self._speed.token_s + prompts * self._wanted * self._speed.head_s

    def alone(self) -> float:
        """Seconds for one prompt by itself."""
        seconds = self.prompt_tokens * self._speed.token_s
        if self._generates:
            return seconds + self._steps * self._speed.alone_s
        return seconds + self._below * self._speed.token_s + self._heads * self._speed.head_s
