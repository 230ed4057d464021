import pytest

from luthier.data.audit import conflicts, repeated, separate
from luthier.data.normalise import fingerprint
from luthier.errors import DataError
from luthier.types import Example, Message, Place, Prompt, Split


def examples(split: Split, *rows: tuple[str, str], group: str | None = None) -> tuple[Example, ...]:
    made = []
    for line, (text, label) in enumerate(rows, 1):
        messages = (Message("user", text),)
        prompt = Prompt(f"{split}{line}", "task", messages, {}, fingerprint(messages), group)
        made.append(Example(prompt, label, (label,), label, Place(split, line)))
    return tuple(made)


TRAIN = examples("train", ("Hello!", "a"), ("where", "b"), ("who", "b"))
TEST = examples("test", ("hello", "a"), ("when", "b"))


def test_a_shared_prompt_stops_with_count_places_and_remedy():
    with pytest.raises(DataError) as caught:
        separate({"train": TRAIN, "test": TEST}, "stop")
    message = str(caught.value)
    assert "1 of 3 train examples share their prompt with test:\n  train:1 = test:1" in message
    assert "set duplicates: drop-from-train" in message


def test_dropping_leaves_the_test_split_as_it_is():
    across = separate({"train": TRAIN, "test": TEST}, "drop-from-train")
    assert across.splits["test"] == TEST
    assert [e.place.line for e in across.splits["train"]] == [2, 3]
    assert across.duplicates == [
        {"between": ["train", "test"], "count": 1, "done": "dropped from train", "places": ["train:1 = test:1"]}
    ]


def test_what_validation_shares_with_test_leaves_validation():
    across = separate(
        {"train": TRAIN[1:], "validation": examples("validation", ("HELLO", "a")), "test": TEST}, "drop-from-train"
    )
    assert across.splits["validation"] == ()
    assert across.splits["test"] == TEST


def test_splits_that_share_nothing_pass():
    across = separate({"train": TRAIN[1:], "test": TEST}, "stop")
    assert across.duplicates == []


def test_a_group_in_two_given_splits_is_a_leak_too():
    train, test = examples("train", ("x", "a"), group="p"), examples("test", ("y", "a"), group="p")
    with pytest.raises(DataError, match="1 of 1 train examples share their group with test"):
        separate({"train": train, "test": test}, "stop")


def test_duplicates_within_train_are_reported_and_kept():
    assert repeated("train", examples("train", ("a", "x"), ("A.", "x"), ("b", "x"), ("a", "x"))) == [
        {"between": ["train", "train"], "count": 2, "done": "kept", "places": ["train:1 = train:2"]}
    ]


def test_one_text_with_two_labels_is_a_conflict():
    warning = conflicts("train", examples("train", ("hi", "x"), ("Hi!", "y"), ("ho", "x"), ("ho", "x")))
    assert warning == [
        "train: prompts that stand there with different labels: 1, such as x (train:1) against y (train:2)"
    ]
