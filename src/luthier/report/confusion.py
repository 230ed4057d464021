"""Which labels an approach takes for which: counted from its predictions, drawn as a matrix or a list of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from luthier.report.svg import picture, tag, text, text_width

OTHER = "(no label)"
_MATRIX_LABELS = 80  # beyond that a matrix cannot be read, and the list of pairs stands alone
_COUNTED_LABELS = 30  # up to that the cells are large enough to hold their counts


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of (right label, answered label); an answer that is none of the labels counts as `OTHER`."""

    labels: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]

    @property
    def columns(self) -> tuple[str, ...]:
        other = any(answered == OTHER for _, answered in self.counts)
        return (*self.labels, OTHER) if other else self.labels

    def total(self, label: str) -> int:
        return sum(n for (right, _), n in self.counts.items() if right == label)

    def confused(self) -> list[tuple[str, str, int]]:
        """The wrong pairs, most frequent first."""
        wrong = [(right, answered, n) for (right, answered), n in self.counts.items() if right != answered]
        return sorted(wrong, key=lambda pair: (-pair[2], pair[0], pair[1]))


def confusion(predictions: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Confusion:
    """Count the answers to examples that have a label; letter case and outer spaces do not matter."""
    by_text = {label.strip().casefold(): label for label in reversed(labels)}
    exact = {label.strip(): label for label in labels}
    counts: Counter[tuple[str, str]] = Counter()
    for row in predictions:
        if row["label"] is not None:
            answer = str(row["completion"]).strip()
            counts[row["label"], exact.get(answer) or by_text.get(answer.casefold(), OTHER)] += 1
    return Confusion(tuple(labels), counts)


def draw_confusion(table: Confusion, title: str) -> Markup:
    """Rows are the right labels, columns the answers; shade is the share of the row. Empty for very many labels."""
    labels, columns = table.labels, table.columns
    if len(labels) > _MATRIX_LABELS:
        return Markup("")
    counted = len(labels) <= _COUNTED_LABELS
    size = 34.0 if len(labels) <= 14 else 24.0 if counted else 11.0
    letters = 12.0 if counted else 9.0
    left = 10 + min(max(text_width(label, letters) for label in columns), 190)
    top = left
    parts = [
        tag("rect", x=left, y=top, width=len(columns) * size - 1, height=len(labels) * size - 1, class_="cell floor")
    ]
    for index, label in enumerate(columns):
        middle = left + (index + 0.5) * size
        parts.append(
            text(middle + letters / 3, top - 6, _short(label, letters), class_=f"tick {'small' if counted else 'tiny'}",
                 transform=f"rotate(-90 {middle + letters / 3:g} {top - 6:g})")
        )  # fmt: skip
    for index, label in enumerate(labels):
        at = top + (index + 0.5) * size + letters / 3
        parts.append(text(left - 6, at, _short(label, letters), "end", f"tick {'small' if counted else 'tiny'}"))
    totals = {label: table.total(label) for label in labels}
    rows, places = ({label: index for index, label in enumerate(group)} for group in (labels, columns))
    for (right, answered), n in table.counts.items():
        if right not in rows:
            continue
        x, y, share = left + places[answered] * size, top + rows[right] * size, n / totals[right]
        told = tag("title", f"{right} answered as {answered}: {n} of {totals[right]}")
        hue = "heat" if right == answered else "wrong"
        parts.append(tag("rect", told, x=x, y=y, width=size - 1, height=size - 1, class_=f"cell {hue}",
                         fill_opacity=round(0.12 + 0.88 * share, 3)))  # fmt: skip
        if counted:
            class_ = "cell-text strong" if share > 0.6 else "cell-text"
            parts.append(text(x + (size - 1) / 2, y + size / 2 + 3.5, str(n), "middle", class_))
    width, height = left + len(columns) * size + 2, top + len(labels) * size + 2
    return picture(width, height, title, *parts, class_="fixed")


def _short(label: str, letters: float) -> str:
    if text_width(label, letters) <= 190:
        return label
    while text_width(label + "…", letters) > 190:
        label = label[:-1]
    return label + "…"
