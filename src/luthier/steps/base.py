"""What every step is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from luthier.progress import Progress
from luthier.settings import Settings, closed
from luthier.types import ModelRef, Predictor, Task, Training

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
        start: The model that the approach began from; None for one that uses no language model.
        engine: Answers and scores with predictors.
        folder: The step's own folder; named results go to `results/`.
        seed: Decides everything that is drawn.
        log: Takes a row of metrics.
        before: The models after each step before it that changed weights, in their order.
        others: What the approaches that it `uses` and its `parts` came to, by their names.
        library: The documents of tasks, and the indices that are made of them.
        root: The study's folder.
        give_up: Whether a training is given up after an evaluation: its number from 1, the best score so far.
    """

    lesson: Lesson
    start: ModelRef | None
    engine: Engine
    folder: Path
    seed: int
    progress: Progress
    log: Callable[[Mapping[str, float]], None]
    before: tuple[ModelRef, ...] = ()
    others: Mapping[str, Predictor] = field(default_factory=dict)
    library: Library | None = None
    root: Path = Path()
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
class Tried:
    """A combination of settings that a step tried on validation.

    Attributes:
        score: The metric that it chose by, as it is written.
        seconds: What trying it took.
    """

    settings: Mapping[str, Any]
    score: float
    seconds: float
    taken: bool


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What a step that answers in the model's place will take.

    Attributes:
        fit_s: Seconds of `fit`.
        request_s: Seconds of a request among many.
        alone_s: Seconds of a request alone.
        peak_bytes: Memory beyond what is loaded anyway; `stored_bytes` on disk.
    """

    fit_s: float
    request_s: float
    alone_s: float
    peak_bytes: float = 0.0
    stored_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class ShownText:
    """An example as a step that answers in the model's place reads it: runs of text, and whether each is an answer
    that it learns or copies."""

    place: str
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A better predictor, and what it took.

    Attributes:
        train_s: Seconds of training, its validations included; 0 where nothing is trained.
        trained_tokens: Tokens that went through training.
        loop_s: Seconds of training without validations.
        indexes: Name of an index that it needed → seconds of making it, whichever step did. They are not in `train_s`.
        tried: What it tried on validation by itself, of which it took one; empty where it chose nothing.
        taken: Settings that it left open and has taken one value of, for training again with another seed.
        search_s: The part of `train_s` spent on trying what was not taken.
        results: Named results to be drawn, by kind (see docs/run-folder.md).
        facts: Further values worth keeping in `step.json`.
        warnings: What was left out or could not be done as asked, a sentence each.
    """

    predictor: Predictor
    train_s: float = 0.0
    loop_s: float = 0.0
    trained_tokens: int = 0
    trainable_parameters: int = 0
    trainable_share: float = 0.0
    peak_bytes: int = 0
    indexes: Mapping[str, float] = field(default_factory=dict)
    tried: tuple[Tried, ...] = ()
    taken: Mapping[str, Any] = field(default_factory=dict)
    search_s: float = 0.0
    results: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Step(Settings):
    """A step's settings; `fit` does its work.

    Steps say by class variables whether they change the language model's weights (`trains`), whether they do it by
    examples, what they train (`training`), whether what they give answers in the language model's place (`answers`),
    whether it serves a single task, and which settings decide only what is drawn (`drawing`).
    """

    trains: ClassVar[bool] = False
    training: ClassVar[Training] = "none"
    answers: ClassVar[bool] = False
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
    def gives_model(self) -> bool:
        """Whether it gives a language model that writes, on which further steps can work."""
        return not self.answers

    @property
    def needs_model(self) -> bool:
        """Whether it works on a language model."""
        return True

    @property
    def serves_one_task(self) -> bool:
        """Whether what it gives serves a single task with these settings."""
        return self.for_one_task

    @property
    def embedders(self) -> tuple[str, ...]:
        """Names of the sentence embedders and cross-encoders that it begins with."""
        return ()

    @property
    def code(self) -> tuple[str, ...]:
        """Python functions of the user's that it runs, `file.py:function` each."""
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

    def with_settings(self, **settings: Any) -> Self:
        """The same with some settings given."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(own | settings)

    def for_data(self, tasks: Sequence[Task]) -> Step:
        """The step with what is left to it filled in, from the tasks that it learns from: values to be tried, say."""
        return self

    def quick(self) -> Step:
        """The step with one value of each setting that would be tried by asking the language model, which takes
        minutes."""
        return self if self.answers else cast(Step, next(closed(self)))

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

    def forecast(self, context: StepContext) -> StepForecast:
        """What it will take, where it answers in the model's place. Nothing is fitted for it."""
        raise NotImplementedError

    def shown(self, context: StepContext, count: int) -> list[ShownText]:
        """The first examples as it reads them, where it answers in the model's place."""
        raise NotImplementedError

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        raise NotImplementedError
