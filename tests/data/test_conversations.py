import json

import pytest

from luthier.data.conversations import exchange_of_alpaca, exchange_of_chat
from luthier.data.templates import NoText
from luthier.errors import DataError
from luthier.types import Message


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_all_before_the_last_answer_is_the_prompt():
    exchange = exchange_of_chat(
        chat(("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b"))
    )
    assert exchange.messages == (
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a"),
        Message("user", "v"),
    )
    assert exchange.completion == "b"


def test_turns_after_the_last_answer_are_counted():
    assert exchange_of_chat(chat(("user", "u"), ("assistant", "a"), ("user", "thanks"))).left_out == 1


def test_sharegpt_conversations_are_read_alike():
    row = {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}
    assert exchange_of_chat(row).messages == (Message("user", "u"),)


def test_content_in_parts_of_text_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert exchange_of_chat(chat(("user", parts), ("assistant", "c"))).messages[0].content == "ab"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (chat(("system", "s"), ("assistant", "a")), "no user's turn before the answer"),
        (chat(("user", "u")), "no assistant's answer"),
        (chat(("user", "u"), ("assistant", "")), "a turn of the assistant is empty"),
        (chat(("user", "u"), ("assistant", None)), "a turn of the assistant has no text"),
        (chat(("user", "u"), ("assistant", "a"), ("assistant", "b")), "follows a turn of the assistant"),
        (chat(("narrator", "n"), ("assistant", "a")), "unknown role 'narrator'"),
        (chat(("user", [{"type": "image_url"}]), ("assistant", "a")), "parts that are not text"),
        ({"messages": []}, "not a list of turns"),
        ({"messages": "hi"}, "not a list of turns"),
        ({"messages": ["hi"]}, "not an object with role and content"),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "calls a tool",
        ),
    ],
)
def test_a_conversation_without_a_usable_exchange_says_why(row: dict[str, object], why: str):
    with pytest.raises(NoText, match=why):
        exchange_of_chat(row)


def test_alpaca_puts_the_input_below_the_instruction():
    exchange = exchange_of_alpaca({"instruction": "Add.", "input": "1 2", "output": 3})
    assert exchange.messages == (Message("user", "Add.\n\n1 2"),)
    assert exchange.completion == "3"


def test_alpaca_without_an_input_is_the_instruction_alone():
    assert exchange_of_alpaca({"instruction": "Sing.", "input": "", "output": "la"}).messages[0].content == "Sing."


def test_alpaca_without_an_output_is_bad():
    with pytest.raises(NoText, match="column 'output' is empty"):
        exchange_of_alpaca({"instruction": "Sing.", "input": "", "output": ""})


def test_the_text_column_of_an_alpaca_set_is_no_field(load, write_jsonl):
    write_jsonl(
        [{"instruction": f"i {n}", "input": "", "output": "o", "text": f"i {n} o", "topic": "t"} for n in range(30)]
    )
    assert set(load(format="alpaca").test[0].prompt.fields) == {"instruction", "input", "topic"}


def test_a_conversation_keeps_its_own_system_text(load, write_jsonl):
    rows = [chat(("user", f"u {n}"), ("assistant", "a")) for n in range(29)]
    write_jsonl([*rows, chat(("system", "own"), ("user", "u"), ("assistant", "a"))])
    task = load(format="chat", system="general")
    systems = sorted(e.prompt.messages[0].content for e in (*task.train, *task.validation, *task.test))
    assert systems == ["general"] * 29 + ["own"]


def test_the_awkward_rows_of_a_chat_file_are_named(real_data, load):
    with pytest.raises(DataError, match=r"toy_chat_fine_tuning\.jsonl:4: the conversation has no user's turn"):
        load(root=real_data / "fmt_chat" / "openai_chat", data="toy_chat_fine_tuning.jsonl", format="chat")


def test_a_file_of_tool_calls_makes_no_examples(real_data, load):
    with pytest.raises(DataError, match=r"drone_training\.jsonl:1: none of the 103 rows .* calls a tool"):
        load(root=real_data / "fmt_chat" / "openai_chat", data="drone_training.jsonl", format="chat")


def test_an_empty_turn_in_a_sharegpt_file_is_named(real_data, load):
    with pytest.raises(DataError, match=r"missingturns\.json:1: .*a turn of the assistant is empty"):
        load(root=real_data / "fmt_chat" / "axolotl", data="conversation.missingturns.json", format="chat")


def test_a_sharegpt_file_is_read_whole(real_data, load):
    task = load(root=real_data / "fmt_chat" / "fastchat", data="dummy_conversation.json", format="chat")
    assert len(task.train) + len(task.validation) + len(task.test) == 500
    assert json.dumps(task.report)


def test_a_system_text_beside_the_turns_stands_in_front(write_jsonl, load):
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
    rows = [
        {"system": f"Be brief, {n}.", "conversations": [{**turns[0], "value": f"Who {n}?"}, turns[1]]} for n in range(9)
    ]
    write_jsonl(rows)
    task = load(format="chat")
    for example in (*task.train, *task.validation, *task.test):
        assert [m.role for m in example.prompt.messages] == ["system", "user"]
        assert example.prompt.messages[0].content.startswith("Be brief, ")
    assert task.report["unused_columns"] == []


def test_two_system_texts_that_differ_make_a_bad_row(write_jsonl, load):
    turns = [
        {"role": "system", "content": "A"},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
    ]
    write_jsonl([{"system": "B", "messages": turns}])
    with pytest.raises(DataError, match="two system texts"):
        load(format="chat")


def test_a_turn_of_weight_0_is_not_learned(write_jsonl, load):
    def row(n, first, second):
        said = [
            {"role": "user", "content": f"Q{n}"},
            {"role": "assistant", "content": "kept", "weight": first},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "left out", "weight": second},
        ]
        return {"messages": said}

    write_jsonl([row(n, 1, 0) for n in range(9)])
    task = load(format="chat")
    assert {e.completion for e in (*task.train, *task.validation, *task.test)} == {"kept"}
    assert any("turns after the last answer" in warning and "18" in warning for warning in task.report["warnings"])
    write_jsonl([row(n, 0, 0) for n in range(9)])
    with pytest.raises(DataError, match="no assistant's answer of a weight above 0"):
        load(format="chat")


def test_alpaca_s_system_and_history_are_read(write_jsonl, load):
    rows = [
        {"instruction": f"Do {n}", "output": "Done", "system": "Be brief.", "history": [["Hi", "Hello"]], "note": 1}
        for n in range(9)
    ]
    write_jsonl(rows)
    task = load(format="alpaca")
    messages = task.train[0].prompt.messages
    assert [(m.role, m.content) for m in messages[:3]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
    ]
    assert messages[3].content.startswith("Do ")
    assert task.report["unused_columns"] == ["note"]
    write_jsonl([{**row, "history": "" if n else "[]"} for n, row in enumerate(rows)])
    assert [m.role for m in load(format="alpaca").train[0].prompt.messages] == ["system", "user"]
    write_jsonl([{**rows[0], "history": "Hi"}])
    with pytest.raises(DataError, match="history is not a list of pairs"):
        load(format="alpaca")


def test_columns_that_nothing_uses_are_named(write_jsonl, load):
    write_jsonl(
        [{"question": f"Q{n}", "answer": "A", "option_a": "x", "source": "y", "who": n, "also": "A2"} for n in range(9)]
    )
    task = load(group="who", references="{{ also }}", phrasings=["{{ question }} ({{ source }})"])
    assert task.report["unused_columns"] == ["option_a"]
