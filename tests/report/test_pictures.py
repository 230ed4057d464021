from __future__ import annotations

import re
from itertools import pairwise

import pytest

from luthier.report import units
from luthier.report.confusion import OTHER, confusion, draw_confusion
from luthier.report.pictures import Axis, Point, scatter
from luthier.report.results import matrix, series, table
from luthier.report.svg import Fill, Scale, linear_ticks, log_ticks, looks, mark, spread, tag, text

FILLS: tuple[Fill, ...] = ("full", "dotted", "hollow")


def test_text_in_pictures_is_escaped() -> None:
    assert str(text(1, 2, '<a href="x">&')) == '<text x="1" y="2">&lt;a href=&#34;x&#34;&gt;&amp;</text>'
    assert 'title="&#34;&gt;&lt;script&gt;"' in str(tag("rect", title='"><script>'))


def test_a_dotted_mark_is_hollow_with_a_dot_and_a_full_one_is_neither() -> None:
    look = looks(["a"])["a"]
    full, dotted, hollow = (str(mark(look, 5, 5, fill=fill)) for fill in FILLS)
    assert 'class="mark c0"' in full
    assert 'class="mark c0 hollow"' in hollow
    assert [drawn.count("<circle") for drawn in (full, dotted, hollow)] == [0, 1, 0]


def test_looks_do_not_depend_on_the_order() -> None:
    assert looks(["b", "a", "c"]) == looks(["c", "b", "a"])
    many = looks([f"approach {index:02}" for index in range(24)])
    assert len({(look.colour, look.shape) for look in many.values()}) == 24


def test_ticks_are_round_and_within_the_range() -> None:
    assert linear_ticks(0.33, 0.98, 4) == [0.4, 0.6, 0.8]
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(20, 90) == [20, 50]


def test_log_scale_puts_equal_factors_at_equal_distances() -> None:
    scale = Scale(1, 100, 0, 200, log=True)
    assert [scale(1), scale(10), scale(100)] == pytest.approx([0, 100, 200])


def test_spread_labels_do_not_overlap() -> None:
    placed = sorted(spread([50, 50, 51, 52, 200], 16, 0, 300))
    assert all(right - left >= 15 for left, right in pairwise(placed))


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 s"), (0.0004, "0.4 ms"), (0.045, "45 ms"), (12.34, "12.3 s"), (252, "4 min 12 s"), (59.97, "1 min"),
     (12_000, "3 h 20 min"), (210_000, "2.4 days"), (None, "–")],
)  # fmt: skip
def test_times_are_written_with_a_fitting_unit(value: float | None, written: str) -> None:
    assert units.seconds(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0 B"), (2_100, "2.1 kB"), (19_600_000, "19.6 MB"), (999_999, "1.0 MB"), (None, "–")]
)
def test_sizes_are_written_with_a_fitting_unit(value: float | None, written: str) -> None:
    assert units.size(value) == written


def test_shares_are_percent_and_other_metrics_are_not() -> None:
    assert units.score_unit("exact_match", 0.5, 0.875).value(0.875) == "87.5%"
    assert units.score_unit("nats_per_token", 0.5).value(0.5) == "0.5"
    assert units.score_unit("bleu", 31.2, 0.4).value(31.2) == "31.2"
    assert units.score_unit("accuracy", 0.5).difference(-0.0004) == "0.0"


def test_confusion_counts_answers_whatever_their_case() -> None:
    rows = [
        {"label": "yes", "completion": " YES "},
        {"label": "yes", "completion": "no"},
        {"label": "no", "completion": "perhaps"},
        {"label": None, "completion": "yes"},
    ]
    counted = confusion(rows, ["yes", "no"])
    assert counted.counts == {("yes", "yes"): 1, ("yes", "no"): 1, ("no", OTHER): 1}
    assert counted.confused() == [("no", OTHER, 1), ("yes", "no", 1)]
    assert "yes answered as no: 1 of 2" in draw_confusion(counted, "title")


def test_confusion_of_labels_that_differ_in_case_alone() -> None:
    rows = [{"label": "US", "completion": "US"}, {"label": "us", "completion": "us"}]
    assert confusion(rows, ["US", "us"]).confused() == []


def test_matrix_with_both_signs_has_two_hues() -> None:
    drawn = matrix({"title": "t", "rows": ["a"], "columns": ["x", "y", "z"], "values": [[-1.0, 0.5, None]]})
    assert 'class="cell cold"' in drawn
    assert 'class="cell heat"' in drawn
    assert "a, z: no value" in drawn


def test_results_without_values_say_so() -> None:
    look = looks(["a"])["a"]
    assert "no values" in matrix({"title": "t", "rows": ["a"], "columns": ["x"], "values": [[None]]})
    empty = {"title": "t", "lines": [{"name": "n", "x": [1], "y": [None]}]}
    assert "no values" in series(700, empty, look)


def test_a_gap_in_a_series_is_not_bridged() -> None:
    lines = [{"name": "n", "x": [0, 1, 2, 3, 4], "y": [1.0, 2.0, float("nan"), 3.0, 4.0]}]
    drawn = series(700, {"title": "t", "lines": lines}, looks(["a"])["a"])
    assert str(drawn).count('d="M') == 1
    assert str(drawn).split('d="', 1)[1].split('"')[0].count("M") == 2


def test_a_series_may_name_its_points_and_mark_one() -> None:
    one, look = {"name": "loss", "x": [3.0, 3.4], "y": [2.0, 1.5]}, looks(["a"])["a"]
    named = {**one, "labels": ["0", "1, taken"], "marked": 1}
    drawn = str(series(700, {"title": "curve", "lines": [named]}, look))
    assert drawn.count(">1, taken</text>") == drawn.count('class="taken') == 1
    assert "taken" not in str(series(700, {"title": "curve", "lines": [one]}, look))


def test_table_puts_numbers_to_the_right() -> None:
    drawn = table(["name", "n"], [["a<b", 3], ["c", None]])
    assert '<td class="num">3</td>' in drawn
    assert "a&lt;b" in drawn


def test_matrix_puts_rows_outside_the_layers_apart() -> None:
    content = {
        "title": "t",
        "rows": ["0", "1", "embed_tokens"],
        "columns": ["—", "q_proj", "v_proj"],
        "values": [[None, 0.1, 0.2], [None, 0.3, 0.4], [0.5, None, None]],
    }
    drawn = str(matrix(content))
    assert "embed_tokens, outside the layers: 0.5" in drawn
    assert "no value" not in drawn
    assert "—" not in drawn


def test_matrix_keeps_a_dash_column_that_its_rows_share() -> None:
    content = {"title": "t", "rows": ["0", "1"], "columns": ["—", "q"], "values": [[0.1, 0.2], [None, 0.3]]}
    drawn = str(matrix(content))
    assert "0, —: 0.1" in drawn
    assert "outside" not in drawn


def test_series_that_falls_steeply_has_a_logarithmic_axis() -> None:
    look = looks(["a"])["a"]

    def drawn(ys: list[float]) -> str:
        lines = [{"name": "n", "x": [1, 2, 3], "y": ys}]
        return str(series(700, {"title": "t", "y_label": "nats", "lines": lines}, look))

    assert "nats, logarithmic" in drawn([4.0, 0.2, 0.01])
    assert "logarithmic" not in drawn([4.0, 2.0, 1.0])
    assert "logarithmic" not in drawn([4.0, 0.2, 0.0])  # zero has no logarithm


def test_series_that_ends_early_is_named_where_it_ends() -> None:
    short = {"title": "t", "lines": [{"name": "n", "x": [0, 50], "y": [1.0, 1.5]}]}
    long = {"title": "t", "lines": [{"name": "n", "x": [0, 100], "y": [1.0, 2.0]}]}
    drawn = str(series(400, short, looks(["a"])["a"], [long]))
    leader = re.search(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="leader', drawn)
    assert leader
    assert float(leader[2]) - float(leader[1]) == pytest.approx(4)


def test_names_stand_nearer_to_their_own_mark() -> None:
    points = [
        Point(look, x, y, None, None, look.name)
        for look, x, y in zip(looks(["one", "two"]).values(), (0.50, 0.56), (0.5, 0.52), strict=True)
    ]
    drawn = str(scatter(340, "t", points, Axis("x", 0, 1), Axis("y", 0, 1)))
    places = {
        name: (float(x), end)
        for x, end, name in re.findall(
            r'x="([\d.]+)" y="[\d.]+"( text-anchor="end")? class="name[^>]*>(one|two)<', drawn
        )
    }
    assert places["one"][1]  # to the left of its mark, away from the other
    assert places["one"][0] < places["two"][0]


def test_settings_taken_leave_out_what_has_no_value() -> None:
    assert units.settings_taken({"step": "sft", "rank": None, "dropout": 0.0}) == {"dropout": "0"}
