from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.report.console import comparison_table


def _printed(comparison: dict[str, Any], width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    Console(file=file, width=width, force_terminal=False).print(comparison_table(comparison))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.fixture
def comparison(run_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run_dir / "comparison.json").read_text())
    return loaded


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
def test_table_stays_within_the_width(comparison: dict[str, Any], width: int) -> None:
    printed = _printed(comparison, width)
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= width
    assert all(row["name"] in printed for row in comparison["approaches"])


def test_narrow_table_keeps_what_decides(comparison: dict[str, Any]) -> None:
    printed = _printed(comparison, 80)
    for text in ("★ lora", "●", "to best", "training", "request", "lora is 8.0 points (1.3 to 14.5) better"):
        assert text in printed
    assert "stored" not in printed


def test_wide_table_shows_all_costs(comparison: dict[str, Any]) -> None:
    printed = _printed(comparison, 120)
    for text in ("prompt", "stored", "forgotten", "408 tok", "538 MB", "+11.7%"):
        assert text in printed


def test_how_far_predictions_moved_stands_below_the_table(comparison: dict[str, Any]) -> None:
    printed = " ".join(_printed(comparison, 120).split())
    assert "predictions moved on general text, KL in nats a token: " in printed
    assert "full 0.0312" in printed
    assert "zero-shot 0" not in printed


def test_unscored_answers_are_counted(comparison: dict[str, Any]) -> None:
    assert "zero-shot: 1 answer could not be scored." in _printed(comparison, 80)


def test_table_without_a_mean_says_so(comparison: dict[str, Any]) -> None:
    comparison["approaches"][-1] |= {"mean": None, "low": None, "high": None}
    assert "not scored" in _printed(comparison, 80)


def test_table_prints_where_only_ascii_can_be_shown(comparison: dict[str, Any]) -> None:
    printed = _printed(comparison, 80, encoding="ascii")
    assert "* lora" in printed
    assert "o" in printed


def test_markup_in_names_is_printed_as_it_is(comparison: dict[str, Any]) -> None:
    comparison["verdict"] = "Use [bold]this[/bold]."
    assert "[bold]this[/bold]" in _printed(comparison, 80)


def test_nothing_from_the_data_is_read_as_markup(comparison: dict[str, Any]) -> None:
    comparison |= {"target": "a [/INST]", "metric": "b[/x]", "verdict": "v [/INST] [red]", "reasons": ["r [/INST]"]}
    for row in comparison["approaches"]:
        row["metric"] = "b[/x]"
        for probe in row.get("forgotten") or ():
            probe["probe"] += " [/p]"
    comparison["approaches"][0] |= {"name": "n [/b]", "unscored": 3}
    comparison["recommended"] = "n [/b]"
    printed = _printed(comparison, 200)
    for text in ("a [/INST]: b[/x] on", "v [/INST] [red]", "- r [/INST]", "n [/b]", "plain text [/p]"):
        assert text in printed


def test_three_reasons_are_printed_and_the_report_named_for_the_rest(comparison: dict[str, Any]) -> None:
    comparison["reasons"] = [f"Reason {number}." for number in range(1, 6)]
    printed = _printed(comparison, 100)
    assert "- Reason 3.\n- 2 more reasons stand in the report." in printed
    assert "Reason 4" not in printed


def test_the_split_is_named(comparison: dict[str, Any]) -> None:
    assert "on 200 test examples" in _printed(comparison, 120)
    assert "on 200 validation examples" in _printed(comparison | {"split": "validation"}, 120)


def test_floors_stand_below_the_approaches_under_a_rule(comparison: dict[str, Any]) -> None:
    lines = _printed(comparison, 80).splitlines()
    rule = next(number for number, line in enumerate(lines) if line.strip().startswith("──"))
    assert lines[rule - 1].split()[0] == "zero-shot"
    assert lines[rule + 1].split()[:2] == ["most-frequent", "14.0%"]
    assert lines[rule + 2].split()[:2] == ["draw", "8.5%"]
    assert "always giving the most frequent answer (most-frequent)" in " ".join(" ".join(lines).split())


def test_the_best_floor_is_a_line_behind_the_bars(comparison: dict[str, Any]) -> None:
    lines = _printed(comparison, 80).splitlines()
    places = {line.index("┊") for line in lines if "┊" in line}
    assert len(places) == 1
    floor = next(line for line in lines if line.strip().startswith("most-frequent"))
    assert floor.index("●") in places


def test_a_floor_far_away_is_an_arrow(comparison: dict[str, Any]) -> None:
    comparison["approaches"] = comparison["approaches"][:2]
    printed = _printed(comparison, 80)
    assert printed.count("◂") == 2
    assert "┊" not in printed
    assert "<" in _printed(comparison, 80, encoding="ascii")


def test_what_is_not_shown_to_beat_its_floor_is_named(comparison: dict[str, Any]) -> None:
    for row in comparison["approaches"][-2:]:
        row["floor"]["above"] = False
    assert "not shown to beat most-frequent: one-shot, zero-shot." in _printed(comparison, 120)


def test_no_floors_no_rule(comparison: dict[str, Any]) -> None:
    printed = _printed(comparison | {"floors": []}, 80)
    assert "──  " not in printed
    assert "floor" not in printed


def test_prompt_tokens_are_none_where_no_language_model_is_asked(comparison: dict[str, Any]) -> None:
    comparison["approaches"][0]["cost"]["prompt_tokens"] = 0.0
    printed = _printed(comparison, 120)
    assert "none" in next(line for line in printed.splitlines() if "few-shot+lora" in line)
    assert "0 tok" not in printed
