"""`data:` of a step that trains: one task, or a mixture of several."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from luthier.settings import Choose, Count, Open, Positive, Settings, given

T = TypeVar("T")


class Mixture(Settings):
    """Several tasks, learned together (multi-task learning)."""

    tasks: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Their names. Default: the study's targets."""
    by: Literal["size", "equal", "temperature", "weights"] = "size"
    """Share of each task. `size`: as many as it has examples. `equal`: the same for all. `temperature`: its size to the
    power of 1 / temperature, between the two (Raffel et al. 2020). `weights`: as given."""
    temperature: Open[Positive] = 2.0
    """For `by: temperature`: 1 is by size, higher is nearer to equal."""
    cap: Count | None = None
    """No task counts as larger than this, for `by: size` and `by: temperature` (Raffel et al. 2020)."""
    weights: Open[dict[str, Positive]] | None = None
    """For `by: weights`: one for each task."""
    examples: Count | None = None
    """Examples of one pass. Default: as many as the tasks have together, none counted beyond the cap. Of a task with
    fewer examples than its share some come again; of one with more a part is drawn by the seed."""

    @model_validator(mode="after")
    def _weights_for_all_and_only_where_they_count(self) -> Mixture:
        if self.tasks is not None and len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks names one twice: {', '.join(self.tasks)}")
        if (self.by == "weights") != (self.weights is not None):
            raise ValueError("by: weights and weights go together; give both or neither")
        for weights in self.weights.choose if isinstance(self.weights, Choose) else [self.weights]:
            if weights is not None and set(weights) != set(self.tasks or ()):
                wanted = ", ".join(self.tasks) if self.tasks else "the tasks, which are to be named too"
                raise ValueError(f"weights names {', '.join(weights)}; expected all of {wanted}")
        if self.cap is not None and self.by not in ("size", "temperature"):
            raise ValueError(f"cap has no meaning with by: {self.by}; leave it out")
        if self.by != "temperature" and self.is_changed("temperature"):
            raise ValueError(f"temperature has no meaning with by: {self.by}; set by: temperature")
        return self

    def counts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Examples of each task in one pass.

        Args:
            sizes: Task → its training examples; at least those of the mixture, all of them where it names none.
        """
        own = sizes if self.tasks is None else {task: sizes[task] for task in self.tasks}
        capped = {task: min(size, self.cap or size) for task, size in own.items()}
        if self.weights is not None:
            assert not isinstance(self.weights, Choose), "all settings are given by now"
            shares = dict(self.weights)
        elif self.by == "equal":
            shares = dict.fromkeys(own, 1.0)
        else:
            power = 1 / given(self.temperature) if self.by == "temperature" else 1.0
            shares = {task: size**power for task, size in capped.items()}
        return _apportioned(self.examples or sum(capped.values()), shares)


def tasks_named(data: str | Mixture | None) -> tuple[str, ...]:
    """The tasks that a setting `data:` names; none where it leaves them to the study's targets."""
    if isinstance(data, Mixture):
        return data.tasks or ()
    return () if data is None else (data,)


def drawn(examples: Sequence[T], count: int, seed: str) -> list[T]:
    """So many of the examples: each as often as the others, and a part of them, drawn by the seed, once more."""
    whole, rest = divmod(count, len(examples))
    return [*examples] * whole + random.Random(seed).sample(list(examples), rest)


def _apportioned(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """The total in whole numbers, by largest remainders; every task gets one at least."""
    whole = sum(shares.values())
    exact = {task: total * share / whole for task, share in shares.items()}
    counts = {task: int(value) for task, value in exact.items()}
    by_rest = sorted(exact, key=lambda task: (counts[task] - exact[task], list(shares).index(task)))
    for task in by_rest[: total - sum(counts.values())]:
        counts[task] += 1
    return {task: max(1, count) for task, count in counts.items()}
