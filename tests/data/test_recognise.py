import json

import pytest

from luthier.data import TaskSettings, load_task, recognise
from luthier.errors import DataError


def guessed(path) -> dict[str, object]:
    settings = dict(recognise(path).settings)
    assert settings.pop("data") == str(path)
    return settings


def test_few_short_values_over_many_rows_are_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("body,kind\n" + "".join(f"this is mail {n},{'spam' if n % 3 else 'ham'}\n" for n in range(60)))
    assert guessed(path) == {"prompt": "{{ body }}", "completion": "{{ kind }}", "labels": "auto"}


def test_question_and_answer_are_known_by_name(write_jsonl):
    path = write_jsonl([{"id": n, "Question": f"what is {n}", "Answer": f"it is {n}"} for n in range(30)])
    assert guessed(path) == {"prompt": "{{ Question }}", "completion": "{{ Answer }}"}


def test_odd_column_names_are_read_through_row(write_jsonl):
    path = write_jsonl([{"Question": f"what is {n}", "Best Answer": f"it is {n}"} for n in range(30)])
    assert guessed(path)["completion"] == "{{ row['Best Answer'] }}"


def test_conversations_are_chat(write_jsonl):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    recognised = recognise(write_jsonl([{"messages": turns}]))
    assert (recognised.format, recognised.settings["format"]) == ("chat", "chat")


def test_instruction_and_output_are_alpaca(write_jsonl):
    assert recognise(write_jsonl([{"instruction": "i", "input": "", "output": "o"}])).format == "alpaca"


def test_prompts_that_repeat_with_other_answers_are_merged(write_jsonl):
    path = write_jsonl([{"prompt": f"p {n // 5}", "completion": f"answer {n}"} for n in range(50)])
    assert guessed(path)["merge_references"] is True


def test_text_with_a_mark_in_every_row_is_separated(tmp_path, write_jsonl):
    path = write_jsonl([{"text": f"Q: what is {n}\nA: it is {n}"} for n in range(30)])
    task = load_task("t", TaskSettings.model_validate(guessed(path) | {"data": path.name}), tmp_path, False, 0)
    first = next(e for e in task.train if e.place.line == min(e.place.line for e in task.train))
    n = first.place.line - 1
    assert first.prompt.messages[0].content == f"Q: what is {n}\nA:"
    assert first.completion == f"it is {n}"


def test_text_alone_has_no_prompt(write_jsonl):
    path = write_jsonl([{"text": f"a line of prose, number {n}"} for n in range(30)])
    with pytest.raises(DataError, match=r"Every row is one text \('text'\) without a prompt of its own"):
        recognise(path)


def test_columns_that_tell_nothing_are_listed(write_jsonl):
    path = write_jsonl([{"left": f"some words {n}", "right": f"more words {n}"} for n in range(30)])
    with pytest.raises(DataError, match=r"\(found: left, right\)\.\nSet prompt and completion"):
        recognise(path)


def test_rows_under_a_key_are_found(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"version": 1, "examples": [{"input": f"in {n}", "output": f"out {n}"} for n in range(9)]})
    )
    assert guessed(path) == {"rows": "examples", "prompt": "{{ input }}", "completion": "{{ output }}"}


def test_every_note_is_a_sentence(write_jsonl):
    path = write_jsonl([{"question": f"what is {n}", "answer": f"it is {n}"} for n in range(30)])
    assert recognise(path).notes == ["By their names, 'question' is what is asked and 'answer' what is answered."]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("banking77/train.csv", {"prompt": "{{ text }}", "completion": "{{ category }}", "labels": "auto"}),
        ("gsm8k/train.jsonl", {"prompt": "{{ question }}", "completion": "{{ answer }}"}),
        ("e2e_nlg/devset.csv", {"prompt": "{{ mr }}", "completion": "{{ ref }}", "merge_references": True}),
        (
            "bbh_tasks/navigate.json",
            {"rows": "examples", "prompt": "{{ input }}", "completion": "{{ target }}", "labels": "auto"},
        ),
        (
            "clinc150/data_small.json",
            {
                "rows": {"train": "train", "validation": "val", "test": "test"},
                "columns": ["text", "label"],
                "prompt": "{{ text }}",
                "completion": "{{ label }}",
                "labels": "auto",
            },
        ),
        ("fmt_chat/fastchat/dummy_conversation.json", {"format": "chat"}),
        ("fmt_chat/openai_chat/toy_chat_fine_tuning.jsonl", {"format": "chat"}),
        ("fmt_chat/axolotl/alpaca.json", {"format": "alpaca"}),
        (
            "fmt_text_jsonl/train.jsonl",
            {"prompt": "{{ text.split('\\nA:')[0] }}\nA:", "completion": "{{ text.split('\\nA:')[1] }}"},
        ),
    ],
)
def test_real_files_are_recognised(real_data, file, expected):
    assert guessed(real_data / file) == expected


@pytest.mark.parametrize(
    "file",
    [
        "blimp/anaphor_number_agreement.jsonl",
        "pandalm_testset/testset-v1.json",
        "self_instruct_seed/seed_tasks.jsonl",
        "fmt_chat/openassistant/realistic_seed_data.json",
        "fmt_parquet/data/list_columns.parquet",
        "xquad_en/xquad.en.json",
    ],
)
def test_real_files_that_tell_too_little_are_not_guessed(real_data, file):
    with pytest.raises(DataError, match="cannot tell what is asked and what is answered"):
        recognise(real_data / file)
