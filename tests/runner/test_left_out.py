"""What is said of examples that no training saw, and of answers that were not replayed."""

from __future__ import annotations

from luthier.runner.left_out import not_replayed, unseen_examples


def test_examples_that_a_mixture_has_no_room_for_are_counted() -> None:
    facts = {"examples_of_tasks": {"a": 4, "b": 12, "c": 30}}  # b has some twice
    (said,) = unseen_examples(facts, {"a": 6, "b": 8, "c": 1200})
    assert said == "training holds not all examples, and never sees the others: 4 of 6 of a, 30 of 1,200 of c"
    assert not list(unseen_examples(facts, {"a": 4, "b": 12, "c": 30}))
    assert not list(unseen_examples({}, {"a": 6}))


def test_answers_that_were_not_replayed_whole_are_counted() -> None:
    facts = {"replay": {"asked": 10, "kept": 7, "dropped": {"empty answer": 2, "prompt twice": 1}, "cut": 3}}
    (said,) = not_replayed(facts)
    assert said == (
        "of 10 answers that the model wrote to be replayed 7 were kept (3 of them cut off at max_new_tokens), 2 left "
        "out (empty answer), 1 left out (prompt twice)"
    )
    assert not list(not_replayed({"replay": {"asked": 10, "kept": 10, "dropped": {}, "cut": 0}}))
    assert not list(not_replayed({}))
