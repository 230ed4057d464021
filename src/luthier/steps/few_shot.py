"""`few-shot`: worked examples in front of the question (in-context learning; Brown et al. 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from luthier.prompt.shots import random_order, spread_order
from luthier.settings import Choose, Open, values_of
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.types import Predictor, Shots, Task, prompted

ShotCount = Annotated[int, Field(ge=0)]
ShotChoice = Literal["random", "spread", "bm25", "embedding"]


class FewShotStep(Step):
    """Show training examples before the question.

    A prompt never shows itself, a duplicate of itself, or a member of its group.
    """

    step: Literal["few-shot"] = "few-shot"
    shots: Open[ShotCount] = 8
    """Examples a prompt; those that leave no room in the model's window are left out and counted."""
    by: Open[ShotChoice] | None = None
    """`random`: drawn once for all prompts. `spread`: drawn once, every label before any comes twice.
    `bm25`, `embedding`: the most similar to each prompt, the most similar last. Default: what validation takes of
    `spread` (without labels `random`), `bm25` and `embedding`."""
    embedder: str = "minilm-l6"
    """For `by: embedding`: a folder, a built-in name (minilm-l6), or the Hugging Face id of a sentence embedder."""

    @property
    def embedders(self) -> tuple[str, ...]:
        """The one that shots may be chosen by."""
        return (self.embedder,) if "embedding" in values_of(self.by) else ()

    def for_data(self, tasks: Sequence[Task]) -> Step:
        """With the ways to choose shots that validation chooses among."""
        if self.by is not None or self.shots == 0:
            return self
        drawn: ShotChoice = "spread" if all(task.labels for task in tasks) else "random"
        return self.with_settings(by=Choose[ShotChoice](choose=(drawn, "bm25", "embedding")))

    def quick(self) -> Step:
        """With the most shots, chosen by embedding where that is open: most often the best way."""
        if self.shots == 0:
            return self
        ways = values_of(self.by)
        by = "embedding" if self.by is None or "embedding" in ways else ways[0]
        return self.with_settings(shots=max(values_of(self.shots)), by=by)

    def check(self, task: Task) -> list[str]:
        """`spread` needs labels, and the pool must be large enough."""
        problems = []
        ways, counts = values_of(self.by), values_of(self.shots)
        if "spread" in ways and not task.labels:
            problems.append(f"by: spread needs labels, and task '{task.name}' has none; use random, bm25 or embedding.")
        if max(counts) >= len(task.train):
            problems.append(f"{max(counts)} shots need more than {len(task.train)} training examples.")
        return problems

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """The predictor with its pool of shots, one for each task that it serves."""
        predictor = prompted(predictor)
        if self.shots == 0:
            return StepOutcome(replace(predictor, shots=None, task_shots={}))
        tasks, target = context.lesson.tasks, context.lesson.target
        pools = {task.name: self._shots_of(task, context.seed) for task in tasks}
        made = replace(predictor, shots=pools.pop(target, None), task_shots=pools)
        shown = [
            len(own)
            for task in tasks
            for own in context.engine.select_shots(made.asked(task, target), [e.prompt for e in task.validation])
        ]
        pool = sum(len(shots.pool) for shots in (made.shots, *pools.values()) if shots is not None)
        return StepOutcome(made, facts={"pool": pool, "shots_selected": dict(Counter(shown))})

    def _shots_of(self, task: Task, seed: int) -> Shots:
        assert not isinstance(self.shots, Choose)
        assert self.by is not None, "what is left open is filled in by for_data"
        assert not isinstance(self.by, Choose)
        pool = task.train
        if self.by in ("random", "spread"):
            order = random_order if self.by == "random" else spread_order
            pool = order(task.train, seed)[: _pool_size(self.shots, train_groups(task))]
        return Shots(pool, self.shots, self.by, self.embedder if self.by == "embedding" else None)


def train_groups(task: Task) -> int:
    """Size of the largest group among the training examples; 0 without groups."""
    return max(Counter(e.prompt.group for e in task.train if e.prompt.group is not None).values(), default=0)


def _pool_size(count: int, largest_group: int) -> int:
    # Enough to replace shots that a prompt must not see: itself with its duplicates, and its whole group.
    return 2 * count + 16 + largest_group
