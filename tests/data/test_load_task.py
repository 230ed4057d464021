import json
import pickle
from collections import Counter
from dataclasses import replace

import pytest

from luthier.data import TaskSettings
from luthier.errors import DataError
from luthier.evaluate import score
from luthier.runner.keys import training_key
from luthier.types import Decoding


def questions(count: int, start: int = 0) -> list[object]:
    return [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(start, start + count)]


def labelled(count: int, start: int = 0) -> list[object]:
    return [{"question": f"question {n}", "answer": "yes" if n % 2 else "no"} for n in range(start, start + count)]


def test_one_file_is_cut_in_three_by_default(write_jsonl, load):
    write_jsonl(questions(100))
    task = load()
    assert (len(task.train), len(task.validation), len(task.test)) == (70, 10, 20)
    assert len({e.id for e in (*task.train, *task.validation, *task.test)}) == 100
    assert task.labels == ()
    assert (task.metric, task.metrics) == ("token_f1", ("token_f1", "exact_match_normalised"))
    assert task.decoding == Decoding()


def test_counts_cut_so_many(write_jsonl, load):
    write_jsonl(questions(100))
    task = load(split={"test": 30, "validation": 25})
    assert (len(task.train), len(task.validation), len(task.test)) == (45, 25, 30)


def test_the_split_has_a_seed_of_its_own(write_jsonl, load):
    write_jsonl(questions(100))
    ids = {seed: [e.id for e in load(seed=seed, split={"seed": 3}).test] for seed in (0, 1)}
    assert ids[0] == ids[1]
    assert ids[0] != [e.id for e in load(seed=0).test]


def test_drawn_answers_go_by_the_study_s_seed_not_by_that_of_the_split(write_jsonl, load):
    write_jsonl(questions(100))
    task = load(seed=4, split={"seed": 3}, temperature=0.5)
    assert task.decoding == Decoding(temperature=0.5, seed=4)


def test_given_splits_stay_as_they_are_and_the_missing_one_is_cut_from_train(write_jsonl, load):
    write_jsonl(questions(50), "train.jsonl")
    write_jsonl(questions(20, start=50), "test.jsonl")
    task = load(data={"train": "train.jsonl", "test": "test.jsonl"})
    assert (len(task.train), len(task.validation)) == (45, 5)
    assert [e.place.line for e in task.test] == list(range(1, 21))


def test_a_list_of_files_is_one_split(write_jsonl, load):
    write_jsonl(questions(50), "a.jsonl")
    write_jsonl(questions(50, start=50), "b.jsonl")
    task = load(data=["a.jsonl", "b.jsonl"])
    assert {e.place.file for e in task.train} == {"a.jsonl", "b.jsonl"}
    assert task.report["files"] == [
        {"file": "a.jsonl", "rows": 50, "split": "train"},
        {"file": "b.jsonl", "rows": 50, "split": "train"},
    ]


def test_labels_are_found_in_train_and_sorted(write_jsonl, load):
    write_jsonl(labelled(100))
    task = load(labels="auto", answer="choose")
    assert task.labels == ("no", "yes")
    assert task.report["splits"]["test"] == {"n": 20, "labels": {"no": 10, "yes": 10}}
    assert (task.metric, task.decoding.answer) == ("accuracy", "choose")


def test_declared_labels_keep_their_order(write_jsonl, load):
    write_jsonl(labelled(100))
    assert load(labels=["yes", "no"]).labels == ("yes", "no")


def several(count: int) -> list[object]:
    answers = [["refund", "billing"], ["login"], ["billing", "refund"], ["billing"]]
    return [{"question": f"question {n}", "answer": answers[n % 4]} for n in range(count)]


def test_single_labels_are_collected_and_counted_where_answers_have_several(write_jsonl, load):
    write_jsonl(several(100))
    task = load(labels="auto", label_separator="; ")
    assert task.labels == ("billing", "login", "refund")
    assert (task.label_separator, task.labels.separator) == ("; ", "; ")
    assert {e.label for e in task.train} == {"billing; refund", "login", "billing"}
    assert task.metrics == ("accuracy", "label_f1", "macro_f1")
    counts = {split: task.report["splits"][split]["labels"] for split in ("train", "validation", "test")}
    assert sum(own["billing"] for own in counts.values()) == 75
    assert sum(own["login"] for own in counts.values()) == 25
    assert counts["test"]["login"] == 5
    assert not [warning for warning in task.report["warnings"] if "have no example" in warning]


def test_declared_labels_know_their_separator_and_keep_their_order(write_jsonl, load):
    write_jsonl(several(100))
    task = load(labels=["refund", "login", "billing"], label_separator="; ")
    assert {e.label for e in task.test} == {"refund; billing", "login", "billing"}
    again = pickle.loads(pickle.dumps(task)).labels
    assert (again, again.separator) == (("refund", "login", "billing"), "; ")


def test_a_task_with_one_label_an_answer_has_no_separator(write_jsonl, load):
    write_jsonl(labelled(100))
    task = load(labels="auto")
    assert (task.label_separator, type(task.labels)) == ("", tuple)


def test_limits_hold_where_answers_have_several_labels(write_jsonl, load):
    write_jsonl(several(200))
    task = load(labels="auto", label_separator="; ", limit={"train": 20})
    assert Counter(e.label for e in task.train) == {"billing; refund": 10, "login": 5, "billing": 5}


def test_a_label_that_runs_into_the_separator_stops(write_jsonl, load):
    write_jsonl([{"question": f"question {n}", "answer": "x--a-" if n % 2 else "x"} for n in range(50)])
    with pytest.raises(DataError, match="label 'a-' runs into label_separator '--'"):
        load(labels="auto", label_separator="--")


def test_answers_in_the_file_s_order_score_as_right(write_jsonl, load):
    write_jsonl(several(100))
    task = load(labels="auto", label_separator="; ")
    scored = [score("accuracy", ";".join(reversed(e.completion.split("; "))), e, task.labels) for e in task.test]
    assert {one.value for one in scored} == {1.0}


def test_the_key_of_training_holds_the_separator(write_jsonl, load):
    write_jsonl(labelled(100))
    task = load(labels="auto", label_separator="; ")
    assert training_key(task) != training_key(replace(task, label_separator=", "))


def test_a_label_that_only_the_test_has_is_a_bad_row(write_jsonl, load):
    write_jsonl(labelled(50), "train.jsonl")
    write_jsonl([*labelled(30, start=50), {"question": "q", "answer": "maybe"}], "test.jsonl")
    with pytest.raises(DataError, match=r"test\.jsonl:31: completion is none of the labels \(found 'maybe'"):
        load(data={"train": "train.jsonl", "test": "test.jsonl"}, labels="auto")


def test_one_label_in_train_is_nothing_to_learn(write_jsonl, load):
    write_jsonl([{"question": f"q {n}", "answer": "yes"} for n in range(50)])
    with pytest.raises(DataError, match=r"data\.jsonl: all 50 training examples have one label, 'yes'"):
        load(labels="auto")


def test_a_bad_row_stops_with_its_place_and_the_count_of_all(write_jsonl, load):
    write_jsonl([*questions(20), {"question": "q"}, {"question": "r", "answer": ""}])
    with pytest.raises(DataError) as caught:
        load()
    assert str(caught.value).startswith(
        "data.jsonl:21: completion: column 'answer' is missing.\n2 rows are bad in all:"
    )
    assert "set on_bad_row: drop" in str(caught.value)


def test_dropped_rows_are_counted_with_reason_and_place(write_jsonl, load):
    write_jsonl([*questions(50), {"question": "q"}, {"question": "r"}])
    task = load(on_bad_row="drop")
    assert task.report["read"] == 52
    assert task.report["dropped"] == [
        {
            "reason": "completion: column 'answer' is missing",
            "count": 2,
            "places": ["data.jsonl:51", "data.jsonl:52"],
        }
    ]


def test_a_file_of_bad_rows_alone_is_an_error_also_where_they_are_dropped(write_jsonl, load):
    write_jsonl([{"question": "", "answer": "a"}] * 3)
    with pytest.raises(DataError, match=r"data\.jsonl:1: none of the 3 rows for train makes an example"):
        load(on_bad_row="drop")


def test_a_leak_between_given_splits_stops(write_jsonl, load):
    write_jsonl(questions(50), "train.jsonl")
    write_jsonl(questions(30, start=45), "test.jsonl")
    with pytest.raises(DataError, match="5 of 50 train examples share their prompt with test"):
        load(data={"train": "train.jsonl", "test": "test.jsonl"})


def test_the_same_file_as_train_and_test_leaves_nothing_to_train_on(write_jsonl, load):
    write_jsonl(questions(50))
    with pytest.raises(DataError, match="task task: no train example is left"):
        load(data={"train": "data.jsonl", "test": "data.jsonl"}, duplicates="drop-from-train")


def test_dropping_a_leak_from_train_keeps_the_test(write_jsonl, load):
    write_jsonl(questions(50), "train.jsonl")
    write_jsonl(questions(30, start=45), "test.jsonl")
    task = load(data={"train": "train.jsonl", "test": "test.jsonl"}, duplicates="drop-from-train")
    assert len(task.test) == 30
    assert len(task.train) + len(task.validation) == 45


def test_merged_references_hold_in_validation_and_test_only(write_jsonl, load):
    write_jsonl([{"question": f"q {n}", "answer": f"a {k}"} for n in range(40) for k in range(3)])
    task = load(merge_references=True)
    assert (len(task.train), len(task.validation), len(task.test)) == (28 * 3, 4, 8)
    assert task.test[0].references == ("a 0", "a 1", "a 2")
    assert {"between": ["test", "test"], "count": 16, "done": "merged into one example"}.items() <= next(
        found for found in task.report["duplicates"] if found["between"] == ["test", "test"]
    ).items()


def test_limits_take_a_stratified_part_and_are_reported(write_jsonl, load):
    write_jsonl(labelled(200))
    task = load(labels="auto", limit={"train": 10, "test": 20})
    assert task.report["splits"]["train"] == {"n": 10, "labels": {"no": 5, "yes": 5}}
    assert task.report["limited"] == {"train": {"from": 140, "to": 10}, "test": {"from": 40, "to": 20}}


def test_a_small_test_split_is_warned_about_in_numbers(write_jsonl, load):
    write_jsonl(questions(50))
    assert load().report["warnings"] == [
        "test: only 10 examples; one of them is 10 points, and a score near 50% is uncertain by ±31 points, so only "
        "very large differences can show"
    ]


def test_turns_after_the_last_answer_are_counted(write_jsonl, load):
    turns = [("user", "u{}"), ("assistant", "a"), ("user", "thanks")]
    write_jsonl([{"messages": [{"role": r, "content": c.format(n)} for r, c in turns]} for n in range(100)])
    assert load(format="chat").report["warnings"] == [
        "turns after the last answer of their conversation, left out: 100"
    ]


def test_labels_too_rare_for_a_split_are_warned_about(write_jsonl, load):
    write_jsonl([*labelled(100), {"question": "q", "answer": "maybe"}])
    assert load(labels="auto").report["warnings"] == [
        "validation: 1 of 3 labels have no example there: maybe",
        "test: 1 of 3 labels have no example there: maybe",
    ]


def test_too_little_data_to_cut_says_so(write_jsonl, load):
    write_jsonl(questions(2))
    with pytest.raises(DataError, match=r"split\.validation asks for 1 of 1 examples; some must be left to train on"):
        load()


def test_the_report_is_ready_for_json(write_jsonl, load):
    write_jsonl(labelled(100))
    report = load(labels="auto").report
    assert json.loads(json.dumps(report)) == report
    assert set(report) >= {"files", "read", "dropped", "duplicates", "splits"}


def test_banking77_drops_what_train_shares_with_its_test(real_data, load):
    settings = {
        "data": {"train": "train.csv", "test": "test.csv"},
        "prompt": "{{ text }}",
        "completion": "{{ category }}",
        "labels": "auto",
    }
    with pytest.raises(DataError, match=r"train\.csv:1729 = test\.csv:556"):
        load(root=real_data / "banking77", **settings)
    task = load(root=real_data / "banking77", **settings, duplicates="drop-from-train")
    assert (len(task.labels), len(task.test)) == (77, 3080)
    assert len(task.train) + len(task.validation) == 10003 - 10
    assert task.test[0].place.line == 2


def test_clinc150_reads_its_splits_from_one_file(real_data, load):
    task = load(
        root=real_data / "clinc150",
        data="data_small.json",
        rows={"train": "train", "validation": "val", "test": "test"},
        columns=["text", "intent"],
        prompt="{{ text }}",
        completion="{{ intent }}",
        labels="auto",
        duplicates="drop-from-train",
    )
    assert (len(task.labels), len(task.test)) == (150, 4500)
    assert str(task.test[0].place) == "data_small.json[test]:1"


def test_instruction_induction_trains_on_one_file_and_tests_on_another(real_data, load):
    task = load(
        root=real_data / "instruction_induction",
        data={"train": "induce/active_to_passive.json", "test": "execute/active_to_passive.json"},
        rows="examples",
        prompt="{{ input }}",
        completion="{{ output }}",
    )
    assert (len(task.train), len(task.validation), len(task.test)) == (810, 90, 100)


def test_e2e_scores_against_every_reference_of_a_restaurant(real_data, load):
    task = load(
        root=real_data / "e2e_nlg", data="devset.csv", prompt="{{ mr }}", completion="{{ ref }}", merge_references=True
    )
    assert len({e.prompt.fingerprint for e in (*task.train, *task.validation, *task.test)}) == 547
    assert len(task.test) == 109
    assert max(len(e.references) for e in task.test) > 5


def test_squad_questions_of_one_paragraph_stay_together(real_data, load):
    task = load(
        root=real_data / "xquad_en",
        data="xquad.en.json",
        rows="data.paragraphs.qas",
        prompt="{{ context }}\n\n{{ question }}",
        completion="{{ answers[0].text }}",
        references="{{ answers | map(attribute='text') }}",
        group="context",
    )
    groups = [{e.prompt.group for e in split} for split in (task.train, task.validation, task.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 240
    assert "answers" not in task.test[0].prompt.fields


def test_pubmedqa_chooses_among_declared_labels(real_data, load):
    task = load(
        root=real_data / "pubmedqa",
        data="ori_pqal.json",
        prompt="{{ CONTEXTS | join(' ') }}\n\n{{ QUESTION }}",
        completion="{{ final_decision }}",
        labels=["yes", "no", "maybe"],
        answer="choose",
    )
    assert task.report["splits"]["test"] == {"n": 200, "labels": {"yes": 110, "no": 68, "maybe": 22}}


SPELLED = [
    ("Win a prize", "Spam"),
    ("Buy now", "spam"),
    ("Cheap pills", "Spam"),
    ("See you", "cafe\u0301"),
    ("Lunch at one", "caf\u00e9"),
    ("Dinner", "caf\u00e9"),
    ("Minutes", "not_spam"),
    ("Agenda", "not spam\u200b"),
]


def spelled(write_jsonl, name: str = "train.jsonl", rows=SPELLED) -> None:
    write_jsonl([{"question": question, "answer": answer} for question, answer in rows], name)


def test_labels_that_differ_in_spelling_alone_are_noted_with_their_counts(load, write_jsonl):
    spelled(write_jsonl)
    spelled(write_jsonl, "test.jsonl", [("A", "Spam"), ("B", "caf\u00e9")])
    settings = {"data": {"train": "train.jsonl", "test": "test.jsonl"}, "labels": "auto", "split": {"validation": 2}}
    task = load(**settings)
    assert len(task.labels) == 6
    (warning,) = [own for own in task.report["warnings"] if "Unicode form" in own]
    assert "'Spam' (2) and 'spam' (1)" in warning
    assert "'caf\u00e9' (2) and 'cafe\u0301' (1)" in warning
    assert "join_labels: true" in warning


def test_labels_that_differ_in_spelling_alone_are_joined_on_request(load, write_jsonl):
    spelled(write_jsonl)
    spelled(write_jsonl, "test.jsonl", [("A", "SPAM"), ("B", "Caf\u00e9 "), ("C", "Not_Spam")])
    settings = {"data": {"train": "train.jsonl", "test": "test.jsonl"}, "split": {"validation": 2}, "join_labels": True}
    task = load(**settings, labels="auto")
    assert task.labels == ("Spam", "caf\u00e9", "not spam\u200b")
    assert [e.label for e in task.test] == ["Spam", "caf\u00e9", "not spam\u200b"]
    assert all(e.references == (e.label,) for e in task.test)
    assert any("were joined: 'Spam' (2) and 'spam' (1)" in own for own in task.report["warnings"])
    named = load(**settings, labels=["SPAM", "Caf\u00e9", "Not spam"])
    assert {e.label for e in (*named.train, *named.validation)} == {"SPAM", "Caf\u00e9", "Not spam"}


def test_several_labels_of_an_answer_are_joined_each(load, write_jsonl):
    rows = [("A", "red; Blue"), ("B", "blue"), ("C", "RED;blue"), ("D", "red"), ("E", "blue; red"), ("F", "blue")]
    spelled(write_jsonl, rows=rows)
    spelled(write_jsonl, "test.jsonl", [("G", "Blue; blue; red")])
    task = load(
        data={"train": "train.jsonl", "test": "test.jsonl"},
        labels="auto",
        label_separator="; ",
        join_labels=True,
        split={"validation": 1},
    )
    assert task.labels == ("blue", "red")
    assert [e.label for e in task.test] == ["blue; red"]


def test_join_labels_with_labels_that_it_would_join_is_a_contradiction():
    with pytest.raises(ValueError, match="'Spam' and 'spam', which join_labels takes for one"):
        TaskSettings.model_validate(
            {
                "data": "d.csv",
                "prompt": "{{ a }}",
                "completion": "{{ b }}",
                "labels": ["spam", "Spam"],
                "join_labels": True,
            }
        )


def test_a_group_is_the_same_with_and_without_decimals(load, write_jsonl):
    """Of a column with gaps numbers are often written as 1.0."""
    write_jsonl(
        [{"question": f"a{n}", "answer": "x", "patient": own} for n, own in enumerate((1, 2.0, "3.0", 4))],
        "train.jsonl",
    )
    write_jsonl(
        [{"question": "b1", "answer": "x", "patient": "1.0"}, {"question": "b2", "answer": "x", "patient": 9}],
        "test.jsonl",
    )
    settings = {"data": {"train": "train.jsonl", "test": "test.jsonl"}, "group": "patient", "split": {"validation": 1}}
    with pytest.raises(DataError, match="1 of 4 train examples share their group with test"):
        load(**settings)
    task = load(**settings, duplicates="drop-from-train")
    assert {e.prompt.group for e in (*task.train, *task.validation)} == {"2", "3", "4"}
