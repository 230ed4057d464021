"""What an approach came to, and what that took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.steps.base import Step
from luthier.types import TRAININGS, ModelRef, Predictor, PromptedModel, Training


@dataclass(frozen=True, slots=True)
class Spent:
    """What one step took, or one comparison on validation.

    Attributes:
        train_s: Seconds of training, its validations included, or of making an index.
        loop_s: Seconds of the training loop alone.
        trained_tokens: Tokens that went through training.
        stored_bytes: Bytes that it keeps on disk.
    """

    train_s: float = 0.0
    loop_s: float = 0.0
    trained_tokens: int = 0
    peak_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """The model after a step that changed its weights.

    Attributes:
        step: The step's name, such as `sft`.
        learned: The tasks that it learned from.
        key: Hash of all that determines the model.
        routes: Task name → the model that answers it in place of `model`.
    """

    step: str
    learned: tuple[str, ...]
    key: str
    model: ModelRef
    routes: Mapping[str, ModelRef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A predictor that came out of steps, with what it took.

    Attributes:
        key: Hash of all that determines the predictor.
        spent: What each step took, by its key, those of other approaches that it is made of and settings that were
            not taken among them: a step that two ways have in common stands, and counts, once. What was reused counts
            as when it was computed. Indices that steps needed stand beside them, each once.
        taken: Keys of the steps that led to the predictor, and of their indices.
        trainable_parameters: Of the largest training.
        stages: The models on the way, the last one included.
        applied: The steps themselves, every setting given.
        warnings: What steps left out or could not do as asked, a sentence each.
    """

    predictor: Predictor
    key: str
    spent: Mapping[str, Spent] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    trainable_parameters: int = 0
    trainable_share: float = 0.0
    steps: tuple[Mapping[str, Any], ...] = ()
    choices: tuple[Mapping[str, Any], ...] = ()
    stages: tuple[Stage, ...] = ()
    applied: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def training(self) -> Training:
        """What was trained for it; the largest of it."""
        return max((step.training for step in self.applied), key=TRAININGS.index, default="none")

    @property
    def language_model(self) -> PromptedModel | None:
        """The predictor, where a language model answers."""
        return self.predictor if isinstance(self.predictor, PromptedModel) else None

    @property
    def train_s(self) -> float:
        """Seconds of training, of searching for settings, and of indexing documents."""
        return sum(own.train_s for own in self.spent.values())

    @property
    def search_s(self) -> float:
        """The part spent on settings that were not taken, and on comparing them."""
        return sum(own.train_s for key, own in self.spent.items() if key not in self.taken)

    @property
    def loop_s(self) -> float:
        """Seconds of the training loops alone, of the settings taken."""
        return sum(own.loop_s for own in self._of_taken)

    @property
    def trained_tokens(self) -> int:
        return sum(own.trained_tokens for own in self._of_taken)

    @property
    def stored_bytes(self) -> int:
        return sum(own.stored_bytes for own in self._of_taken)

    @property
    def peak_bytes(self) -> int:
        return max((own.peak_bytes for own in self.spent.values()), default=0)

    @property
    def _of_taken(self) -> list[Spent]:
        return [own for key, own in self.spent.items() if key in self.taken]
