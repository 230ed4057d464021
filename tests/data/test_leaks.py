"""Passages that give test answers away are found; those that only hold the answer are not."""

from __future__ import annotations

from luthier.data.leaks import find_leaks
from luthier.types import Example, Message, Passage, Place, Prompt


def example(question: str, answer: str) -> Example:
    prompt = Prompt(question, "t", (Message("user", f"Answer: {question}"),), {"q": question}, "f")
    return Example(prompt, answer, (answer,), None, Place("x"))


def passage(text: str) -> Passage:
    return Passage("a#1", "a", "A", (), None, 0, len(text), text, "d")


ASKED = example("How long may I keep a borrowed book?", "three weeks")


def test_a_faq_that_holds_question_and_answer_is_a_leak() -> None:
    (leak,) = find_leaks([ASKED], [passage("Q: how long may I keep a borrowed book?! A: Three weeks, no more.")])
    assert (leak.how, leak.example) == ("question", ASKED)


def test_a_passage_with_the_answer_alone_or_the_question_alone_is_none() -> None:
    assert not find_leaks([ASKED], [passage("Books are lent for three weeks.")])
    assert not find_leaks([ASKED], [passage("How long may I keep a borrowed book? Ask the desk.")])


def test_a_near_copy_of_an_example_is_a_leak() -> None:
    long = example("Which of the two rivers that meet near the old town carries more water in the spring?", "the Aare")
    near = "Someone asked which of the two rivers that meet near the old town carries more water in spring: the Aare."
    (leak,) = find_leaks([long], [passage(near)])
    assert leak.how == "copy"


def test_a_near_copy_with_a_long_answer_need_not_hold_it_word_for_word() -> None:
    answer = "the river that comes down from the glacier in the north carries nearly twice as much, being fed by snow"
    long = example("Which of the two rivers that meet near the old town carries more water in the spring?", answer)
    asked = "Which of the two rivers that meet near the old town carries more water in the spring? "
    (leak,) = find_leaks([long], [passage(f"{asked} {answer.replace('nearly', 'about')}.")])
    assert leak.how == "copy"
    assert not find_leaks([long], [passage(f"{asked} Nobody knows, for nobody has measured it in the last years.")])


def test_a_question_is_found_beside_a_longer_column() -> None:
    question = "How long may I keep a borrowed book?"
    context = "Our library lends books to everybody who lives in town and has a card of the library."
    prompt = Prompt("1", "t", (Message("user", f"{context}\n{question}"),), {"c": context, "q": question}, "f")
    own = Example(prompt, "three weeks", ("three weeks",), None, Place("x"))
    (leak,) = find_leaks([own], [passage(f"{question} Three weeks.")])
    assert leak.how == "question"


def test_short_questions_are_not_found_by_chance() -> None:
    assert not find_leaks([example("Who won?", "Ann")], [passage("Who won? It was Ann.")])


def test_a_question_in_the_heading_is_seen() -> None:
    own = Passage("a#1", "a", "FAQ", ("How long may I keep a borrowed book?",), None, 0, 12, "Three weeks.", "d")
    assert [leak.how for leak in find_leaks([ASKED], [own])] == ["question"]
