"""What training took and gave."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.train.checkpoint import Score


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What training took and gave.

    Attributes:
        seconds: Of training proper, without validation; earlier, interrupted parts included.
        tokens: Tokens of the examples that went through.
        computed_tokens: Those that were computed: what the examples of a step share counts once.
        best_step: The step whose weights were kept.
        best_score: Their validation score.
        stopped_early: Whether patience ran out.
        not_on_tree: Why padded batches were used in place of token trees; empty where trees were.
    """

    seconds: float
    validation_s: float
    tokens: int
    computed_tokens: int
    steps: int
    best_step: int
    best_score: Score
    stopped_early: bool
    peak_bytes: int
    not_on_tree: str


class GivenUp(Exception):
    """Training was ended by what was asked whether to go on; nothing of it is kept.

    Attributes:
        outcome: Of the part that was done.
        evaluation: The number of the evaluation after which it ended, from 1.
    """

    def __init__(self, outcome: TrainingOutcome, evaluation: int) -> None:
        super().__init__(f"given up after evaluation {evaluation}")
        self.outcome, self.evaluation = outcome, evaluation
