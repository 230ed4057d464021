"""Each metric on answers whose value can be worked out by hand, and beside the library that defines it."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import sacrebleu

from luthier.data.labels import Labels
from luthier.errors import CodeRefused, EvaluationError
from luthier.evaluate import METRICS, Answer, LogProb, check_metric_names, load_metric, score, validate_metric
from luthier.evaluate.corpus import corpus_value
from luthier.evaluate.forms import last_number, normalised, taken_for_same
from luthier.types import Example, Message, Place, Prompt

HYPOTHESES = ["the cat sat on a mat", "there is a dog here", "", "completely different words altogether now"]
REFERENCES = [
    ("the cat sat on the mat", "a cat was sitting on the mat today"),
    ("a dog is here",),
    ("something was expected",),
    ("these are completely different words", "another one", "and a third"),
]


def example(*references: str, label: str | None = None) -> Example:
    prompt = Prompt("e1", "task", (Message("user", "?"),), {"question": "?"}, "f")
    return Example(prompt, references[0], references, label, Place("data.jsonl", 1))


def value(metric: str, text: str, *references: str, **options: str) -> float | None:
    return score(metric, text, example(*references), options=options).value


def corpus_answers() -> list[Answer]:
    return [Answer(text, references) for text, references in zip(HYPOTHESES, REFERENCES, strict=True)]


def streams() -> list[list[str | None]]:
    """The references as sacrebleu wants them: one list a place, None where an answer has fewer."""
    return [[refs[i] if i < len(refs) else None for refs in REFERENCES] for i in range(3)]


def test_exact_match_is_character_for_character():
    assert value("exact_match", "Paris", "Lyon", "Paris") == 1
    assert value("exact_match", "paris", "Paris") == 0
    assert value("exact_match", "Paris ", "Paris") == 0


def test_normalised_match_ignores_case_articles_punctuation_and_spacing():
    assert value("exact_match_normalised", "  The  Eiffel-Tower! ", "EiffelTower") == 1
    assert value("exact_match_normalised", "“STRASSE”", "straße") == 1
    assert value("exact_match_normalised", "another", "other") == 0


def test_normalised_match_does_not_equate_a_bare_symbol_with_nothing():
    assert value("exact_match_normalised", "", "+") == 0
    assert value("exact_match_normalised", "", "The") == 0
    assert value("exact_match_normalised", " + ", "+") == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("15", "1.5"),
        ("5", "-5"),
        ("5", "−5"),
        ("C#", "C++"),
        ("C", "C#"),
        ("O-", "O+"),
        ("A", "A-"),
        ("32", "3/2"),
        ("1030", "10:30"),
        ("1990-95", "199095"),
        ("2018", "20–18"),
        ("hepatitis", "hepatitis A"),
        ("x2", "x²"),
    ],
)
def test_marks_that_carry_the_meaning_keep_answers_apart(answer: str, reference: str):
    for metric in ("exact_match_normalised", "token_f1"):
        assert value(metric, answer, reference) < 1
        assert value(metric, reference, answer) < 1
        assert value(metric, reference, f"{reference}.") == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("(A)", "A"),
        ("(B)", "b."),
        ("1,234", "1234"),
        ("2,5 %", "2.5%"),
        ("well-known", "wellknown"),
        ("$1.50", "1.50"),
        ("1990–95", "1990-95"),
        ("co\u00adoperate", "cooperate"),
        ("the C++", "C++."),
        ("-5°", "−5°"),
        ("“No” — he said", "no he said"),
        ("caf\u0065\u0301", "caf\u00e9"),
    ],
)
def test_marks_that_carry_none_make_no_difference(answer: str, reference: str):
    assert value("exact_match_normalised", answer, reference) == 1
    assert value("token_f1", answer, reference) == 1


def test_words_of_scripts_without_spaces_are_their_letters():
    assert value("token_f1", "京都です", "京都") == pytest.approx(2 * 2 / (4 + 2))
    assert value("token_f1", "東京", "京都") == pytest.approx(0.5)
    assert 0 < value("token_f1", "กรุงเทพมหานคร", "กรุงเทพ") < 1


def test_answers_that_a_metric_cannot_tell_apart_are_named():
    assert taken_for_same("token_f1", ["dog bites man", "Dog bites man.", "man bites dog"]) == [
        ("Dog bites man.", "man bites dog")
    ]
    assert taken_for_same("exact_match_normalised", ["C#", "C++", "1.5", "15", "a dog", "A dog!"]) == []
    assert taken_for_same("exact_match_normalised", ["[x]", "x"]) == [("[x]", "x")]
    assert taken_for_same("numeric_match", ["2 of 5", "3 of 5", "5 because 2 and 3 make so many"]) == [
        ("2 of 5", "3 of 5")
    ]
    assert taken_for_same("chrf", ["a", "A"]) == []


def test_normalisation_agrees_with_the_squad_script_on_plain_english():
    assert normalised("The U.S. Army's 3rd  division, a big one.") == "us armys 3rd division big one"


def test_accuracy_reads_a_label_whatever_its_case_and_underscores():
    labels = ("card_arrival", "lost card")
    wanted = example("card_arrival", label="card_arrival")
    assert score("accuracy", " Card  Arrival\n", wanted, labels).value == 1
    assert score("accuracy", "lost_card", wanted, labels).value == 0
    assert score("accuracy", "card_arrival because", wanted, labels).value == 0


def test_accuracy_keeps_labels_apart_that_differ_in_case_only():
    labels = ("US", "us")
    assert score("accuracy", "us", example("US", label="US"), labels).value == 0
    assert score("accuracy", "US", example("US", label="US"), labels).value == 1
    assert score("accuracy", "Us", example("US", label="US"), labels).value == 0


def test_accuracy_without_a_label_is_unscored():
    result = score("accuracy", "yes", example("yes"), ("yes", "no"))
    assert result.value is None
    assert result.reason == "the example has no label"


def test_contains_asks_whether_a_reference_stands_in_the_answer_as_whole_words():
    assert value("contains", "It was the Warsaw Uprising, in 1944.", "warsaw uprising") == 1
    assert value("contains", "It was Warsaw, and an uprising.", "warsaw uprising") == 0
    assert value("contains", "1944", "44") == 0
    assert value("contains", "No idea.", "1944", "no idea") == 1
    assert value("contains", "", "1944") == 0


def test_token_f1_counts_shared_words_and_takes_the_best_reference():
    # found {cat, sat, down}, wanted {cat, sat}: 2 shared, 2·2/(3+2)
    assert value("token_f1", "The cat sat down", "dog", "a cat sat") == pytest.approx(0.8)
    assert value("token_f1", "", "cat") == 0


def test_rouge_l_agrees_with_rouge_score_and_takes_the_best_reference():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    expected = max(scorer.score(r, HYPOTHESES[0])["rougeL"].fmeasure for r in REFERENCES[0])
    assert value("rouge_l", HYPOTHESES[0], *REFERENCES[0]) == pytest.approx(expected)
    # longest common subsequence "the cat sat on mat": 5 of 6 words on either side
    assert value("rouge_l", "the cat sat on a mat", "the cat sat on the mat") == pytest.approx(5 / 6)


def test_rouge_l_reads_every_script():
    assert value("rouge_l", "Нет 5", "Да 5") == pytest.approx(0.5)
    assert value("rouge_l", "東京", "東京") == 1
    assert value("rouge_l", "東京", "京都") == pytest.approx(0.5)
    assert value("rouge_l", "café_au lait", "cafe au lait") == pytest.approx(2 / 3)
    assert value("rouge_l", "…", "…") is None


@pytest.mark.parametrize("index", range(4))
def test_sentence_bleu_and_chrf_agree_with_sacrebleu(index: int):
    text, references = HYPOTHESES[index], list(REFERENCES[index])
    bleu = sacrebleu.sentence_bleu(text, references, use_effective_order=True).score
    assert value("bleu", text, *references) == pytest.approx(bleu / 100)
    assert value("chrf", text, *references) == pytest.approx(sacrebleu.sentence_chrf(text, references).score / 100)


def test_corpus_bleu_and_chrf_agree_with_sacrebleu_with_several_references():
    bleu, chrf = METRICS["bleu"].corpus, METRICS["chrf"].corpus
    assert bleu is not None
    assert chrf is not None
    expected = sacrebleu.corpus_bleu(HYPOTHESES, streams()).score
    assert corpus_value(bleu, corpus_answers()) == pytest.approx(expected / 100)
    expected = sacrebleu.corpus_chrf(HYPOTHESES, streams()).score
    assert corpus_value(chrf, corpus_answers()) == pytest.approx(expected / 100)


def test_macro_f1_counts_answers_that_are_no_label_as_misses_of_the_true_class():
    labels = ("a", "b", "c")
    answers = [
        Answer(text, (label,), label, labels) for text, label in [("a", "a"), ("nonsense", "a"), ("a", "b"), ("b", "b")]
    ]
    corpus = METRICS["macro_f1"].corpus
    assert corpus is not None
    # a: 1 right of 2 found, 2 wanted: 1/2. b: 1 right of 1 found, 2 wanted: 2/3. c is never wanted: left out
    assert corpus_value(corpus, answers) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_macro_f1_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score

    labels = ("x", "y", "z")
    wanted, found = list("xxyyyzzzzx"), list("xyyyzzzxzz")
    answers = [Answer(f, (w,), w, labels) for f, w in zip(found, wanted, strict=True)]
    corpus = METRICS["macro_f1"].corpus
    assert corpus is not None
    assert corpus_value(corpus, answers) == pytest.approx(f1_score(wanted, found, average="macro"))


TOPICS = Labels(("billing", "log in", "refund", "other"), "; ")


def topics(text: str, label: str) -> Answer:
    return Answer(text, (label,), label, TOPICS)


@pytest.mark.parametrize(
    ("text", "accuracy", "f1"),
    [
        ("billing; refund", 1, 1),
        ("refund;billing", 1, 1),
        (" Refund ;\nBILLING; billing", 1, 1),
        ("billing", 0, 2 / 3),
        ("billing; refund; log_in", 0, 4 / 5),
        ("billing; refund; money", 0, 4 / 5),
        ("billing; money", 0, 1 / 2),
        ("billing, refund", 0, 0),
        ("", 0, 0),
    ],
)
def test_an_answer_of_several_labels_is_judged_as_a_set(text: str, accuracy: float, f1: float):
    wanted = example("billing; refund", label="billing; refund")
    assert score("accuracy", text, wanted, TOPICS).value == accuracy
    assert score("label_f1", text, wanted, TOPICS).value == pytest.approx(f1)


def test_label_f1_counts_labels_over_all_answers_and_what_is_no_label_as_wrong():
    answers = [
        topics("billing; refund", "billing; refund"),  # 2 right of 2
        topics("money; billing", "refund"),  # 0 right of 2
        topics("log in", "log in; other"),  # 1 right of 1
        topics("", "other"),  # nothing found
    ]
    corpus = METRICS["label_f1"].corpus
    assert corpus is not None
    assert corpus_value(corpus, answers) == pytest.approx(2 * 3 / (5 + 6))


def test_label_f1_of_single_labels_gives_wrong_words_no_credit():
    answers = [Answer(text, ("a",), "a", ("a", "b")) for text in ("a", "b", "nonsense", "a; b")]
    corpus = METRICS["label_f1"].corpus
    assert corpus is not None
    assert corpus_value(corpus, answers) == pytest.approx(1 / 4)


def test_f1_of_several_labels_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    draw = random.Random(0)
    wanted = [draw.sample(TOPICS, draw.randint(1, 3)) for _ in range(60)]
    found = [draw.sample(TOPICS, draw.randint(0, 3)) for _ in range(60)]
    answers = [topics("; ".join(f), "; ".join(w)) for f, w in zip(found, wanted, strict=True)]
    hot = MultiLabelBinarizer(classes=list(TOPICS)).fit([])
    right, given = hot.transform(wanted), hot.transform(found)
    for name, average in (("label_f1", "micro"), ("macro_f1", "macro")):
        corpus = METRICS[name].corpus
        assert corpus is not None
        expected = f1_score(right, given, average=average, zero_division=0)
        assert corpus_value(corpus, answers) == pytest.approx(expected)


def test_macro_f1_of_several_labels_leaves_out_those_that_are_never_wanted_as_for_single_ones():
    from sklearn.metrics import f1_score

    answers = [topics("billing; other", "billing"), topics("refund", "billing; refund")]
    corpus = METRICS["macro_f1"].corpus
    assert corpus is not None
    right, given = [[1, 0, 0, 0], [1, 0, 1, 0]], [[1, 0, 0, 1], [0, 0, 1, 0]]
    expected = f1_score(right, given, labels=[0, 2], average="macro", zero_division=0)
    assert corpus_value(corpus, answers) == pytest.approx(expected)


def test_several_labels_without_their_separator_are_an_error_and_not_wrong_answers():
    with pytest.raises(EvaluationError, match="know their separator"):
        score("accuracy", "billing", example("billing; refund", label="billing; refund"), tuple(TOPICS))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is $1,234.50.", "1234.50"),
        ("10 + 5 = 15", "15"),
        ("from 5-3", "3"),
        ("it fell to −7", "-7"),
        ("about .5", "0.5"),
        ("2e-3 metres", "0.002"),
        ("1\u202f000 people", "1000"),
        ("12,34", "12.34"),
        ("2,5", "2.5"),
        ("1234,5", "1234.5"),
        ("0,125", "0.125"),
        ("1,234", "1234"),
        ("1.234,5", "1234.5"),
        ("1.234.567", "1234567"),
        ("12 500", "12500"),
        ("12 500,5", "12500.5"),
        ("in 1990 500", "500"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("3/2", "1.5"),
        ("it is 1 1/2 cups", "1.5"),
        ("-3/4", "-0.75"),
        ("on 3/2/2020", "2020"),
        ("1'000.5", "1000.5"),
        ("5/0", "0"),
        ("#### 72", "72"),
    ],
)
def test_last_number_of_a_text(text: str, number: str):
    assert last_number(text) == Fraction(number)


def test_numeric_match_counts_an_answer_without_a_number_as_wrong():
    assert value("numeric_match", "I do not know", "72") == 0
    assert value("numeric_match", "so it is 72.0", "#### 72") == 1


def test_numeric_match_is_unscored_where_the_reference_has_no_number():
    result = score("numeric_match", "72", example("many"))
    assert result.value is None
    assert result.reason == "no number in the reference"


def test_numeric_match_allows_an_absolute_tolerance():
    assert value("numeric_match", "3.14", "3.1416", tolerance="0.01") == 1
    assert value("numeric_match", "3.14", "3.1416") == 0


def test_json_valid_parses_strictly():
    assert value("json_valid", '{"a": [1, null]}', "{}") == 1
    assert value("json_valid", "{'a': 1}", "{}") == 0
    assert value("json_valid", "NaN", "{}") == 0
    assert value("json_valid", '```json\n{"a": 1}\n```', "{}") == 0
    assert value("json_valid", "[" * 100_000, "{}") == 0


def test_json_equal_ignores_order_of_keys_and_tells_true_from_one():
    assert value("json_valid", '{"b": 2.0, "a": 1}', '{"a": 1, "b": 2}', compare="equal") == 1
    assert value("json_valid", '{"a": true}', '{"a": 1}', compare="equal") == 0
    assert value("json_valid", "[1, 2]", "[2, 1]", compare="equal") == 0
    assert value("json_valid", "{}", "not JSON", compare="equal") is None


def test_regex_matches_whole_answers_unless_told_to_search():
    assert value("regex", " 12-03 ", "x", pattern=r"\d\d-\d\d") == 1
    assert value("regex", "on 12-03", "x", pattern=r"\d\d-\d\d") == 0
    assert value("regex", "on 12-03", "x", pattern=r"\d\d-\d\d", match="search") == 1


def test_loss_and_perplexity_come_from_log_probabilities():
    given = LogProb(-6.0, 3)
    assert score("loss", "", example("x"), logprob=given).value == pytest.approx(2.0)
    assert score("perplexity", "", example("x"), logprob=given).value == pytest.approx(math.exp(2))
    assert score("loss", "", example("x")).value is None
    assert score("loss", "", example("x"), logprob=LogProb(-math.inf, 3)).value is None


def test_corpus_perplexity_weighs_by_tokens():
    corpus = METRICS["perplexity"].corpus
    assert corpus is not None
    answers = [Answer("", ("x",), logprob=LogProb(-6.0, 3)), Answer("", ("x",), logprob=LogProb(-1.0, 7))]
    assert corpus_value(corpus, answers) == pytest.approx(math.exp(0.7))
    with pytest.raises(EvaluationError, match="1 of 2 answers come without"):
        corpus_value(corpus, [answers[0], Answer("", ("x",))])


def test_an_empty_set_has_no_corpus_metric():
    corpus = METRICS["bleu"].corpus
    assert corpus is not None
    with pytest.raises(EvaluationError, match="empty set"):
        corpus_value(corpus, [])


def test_unknown_metric_names_what_comes_close():
    with pytest.raises(EvaluationError, match="Did you mean accuracy"):
        check_metric_names(["exact_match", "acuracy"])
    check_metric_names(["scorer.py:judge"])


def test_metric_of_labels_needs_labels():
    validate_metric("accuracy", ["a", "b"])
    with pytest.raises(EvaluationError, match="closed label set"):
        validate_metric("macro_f1", [])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("regex", {}, "needs the setting 'pattern'"),
        ("regex", {"pattern": "("}, "not a regular expression"),
        ("regex", {"pattern": "a", "match": "part"}, "fullmatch or search"),
        ("numeric_match", {"tolerance": "-1"}, "0 or greater"),
        ("numeric_match", {"tolerance": "nan"}, "0 or greater"),
        ("bleu", {"order": "4"}, "has no setting 'order'"),
    ],
)
def test_wrong_settings_of_a_metric_are_refused(name: str, options: dict[str, str], message: str):
    with pytest.raises(EvaluationError, match=message):
        validate_metric(name, [], options)


def test_user_function_scores_when_code_is_allowed(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def judge(completion, references, fields):\n"
        "    return completion == references[0] and fields['question'] == '?'\n"
    )
    metric = load_metric("mine.py:judge", tmp_path, allow_code=True)
    assert score(metric, "yes", example("yes")).value == 1
    assert score(metric, "no", example("yes")).value == 0


def test_user_function_is_refused_without_leave_and_its_file_is_not_run(tmp_path: Path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef judge(c, r, f): return 1\n")
    with pytest.raises(CodeRefused, match="--allow-code"):
        load_metric("mine.py:judge", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_user_function_outside_the_study_folder_is_refused(tmp_path: Path):
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "mine.py").write_text("def judge(c, r, f): return 1\n")
    (study / "link.py").symlink_to(tmp_path / "mine.py")
    for name in ("../mine.py:judge", f"{tmp_path}/mine.py:judge", "link.py:judge"):
        with pytest.raises(CodeRefused, match="outside"):
            load_metric(name, study, allow_code=True)


def test_user_function_that_fails_leaves_the_answer_unscored(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def fails(c, r, f): raise ValueError('odd')\n"
        "def silent(c, r, f): return None\n"
        "def wrong(c, r, f): return 'good'\n"
        "def infinite(c, r, f): return float('inf')\n"
    )
    expected = {
        "fails": "mine.py:fails raised ValueError: odd",
        "silent": "mine.py:silent returned None",
        "wrong": "mine.py:wrong returned str, not a number, a bool or None",
        "infinite": "mine.py:infinite returned inf",
    }
    for function, reason in expected.items():
        result = score(load_metric(f"mine.py:{function}", tmp_path, allow_code=True), "x", example("y"))
        assert result.value is None
        assert result.reason == reason


def test_missing_user_file_or_function_is_named(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def judge(c, r, f): return 1\n")
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    for name, message in [
        ("other.py:judge", "there is no file"),
        ("mine.py:jugde", "found: judge"),
        ("broken.py:judge", "does not run: ModuleNotFoundError"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            load_metric(name, tmp_path, allow_code=True)


def test_importing_evaluate_loads_no_heavy_library():
    heavy = "{'torch', 'scipy', 'sacrebleu', 'rouge_score', 'statsmodels', 'pandas'}"
    code = f"import sys, luthier.evaluate; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
