"""Examples of two splits that say nearly the same: one word changed, quotes around it, the words in another order.

Nearly the same are two prompts whose words, without their counts, overlap by a share of 0.7 (Jaccard) in every column
that the prompt shows; a text that many questions share makes no two of them alike. Candidates are found by MinHash
(Broder 1997), which misses about one in eighty at that share, and are then compared exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from luthier.data.audit import PAIRS, SHOWN, Across
from luthier.types import Example, Split
from luthier.words import words

NEAR = 0.7
_BANDS, _ROWS = 16, 4
# Columns of so few words are compared as they are.
_SHORT = 3
# From so many examples on it is known which words are those of the wording.
_ENOUGH = 20

_Columns = tuple[frozenset[str], ...]


def part_near(splits: Mapping[Split, Sequence[Example]], policy: Literal["keep", "drop-from-train"]) -> Across:
    """Look for prompts that say nearly the same as one of another split.

    Args:
        policy: `keep` counts them; `drop-from-train` leaves them in test, and in validation where they stand in train
            too.

    Returns:
        The splits, and for each two that share something `between`, `count` (of examples that are dropped; kept, of
        those of the second split that have one like them in the first), `done`, `places`, and `texts` of some pairs.
    """
    clean: dict[Split, tuple[Example, ...]] = {name: tuple(examples) for name, examples in splits.items()}
    found: list[dict[str, object]] = []
    for loser, keeper in PAIRS:
        side = 0 if policy == "drop-from-train" else 1
        one_each: dict[str, tuple[Example, Example]] = {}
        for pair in _pairs(clean.get(loser, ()), clean.get(keeper, ()), side):
            one_each.setdefault(pair[side].id, pair)
        if not one_each:
            continue
        shown = list(one_each.values())[:SHOWN]
        if policy == "drop-from-train":
            clean[loser] = tuple(e for e in clean[loser] if e.id not in one_each)
        found.append(
            {
                "between": [loser, keeper],
                "count": len(one_each),
                "done": "kept" if policy == "keep" else f"dropped from {loser}",
                "places": [f"{a.place} ~ {b.place}" for a, b in shown],
                "texts": [[_shown(a), _shown(b)] for a, b in shown],
            }
        )
    return Across(clean, found)


def warnings_of_near(found: Sequence[Mapping[str, Any]], splits: Mapping[Split, Sequence[Example]]) -> list[str]:
    """What scores may owe to those that were kept."""
    warnings = []
    for row in found:
        loser, keeper = row["between"]
        if row["done"] == "kept":
            (one, other), place = row["texts"][0], row["places"][0]
            warnings.append(
                f"{row['count']} of {len(splits[keeper])} {keeper} examples have nearly the words of a {loser} example "
                f"({place}: {one!r} and {other!r}); what learns from them or copies them scores better by that. "
                "near_duplicates: drop-from-train leaves them out of training"
            )
    return warnings


def _pairs(losers: Sequence[Example], keepers: Sequence[Example], side: int) -> Iterator[tuple[Example, Example]]:
    """Pairs of nearly equal examples, one of either side; each example of the `side` that is counted once."""
    from datasketch import MinHashLSH

    if not losers or not keepers:
        return
    common = _common([*losers, *keepers])
    there, own = ([_columns(example, common) for example in examples] for examples in (keepers, losers))
    index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    for number, signature in enumerate(_signatures(there)):
        if any(there[number]):
            index.insert(number, signature)
    met: set[int] = set()
    for example, columns, signature in zip(losers, own, _signatures(own), strict=True):
        candidates = sorted(set(index.query(signature)) - met) if any(columns) else []
        for number in candidates:
            if _near(columns, there[number]):
                yield example, keepers[number]
                if side == 0:
                    break
                met.add(number)


def _common(examples: Sequence[Example]) -> frozenset[str]:
    """Words that most of the turns without columns have: those of the wording around what a row says."""
    bare = [example for example in examples if not _texts(example)]
    if len(bare) < _ENOUGH:
        return frozenset()
    counts = Counter(word for example in bare for turn in _turns(example) for word in set(words(turn)))
    return frozenset(word for word, count in counts.items() if count > len(bare) / 2)


def _turns(example: Example) -> list[str]:
    return [message.content for message in example.prompt.messages if message.role != "system"]


def _signatures(examples: Sequence[_Columns]) -> Iterator[Any]:
    from datasketch import MinHash

    sets = ([word.encode("utf-8", "surrogatepass") for own in columns for word in own] for columns in examples)
    yield from MinHash.generator(sets, num_perm=_BANDS * _ROWS, seed=1)


def _texts(example: Example) -> list[str]:
    """The row's columns that the prompt shows."""
    asked, columns = _turns(example), example.prompt.fields.values()
    return [own for own in columns if own.strip() and any(own.strip() in turn for turn in asked)]


def _columns(example: Example, common: frozenset[str]) -> _Columns:
    """The words of each column that the prompt shows; of conversations those of each turn that few others have."""
    if texts := _texts(example):
        return tuple(frozenset(words(text)) for text in texts)
    return tuple(frozenset(words(turn)) - common for turn in _turns(example))


def _near(one: _Columns, other: _Columns) -> bool:
    """Whether all columns overlap by as much; a short one, such as a number or a name, is equal."""
    return len(one) == len(other) and all(
        a == b or (len(a | b) > _SHORT and len(a & b) >= NEAR * len(a | b)) for a, b in zip(one, other, strict=True)
    )


def _shown(example: Example) -> str:
    text = " ".join(example.prompt.messages[-1].content.split())
    return text if len(text) <= 80 else f"{text[:79]}…"
