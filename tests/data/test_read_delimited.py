from pathlib import Path

import pytest

from luthier.data.read import read_file
from luthier.errors import DataError


def read(tmp_path: Path, content: str | bytes, name: str = "a.csv", **kwargs: object):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(path, name, "tsv" if name.endswith(".tsv") else "csv", **kwargs)


def refused(tmp_path: Path, content: str | bytes, **kwargs: object) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, **kwargs)
    return str(caught.value)


def test_a_record_is_placed_at_the_line_it_starts_on(tmp_path):
    table = read(tmp_path, 'q,a\n"one\ntwo\nthree",x\n\nfour,y\n')
    assert [row.place.line for row in table.rows] == [2, 6]


def test_cells_stay_the_text_that_they_are(tmp_path):
    table = read(tmp_path, "id,note\n007,NaN\n1.0,\n")
    assert [row.values for row in table.rows] == [{"id": "007", "note": "NaN"}, {"id": "1.0", "note": ""}]


def test_too_many_cells_name_line_and_count(tmp_path):
    assert "a.csv:3: too many cells: found 3 (x, y, z), expected 2 (q, a)" in refused(tmp_path, "q,a\n1,2\nx,y,z\n")


def test_too_few_cells_name_line_and_count(tmp_path):
    assert "a.csv:2: too few cells: found 1 (x), expected 2 (q, a)" in refused(tmp_path, "q,a\nx\n")


def test_a_quote_that_never_closes_names_the_line_it_opens_on(tmp_path):
    assert refused(tmp_path, 'q,a\n1,2\n"x,y\nz,w\n').startswith("a.csv:3: the record that starts here is no CSV")


def test_a_column_name_twice_is_refused(tmp_path):
    assert "a.csv:1: the header has 'q' more than once (found: q, a, q)" in refused(tmp_path, "q,a,q\n1,2,3\n")


def test_a_header_alone_is_no_data(tmp_path):
    assert "no rows below it" in refused(tmp_path, "q,a\n")


def test_an_empty_file_says_so(tmp_path):
    assert "the file is empty" in refused(tmp_path, "")


def test_white_space_alone_is_no_data(tmp_path):
    assert "nothing but white space" in refused(tmp_path, " \n\n")


def test_semicolons_are_recognised_where_the_header_has_no_comma(tmp_path):
    assert read(tmp_path, 'q;a\n"1,5";2\n').rows[0].values == {"q": "1,5", "a": "2"}


def test_tsv_splits_at_tabs_only(tmp_path):
    assert read(tmp_path, "q\ta\n1,5\t2\n", "a.tsv").rows[0].values == {"q": "1,5", "a": "2"}


def test_a_quote_mark_that_begins_a_tsv_cell_swallows_no_rows(tmp_path):
    rows = [f"line {i}\tspam" for i in range(20)]
    rows[3], rows[17] = '"Hello, he said\tham', 'and "left"\tham'
    table = read(tmp_path, "text\tlabel\n" + "\n".join(rows) + "\n", "a.tsv")
    assert len(table.rows) == 20
    assert table.rows[3].values == {"text": '"Hello, he said', "label": "ham"}
    assert (table.rows[17].values["text"], table.rows[17].place.line) == ('and "left"', 19)
    quoted = read(tmp_path, 'text\tlabel\n"a ""b""\nc"\tham\nd\tspam\n', "a.tsv")
    assert [row.values["text"] for row in quoted.rows] == ['a "b"\nc', "d"]


def test_a_quote_in_the_middle_of_a_tsv_is_text(tmp_path):
    table = read(tmp_path, 'text\tlabel\n"Hi" she said\tham\nbye\tspam\n', "a.tsv")
    assert table.rows[0].values["text"] == '"Hi" she said'


def test_a_quote_that_closes_only_after_further_rows_names_its_line(tmp_path):
    lines = ["text,label", "one,a", '"two,b', "three,a", "four,b", 'five",a', "six,b"]
    message = refused(tmp_path, "\n".join(lines) + "\n")
    assert "a.csv:3: a quote opens in the record that starts here and closes 3 lines below" in message
    message = refused(tmp_path, "\n".join(lines).replace('five",a', 'five,a"') + "\n")
    assert "a.csv:3: too few cells: found 1 (two,b three,a four,b five,a)" in message
    assert "A quote in it closes 3 lines below where the record starts." in message
    kept = read(tmp_path, 'text,label\none,a\ntwo,"b\nc, d"\n')  # a cell of two lines may be meant
    assert kept.rows[1].values == {"text": "two", "label": "b\nc, d"}


def test_a_line_that_names_the_delimiter_is_no_row(tmp_path):
    table = read(tmp_path, "sep=;\r\ntext;label\r\nhello, you;a\r\n")
    assert table.rows[0].values == {"text": "hello, you", "label": "a"}
    assert table.rows[0].place.line == 3
    assert read(tmp_path, '"sep=|"\ntext|label\nx|a\n').columns == ("text", "label")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text, raw;label\nhello;a\nbye;b\n", ("text, raw", "label")),
        ("text;label, checked\nhello, you;a\nbye;b\n", ("text", "label, checked")),
        ("text|label\nhello, you; all|a\n", ("text", "label")),
        ("text,label\na;b,c\n", ("text", "label")),
        ("text\nhello; you, there\n", None),
    ],
)
def test_the_delimiter_is_what_makes_the_whole_file_consistent(tmp_path, content, columns):
    if columns is None:
        assert "too many cells" in refused(tmp_path, content)
    else:
        assert read(tmp_path, content).columns == columns


def test_columns_name_a_file_without_a_header(tmp_path):
    table = read(tmp_path, "1,2\n3,4\n", columns=("q", "a"))
    assert [row.values["q"] for row in table.rows] == ["1", "3"]


def test_columns_beside_a_header_are_refused(tmp_path):
    assert "leave the setting columns out" in refused(tmp_path, "q,a\n1,2\n", columns=("q", "a"))


def test_a_nameless_index_column_gets_a_name(tmp_path):
    assert read(tmp_path, ",q\n0,x\n").columns == ("unnamed_1", "q")


def test_cells_above_the_csv_module_limit_are_read(tmp_path):
    assert len(read(tmp_path, f"q,a\n{'x' * 200_000},y\n").rows[0].values["q"]) == 200_000


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides_the_encoding(tmp_path, encoding):
    assert read(tmp_path, "q,a\né,ü\n".encode(encoding)).rows[0].values == {"q": "é", "a": "ü"}


def test_bytes_in_another_encoding_name_the_line_and_the_setting(tmp_path):
    message = refused(tmp_path, "q,a\nx,y\né,z\n".encode("latin-1"))
    assert message.startswith("a.csv:3: byte 0xe9 is not utf-8")
    assert "set encoding" in message


def test_the_encoding_setting_is_used(tmp_path):
    assert read(tmp_path, "q,a\né,z\n".encode("latin-1"), encoding="latin-1").rows[0].values["q"] == "é"


def test_a_binary_file_is_refused(tmp_path):
    assert "binary" in refused(tmp_path, b"\x89IMG\x00\x01\x02")


def test_csv_spectrum_reads_as_its_expected_json(real_data):
    import json

    folder = real_data / "fmt_csv_spectrum"
    # by the source itself, the expectation of this one has another telephone number than its CSV
    differing = {"location_coordinates"}
    compared = 0
    for path in sorted((folder / "csvs").glob("*.csv")):
        if path.stem not in differing:
            expected = json.loads((folder / "json" / f"{path.stem}.json").read_text().replace("\\r\\n", "\\n"))
            rows = [row.values for row in read_file(path, path.name, "csv").rows]
            assert rows == expected, path.name
            compared += 1
    assert compared == 11


def test_a_utf16_export_of_an_annotation_tool_is_read(real_data):
    path = real_data / "fmt_annotation_tool" / "example.utf16.csv"
    table = read_file(path, path.name, "csv")
    assert [tuple(row.values.values()) for row in table.rows] == [
        ("AAA", "Positive"),
        ("BBB", "Positive"),
        ("CCC", "Negative"),
    ]


def test_a_ragged_export_of_an_annotation_tool_names_the_line(real_data):
    path = real_data / "fmt_annotation_tool" / "text_classification" / "example.invalid.2.csv"
    with pytest.raises(DataError, match=r"example\.invalid\.2\.csv:2: too many cells"):
        read_file(path, path.name, "csv")


def test_a_column_alone_may_hold_texts_of_many_lines(tmp_path):
    assert len(read(tmp_path, 'text\n"a\nb\nc\nd\ne"\n"f"\n').rows) == 2


def test_one_bad_quote_in_a_quoted_tsv_is_named(tmp_path):
    assert "a.tsv:3: the record that starts here is no CSV" in refused(
        tmp_path, '"text"\t"label"\n"good ""stuff"""\t"pos"\n"bad" one\t"neg"\n', name="a.tsv"
    )
