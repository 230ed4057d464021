"""Which worked examples a prompt is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from colours import make_example, make_task
from luthier.prompt.shots import ShotSelector, random_order, spread_order
from luthier.types import Shots

POOL = tuple(
    make_example(n, text, label, label=label)
    for n, (text, label) in enumerate(
        [
            ("my card never arrived", "card"),
            ("exchange rate of euros", "rate"),
            ("the cash machine kept my card", "card"),
            ("top up failed yesterday", "top-up"),
        ]
    )
)


def ids(shots: Sequence) -> list[str]:
    return [shot.id for shot in shots]


def test_a_prompt_is_never_shown_itself_its_duplicate_or_its_group():
    asked = make_example(10, "asked", "a", group="patient-1")
    itself = replace(make_example(11, "reworded", "a"), prompt=replace(asked.prompt, fingerprint="other", group=None))
    duplicate = make_example(12, "asked", "a")
    same_group = make_example(13, "another visit", "a", group="patient-1")
    other = make_example(14, "somebody else", "a", group="patient-2")
    pool = (itself, duplicate, same_group, other)
    for by in ("random", "bm25"):
        (shots,) = ShotSelector(Shots(pool, 4, by)).select([asked.prompt])
        assert ids(shots) == ["e14"]


def test_two_duplicates_are_not_both_shown():
    pool = (make_example(1, "twin", "a"), make_example(2, "twin", "a"), make_example(3, "single", "b"))
    (shots,) = ShotSelector(Shots(pool, 3, "random")).select([make_example(9, "asked", "a").prompt])
    assert ids(shots) == ["e1", "e3"]


def test_prompts_without_groups_do_not_exclude_each_other():
    (shots,) = ShotSelector(Shots(POOL, 4, "random")).select([make_example(9, "asked", "a").prompt])
    assert len(shots) == 4


def test_a_shot_passed_over_is_replaced_by_the_next():
    first, second = ShotSelector(Shots(POOL, 2, "random")).select([POOL[0].prompt, POOL[3].prompt])
    assert ids(first) == ["e1", "e2"]
    assert ids(second) == ["e0", "e1"]


def test_spread_shows_every_label_before_any_twice():
    train = make_task().train
    for seed in range(5):
        order = spread_order(train, seed)
        assert sorted(ids(order)) == sorted(ids(train))
        for start in range(0, 12, 3):
            assert {example.label for example in order[start : start + 3]} == {"red", "green", "blue"}


def test_spread_goes_on_with_the_labels_that_are_left():
    order = spread_order(POOL, seed=0)
    assert {example.label for example in order[:3]} == {"card", "rate", "top-up"}
    assert order[3].label == "card"


def test_random_order_follows_the_seed():
    train = make_task().train
    assert random_order(train, 3) == random_order(train, 3)
    assert random_order(train, 3) != random_order(train, 4)
    assert spread_order(train, 3) == spread_order(train, 3)


def test_bm25_shows_the_nearest_last():
    selector = ShotSelector(Shots(POOL, 2, "bm25"))
    (shots,) = selector.select([make_example(9, "where is my card, it never came", "card").prompt])
    assert shots[-1].id == "e0"
    (shots,) = selector.select([make_example(9, "did my top up fail", "top-up").prompt])
    assert shots[-1].id == "e3"


@pytest.mark.parametrize("question", ["", "zzz qqq", "the of and", "5 + 7"])
def test_bm25_shows_something_where_no_word_is_shared(question: str):
    (shots,) = ShotSelector(Shots(POOL, 2, "bm25")).select([make_example(9, question, "card").prompt])
    assert len(shots) == 2


def test_bm25_shows_something_where_the_pool_has_no_words():
    pool = tuple(make_example(n, f"{n} + {n}", "a") for n in range(3))
    (shots,) = ShotSelector(Shots(pool, 2, "bm25")).select([make_example(9, "2 + 2?", "4").prompt])
    assert len(shots) == 2


def test_embedding_shows_the_nearest_last():
    def embed(texts: Sequence[str]) -> np.ndarray:
        """A direction for each first letter."""
        vectors = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, ord(text[0]) - 97] = 1
        return vectors

    selector = ShotSelector(Shots(POOL, 2, "embedding"), embed)
    for question, nearest in [("euro", "e1"), ("mine", "e0"), ("ten", "e2")]:
        (shots,) = selector.select([make_example(9, question, "card").prompt])
        assert shots[-1].id == nearest


def test_embedding_needs_an_embedder():
    with pytest.raises(ValueError, match="embedder"):
        ShotSelector(Shots(POOL, 2, "embedding"))


def test_similarity_looks_at_the_question_and_not_at_other_columns():
    """A column that repeats the answer must not lead to shots of the right label."""
    pool = tuple(
        replace(e, prompt=replace(e.prompt, fields={"text": "same", "label_number": str(n)}))
        for n, e in enumerate(POOL, 10)
    )
    asked = make_example(20, "is my card here", "rate")
    asked = replace(asked, prompt=replace(asked.prompt, fields={"label_number": "11"}))
    (shots,) = ShotSelector(Shots(pool, 1, "bm25")).select([asked.prompt])
    assert "card" in shots[0].prompt.messages[-1].content


def test_an_instruction_that_all_turns_share_does_not_count_as_similarity():
    pool = tuple(make_example(n, f"Name the card intent of: {text} (one word)", "a") for n, text in enumerate("abc"))
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return np.eye(3)[: len(texts)]

    selector = ShotSelector(Shots(pool, 1, "embedding"), embed)
    selector.select([make_example(9, "Name the card intent of: b (one word)", "a").prompt])
    assert seen == ["a", "b", "c", "b"]
