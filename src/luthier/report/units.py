"""Numbers as people read them: rounded, with their unit. A missing number is an en dash."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup, escape

MISSING = "–"
# metrics that are not a share of something, whatever values they happen to take
_NOT_A_SHARE = ("loss", "nats", "bits", "perplexity", "mae", "mse", "rmse", "error", "tokens", "reward")


@dataclass(frozen=True, slots=True)
class ScoreUnit:
    """How values of one metric are written: shares as percent, everything else as plain numbers."""

    share: bool

    def value(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return MISSING
        return f"{100 * value:.1f}%" if self.share else plain(value)

    def difference(self, value: float | None) -> str:
        """With its sign; for shares in percentage points, without naming them."""
        if value is None or not math.isfinite(value):
            return MISSING
        text = f"{100 * value:+.1f}" if self.share else f"{value:+.3g}"
        return "0.0" if self.share and text in {"+0.0", "-0.0"} else text.replace("-", "−")

    def tick(self, value: float) -> str:
        return f"{100 * value:g}%" if self.share else plain(value)

    def difference_tick(self, value: float) -> str:
        if value == 0:
            return "0"
        return f"{100 * value if self.share else value:+.4g}".replace("-", "−")

    def interval(self, low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return MISSING
        return f"{100 * low:.1f} to {100 * high:.1f}%" if self.share else f"{plain(low)} to {plain(high)}"

    def difference_interval(self, low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return MISSING
        return f"{self.difference(low)} to {self.difference(high)}"

    @property
    def points(self) -> str:
        """Unit of a difference, to be put after the number or in a heading."""
        return "points" if self.share else ""


def score_unit(metric: str, *values: float | None) -> ScoreUnit:
    """How to write `metric`: as a share where all `values` lie in 0…1 and its name does not say otherwise."""
    named_otherwise = any(word in metric.lower() for word in _NOT_A_SHARE)
    return ScoreUnit(not named_otherwise and all(value is None or 0 <= value <= 1 for value in values))


def plain(value: float | None) -> str:
    """Three significant digits, thousands grouped."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def tokens(value: float | None) -> str:
    """Of a prompt, on average: `none` where no language model is asked."""
    return "none" if value == 0 else count(value)


def large(value: float | None) -> str:
    """134,515,008 as `134.5 M`."""
    if value is None:
        return MISSING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {letter}" if abs(value) < 99.95 * size else f"{value / size:.1f} {letter}"
    return count(value)


def percent(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:.1f}%" if value >= 0.001 or value == 0 else f"{100 * value:.2g}%"


def seconds(value: float | None) -> str:
    """`45 ms`, `12.3 s`, `4 min 12 s`, `3 h 20 min`, `2.4 days`."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0 s"
    if value < 0.01:
        return f"{1000 * value:.2g} ms"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.0f} s" if value == int(value) else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if value < 172_800:
        hours, minutes = divmod(round(value / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{value / 86_400:.1f} days"


def size(value: float | None) -> str:
    """Bytes in decimal units: `3.7 MB`."""
    if value is None:
        return MISSING
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * unit:
            number = value / unit
            return f"{number:.1f} {name}" if number < 99.95 else f"{number:.0f} {name}"
    return f"{value:.0f} B"


def p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def setting(value: object) -> str:
    """A setting's value in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {setting(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(inner) for inner in value)
    return str(value)


def flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with those of an inner mapping beside the others; its `kind` goes by the mapping's own name."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and "kind" in value:
            found |= {key if inner == "kind" else inner: own for inner, own in value.items()}
        else:
            found[key] = value
    return found


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def settings_taken(settings: Mapping[str, object]) -> dict[str, str]:
    """The settings of a step that have a value, as written; without `step`, which names the step itself."""
    return {key: setting(value) for key, value in flat(settings).items() if value is not None and key != "step"}


def moment(iso: str) -> str:
    """`2030-01-02T10:00:00+00:00` as `2030-01-02 10:00:00 UTC`."""
    return re.sub(r"(Z|\+00:00)$", " UTC", iso.replace("T", " "))


def breakable(value: object) -> Markup:
    """Text that may be broken after its underscores and slashes, as names made of words want to be."""
    return Markup(re.sub("([_/]+)", r"\1<wbr>", str(escape(value))))  # noqa: S704 - escaped above


def plural(number: int, noun: str) -> str:
    """`1 file`, `2 files`, `1,200 examples`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
