"""Examples of two splits that say nearly the same: found whatever was changed, and not where only a text is shared."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.data.near import part_near, warnings_of_near
from luthier.data.normalise import fingerprint
from luthier.types import Example, Message, Place, Prompt, Split, Task

ASKED = "Why was I charged an extra fee for withdrawing cash abroad yesterday?"


def examples(split: Split, *texts: str | dict[str, str]) -> tuple[Example, ...]:
    made = []
    for line, text in enumerate(texts, 1):
        fields = {"text": text} if isinstance(text, str) else text
        messages = (Message("system", "Name the intent."), Message("user", "\n\n".join(fields.values())))
        prompt = Prompt(f"{split}{line}", "task", messages, fields, fingerprint(messages))
        made.append(Example(prompt, "fee", ("fee",), "fee", Place(f"{split}.csv", line)))
    return tuple(made)


@pytest.mark.parametrize(
    "changed",
    [
        "Why was I charged an extra fee for withdrawing cash abroad today?",
        "WHY WAS I CHARGED, AN EXTRA FEE, FOR WITHDRAWING CASH ABROAD YESTERDAY",
        f"“{ASKED}”",
        "Yesterday, why was I charged an extra fee for withdrawing cash abroad?",
        "Why was I charged a fee for withdrawing cash abroad yesterday?",
        "Ｗｈｙ was I charged an extra fee — for withdrawing cash abroad yesterday?!",
    ],
)
def test_one_that_was_changed_a_little_is_found(changed: str):
    splits = {"train": examples("train", "When does my card arrive?", changed), "test": examples("test", ASKED)}
    kept = part_near(splits, "keep")
    assert kept.splits == splits
    (row,) = kept.duplicates
    assert (row["between"], row["count"], row["done"]) == (["train", "test"], 1, "kept")
    assert row["places"] == ["train.csv:2 ~ test.csv:1"]
    (warning,) = warnings_of_near(kept.duplicates, kept.splits)
    assert warning.startswith(
        "1 of 1 test examples have nearly the words of a train example (train.csv:2 ~ test.csv:1:"
    )
    parted = part_near(splits, "drop-from-train")
    assert [e.place.line for e in parted.splits["train"]] == [1]
    assert parted.splits["test"] == splits["test"]
    assert parted.duplicates[0]["done"] == "dropped from train"
    assert warnings_of_near(parted.duplicates, parted.splits) == []


@pytest.mark.parametrize(
    "other",
    [
        "Why was I charged a fee for my top-up?",
        "What is the exchange rate for withdrawing euros abroad?",
        "Cash yesterday",
    ],
)
def test_one_that_asks_something_else_is_not(other: str):
    assert part_near({"train": examples("train", other), "test": examples("test", ASKED)}, "keep").duplicates == []


def test_a_text_that_questions_share_makes_them_no_copies_of_each_other():
    text = "The Rhine rises in the Swiss Alps and flows north through Basel, Cologne and Rotterdam to the sea. " * 3
    train = examples("train", {"text": text, "question": "Where does the river rise, in which mountains?"})
    other = examples("test", {"text": text, "question": "Through which towns does it flow on its way?"})
    same = examples("test", {"text": text, "question": "Where does this river rise, in which mountains?"})
    assert part_near({"train": train, "test": other}, "keep").duplicates == []
    assert part_near({"train": train, "test": same}, "keep").duplicates[0]["count"] == 1


def test_what_stands_in_test_leaves_validation_as_well():
    splits = {
        "train": examples("train", "one two three four"),
        "validation": examples("validation", ASKED.upper() + " Please!"),
        "test": examples("test", ASKED),
    }
    parted = part_near(splits, "drop-from-train")
    assert (len(parted.splits["train"]), parted.splits["validation"], parted.splits["test"]) == (1, (), splits["test"])


def test_several_like_one_count_once_where_they_are_kept():
    train = examples("train", f"{ASKED} Please", f"Hello. {ASKED}", f"{ASKED} Thanks")
    assert part_near({"train": train, "test": examples("test", ASKED)}, "keep").duplicates[0]["count"] == 1
    assert part_near({"train": train, "test": examples("test", ASKED)}, "drop-from-train").duplicates[0]["count"] == 3


def test_scripts_without_spaces_are_compared_by_their_letters():
    train = examples("train", "昨日海外で現金を引き出したら追加の手数料がかかったのはなぜですか")
    test = examples("test", "昨日海外で現金を引き出したら追加手数料がかかったのは何故ですか")
    assert part_near({"train": train, "test": test}, "keep").duplicates[0]["count"] == 1


def test_the_banking_messages_that_were_found_by_hand_are_found(load: Callable[..., Task]):
    """13 of the 180 messages of a slice of its test have a training message at a word overlap of 0.7."""
    folder = Path(__file__).parents[2] / "studies" / "data" / "banking77"
    settings = {
        "data": {"train": "train.csv", "test": "test.csv"},
        "prompt": "{{ text }}",
        "completion": "{{ category }}",
    }
    task = load(root=folder, **settings, labels="auto", split={"validation": 72})
    found = {tuple(row["between"]): row["count"] for row in task.report["near_duplicates"]}
    with open(folder / "test.csv", encoding="utf-8") as handle:
        assert sum(1 for _ in csv.DictReader(handle)) == len(task.test)
    assert found["train", "test"] + found.get(("validation", "test"), 0) >= 10
    apart = load(
        root=folder,
        **{**settings, "data": {"train": "apart-train.csv", "test": "all-test.csv"}},
        labels="auto",
        split={"validation": 72},
    )
    assert [row["between"] for row in apart.report["near_duplicates"] if "test" in row["between"]] == []


def test_a_wording_that_all_share_makes_no_two_of_them_alike():
    asked = "Say whether the following first name is usually given to boys or to girls. Name: {}"
    names = ("Ann", "Bob", "Cid", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida", "Jo", "Kim", "Lea", "Max", "Nora", "Otto")

    def rows(split: Split, given: tuple[str, ...], *, fields: bool) -> tuple[Example, ...]:
        made = []
        for line, name in enumerate(given, 1):
            messages = (Message("user", asked.format(name)),)
            prompt = Prompt(f"{split}{line}", "task", messages, {"name": name} if fields else {}, fingerprint(messages))
            made.append(Example(prompt, "girl", ("girl",), "girl", Place(f"{split}.csv", line)))
        return tuple(made)

    for fields in (True, False):
        splits = {
            "train": rows("train", names, fields=fields),
            "test": rows("test", tuple(n + "a" for n in names), fields=fields),
        }
        assert part_near(splits, "drop-from-train").splits == splits
