"""Numbers of a comparison as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from luthier.evaluate.forgetting import worsening
from luthier.evaluate.metrics import Metric


def value_text(metric: Metric, value: float) -> str:
    """A score: "84.4%", "1.503"."""
    return f"{bare_text(metric, value)}%" if metric.proportion else bare_text(metric, value)


def size_text(metric: Metric, difference: float) -> str:
    """A difference in the metric's unit: "2.0 points", "0.013"."""
    return f"{bare_text(metric, difference)} points" if metric.proportion else bare_text(metric, difference)


def bare_text(metric: Metric, value: float) -> str:
    text = f"{100 * value:.1f}" if metric.proportion else f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def ends_text(metric: Metric, low: float, high: float) -> str:
    """The ends of a difference's interval: "1.3 to 14.5"."""
    if not math.isfinite(low):
        return "no interval from one example"
    return f"{bare_text(metric, low)} to {bare_text(metric, high)}"


def percent_text(limit: float | None) -> str:
    return "" if limit is None else f"{100 * limit:.3g}%"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def count_text(number: int, what: str) -> str:
    """ "1 request", "1,000 requests"."""
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def price_text(seconds: float, hour_price: float) -> str:
    """What they cost, in the currency of the price of an hour: "12.40", "0.0031"."""
    price = seconds / 3600 * hour_price
    return f"{price:,.2f}" if price >= 0.1 else f"{price:.2g}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: "12 ms", "1.5 s", "4.2 min", "3.1 h"."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def rounded(number: int) -> int:
    """To two digits: a number of examples needed is never known better."""
    return round(number, 2 - len(str(number))) if number >= 100 else number


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def change_text(change: Mapping[str, object]) -> str:
    """How a probe changed: "loss on general_text rose by 12.0% (3.1 → 3.472)"."""
    before, after, much = change["before"], change["after"], worsening(change)
    low, high = change.get("low"), change.get("high")
    shown = not (isinstance(low, float) and isinstance(high, float) and low <= 0 <= high)
    chance = "" if shown else "; its 95% interval includes no change"
    if change["higher_is_better"]:
        much_of, digits = f"{'fell' if much >= 0 else 'rose'} by {100 * abs(much):.1f} points", ".3g"
    else:
        much_of, digits = f"{'rose' if much >= 0 else 'fell'} by {100 * abs(much):.1f}%", ".4g"
    return f"{change['metric']} on {change['probe']} {much_of} ({before:{digits}} → {after:{digits}}{chance})"
