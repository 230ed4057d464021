from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import ACCURACY, write_run

from luthier.report.floors import all_unbeaten, is_near, near_floor
from luthier.report.html import write_report
from luthier.report.pictures import Axis, Level, Point, scatter
from luthier.report.seeds import seed_rows
from luthier.report.svg import looks

_NO_MODEL = ("classifier", "nearest")
_LINE = re.compile(r'<line x1="([\d.]+)" y1="([\d.-]+)" x2="([\d.]+)" y2="([\d.-]+)" class="floor-line">')


def _row(low: float, mean: float, high: float) -> dict[str, Any]:
    return {"name": f"approach {mean}", "low": low, "mean": mean, "high": high}


def _floor(mean: float | None) -> dict[str, Any]:
    return {"name": "most-frequent", "words": "always the same", "n": 9, "mean": mean, "low": mean, "high": mean}


def _changed(run: Path, **fields: object) -> None:
    path = run / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _with_floor_at(run: Path, mean: float, low: float, high: float) -> str:
    """The page of a run whose best floor scores so."""
    floors = json.loads((run / "comparison.json").read_text())["floors"]
    _changed(run, floors=[{**floors[0], "mean": mean, "low": low, "high": high}])
    return write_report(run).read_text(encoding="utf-8")


def _ranking(page: str) -> tuple[str, str]:
    """The approaches' rows of the ranking, and the floors'."""
    table = page.split('<table class="ranking">', 1)[1].split("</table>", 1)[0]
    approaches, _, floors = table.partition('<tbody class="floors">')
    return approaches, floors


def test_floors_stand_in_the_ranking_apart_from_the_approaches(run_dir: Path) -> None:
    approaches, floors = _ranking(write_report(run_dir).read_text(encoding="utf-8"))
    assert "most-frequent" not in re.sub(r"<svg.*?</svg>", "", approaches)
    for text in ("Floors, to be beaten", "always giving the most frequent answer", "14.0%", "9.2 to 18.8%", "8.5%"):
        assert text in floors
    assert floors.count('class="mark c-floor"') == 2


def test_the_best_floor_is_a_line_through_every_row_of_the_ranking(run_dir: Path) -> None:
    page = write_report(run_dir).read_text(encoding="utf-8")
    lines = [_LINE.findall(part) for part in _ranking(page)]
    assert [len(found) for found in lines] == [6, 2]
    assert len({x for found in lines for x, *_ in found}) == 1
    assert "The dashed line stands at the best of them, most-frequent." in page


def test_the_best_floor_is_a_named_rule_across_the_scatter_pictures(run_dir: Path) -> None:
    page = write_report(run_dir).read_text(encoding="utf-8")
    for title in ("Gain against cost", "Gain against general knowledge", "Gain against plain text"):
        wide = page.split(f"<title>{title}</title>", 1)[1].split("</svg>", 1)[0]
        ((left, top, right, bottom),) = _LINE.findall(wide)
        assert top == bottom
        assert float(left) < float(right)
        assert "floor: most-frequent, 14.0%" in wide


def test_the_best_floor_is_a_rule_beside_another_task_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "few-shot"], examples=40)
    rows = json.loads((run / "comparison.json").read_text())["approaches"]
    for row in rows:
        row["scores"]["sums"] = [{"metric": "accuracy", "n": 9, "mean": row["mean"] / 2, "low": None, "high": None}]
    _changed(run, approaches=rows)
    page = write_report(run).read_text(encoding="utf-8")
    picture = page.split("<title>The target against sums</title>", 1)[1].split("</svg>", 1)[0]
    assert "floor: most-frequent, 14.0%" in picture


def test_the_best_floor_is_a_line_through_the_seeds(run_dir: Path) -> None:
    comparison = json.loads((run_dir / "comparison.json").read_text())
    one = {"name": "lora", "mean": 0.9, "sd": 0.02, "least": 0.88, "most": 0.92}
    seeds = [{"seed": seed, "mean": mean, "low": 0.8, "high": 0.95} for seed, mean in ((7, 0.92), (8, 0.88))]
    comparison["seeds"] = {"metric": "exact_match", "approaches": [{**one, "seeds": seeds}], "pairs": []}
    names = looks([row["name"] for row in comparison["approaches"]])
    shown = seed_rows(comparison, names)
    assert shown is not None
    assert shown["floor"] == "most-frequent"
    assert "floor-line" in shown["rows"][0]["plot"]
    without = seed_rows(comparison | {"floors": []}, names)
    assert without is not None
    assert "floor-line" not in without["rows"][0]["plot"]


def test_a_floor_far_away_does_not_squeeze_the_approaches(tmp_path: Path) -> None:
    page = _with_floor_at(write_run(tmp_path / "run", approaches=["lora", "full"]), 0.05, 0.03, 0.08)
    approaches, floors = _ranking(page)
    assert "floor-line" not in page.split("<body>")[1]
    assert "beyond this scale" in floors
    assert "most-frequent with 5.0%, lies too far from the approaches" in page
    assert "↓ floor: most-frequent, 5.0%" in page
    assert ">0%</text>" not in approaches


def test_a_floor_is_near_where_the_axis_grows_no_more_than_threefold() -> None:
    comparison = {"approaches": [_row(0.70, 0.75, 0.80), _row(0.78, 0.82, 0.90)]}
    assert is_near(_floor(0.31), comparison)  # 0.31 to 0.90, of which the approaches take 0.2
    assert not is_near(_floor(0.29), comparison)


def test_one_approach_alone_is_drawn_beside_its_floor_however_far() -> None:
    assert near_floor({"approaches": [_row(0.90, 0.92, 0.94)], "floors": [_floor(0.01)]}) == 0.01


def test_without_floors_nothing_is_drawn_or_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=20)
    _changed(run, floors=[])
    page = write_report(run).read_text(encoding="utf-8").split("<body>")[1]
    for text in ("Floors", "floor:", "floor-line", "c-floor"):
        assert text not in page


def test_a_floor_that_the_metric_cannot_score_is_left_out() -> None:
    assert near_floor({"approaches": [_row(0.5, 0.6, 0.7)], "floors": [_floor(None)]}) is None


def test_what_is_not_shown_to_beat_its_floor_is_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "zero-shot"], examples=40)
    rows = json.loads((run / "comparison.json").read_text())["approaches"]
    rows[1]["floor"]["above"] = False
    _changed(run, approaches=rows)
    approaches, _ = _ranking(write_report(run).read_text(encoding="utf-8"))
    assert approaches.count("not shown to beat most-frequent") == 1
    assert approaches.index("zero-shot") < approaches.index("not shown to beat")


def test_where_nothing_beats_the_floor_the_page_says_why_nothing_is_recommended(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["few-shot", "zero-shot"], examples=40)
    comparison = json.loads((run / "comparison.json").read_text())
    assert all_unbeaten(comparison) == ""
    for row in comparison["approaches"]:
        row["floor"]["above"] = False
    _changed(run, approaches=comparison["approaches"], recommended=None, verdict="None is of use yet: too little.")
    assert "none is shown to beat the floor most-frequent" in write_report(run).read_text(encoding="utf-8")


def test_marks_tell_what_was_trained(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=tuple(ACCURACY), examples=40)
    page = write_report(run).read_text(encoding="utf-8")
    for name, fill in (("few-shot", " hollow"), ("nearest", " hollow"), ("classifier", " dotted"), ("lora", "")):
        assert re.search(rf'class="mark c\d{fill}"><title>{name}: [^<]* for ', page), name
    assert "Hollow marks: nothing was trained; marks with a dot inside: a small model was; full marks" in page


def test_fillings_that_no_mark_has_are_not_explained(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", approaches=_NO_MODEL, examples=40)).read_text(encoding="utf-8")
    assert "marks with a dot inside: a small model was." in page
    assert "full marks" not in page


def test_the_ranking_says_what_was_trained(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "classifier", "nearest"], examples=40)
    approaches, _ = _ranking(write_report(run).read_text(encoding="utf-8"))
    assert "6 min 52 s<small>the language model</small>" in approaches
    assert "2.9 s<small>a small model</small>" in approaches
    assert '<td class="num">none</td>' in approaches


def test_a_run_without_a_language_model_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=_NO_MODEL, examples=40)
    assert json.loads((run / "data.json").read_text())["support-tickets"]["tokens"] == {}
    page = write_report(run).read_text(encoding="utf-8")
    assert "<dt>Base model</dt><dd>none</dd>" in page
    assert "<dt>Model</dt><dd>none</dd>" in page
    approaches, _ = _ranking(page)
    assert approaches.count('<td class="num">none</td>') == 3  # prompt tokens twice, and nearest trains nothing
    assert "Tokens" not in page.split('id="data"', 1)[1]


def test_the_parameters_of_a_small_model_are_no_share_of_the_language_model(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", approaches=["lora", "classifier"], examples=40)).read_text()
    assert '<td class="num">4.62 k</td>' in page
    assert '<td class="num">4.88 M (3.6%)</td>' in page


def _picture(level: Level, ys: tuple[float, float]) -> str:
    named = looks(["one", "two"])
    points = [Point(named[n], x, y, None, None, n) for n, x, y in zip(named, (0.2, 0.8), ys, strict=True)]
    return str(scatter(760, "t", points, Axis("x", 0, 1), Axis("y", 0.5, 1), level=level))


def test_the_label_of_a_floor_keeps_clear_of_marks() -> None:
    right = _picture(Level(0.6, "floor"), (0.9, 0.9))
    left = _picture(Level(0.6, "floor"), (0.9, 0.61)).replace('class="tick beside">floor', "HERE")
    assert re.search(r'text-anchor="end" class="tick beside">floor', right)
    assert "HERE" in left


@pytest.mark.parametrize(("at", "arrow"), [(0.1, "↓"), (1.4, "↑")])
def test_a_floor_outside_the_axis_is_named_at_the_edge_towards_it(at: float, arrow: str) -> None:
    drawn = _picture(Level(at, "floor"), (0.9, 0.8))
    assert f">{arrow} floor</text>" in drawn
    assert "floor-line" not in drawn
