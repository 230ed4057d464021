import json
from pathlib import Path

import pytest

from luthier.data.read import read_file
from luthier.errors import DataError


def read(tmp_path: Path, value: object, rows: str | None = None, columns: tuple[str, ...] | None = None):
    path = tmp_path / "a.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_file(path, "a.json", "json", rows=rows, columns=columns)


def refused(tmp_path: Path, value: object, rows: str | None = None, columns: tuple[str, ...] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, value, rows, columns)
    return str(caught.value)


def values(tmp_path: Path, value: object, rows: str | None = None, columns: tuple[str, ...] | None = None):
    return [row.values for row in read(tmp_path, value, rows, columns).rows]


def test_a_syntax_error_names_line_and_column(tmp_path):
    assert refused(tmp_path, '[\n {"q": 1},\n {"q": }\n]').startswith("a.json:3: not JSON at column 8: Expecting value")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_refused(tmp_path, constant):
    assert f"a.json: {constant} is not JSON" in refused(tmp_path, f'[{{"q": {constant}}}]')


def test_deep_nesting_is_an_error_and_no_crash(tmp_path):
    assert "nested too deeply" in refused(tmp_path, "[" * 100_000)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    assert "half of a surrogate pair" in refused(tmp_path, '[{"q": "\\ud800"}]')


def test_a_number_of_thousands_of_digits_is_an_error_and_no_crash(tmp_path):
    assert "a number cannot be read" in refused(tmp_path, f'[{{"q": {"9" * 5000}}}]')


def test_json_lines_under_the_wrong_ending_are_read(tmp_path):
    table = read(tmp_path, '{"q": 1}\n{"q": 2}\n')
    assert [(row.values["q"], row.place.line) for row in table.rows] == [(1, 1), (2, 2)]


def test_json_lines_keep_their_true_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a\u2028b"}\n\n{"q": 2}\n', encoding="utf-8")
    assert [row.place.line for row in read_file(path, "a.jsonl", "jsonl").rows] == [1, 3]


def test_a_broken_line_of_json_lines_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": 1}\n{"q": \n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON at column 7"):
        read_file(path, "a.jsonl", "jsonl")


def test_null_is_no_row(tmp_path):
    assert refused(tmp_path, [{"q": 1}, None]).startswith("a.json:2: found null")


def test_rows_that_are_lists_get_numbers_as_columns(tmp_path):
    assert values(tmp_path, {"train": [["hi", "greet"]]}, "train") == [{"0": "hi", "1": "greet"}]


def test_rows_that_are_lists_take_the_names_given(tmp_path):
    assert values(tmp_path, [["hi", "greet"]], None, ("text", "intent")) == [{"text": "hi", "intent": "greet"}]


def test_a_list_of_another_length_than_the_names_is_refused(tmp_path):
    assert refused(tmp_path, [["a", "b"], ["c"]], None, ("x", "y")).startswith("a.json:2: found a list of 1")


def test_an_object_of_records_gives_its_keys_a_column(tmp_path):
    assert values(tmp_path, {"p1": {"q": "a"}, "p2": {"q": "b"}}) == [{"key": "p1", "q": "a"}, {"key": "p2", "q": "b"}]


def test_an_object_without_rows_of_its_own_names_where_they_may_be(tmp_path):
    assert "Set rows to one of: examples" in refused(tmp_path, {"metadata": {"n": 1}, "examples": [{"q": 1}]})


def test_a_path_that_leads_nowhere_names_what_is_there(tmp_path):
    assert "no 'test' (found: train, val)" in refused(tmp_path, {"train": [[1]], "val": [[1]]}, "test")


def test_a_nested_path_keeps_the_plain_fields_of_the_parents(tmp_path):
    nested = {
        "version": "1",
        "data": [
            {"title": "T", "paragraphs": [{"context": "C", "id": 7, "qas": [{"id": 1, "q": "a"}, {"id": 2, "q": "b"}]}]}
        ],
    }
    assert values(tmp_path, nested, "data.paragraphs.qas") == [
        {"id": 1, "q": "a", "context": "C", "paragraphs_id": 7, "title": "T", "version": "1"},
        {"id": 2, "q": "b", "context": "C", "paragraphs_id": 7, "title": "T", "version": "1"},
    ]


def test_every_file_of_the_json_suite_parses_or_is_a_data_error(real_data):
    outcomes = {}
    for path in sorted((real_data / "fmt_json_suite").glob("*.json")):
        try:
            read_file(path, path.name, "json")
            outcomes[path.name] = "read"
        except DataError:
            outcomes[path.name] = "refused"
    assert len(outcomes) == 167
    assert {name for name, outcome in outcomes.items() if name[0] == "n" and outcome == "read"} == set()
    assert {name for name, outcome in outcomes.items() if name[0] == "y" and outcome == "refused"} == set()


def test_every_question_of_a_squad_file_is_a_row_with_its_paragraph(real_data):
    path = real_data / "xquad_en" / "xquad.en.json"
    table = read_file(path, path.name, "json", rows="data.paragraphs.qas")
    assert len(table.rows) == 1190
    assert {"question", "answers", "context", "title"} <= set(table.columns)


def test_a_dictionary_of_medical_records_is_a_row_each(real_data):
    path = real_data / "pubmedqa" / "ori_pqal.json"
    table = read_file(path, path.name, "json")
    assert len(table.rows) == 1000
    assert table.rows[0].values["key"] == "21645374"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", '{"q": "one", "a": "x"}\n{"q": "two", "a": "x", "a": "y"}\n', "a.jsonl:2"),
        ("a.json", '[{"q": "two", "a": "x", "a": "y"}]', "a.json"),
        ("a.json", '{"rows": [{"q": "two", "meta": {"a": 1, "a": 1}}]}', "a.json"),
    ],
)
def test_a_key_that_an_object_has_twice_is_refused(tmp_path, name, content, where):
    """Only the last value would be read, and the first be gone without a word."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"^{where}: an object has the key 'a' more than once"):
        read_file(
            tmp_path / name, name, "jsonl" if name.endswith("l") else "json", rows="rows" if "rows" in content else None
        )
