"""What every step is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.progress import Progress
from luthier.settings import Settings
from luthier.types import ModelRef, Predictor, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.retrieve.index import Index
    from luthier.retrieve.library import Library
    from luthier.retrieve.passages import ChunkSettings
    from luthier.steps.lesson import Lesson


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use.

    Attributes:
        lesson: What it learns from.
        start: The model that the approach began from.
        engine: Answers and scores with predictors.
        folder: The step's own folder; named results go to `results/`.
        seed: Decides everything that is drawn.
        log: Takes a row of metrics.
        before: The models after each step before it that changed weights, in their order.
        others: What the approaches that it `uses` and its `parts` came to, by their names.
        library: The documents of tasks, and the indices that are made of them.
        give_up: Whether a training is given up after an evaluation: its number from 1, the best score so far.
    """

    lesson: Lesson
    start: ModelRef
    engine: Engine
    folder: Path
    seed: int
    progress: Progress
    log: Callable[[Mapping[str, float]], None]
    before: tuple[ModelRef, ...] = ()
    others: Mapping[str, Predictor] = field(default_factory=dict)
    library: Library | None = None
    give_up: Callable[[int, tuple[float, ...]], bool] = lambda number, best: False

    @property
    def task(self) -> Task:
        """The only task that it learns from."""
        return self.lesson.task

    def index(self, embedder: str, chunks: ChunkSettings) -> tuple[Index, Mapping[str, float]]:
        """The index of the task's documents, made where it is not there yet; and its name → seconds of making it."""
        assert self.library is not None, "where a task has documents there is a library"
        assert self.task.documents is not None, "whether a task has documents is checked before"
        index = self.library.index(self.task.documents.folder, embedder, chunks, self.progress)
        return index, {index.folder.name: self.library.making(index).build_s}


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A better predictor, and what it took.

    Attributes:
        train_s: Seconds of training, its validations included; 0 where nothing is trained.
        trained_tokens: Tokens that went through training.
        loop_s: Seconds of training without validations.
        indexes: Name of an index that it needed → seconds of making it, whichever step did. They are not in `train_s`.
        results: Named results to be drawn, by kind (see docs/run-folder.md).
        facts: Further values worth keeping in `step.json`.
    """

    predictor: Predictor
    train_s: float = 0.0
    loop_s: float = 0.0
    trained_tokens: int = 0
    trainable_parameters: int = 0
    trainable_share: float = 0.0
    peak_bytes: int = 0
    indexes: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Step(Settings):
    """A step's settings; `fit` does its work.

    Steps say by class variables whether they change the model's weights, whether they do it by examples, whether what
    they give serves a single task, and which settings decide only what is drawn (`drawing`).
    """

    trains: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    for_one_task: ClassVar[bool] = False
    drawing: ClassVar[frozenset[str]] = frozenset()

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Names of the tasks that it learns from; none for the target."""
        return ()

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of the approaches whose results it needs."""
        return ()

    @property
    def rehearses(self) -> tuple[str, ...]:
        """Names of tasks whose training prompts or validation it uses, without learning from their answers."""
        return ()

    @property
    def embedders(self) -> tuple[str, ...]:
        """Names of the sentence embedders and cross-encoders that it begins with."""
        return ()

    @property
    def unmergeable(self) -> str:
        """Why what it makes of a model cannot be merged with another; empty where it can."""
        return ""

    def parts(self, target: str) -> Mapping[str, Step]:
        """Steps that are done for it before, each on the predictor that it is given, by a name with a space in it.

        Args:
            target: The task that steps learn from where they name none.
        """
        return {}

    def for_tasks(self, tasks: Sequence[str]) -> Step:
        """The step with what follows from the names of the study's tasks filled in."""
        return self

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """What is wrong with these settings beside the rest of the study, each beginning with the setting's name.

        Args:
            before: The approach's steps before this one.
            others: The steps of the approaches that it uses, by name.
            tasks: Names of the study's tasks.
            target: The one that the verdict concerns.
        """
        return []

    def check(self, task: Task) -> list[str]:
        """What is wrong with these settings for a task that it learns from, one sentence each.

        No model is loaded for it.
        """
        return []

    def described(self) -> dict[str, Any]:
        """The settings as they took effect, for people to read."""
        return self.model_dump(mode="json", exclude_none=True)

    def disk_bytes(self, model_bytes: int) -> int:
        """Most bytes that `fit` may write, for a base model of so many bytes."""
        return 0

    def more_results(self, predictor: Predictor, context: StepContext, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Further named results that take work of their own, made when the step is done and was taken.

        Args:
            predictor: What `fit` was given.
            facts: What it found.
        """
        return {}

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        raise NotImplementedError
