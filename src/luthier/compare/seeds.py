"""The same training with several seeds: how far its score depends on chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import numpy as np

from luthier.compare.comparison import ApproachResult, judged_columns
from luthier.compare.quantities import bare_text, value_text
from luthier.evaluate.columns import interval_of
from luthier.evaluate.metrics import Metric
from luthier.evaluate.statistics import Interval


@dataclass(frozen=True, slots=True)
class Repeated:
    """An approach that was trained with several seeds, the interval of its score with each, and how much each probe of
    general ability changed.

    Attributes:
        handed: The seed of the training that is handed over.
    """

    name: str
    metric: Metric
    handed: int
    by_seed: Mapping[int, Interval]
    forgotten: Mapping[int, Mapping[str, object]]

    @property
    def means(self) -> list[float]:
        return [own.mean for own in self.by_seed.values()]


def over_seeds(
    repeats: Mapping[str, Mapping[int, ApproachResult]], targets: Sequence[str], seed: int
) -> list[Repeated]:
    """The scores of each approach with each of its seeds; approaches without a second seed are left out.

    Args:
        repeats: Approach → seed → what it scored on the targets; the training that is handed over first.
        targets: The tasks that the verdict concerns; of several their mean.
        seed: Of the bootstrap where intervals need one.
    """
    found = []
    for name, results in repeats.items():
        if len(results) > 1:
            metric, columns = judged_columns(list(results.values()), targets)
            found_by = sorted(zip(results, columns, strict=True), key=lambda pair: pair[0])
            own = {of: interval_of(column, metric, seed) for of, column in found_by}
            changed = {of: {str(c["probe"]): c["difference"] for c in one.forgotten} for of, one in results.items()}
            found.append(Repeated(name, metric, next(iter(results)), own, changed))
    return found


def seeds_content(repeated: Sequence[Repeated]) -> dict[str, Any] | None:
    """What stands under `seeds` in `comparison.json`; None where nothing was repeated."""
    if not repeated:
        return None
    return {
        "metric": repeated[0].metric.name,
        "approaches": [
            {
                "name": own.name,
                "handed_over": own.handed,
                "mean": fmean(own.means),
                "sd": stdev(own.means),
                "least": min(own.means),
                "most": max(own.means),
                "seeds": [
                    {
                        "seed": seed,
                        "mean": one.mean,
                        "low": _finite(one.low),
                        "high": _finite(one.high),
                        "forgotten": dict(own.forgotten[seed]),
                    }
                    for seed, one in own.by_seed.items()
                ],
            }
            for own in repeated
        ],
        "pairs": [{"a": a.name, "b": b.name, **_ahead(a, b)} for a, b in combinations(repeated, 2)],
    }


def seeds_reasons(repeated: Sequence[Repeated]) -> list[str]:
    """What the seeds say of the two approaches that are best over them, in a sentence; none where nothing was
    repeated."""
    if not repeated:
        return []
    metric = repeated[0].metric
    direction = -1 if metric.higher_is_better else 1
    first, *rest = sorted(repeated, key=lambda own: direction * fmean(own.means))
    shown = "; ".join(f"{own.name} {_range(own)}" for own in (first, *rest[:1]))
    text = f"Trained with {len(first.by_seed)} seeds: {shown}."
    if rest:
        ahead = _ahead(first, rest[0])["a_better"]
        often = "with each of them" if ahead == len(first.by_seed) else f"with {ahead} of {len(first.by_seed)}"
        text += f" {first.name} was ahead of {rest[0].name} {often}."
    return [text]


def _range(own: Repeated) -> str:
    least, most = min(own.means), max(own.means)
    ends = value_text(own.metric, most)
    return ends if least == most else f"{bare_text(own.metric, least)}–{ends}"


def _ahead(a: Repeated, b: Repeated) -> dict[str, int]:
    """With how many seeds one did better than the other."""
    turn = 1 if a.metric.higher_is_better else -1
    signs = [np.sign(turn * (one - other)) for one, other in zip(a.means, b.means, strict=True)]
    return {"a_better": signs.count(1), "b_better": signs.count(-1), "of": len(signs)}


def _finite(end: float) -> float | None:
    return float(end) if np.isfinite(end) else None
