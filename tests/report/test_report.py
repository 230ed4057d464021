from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import LABELS, write_run

from luthier.errors import RunError
from luthier.report import units
from luthier.report.examples import script_json
from luthier.report.folder import read_run
from luthier.report.html import render, write_report

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\u2028{label} {days}"


class Page(HTMLParser):
    """What a browser would act on: elements, their ids, attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def examples(self) -> dict[str, object]:
        loaded: dict[str, object] = json.loads(self.scripts[0])
        return loaded


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_report_is_written_into_the_run_folder(run_dir: Path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"


def test_report_is_the_same_from_the_same_folder(run_dir: Path) -> None:
    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_report_asks_the_network_for_nothing(run_dir: Path, page: Page) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "srcset", "data", "action")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert "url(" not in text
    assert "@import" not in text
    policy = next(value for name, value in page.attributes if value.startswith("default-src"))
    assert "default-src 'none'" in policy


def test_report_runs_no_script_but_its_own(page: Page) -> None:
    assert page.tags.count("script") == 2  # the examples as data, and the code
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_report_shows_every_section(page: Page) -> None:
    comparing = {"ranking", "cost", "forgetting", "pairs", "break-even"}
    assert comparing | {"curves", "confusion", "inside", "examples", "tried", "data", "run"} <= page.ids
    assert page.text.index("lora is 8.0 points (1.3 to 14.5) better") < page.text.index("Ranking")


def test_report_names_the_recommended_approach_and_its_reasons(page: Page) -> None:
    assert "Recommended: lora" in page.text
    assert "lora forgets less than the limit of 5 points" in page.text


def test_report_shows_intervals_tests_and_openings(page: Page) -> None:
    for text in (
        "The intervals hold together",
        "Wilson score interval",
        "smaller than 8.1 points",
        "opened 2 times",
    ):
        assert text in page.text


def test_report_shows_how_far_predictions_moved(page: Page) -> None:
    assert "How far predictions moved" in page.text
    for text in ("general text", "0.0312", "0.0287 to 0.0345, n = 40", "1.1 to 1.4, n = 100, learned"):
        assert text in page.text


def test_report_draws_results_by_kind(page: Page) -> None:
    for text in ("Loss while training", "nats per token", "How far each weight matrix moved", "gate_proj"):
        assert text in page.text
    assert "completion" in page.text
    assert "3, v_proj: no value" in page.text


def test_another_task_is_drawn_by_the_approaches_that_it_could_score(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    file = run / "comparison.json"
    comparison = json.loads(file.read_text(encoding="utf-8"))
    one = {"metric": "loss", "n": 1, "low": None, "high": None}  # a single example has no interval
    for number, row in enumerate(comparison["approaches"]):
        row["scores"]["sums"] = [{**one, "mean": 1.5 + number if number else None}]
        row["scores"]["unscored"] = [{**one, "mean": None}]
    file.write_text(json.dumps(comparison), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("Another task of the study beside the target") == 1
    assert "sums: loss (worse to the left)" in page


def test_a_result_of_an_unknown_kind_is_shown_as_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=20)
    result = {"kind": "graph", "title": "A new thing", "edges": [[1, 2]], "origin": "elsewhere"}
    (run / "steps" / "sft-lora" / "results" / "new.json").write_text(json.dumps(result), encoding="utf-8")
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "A new thing" in text
    assert "elsewhere" in text


def test_an_approach_has_one_look_in_all_pictures(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert {*re.findall(r'class="mark (c\d)[^"]*"><title>lora:', text)} == {"c3"}


def test_text_from_the_data_is_never_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", labels=("<b>bold</b>", "plain"), examples=30, question=EVIL)
    comparison = json.loads((run / "comparison.json").read_text())
    comparison["verdict"] = "<img src=x onerror=alert(3)>"
    (run / "comparison.json").write_text(json.dumps(comparison))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert "<b>bold</b>" in page.text
    assert "<img src=x onerror=alert(3)>" in page.text
    assert any("</script><script>alert(1)" in str(text) for text in page.examples["texts"])  # type: ignore[attr-defined]


def test_embedded_json_cannot_end_its_script_element() -> None:
    value = ["</script>", "<!--", "]]>", "&amp;", "\u2028\u2029", float("nan")]
    written = script_json(value)
    assert not re.search("[<>&\u2028\u2029]", written)
    assert json.loads(written) == [*value[:-1], None]


def test_examples_hold_every_answer_and_each_text_once(page: Page) -> None:
    data = page.examples
    examples, texts = data["examples"], data["texts"]
    assert isinstance(examples, list)
    assert isinstance(texts, list)
    assert len(examples) == 200
    assert all(len(example["answers"]) == 6 for example in examples)
    assert len(texts) == len(set(texts))
    unscored = [answer for example in examples for answer in example["answers"] if answer["score"] is None]
    assert [answer["reason"] for answer in unscored] == ["the answer was cut at 64 tokens"]


def test_examples_hold_confidence_and_why_a_task_is_not_answered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["classifier"], examples=10)
    path = run / "approaches" / "classifier" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"confidence": 0.25, "stopped": "abstained"}
    rows[1] |= {"confidence": None, "unserved": "it was made for other tasks"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = Page(write_report(run).read_text(encoding="utf-8")).examples["examples"]
    assert isinstance(examples, list)
    (first,), (second,) = examples[0]["answers"], examples[1]["answers"]
    assert (first["confidence"], first["stopped"], first["unserved"]) == (0.25, "abstained", None)
    assert second["unserved"] == "it was made for other tasks"


def test_examples_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    folder = read_run(write_run(tmp_path / "run"))
    text = render(folder, budget_bytes=60_000)
    shown = len(Page(text).examples["examples"])  # type: ignore[arg-type]
    assert 10 < shown < 200
    assert f"{shown} of 200 examples are shown" in Page(text).text


def test_report_without_training_leaves_its_sections_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["zero-shot", "few-shot"], examples=40)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert {"ranking", "pairs", "confusion", "examples"} <= page.ids
    assert not {"forgetting", "break-even", "curves", "inside"} & page.ids
    assert {value[1:] for name, value in page.attributes if name == "href"} <= page.ids


def test_report_of_one_open_ended_approach(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["zero-shot"], labels=(), examples=10)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not {"pairs", "cost", "confusion"} & page.ids
    assert {value[1:] for name, value in page.attributes if name == "href"} <= page.ids


def test_report_with_nothing_recommended_and_nothing_scored(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["zero-shot", "lora"], examples=10)
    comparison = json.loads((run / "comparison.json").read_text())
    comparison |= {"recommended": None, "verdict": "No difference found.", "minimum_detectable": None}
    comparison["pairs"][0] |= {"a": "lora", "b": "zero-shot", "difference": None, "low": None, "high": None, "p": None}
    comparison["pairs"][0]["p"] = None
    for row in comparison["approaches"]:
        row |= {"mean": None, "low": None, "high": None, "n": 0, "unscored": 10}
    (run / "comparison.json").write_text(json.dumps(comparison))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "No approach is recommended over the others." in text
    assert "10 unscored" in text


def test_the_pair_that_was_asked_about_beforehand_stands_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    comparison = json.loads((run / "comparison.json").read_text())
    asked = comparison["pairs"][-1]
    asked["asked"] = True
    (run / "comparison.json").write_text(json.dumps(comparison))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    rows = text[text.index("Difference, drawn") :]
    assert rows.index("asked beforehand") < rows.index(comparison["pairs"][0]["b"], rows.index("asked beforehand"))
    assert "What stands at the top was asked about beforehand" in text
    assert f"{len(comparison['pairs'])} pairs having been looked at" in text


def test_many_labels_show_the_most_confused_pairs_first(tmp_path: Path) -> None:
    labels = [f"label {index}" for index in range(77)]
    text = write_report(write_run(tmp_path / "run", labels=labels, examples=300)).read_text(encoding="utf-8")
    assert "confusion many" in text
    assert "Most confused" in text


def test_answers_outside_the_labels_are_counted_as_such(page: Page) -> None:
    assert "(no label)" in page.text
    assert all(label in page.text for label in LABELS)


def test_choices_show_only_the_settings_that_differ(page: Page) -> None:
    assert "rank learning rate exact match" in page.text
    assert "taken" in page.text


def test_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no such run folder.*luthier run STUDY --output"):
        write_report(tmp_path / "nothing")


def test_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    (run / "comparison.json").unlink()
    with pytest.raises(RunError, match=r"not finished.*goes on where it stopped"):
        write_report(run)


@pytest.mark.parametrize("name", ["data.json", "approaches/lora/approach.json", "approaches/lora/predictions.jsonl"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", examples=10)
    (run / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        write_report(run)


def test_half_written_line_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    predictions = run / "approaches" / "lora" / "predictions.jsonl"
    predictions.write_text(predictions.read_text()[:-40])
    with pytest.raises(RunError, match=r"predictions.jsonl:10: not JSON"):
        write_report(run)


def test_missing_field_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    about = json.loads((run / "run.json").read_text())
    del about["seed"]
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="'seed'"):
        write_report(run)


def test_a_loss_that_decides_is_better_when_lower(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "few-shot"], examples=20)
    comparison = json.loads((run / "comparison.json").read_text())
    comparison["metric"] = "loss"
    for row, mean in zip(comparison["approaches"], (0.9, 2.25), strict=True):
        row |= {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "metric": "loss"}
    (run / "comparison.json").write_text(json.dumps(comparison))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "Down is better" in text
    assert "loss (lower is better)" in text
    assert "2.15 to 2.35" in text


def test_forgetting_is_counted_as_the_limit_counts_it(page: Page) -> None:
    assert "−9.4 pt general knowledge" in page.text
    assert "+11.7% nats per token, plain text" in page.text  # 3.21 → 3.586
    assert "limit −5.0" in page.text
    assert "limit +0.16" in page.text  # 5% of 3.21


def _changed(run: Path, name: str, **fields: object) -> None:
    path = run / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_first_three_reasons_stand_under_the_verdict_and_the_rest_is_folded(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    _changed(run, "comparison.json", reasons=[f"Reason {number}." for number in range(1, 6)])
    text = write_report(run).read_text(encoding="utf-8")
    before, folded = text.split("<summary>All reasons</summary>")
    assert "Reason 3." in before
    assert "Reason 4." not in before
    assert "Reason 5." in folded


def test_few_reasons_are_not_folded(page: Page) -> None:
    assert "All reasons" not in page.text


def test_a_validation_only_run_is_told_as_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=20)
    _changed(run, "comparison.json", split="validation")
    _changed(run, "run.json", test_openings=3, warnings=[])
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for told in (
        "20 validation examples of support-tickets",
        "means on the validation examples",
        "The validation examples, answer by answer",
        "Compared on the validation split, where settings were chosen too",
        "the test split was not opened for it",
        "opened 3 times, not for this comparison",
    ):
        assert told in text
    for untold in ("test examples", "This test split has been opened", "this run included", "opened after them"):
        assert untold not in text


def test_warnings_are_counted_at_the_top_and_written_below(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    dropped = (
        "few-shot: shots that did not fit in the model's window were left out: 5 in 3 of 10 prompts, 0 in training"
    )
    _changed(run, "run.json", warnings=[dropped, "b"], root="/home/someone/study")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "2 warnings" in page.text
    assert dropped in page.text
    assert "warnings" in page.ids
    assert "/home/someone" not in page.text  # a report is sent to others


def test_settings_without_a_value_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora"], examples=10)
    approach = json.loads((run / "approaches/lora/approach.json").read_text())
    approach["steps"][0]["settings"] = {"step": "sft", "rank": None, "learning_rate": 0.0002}
    _changed(run, "approaches/lora/approach.json", steps=approach["steps"], choices=[])
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    tried = text[text.index("What was tried and taken") : text.index("The data")]
    assert "learning_rate 0.0002" in tried
    assert "rank" not in tried
    assert "step" not in tried


def test_an_untrained_approach_is_drawn_hollow_although_its_settings_were_searched(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora", "few-shot"], examples=20)
    comparison = json.loads((run / "comparison.json").read_text())
    comparison["approaches"][1]["cost"] |= {"train_s": 97.0, "search_s": 97.0}
    _changed(run, "comparison.json", approaches=comparison["approaches"])
    text = write_report(run).read_text(encoding="utf-8")
    assert re.search(r'class="mark c\d hollow"><title>few-shot: [^<]* for ', text)
    assert not re.search(r'class="mark c\d hollow"><title>lora: [^<]* for ', text)
    assert "1 min 37 s<small>nothing trained</small>" in text


def test_labels_may_break_after_their_underscores(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", labels=("card_arrival_<late>", "refund"), examples=40)
    assert "<td>card_<wbr>arrival_<wbr>&lt;late&gt;</td>" in write_report(run).read_text(encoding="utf-8")


def test_losses_come_before_the_other_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", approaches=["lora"], examples=10)
    accuracy = {"kind": "series", "title": "Validation accuracy", "lines": [{"name": "validation", "x": [1], "y": [1]}]}
    (run / "steps/sft-lora/results/accuracy.json").write_text(json.dumps(accuracy))
    text = write_report(run).read_text(encoding="utf-8")
    assert text.index("<h3>Loss while training</h3>") < text.index("<h3>Validation accuracy</h3>")


def test_times_and_versions_are_written_once_and_readably(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    _changed(run, "run.json", started="2030-01-02T10:00:00+00:00", versions={"luthier": "0.1.0", "torch": "2.11.0"})
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "2030-01-02 10:00:00 UTC to 2030-01-02 10:41:12 UTC" in text
    assert "Versions luthier 0.1.0, torch 2.11.0" in text


def test_a_sample_of_a_split_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples=10)
    data = json.loads((run / "data.json").read_text())
    data["support-tickets"]["limited"] = {"train": {"from": 9000, "to": 600}}
    _changed(run, "data.json", **data)
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "A sample was taken of train (600 of 9,000)." in text


def test_with_the_price_of_an_hour_every_cost_has_its_price(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert "price of that" not in render(read_run(folder))
    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    comparison["hour_price"] = 7200.0  # two a second
    (folder / "comparison.json").write_text(json.dumps(comparison), encoding="utf-8")
    page = Page(render(read_run(folder)))
    assert "price of that, at 7,200 an hour" in page.text
    assert units.plain(2 * comparison["approaches"][0]["total_s"]) in page.text
