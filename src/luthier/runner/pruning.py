"""Which settings are given up before their training is over: the median rule (Golovin et al. 2017, "Google Vizier")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median_low

from luthier.steps.lesson import Lesson
from luthier.train.checkpoint import Score

# As many candidates are trained to their end before others are measured against them.
FIRST = 3


@dataclass(frozen=True, slots=True)
class MedianRule:
    """Gives a candidate up that half way or later has come less far than the median of those before it had.

    Attributes:
        tracks: Of each candidate that was trained to its end, its best score up to each evaluation.
        evaluations: How often the candidate is evaluated in all.
    """

    tracks: Sequence[Sequence[Score]]
    evaluations: int

    def gives_up(self, number: int, best: Score) -> bool:
        """Whether the training ends with this evaluation.

        Args:
            number: Of the evaluation, from 1.
            best: The best score up to it.
        """
        if len(self.tracks) < FIRST or not self.evaluations / 2 <= number < self.evaluations:
            return False
        # A training that ended early for want of a gain stays where it was.
        return best < median_low([track[min(number, len(track)) - 1] for track in self.tracks])

    def given_up_at(self, track: Sequence[Score]) -> int | None:
        """The number of the evaluation with which the rule ends such a training; None where it does not."""
        return next((number for number, best in enumerate(track, 1) if self.gives_up(number, best)), None)


def track_of(rows: Sequence[Mapping[str, float]], lesson: Lesson) -> tuple[Score, ...]:
    """The best score up to each evaluation, from the rows that a training logged."""
    prefix = "validation/"
    found = [{k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)} for row in rows]
    return tuple(accumulate((lesson.score_of(metrics) for metrics in found if metrics), max))
