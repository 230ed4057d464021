"""From scores to a decision: approaches side by side, differences that hold together, the rule, and its words.

Nothing that is computed before scores depends on this package (import-linter holds it), so a change here makes no step
stale.
"""

from luthier.compare.comparison import ApproachResult, FloorResult, compare
from luthier.compare.power import describe_power, minimum_detectable_difference, n_needed

__all__ = [
    "ApproachResult",
    "FloorResult",
    "compare",
    "describe_power",
    "minimum_detectable_difference",
    "n_needed",
]
