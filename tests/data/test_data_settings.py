import pytest
from pydantic import ValidationError

from luthier.data import TaskSettings
from luthier.types import Decoding


def rejected(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TaskSettings.model_validate({"data": "a.csv"} | settings)
    return str(caught.value)


def test_defaults_generate_and_score_open_ended_answers():
    settings = TaskSettings(data="a.csv")
    assert settings.decoding(seed=5) == Decoding("generate", 64, (), temperature=0.0, top_p=1.0, seed=0)
    assert settings.all_metrics() == ("token_f1", "exact_match_normalised")


def test_defaults_with_labels_score_accuracy_and_never_imply_choosing():
    settings = TaskSettings(data="a.csv", labels="auto")
    assert settings.all_metrics() == ("accuracy", "macro_f1")
    assert settings.decoding(seed=5).answer == "generate"


def test_defaults_with_several_labels_an_answer_score_them_one_by_one_too():
    settings = TaskSettings(data="a.csv", labels="auto", label_separator="; ")
    assert settings.all_metrics() == ("accuracy", "label_f1", "macro_f1")


def test_the_seed_decides_where_answers_are_drawn_and_is_no_part_of_greedy_ones():
    drawn = TaskSettings(data="a.csv", temperature=0.7, top_p=0.9)
    assert drawn.decoding(seed=5) == Decoding("generate", 64, (), temperature=0.7, top_p=0.9, seed=5)
    assert TaskSettings(data="a.csv").decoding(seed=5) == TaskSettings(data="a.csv").decoding(seed=6)


def test_the_deciding_metric_comes_first():
    settings = TaskSettings(data="a.csv", metric="chrf", metrics=("bleu", "chrf"))
    assert settings.all_metrics() == ("chrf", "bleu")


def test_numbers_as_labels_become_text():
    assert TaskSettings.model_validate({"data": "a.csv", "labels": [0, 1]}).labels == ("0", "1")


def test_yaml_booleans_as_labels_are_refused_with_the_remedy():
    assert "quote the labels: ['yes', 'no']" in rejected(labels=[True, False])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"answer": "choose"}, "labels is null; set labels to auto or to a list"),
        ({"answer": "choose", "labels": "auto", "stop": ["\n"]}, "stop has no meaning"),
        (
            {"answer": "choose", "labels": "auto", "stop": ["\n"], "max_new_tokens": 9},
            "max_new_tokens and stop have no meaning",
        ),
        ({"answer": "choose", "labels": "auto", "temperature": 0.7}, "temperature has no meaning"),
        (
            {"answer": "choose", "labels": "auto", "temperature": 0.7, "top_p": 0.9},
            "temperature and top_p have no meaning",
        ),
        ({"top_p": 0.9}, "set a temperature"),
        ({"label_separator": "; "}, "labels is null; set labels to auto or to a list"),
        ({"label_separator": "; ", "labels": "auto", "answer": "choose"}, "use answer: generate"),
        ({"label_separator": "; ", "labels": "auto", "answer": "choose-normalised"}, "use answer: generate"),
        ({"label_separator": ", ", "labels": ["salt, pepper", "sugar"]}, "label 'salt, pepper' would be split"),
        ({"label_separator": "--", "labels": ["a-", "b"]}, "label 'a-' would be split"),
        ({"label_separator": "and", "labels": "auto"}, "may stand within a word; write ' and '"),
        ({"label_separator": "", "labels": "auto"}, "at least 1 character"),
        ({"temperature": 0, "top_p": 0.9}, "set a temperature"),
        ({"temperature": -0.1}, "greater than or equal to 0"),
        ({"temperature": float("nan")}, "finite"),
        ({"temperature": float("inf")}, "finite"),
        ({"temperature": 1, "top_p": 0}, "greater than 0"),
        ({"temperature": 1, "top_p": 1.1}, "less than or equal to 1"),
        ({"prompt": "{{ a }}"}, "prompt is given without completion"),
        ({"completion": "{{ a }}"}, "completion is given without prompt"),
        ({"prompt": "{{ a", "completion": "{{ b }}"}, "not a Jinja template"),
        ({"references": "{{ a }} and {{ b }}"}, "not one expression"),
        ({"format": "chat", "prompt": "{{ a }}", "completion": "{{ b }}"}, "fixes what prompt and completion are"),
        ({"format": "csv", "rows": "data"}, "rows is a path in JSON"),
        ({"format": "csv", "hub_config": "main"}, "are for the Hugging Face Hub"),
        ({"format": "parquet", "columns": ["a"]}, "leave columns out"),
        ({"format": "csv", "reader": "r.py:read"}, "reader reads the file"),
        ({"reader": "r.py"}, "expected 'file.py:function'"),
        ({"encoding": "utf-9"}, "no encoding 'utf-9'"),
        ({"labels": ["a"]}, "at least two labels"),
        ({"labels": ["a", "b", "a"]}, "a stands in it twice"),
        ({"merge_references": True, "labels": "auto"}, "open-ended"),
        ({"metric": "bleu", "metrics": ["chrf"]}, "bleu is not among metrics"),
        ({"metric_options": {"regex": {"pattern": "x"}}}, "names regex, which is not computed"),
        ({"split": {"test": 1.5}}, "a fraction between 0 and 1"),
        ({"split": {"test": 0}}, "a count of at least 1"),
        ({"data": {"train": "a", "test": "b"}, "split": {"test": 0.3}}, "one is given; leave one of them out"),
        ({"data": {"train": "a"}, "rows": {"train": "x", "test": "y"}}, "data and rows disagree"),
        ({"data": {"test": "b"}}, "train"),
        ({"colums": ["a"]}, "colums"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], complaint: str):
    assert complaint in rejected(**settings)


def test_rows_by_split_give_every_split_the_same_file():
    settings = TaskSettings.model_validate({"data": "a.json", "rows": {"train": "train", "test": "test"}})
    assert settings.sources() == {"train": ("a.json",), "test": ("a.json",)}
    assert settings.rows_of("test") == "test"
