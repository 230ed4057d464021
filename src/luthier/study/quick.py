"""A quick run of a study: what trains no language model, without the searches that take minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from luthier.errors import StudyError
from luthier.settings import clipped
from luthier.steps import AnyStep
from luthier.study.schema import Approach, Study

# Requests asked one by one for the latency.
_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class QuickStudy:
    """What is left of a study for a quick run, and what was given up for the time.

    Attributes:
        left_out: Names of the approaches that train the language model, or need one that does.
        narrowed: Approach name → what is used without a search, in words.
        one_seed: Whether the study asks for several seeds.
    """

    study: Study
    left_out: tuple[str, ...]
    narrowed: dict[str, str]
    one_seed: bool

    @property
    def given_up(self) -> str:
        """What a full run would add, in whole sentences."""
        said = []
        if self.left_out:
            said.append(f"Left out, as they train the language model: {', '.join(self.left_out)}.")
        if self.narrowed:
            settings = "; ".join(f"{name} ({words})" for name, words in self.narrowed.items())
            said.append(f"Taken without trying others on validation: {settings}.")
        if self.one_seed:
            said.append("What is fitted was fitted with one seed.")
        said.append(f"Latencies are of {self.study.latency_requests} requests.")
        return " ".join([*said, "The same command without --quick does all of it."])


def quick_study(study: Study) -> QuickStudy:
    """The study without the approaches that train the language model, and with one value of each setting that would be
    tried by asking it.

    Raises:
        StudyError: Nothing is left.
    """
    left_out: dict[str, None] = {}
    for name in study.fold_order:
        approach = study.approaches[name]
        if approach.trains or any(used in left_out for used in approach.uses):
            left_out[name] = None
    kept = {name: _quick(approach) for name, approach in study.approaches.items() if name not in left_out}
    if not kept:
        raise StudyError(
            f"every approach trains the language model ({', '.join(left_out)}), so a quick run has nothing to "
            "compare. Add approaches that do not, such as nearest: [nearest], or leave out --quick."
        )
    changed = {
        "approaches": kept,
        "seeds": 1,
        "finalists": 1,
        "latency_requests": min(study.latency_requests, _REQUESTS),
    }
    return QuickStudy(
        study.model_copy(update=changed),
        tuple(name for name in study.approaches if name in left_out),
        {name: words for name, own in kept.items() if (words := _narrowed(study.approaches[name], own))},
        study.seeds > 1,
    )


def _quick(approach: Approach) -> Approach:
    return approach.model_copy(update={"steps": tuple(cast(AnyStep, step.quick()) for step in approach.steps)})


def _narrowed(before: Approach, after: Approach) -> str:
    """The settings that are given in the quick run alone."""
    settings = [
        f"{name} {clipped(getattr(now, name))}"
        for step, now in zip(before.steps, after.steps, strict=True)
        for name in type(now).model_fields
        if getattr(step, name) != getattr(now, name)
    ]
    return ", ".join(settings)
