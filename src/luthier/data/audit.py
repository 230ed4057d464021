"""What stands on two sides of a split, or twice on one: exact duplicates after normalisation, shared groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.errors import DataError
from luthier.types import Example, Split
from luthier.words import words

# a shared example leaves the first of a pair: the test split is never changed
PAIRS: tuple[tuple[Split, Split], ...] = (("train", "test"), ("train", "validation"), ("validation", "test"))
SHOWN = 10
# A shorter passage may stand in two texts by chance.
_PASSAGE_WORDS = 8

_KEYS: dict[str, Callable[[Example], str | None]] = {
    "prompt": lambda example: example.prompt.fingerprint,
    "group": lambda example: example.prompt.group,
}


@dataclass(frozen=True, slots=True)
class Across:
    """The splits without what they shared, and what was found and done (for `data.json`)."""

    splits: Mapping[Split, tuple[Example, ...]]
    duplicates: list[dict[str, object]]


def separate(splits: Mapping[Split, Sequence[Example]], policy: Literal["stop", "drop-from-train"]) -> Across:
    """Look for prompts and groups that stand in two of the splits that are given.

    Args:
        policy: `stop` raises where there are any; `drop-from-train` leaves them in test, and in validation
            where they stand in train too.

    Raises:
        DataError: Splits share something, and the policy is `stop`.
    """
    clean: dict[Split, tuple[Example, ...]] = {name: tuple(examples) for name, examples in splits.items()}
    found: list[dict[str, object]] = []
    complaints: list[str] = []
    for loser, keeper in PAIRS:
        for kind, key in _KEYS.items():
            there = {key(e): e for e in reversed(clean.get(keeper, ())) if key(e) is not None}
            shared = [e for e in clean.get(loser, ()) if key(e) in there]
            if not shared:
                continue
            places = [f"{e.place} = {there[key(e)].place}" for e in shared[:SHOWN]]
            complaints.append(
                f"{len(shared)} of {len(splits[loser])} {loser} examples share their {kind} with {keeper}:"
            )
            complaints += [f"  {place}" for place in places[:3]]
            gone = {e.id for e in shared}
            clean[loser] = tuple(e for e in clean[loser] if e.id not in gone)
            done = f"dropped from {loser}" + (" (same group)" if kind == "group" else "")
            found.append({"between": [loser, keeper], "count": len(shared), "done": done, "places": places})
    if complaints and policy == "stop":
        raise DataError(
            "Splits share examples, so scores would flatter whatever learns from train:\n"
            + "\n".join(complaints)
            + "\nRemove them, or set duplicates: drop-from-train (test keeps all its examples)."
        )
    return Across(clean, found)


def repeated(split: Split, examples: Sequence[Example], done: str = "kept") -> list[dict[str, object]]:
    """What stands twice within one split, for `data.json`: one entry, or none."""
    groups = duplicates_within(examples)
    if not groups:
        return []
    count = sum(len(group) - 1 for group in groups)
    places = [f"{group[0].place} = {group[1].place}" for group in groups[:SHOWN]]
    return [{"between": [split, split], "count": count, "done": done, "places": places}]


def conflicts(split: Split, examples: Sequence[Example]) -> list[str]:
    """A warning where prompts stand in a split with different labels."""
    groups = [group for group in duplicates_within(examples) if len({e.label for e in group}) > 1]
    if not groups:
        return []
    shown = "; ".join(
        " against ".join(f"{e.label} ({e.place})" for e in {e.label: e for e in group}.values()) for group in groups[:3]
    )
    return [f"{split}: prompts that stand there with different labels: {len(groups)}, such as {shown}"]


def duplicates_within(examples: Sequence[Example]) -> list[list[Example]]:
    """Groups of two or more examples with one fingerprint, in the order of the rows."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.prompt.fingerprint].append(example)
    return [group for group in groups.values() if len(group) > 1]


def standing_in(passages: Iterable[str], texts: Iterable[str]) -> set[str]:
    """Those of the passages, of eight words at least, that stand word for word in one of the texts."""
    by_start: dict[tuple[str, ...], list[tuple[str, list[str]]]] = defaultdict(list)
    for passage in set(passages):
        if len(own := words(passage)) >= _PASSAGE_WORDS:
            by_start[tuple(own[:_PASSAGE_WORDS])].append((passage, own))
    found: set[str] = set()
    for text in texts if by_start else ():
        there = words(text)
        for at in range(len(there) - _PASSAGE_WORDS + 1):
            for passage, own in by_start.get(tuple(there[at : at + _PASSAGE_WORDS]), ()):
                if there[at : at + len(own)] == own:
                    found.add(passage)
    return found
