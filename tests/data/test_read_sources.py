import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data import TaskSettings
from luthier.data.files import locate
from luthier.data.read import file_format, on_hub, read_file
from luthier.errors import CodeRefused, DataError


def test_a_missing_file_names_similar_ones_in_its_folder(tmp_path):
    (tmp_path / "train.csv").touch()
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=r"tran\.csv: no such file\. In the folder .* there is train\.csv\."):
        locate("tran.csv", tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere either"):
        locate("nowhere/a.csv", tmp_path)


def test_a_folder_is_refused_with_the_files_in_it(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.csv").touch()
    with pytest.raises(DataError, match=r"set: this is a folder \(files in it: a\.csv\)"):
        locate("set", tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("q,a\n1,2\n")
    path.chmod(0)
    with pytest.raises(DataError, match="not permitted"):
        read_file(path, "a.csv", "csv")


def test_a_spreadsheet_is_to_be_exported_as_csv(tmp_path):
    with pytest.raises(DataError, match="Export the sheet as CSV"):
        file_format(tmp_path / "a.xlsx", "a.xlsx")


def test_a_spreadsheet_under_another_name_is_found_by_its_content(real_data):
    path = real_data / "fmt_annotation_tool" / "text_classification" / "example.xlsx"
    with pytest.raises(DataError, match="Export the sheet as CSV"):
        read_file(path, "example.csv", "csv")


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"'\.txt' names no format \(known: \.csv"):
        file_format(tmp_path / "a.txt", "a.txt")


def test_parquet_keeps_texts_numbers_and_lists(tmp_path):
    pq.write_table(pa.table({"q": ["a", None], "n": [1, None], "l": [["x"], []]}), tmp_path / "a.parquet")
    table = read_file(tmp_path / "a.parquet", "a.parquet", "parquet")
    assert [row.values for row in table.rows] == [{"q": "a", "n": 1, "l": ["x"]}, {"q": None, "n": None, "l": []}]
    assert [row.place.line for row in table.rows] == [1, 2]


def test_a_parquet_file_equals_its_expected_csv(real_data):
    folder = real_data / "fmt_parquet" / "data"
    parquet = read_file(folder / "delta_byte_array.parquet", "p", "parquet")
    expected = read_file(folder / "delta_byte_array_expect.csv", "c", "csv")
    assert len(parquet.rows) == len(expected.rows) == 1000
    for got, want in zip(parquet.rows, expected.rows, strict=True):
        assert {key: value or "" for key, value in got.values.items()} == want.values


def test_damaged_parquet_is_a_data_error(real_data):
    path = real_data / "fmt_parquet" / "bad_data" / "PARQUET-1481.parquet"
    with pytest.raises(DataError, match=r"PARQUET-1481\.parquet: damaged Parquet"):
        read_file(path, path.name, "parquet")


def test_a_parquet_file_cut_short_is_a_data_error(tmp_path):
    pq.write_table(pa.table({"q": ["a"] * 100}), tmp_path / "whole.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged Parquet"):
        read_file(tmp_path / "a.parquet", "a.parquet", "parquet")


def test_text_named_parquet_is_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_text("q,a\n1,2\n")
    with pytest.raises(DataError, match="no Parquet"):
        read_file(tmp_path / "a.parquet", "a.parquet", "parquet")


def test_a_parquet_file_read_as_text_is_told_apart(tmp_path):
    pq.write_table(pa.table({"q": ["a"]}), tmp_path / "a.csv")
    with pytest.raises(DataError, match="Set format: parquet"):
        read_file(tmp_path / "a.csv", "a.csv", "csv")


READER = """
def read(path):
    for line in path.read_text().splitlines():
        question, answer = line.split(" -> ")
        yield {"question": question, "answer": answer}

def broken(path):
    yield {"question": "a", "answer": "b"}
    raise KeyError("topic")

def of_lists(path):
    return [["a", "b"]]
"""


def test_a_reader_yields_rows_where_code_is_allowed(tmp_path, load):
    (tmp_path / "r.py").write_text(READER)
    (tmp_path / "a.txt").write_text("".join(f"q {n} -> a {n}\n" for n in range(30)))
    task = load(data="a.txt", reader="r.py:read", allow_code=True)
    assert len(task.train) + len(task.validation) + len(task.test) == 30


def test_a_reader_is_refused_where_code_is_not_allowed(tmp_path, load):
    (tmp_path / "r.py").write_text("raise SystemExit('this must never run')")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CodeRefused, match=r"r\.py:read"):
        load(data="a.txt", reader="r.py:read")


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("broken", "it fails on a.txt after 1 rows: KeyError: 'topic'"),
        ("of_lists", "row 1 of a.txt is list, expected a dict"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_what_is_wrong_with_a_reader_is_said(tmp_path, load, function, complaint):
    (tmp_path / "r.py").write_text(READER)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=complaint.replace("(", r"\(")):
        load(data="a.txt", reader=f"r.py:{function}", allow_code=True)


def test_owner_slash_name_is_a_hub_id_unless_there_is_such_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    settings = TaskSettings(data="x")
    assert on_hub("owner/name", settings, tmp_path)
    assert not on_hub("folder/name", settings, tmp_path)
    assert not on_hub("owner/name.csv", settings, tmp_path)
    assert not on_hub("name", settings, tmp_path)


def test_a_folder_in_the_form_of_a_hub_data_set_gives_its_splits(tmp_path, load, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for split, count in (("train", 30), ("test", 20)):
        lines = [f"{split} question {n},answer {n}" for n in range(count)]
        (tmp_path / "set" / f"{split}.csv").write_text("\n".join(["question,answer", *lines]) + "\n")
    task = load(data="set", format="hub")
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 3, 20)


def test_a_hub_data_set_that_cannot_be_had_says_what_was_tried(tmp_path, load):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"set: no file of this name, .*load_dataset\('.*set', None, split=None\)"):
        load(data="set", format="hub")


def test_importing_the_package_loads_no_heavy_library():
    code = "import luthier.data, sys; print({'torch', 'pandas', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
