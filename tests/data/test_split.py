import random
from collections import Counter

import pytest

from luthier.data.normalise import fingerprint
from luthier.data.split import cut, label_counts, shares, size_of, subsample
from luthier.errors import DataError
from luthier.types import Example, Message, Place, Prompt


def example(text: str, label: str | None = None, group: str | None = None, number: int = 0) -> Example:
    messages = (Message("user", text),)
    prompt = Prompt(f"{text}-{number}", "task", messages, {}, fingerprint(messages), group)
    return Example(prompt, label or "x", (label or "x",), label, Place("f", number))


def texts(examples: tuple[Example, ...]) -> set[str]:
    return {e.prompt.messages[0].content for e in examples}


def counts(examples: tuple[Example, ...]) -> dict[str | None, int]:
    return dict(Counter(e.label for e in examples))


MANY = [example(f"text {n}", label="a" if n % 4 else "b") for n in range(100)]


def test_a_cut_takes_exactly_the_count_and_loses_nothing():
    parts = cut(MANY, 20, seed=0, what="test")
    assert len(parts.cut) == 20
    assert texts(parts.cut) | texts(parts.kept) == texts(tuple(MANY))
    assert texts(parts.cut) & texts(parts.kept) == set()


def test_labels_keep_their_shares():
    parts = cut(MANY, 20, seed=0, what="test")
    assert counts(parts.cut) == {"a": 15, "b": 5}
    assert counts(parts.kept) == {"a": 60, "b": 20}


def test_the_same_seed_gives_the_same_cut_in_any_order_of_rows():
    shuffled = random.Random(1).sample(MANY, len(MANY))
    assert texts(cut(MANY, 20, seed=0, what="test").cut) == texts(cut(shuffled, 20, seed=0, what="test").cut)


def test_another_seed_gives_another_cut():
    assert texts(cut(MANY, 20, seed=0, what="test").cut) != texts(cut(MANY, 20, seed=1, what="test").cut)


def test_split_keeps_paraphrases_together():
    pairs = [example(text, number=n) for n in range(50) for text in (f"Text {n}?", f"text  {n}")]
    parts = cut(pairs, 20, seed=0, what="test")
    prints = {e.prompt.fingerprint for e in parts.cut}
    assert len(parts.cut) == 20
    assert prints & {e.prompt.fingerprint for e in parts.kept} == set()


def test_a_group_never_stands_on_two_sides():
    grouped = [example(f"text {n}", group=f"patient {n // 5}") for n in range(100)]
    parts = cut(grouped, 20, seed=0, what="test")
    assert len(parts.cut) == 20
    assert {e.prompt.group for e in parts.cut} & {e.prompt.group for e in parts.kept} == set()


def test_groups_that_share_a_duplicate_stay_together():
    chained = [
        example("same", group="p"),
        example("same", group="q"),
        example("other", group="q"),
        example("far", group="r"),
    ]
    parts = cut(chained, 1, seed=0, what="test")
    assert texts(parts.cut) == {"far"}


def test_sets_of_labels_that_occur_once_are_cut_all_the_same():
    names = [f"label {n:02}" for n in range(40)]
    pairs = [f"{a}; {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    sets = [example(f"text {n}", label=pair) for n, pair in enumerate(random.Random(0).sample(pairs, 200))]
    assert len(cut(sets, 40, seed=0, what="test", separator="; ").cut) == 40
    assert len(subsample(sets, 50, seed=0, what="train", separator="; ")) == 50


def test_the_rarest_label_of_an_answer_keeps_its_share_and_an_example_to_train_on():
    common = [example(f"common {n}", label="a; b") for n in range(80)]
    rare = [example(f"rare {n}", label="a; b; c" if n % 2 else "b; c") for n in range(20)]
    parts = cut([*common, *rare, example("only", label="a; b; d")], 20, seed=0, what="test", separator="; ")
    held = label_counts(parts.cut, "; ")
    assert (len(parts.cut), held["b"], held["c"]) == (20, 20, 4)
    assert label_counts(parts.kept, "; ")["d"] == 1


def test_every_label_keeps_an_example_to_train_on():
    rare = [*MANY, example("only one", label="c")]
    for seed in range(20):
        assert counts(cut(rare, 50, seed=seed, what="test").kept)["c"] == 1


def test_prompts_are_counted_once_where_references_will_merge():
    several = [example(f"text {n}", number=k) for n in range(30) for k in range(10)]
    parts = cut(several, 6, seed=0, what="test", prompts_count_once=True)
    assert len(texts(parts.cut)) == 6
    assert len(parts.cut) == 60


def test_more_than_there_is_cannot_be_cut_off():
    with pytest.raises(DataError, match=r"split\.test asks for 100 of 100 examples"):
        cut(MANY, 100, seed=0, what="test")


def test_one_group_cannot_be_cut_in_two():
    with pytest.raises(DataError, match="asks for 1 of 3 examples, 1 of them independent"):
        cut([example(f"text {n}", group="g") for n in range(3)], 1, seed=0, what="test")


def test_shares_go_by_largest_remainder():
    assert shares({"a": 60, "b": 29, "c": 11}, 5, seed=0) == {"a": 3, "b": 1, "c": 1}
    assert shares({"a": 70, "b": 29, "c": 1}, 10, seed=0) == {"a": 7, "b": 3, "c": 0}


@pytest.mark.parametrize(("size", "total", "expected"), [(0.2, 100, 20), (0.1, 3, 1), (30, 100, 30), (0.25, 10, 2)])
def test_sizes_are_fractions_or_counts(size: float, total: int, expected: int):
    assert size_of(size, total) == expected


def test_a_subsample_keeps_shares_and_order():
    small = subsample(MANY, 20, seed=0, what="train")
    assert counts(small) == {"a": 15, "b": 5}
    order = [MANY.index(e) for e in small]
    assert order == sorted(order)


def test_a_limit_above_the_number_of_examples_keeps_all():
    assert subsample(MANY, 1000, seed=0, what="train") == tuple(MANY)
