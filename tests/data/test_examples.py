import pytest

from luthier.data import TaskSettings
from luthier.data.examples import build_examples, merge_references, with_labels, with_unique_ids
from luthier.data.files import Row, table
from luthier.data.labels import Labels
from luthier.data.normalise import fingerprint, normalised
from luthier.errors import DataError
from luthier.types import Message, Place


def build(rows: list[dict[str, object]], **settings: object):
    usual: dict[str, object] = {"data": "f.csv", "prompt": "{{ question }}", "completion": "{{ answer }}"}
    read = table("f.csv", [Row(row, Place("f.csv", line)) for line, row in enumerate(rows, 2)])
    return build_examples(read, "task", TaskSettings.model_validate(usual | settings))


def only(row: dict[str, object], **settings: object):
    built = build([row], **settings)
    assert built.bad == ()
    return built.examples[0]


def reason(row: dict[str, object], **settings: object) -> str:
    built = build([{"question": "q", "answer": "a"}, row], **settings)
    assert len(built.examples) == 1
    assert built.bad[0].place == Place("f.csv", 3)
    return built.bad[0].reason


def test_a_row_becomes_a_prompt_with_its_answer_and_place():
    example = only({"question": " Why? ", "answer": " Because. "})
    assert example.prompt.messages == (Message("user", "Why?"),)
    assert example.completion == "Because."
    assert example.references == ("Because.",)
    assert example.place == Place("f.csv", 2)


def test_the_system_text_comes_first():
    example = only({"question": "q", "answer": "a"}, system="Be brief.")
    assert example.prompt.messages == (Message("system", "Be brief."), Message("user", "q"))


def test_fields_never_show_what_makes_up_the_answer():
    row = {"question": "q", "answer": "a", "more": ["a"], "topic": "t", "n": 3}
    example = only(row, completion="{{ answer | upper }}", references="more")
    assert example.prompt.fields == {"question": "q", "topic": "t", "n": "3"}


def test_fields_hide_an_answer_that_is_read_through_row():
    example = only({"question": "q", "best answer": "a"}, completion="{{ row['best answer'] }}")
    assert example.prompt.fields == {"question": "q"}


def test_fields_hide_everything_where_the_completion_reads_the_whole_row():
    assert only({"question": "q", "answer": "a"}, completion="{{ row | length }}").prompt.fields == {}


def test_numbers_and_truth_values_become_text():
    assert only({"question": 7, "answer": True}).completion == "true"


def test_a_template_that_handles_a_list_makes_an_example():
    example = only({"question": ["a", "b"], "answer": "c"}, prompt="{{ question | join(', ') }}")
    assert example.prompt.messages[0].content == "a, b"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "q", "answer": ""}, "completion: column 'answer' is empty"),
        ({"question": "q", "answer": "  "}, "completion: column 'answer' is empty"),
        ({"question": "q", "answer": None}, "completion: column 'answer' is missing"),
        ({"question": "q"}, "completion: column 'answer' is missing"),
        ({"question": "q", "answer": float("nan")}, "completion: column 'answer' is empty"),
        ({"question": "", "answer": "a"}, "prompt: column 'question' is empty"),
        ({"question": ["q"], "answer": "a"}, "prompt: the value is a list, not text (of column 'question')"),
        ({"question": {"q": 1}, "answer": "a"}, "prompt: the value is an object, not text (of column 'question')"),
        ({"question": b"\xff", "answer": "a"}, "prompt: the value is bytes, not text (of column 'question')"),
    ],
)
def test_a_row_that_makes_no_example_says_why(row: dict[str, object], expected: str):
    assert reason(row) == expected


def test_an_empty_text_inside_a_fixed_wording_is_still_empty():
    assert (
        reason({"question": "", "answer": "a"}, prompt="Text: {{ question }}") == "prompt: column 'question' is empty"
    )


def test_one_of_two_columns_may_be_empty():
    example = only({"question": "q", "context": "", "answer": "a"}, prompt="{{ context }}\n{{ question }}")
    assert example.prompt.messages[0].content == "q"


def test_a_template_that_fails_on_a_row_makes_that_row_bad():
    built = build(
        [{"question": "q", "answer": "x # y"}, {"question": "q", "answer": "x"}],
        completion="{{ answer.split('#')[1] }}",
    )
    assert [example.completion for example in built.examples] == ["y"]
    assert built.bad[0].reason.startswith("completion: the template fails")


def test_a_generator_is_not_printed_into_a_prompt():
    built = build([{"question": ["a"], "answer": "b"}], prompt="{{ question | map('upper') }}")
    assert built.bad[0].reason.startswith("prompt: the value is a generator, not text")


def test_nothing_too_long_is_cut():
    assert reason({"question": "x" * 30, "answer": "y"}, max_chars=30).startswith(
        "longer than max_chars (30 characters"
    )


def test_a_template_over_a_column_that_is_not_there_lists_the_columns():
    with pytest.raises(
        DataError, match=r"f\.csv: completion names 'reply', which no row has \(found: answer, question\)"
    ):
        build([{"question": "q", "answer": "a"}], completion="{{ reply }}")


def test_a_bare_column_name_as_a_template_is_told_its_braces():
    with pytest.raises(DataError, match=r"prompt 'question' reads no column .*\nSet prompt to '\{\{ question \}\}'"):
        build([{"question": "q", "answer": "a"}], prompt="question")


def test_templates_cannot_reach_python():
    built = build([{"question": "q", "answer": "a"}], prompt="{{ question.__class__.__mro__ }}")
    assert "unsafe" in built.bad[0].reason


@pytest.mark.parametrize(
    ("references", "column"),
    [
        ("more", ["b", "a", "", "b"]),
        ("more", "b"),
        ("{{ more.split(';') }}", "b; a"),
        ("{{ more | map(attribute='text') }}", [{"text": "b"}]),
    ],
)
def test_references_are_the_completion_and_all_others_once(references: str, column: object):
    assert only({"question": "q", "answer": "a", "more": column}, references=references).references == ("a", "b")


def test_references_to_a_column_that_is_not_there_list_the_columns():
    with pytest.raises(DataError, match="references names the column 'others', which no row has"):
        build([{"question": "q", "answer": "a"}], references="others")


def test_a_row_without_a_group_is_bad():
    built = build(
        [{"question": "q", "answer": "a", "patient": 7}, {"question": "r", "answer": "b", "patient": ""}],
        group="patient",
    )
    assert built.examples[0].prompt.group == "7"
    assert built.bad[0].reason == "group (column 'patient') is empty"


def test_a_completion_outside_the_labels_names_close_ones():
    built = with_labels(build([{"question": "q", "answer": "negativ"}]), ("positive", "negative"))
    assert built.examples == ()
    assert built.bad[0].detail.startswith("found 'negativ', close to 'negative'")


def test_labels_match_exactly():
    built = with_labels(build([{"question": "q", "answer": "Yes"}, {"question": "r", "answer": "yes"}]), ("yes", "no"))
    assert [example.label for example in built.examples] == ["yes"]


def of_labels(answers: list[object], separator: str = "; ", labels: tuple[str, ...] = ("refund", "billing", "login")):
    rows: list[dict[str, object]] = [{"question": f"q {n}", "answer": answer} for n, answer in enumerate(answers)]
    built = build(rows, labels=labels, label_separator=separator)
    return with_labels(built, Labels(labels, separator))


@pytest.mark.parametrize(
    "answer",
    ["refund; billing", "billing;refund", " billing ;  refund;", "billing; refund; billing", ["billing", "refund"]],
)
def test_equal_sets_of_labels_are_equal_texts_in_the_order_of_the_labels(answer: object):
    (example,) = of_labels([answer]).examples
    assert example.completion == example.label == "refund; billing"
    assert example.references == ("refund; billing",)


def test_one_label_of_several_that_may_be_stays_as_it_is():
    assert [example.label for example in of_labels(["login", ["login"]]).examples] == ["login", "login"]


def test_a_part_outside_the_labels_makes_a_bad_row_with_close_names():
    built = of_labels(["login", "billing; refnd"])
    assert [example.label for example in built.examples] == ["login"]
    assert built.bad[0].reason == "completion has a part that is none of the labels"
    assert built.bad[0].detail == "found 'refnd', close to 'refund'"


@pytest.mark.parametrize("answer", [";", [], ["", " "]])
def test_an_answer_without_any_label_is_a_bad_row(answer: object):
    assert len(of_labels([answer]).bad) == 1


def test_a_word_between_labels_does_not_split_the_words_that_hold_it():
    built = of_labels(["brand  and\tland"], " and ", ("land", "brand"))
    assert built.examples[0].label == "land and brand"


def test_a_listed_label_that_holds_the_separator_is_not_split():
    built = of_labels([["salt, pepper"]], ", ", ("salt", "pepper"))
    assert built.bad[0].reason == (
        "completion: the list holds 'salt, pepper', which label_separator ', ' would split (of column 'answer')"
    )


def test_a_list_of_labels_without_a_separator_names_the_setting():
    assert reason({"question": "q", "answer": ["a"]}) == (
        "completion: the value is a list, not text (of column 'answer'); where it holds labels set label_separator, "
        "else write {{ column | join('; ') }}"
    )


def test_ids_are_stable_and_do_not_depend_on_other_rows():
    alone = build([{"question": "q", "answer": "a"}]).examples[0]
    later = build([{"question": "z", "answer": "z"}, {"question": "q", "answer": "a"}]).examples[1]
    assert alone.id == later.id


def test_exact_duplicates_get_ids_of_their_own():
    twice = build([{"question": "q", "answer": "a"}] * 3).examples
    first, again = with_unique_ids([twice[:1], twice[1:]])
    ids = [example.id for example in (*first, *again)]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]


def test_rows_of_one_prompt_merge_into_one_example_with_all_references():
    rows = [{"question": q, "answer": a} for q, a in (("q", "a"), ("r", "x"), ("Q?", "b"), ("q", "a"))]
    merged = merge_references(build(rows).examples)
    assert [(e.completion, e.references) for e in merged] == [("a", ("a", "b")), ("x", ("x",))]


@pytest.mark.parametrize(
    "same", ["where  is my CARD", "Where is my card", "where is my card ?!", "Ｗhere is my card\n"]
)
def test_case_space_width_and_final_punctuation_make_no_difference(same: str):
    assert fingerprint([Message("user", same)]) == fingerprint([Message("user", "Where is my card?")])


def test_punctuation_inside_a_template_is_ignored_too():
    assert normalised("Text: Hello there.\nLabel:") == normalised("Text: hello there\nLabel:")


def test_words_and_roles_make_a_difference():
    prints = {
        fingerprint([Message("user", "a b")]),
        fingerprint([Message("user", "ab")]),
        fingerprint([Message("system", "a b")]),
        fingerprint([Message("user", "a"), Message("user", "b")]),
    }
    assert len(prints) == 4


def test_texts_of_punctuation_alone_differ():
    assert normalised("?") != normalised("!")
