"""Seeded splits: examples that belong together stay together, labels keep their shares.

Which side an example falls on depends on the seed and on its own text, not on the order of the rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from luthier.data.labels import split_labels
from luthier.data.normalise import digest
from luthier.errors import DataError
from luthier.types import Example


@dataclass(frozen=True, slots=True)
class Cut:
    """A set of examples in two: what is kept, and what is cut off; both in the order of the rows."""

    kept: tuple[Example, ...]
    cut: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """Examples that must stay on one side: the same fingerprint, or the same group; drawn by one label."""

    indices: tuple[int, ...]
    label: str
    order: str
    weight: int


def cut(
    examples: Sequence[Example],
    count: int,
    seed: int,
    *,
    what: str,
    stratify: bool = True,
    prompts_count_once: bool = False,
    separator: str = "",
) -> Cut:
    """Cut off about `count` examples (exactly so many where no two belong together).

    Args:
        what: Name of the split that is cut off; it also makes its choice differ from that of another.
        stratify: Take from every label in proportion, and leave every label one example at least. Of an answer with
            several labels the rarest counts, so that the common ones alone may drift.
        prompts_count_once: Count prompts rather than examples (for references that will be merged).
        separator: What stands between the labels of an answer; empty where it has one.

    Raises:
        DataError: There are too few examples, or too few that are independent, to cut off so many.
    """
    blocks = _blocks(examples, seed, what, prompts_count_once, separator)
    total = sum(block.weight for block in blocks)
    if count >= total or len(blocks) < 2:
        independent = f", {len(blocks)} of them independent of each other" if len(blocks) < total else ""
        raise DataError(
            f"split.{what} asks for {count} of {total} examples{independent}; some must be left to train on.\n"
            f"Lower split.{what}, or give more data."
        )
    by_label: dict[str, list[_Block]] = defaultdict(list)
    for block in blocks:
        by_label[block.label if stratify else ""].append(block)
    quotas = shares({label: sum(b.weight for b in group) for label, group in by_label.items()}, count, seed)
    chosen: list[_Block] = []
    spare: list[_Block] = []
    for label, group in sorted(by_label.items()):
        ordered = sorted(group, key=lambda block: block.order)
        movable = ordered[:-1] if len(by_label) > 1 else ordered
        fitting = _fill(movable, quotas[label])
        chosen += fitting
        orders = {block.order for block in fitting}
        spare += [block for block in movable if block.order not in orders]
    # what labels with a single example, and blocks too large for their quota, left open
    chosen += _fill(sorted(spare, key=lambda block: block.order), count - sum(block.weight for block in chosen))
    if not chosen:
        chosen = [min(blocks, key=lambda block: (block.weight, block.order))]
    taken = {index for block in chosen for index in block.indices}
    return Cut(
        kept=tuple(example for index, example in enumerate(examples) if index not in taken),
        cut=tuple(example for index, example in enumerate(examples) if index in taken),
    )


def subsample(
    examples: Sequence[Example], count: int, seed: int, what: str, *, separator: str = ""
) -> tuple[Example, ...]:
    """At most `count` of the examples, in their order, taken from every label in proportion (see `cut`)."""
    if count >= len(examples):
        return tuple(examples)
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(_drawn_by(examples, separator)):
        by_label[label].append(index)
    quotas = shares({label: len(indices) for label, indices in by_label.items()}, count, seed)
    taken: set[int] = set()
    for label, indices in by_label.items():
        ordered = sorted(indices, key=lambda i: digest(str(seed), "limit", what, examples[i].id))
        taken.update(ordered[: quotas[label]])
    return tuple(example for index, example in enumerate(examples) if index in taken)


def shares(sizes: Mapping[str, int], count: int, seed: int) -> dict[str, int]:
    """`count` divided over the labels in proportion to their sizes, by largest remainders (Hamilton)."""
    total = sum(sizes.values())
    exact = {label: count * size / total for label, size in sizes.items()}
    quotas = {label: int(share) for label, share in exact.items()}
    # equal remainders are common with balanced labels: the seed decides among them
    by_remainder = sorted(sizes, key=lambda label: (quotas[label] - exact[label], digest(str(seed), label)))
    for label in by_remainder[: count - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def size_of(size: int | float, total: int) -> int:
    """A fraction as a count of examples, at least 1; a count as it is."""
    return size if isinstance(size, int) else max(1, round(size * total))


def label_counts(examples: Iterable[Example], separator: str = "") -> Counter[str]:
    """How many examples have each label; with a separator, of the single labels of their answers."""
    answers = [example.label for example in examples if example.label is not None]
    return Counter(label for answer in answers for label in split_labels(answer, separator))


def _drawn_by(examples: Sequence[Example], separator: str) -> list[str]:
    """The label by which each example is drawn, of several the rarest (most sets of labels occur once); empty where it
    has none."""
    counts = label_counts(examples, separator)

    def rarest(answer: str) -> str:
        return min(split_labels(answer, separator), key=lambda label: (counts[label], label))

    return ["" if example.label is None else rarest(example.label) for example in examples]


def _fill(blocks: Sequence[_Block], quota: int) -> list[_Block]:
    """Blocks in the order given, each that still fits in the quota."""
    chosen: list[_Block] = []
    for block in blocks:
        if block.weight <= quota:
            chosen.append(block)
            quota -= block.weight
    return chosen


def _blocks(
    examples: Sequence[Example], seed: int, what: str, prompts_count_once: bool, separator: str
) -> list[_Block]:
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, example in enumerate(examples):
        keys = [("fingerprint", example.prompt.fingerprint)]
        if example.prompt.group is not None:
            keys.append(("group", example.prompt.group))
        for key in keys:
            parent[root(index)] = root(first.setdefault(key, index))
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        members[root(index)].append(index)
    drawn_by = _drawn_by(examples, separator)
    blocks = []
    for indices in members.values():
        prints = {examples[index].prompt.fingerprint for index in indices}
        labels = Counter(drawn_by[index] for index in indices)
        label = min(labels, key=lambda name: (-labels[name], name))
        weight = len(prints) if prompts_count_once else len(indices)
        blocks.append(_Block(tuple(indices), label, digest(str(seed), what, min(prints)), weight))
    return blocks
