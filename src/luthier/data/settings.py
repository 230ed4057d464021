"""What a study says about a task: where its rows are, how they become examples, how answers are scored."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal, get_args

from jinja2 import TemplateSyntaxError
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from luthier.data.labels import alike_labels, cannot_be_split
from luthier.data.templates import parse_expression, parse_template
from luthier.settings import Settings
from luthier.types import Decoding, Split
from luthier.user_code import names_function

SPLITS: tuple[Split, ...] = get_args(Split)

Format = Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "chat", "alpaca", "hub"]
Names = str | tuple[str, ...]


def _known(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"Python knows no encoding {encoding!r}; try utf-8, utf-16, latin-1 or cp1252") from error
    return encoding


Encoding = Annotated[str, AfterValidator(_known)]


class SplitSources(Settings):
    """Files (or Hub ids) of splits that are given. A split that is not named is cut from train."""

    train: Names
    """Path or Hub id, or a list of them, of the training examples."""
    validation: Names | None = None
    """The same for validation. Default: cut from train."""
    test: Names | None = None
    """The same for test. Default: cut from train."""


class SplitNames(Settings):
    """One name a split, where all splits stand in one file or one Hub data set."""

    train: str
    """Name of the training part."""
    validation: str | None = None
    """Name of the validation part. Default: cut from train."""
    test: str | None = None
    """Name of the test part. Default: cut from train."""


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"found {value!r}; give a fraction between 0 and 1, or a count of examples")
    if (isinstance(value, float) and not 0 < value < 1) or (isinstance(value, int) and value < 1):
        raise ValueError(f"found {value!r}; give a fraction between 0 and 1 (0.2), or a count of at least 1 (200)")
    return value


Size = Annotated[int | float, BeforeValidator(_size)]


class SplitSettings(Settings):
    """How splits that are not given are cut from train."""

    test: Size = 0.2
    """Test examples: a fraction of all, or a count."""
    validation: Size = 0.1
    """Validation examples: a fraction of all, or a count."""
    seed: int | None = None
    """Decides which examples go where. Default: the study's seed."""
    stratify: bool = True
    """Keep the shares of the labels alike in all splits (tasks with labels only). An answer with several labels counts
    for the rarest of them."""


class LimitSettings(Settings):
    """Upper bounds on the examples of a split: a seeded subsample, stratified by label."""

    train: int | None = Field(default=None, gt=0)
    """Most training examples. Default: all."""
    validation: int | None = Field(default=None, gt=0)
    """Most validation examples. Default: all."""
    test: int | None = Field(default=None, gt=0)
    """Most test examples. Default: all."""


Label = Annotated[str, Field(min_length=1)]


class TaskSettings(Settings):
    """One task of a study."""

    data: Names | SplitSources
    """Path (relative to the study file) or Hugging Face id, a list of them, or one a split."""
    format: Format = "auto"
    """Form of the files. `auto` goes by the ending; `chat` and `alpaca` name the form of the rows."""
    rows: str | SplitNames | None = None
    """Dotted path to the rows in nested JSON (`data.paragraphs.qas`), or one path a split."""
    columns: tuple[str, ...] | None = None
    """Column names where the file has none: CSV without a header, JSON rows that are lists."""
    reader: str | None = None
    """`file.py:function`: a function of a path that yields rows as dicts. Needs code to be allowed."""
    encoding: Encoding = "utf-8"
    """Encoding of text files. A byte order mark is believed before this."""
    hub_config: str | None = None
    """Configuration of the Hub data set. Default: its only one."""
    hub_split: str | SplitNames | None = None
    """Splits of the Hub data set. Default: its train, validation and test, as far as it has them."""

    prompt: str | None = None
    """Jinja template of the user's turn over the columns; `row['Best Answer']` for odd column names."""
    phrasings: tuple[str, ...] = ()
    """Other ways to put the question: Jinja templates of the user's turn over the columns and `prompt`. A step that
    learns from the task words each of its examples by `prompt` or one of these, drawn by the seed (as in FLAN, Wei et
    al. 2022). The questions of validation and test, and shots, are always worded by `prompt`."""
    completion: str | None = None
    """Jinja template of the answer that is wanted. White space around it is cut off."""
    references: str | None = None
    """More right answers: a column, or a Jinja expression `{{ … }}`, that is a text or a list of texts."""
    merge_references: bool = False
    """Make rows with the same prompt one example with all their completions, in validation and test."""
    system: str | None = None
    """System text in front of every prompt; a conversation that brings its own keeps that."""
    labels: Literal["auto"] | tuple[Label, ...] | None = None
    """The closed set of answers: a list, `auto` for those found in train, null for open-ended tasks."""
    join_labels: bool = False
    """Take labels that differ in case, white space or Unicode form alone (`Spam`, `spam`) for one: the spelling that
    most training examples have, or that `labels` names. Else they are different labels, with a warning."""
    label_separator: str | None = Field(default=None, min_length=1)
    """What stands between labels where an answer may have several, such as `'; '` in `billing; refund`; null where it
    has one. The completion is split at it, or is a list of labels; order, repetition and white space around it make no
    difference. A row without any label is a bad row: give it one, such as `none`."""
    group: str | None = None
    """Column whose equal values (a patient, a document) must not stand on two sides of a split."""

    documents: str | None = None
    """Folder of the documents that the task may be answered from (relative to the study file), for the steps `rag`,
    `retriever` and `reranker`: text, Markdown, HTML, PDF, DOCX, and tables, of which each row is a document."""
    relevant: str | None = None
    """The documents that hold the answer: a column, or a Jinja expression `{{ … }}`, that is a name or a list of names
    (paths below the folder). With this or `evidence` retrieval itself is scored. The model does not see the column."""
    evidence: str | None = None
    """The words of the documents that hold the answer, in the same form: a right passage has at least half of them."""
    document_leaks: Literal["keep", "drop"] = "keep"
    """What to do with passages of the documents that hold a question of validation or test word for word: keep them (a
    FAQ is meant to hold the answers) or leave them out of the index. They are counted in any case."""

    metric: str | None = None
    """The metric that decides. Default: accuracy with labels, token_f1 without."""
    metrics: tuple[str, ...] | None = None
    """All metrics to compute. Default: accuracy and macro_f1 (and label_f1 with `label_separator`), or token_f1 and
    exact_match_normalised."""
    metric_options: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Settings of metrics, by metric name: `regex: {pattern: '[0-9]+'}`."""
    answer: Literal["generate", "choose", "choose-normalised"] = "generate"
    """Write the answer freely, or choose the likeliest label (normalised: per token)."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Upper bound of a written answer, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts at which a written answer ends; they are cut off."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0 writes the likeliest token each time; above, tokens are drawn at this temperature, by the study's seed."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """With a temperature: tokens are drawn only from the likeliest that together have this probability."""

    split: SplitSettings = SplitSettings()
    """How splits that are not given are cut."""
    limit: LimitSettings = LimitSettings()
    """Upper bounds on the examples of each split."""
    duplicates: Literal["stop", "drop-from-train"] = "stop"
    """What to do when the same prompt (or group) stands in two given splits."""
    near_duplicates: Literal["keep", "drop-from-train"] = "keep"
    """What to do with prompts that have nearly the words of one in another split (an overlap of 0.7): keep them, with a
    warning, or leave them out of train (out of validation, where they stand in test and validation)."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """What to do with a row that makes no example: stop, or drop it, count it and report it."""
    max_chars: int = Field(default=200_000, gt=0)
    """A prompt with its completion longer than this, in characters, is a bad row; nothing is cut."""

    @field_validator("prompt", "completion")
    @classmethod
    def _template_parses(cls, template: str | None) -> str | None:
        try:
            if template is not None:
                parse_template(template)
        except TemplateSyntaxError as error:
            raise ValueError(f"not a Jinja template: {error.message} (line {error.lineno} of {template!r})") from error
        return template

    @field_validator("phrasings")
    @classmethod
    def _phrasings_parse(cls, phrasings: tuple[str, ...]) -> tuple[str, ...]:
        for template in phrasings:
            cls._template_parses(template)
        return phrasings

    @field_validator("references", "relevant", "evidence")
    @classmethod
    def _expression_parses(cls, expression: str | None) -> str | None:
        try:
            if expression is not None:
                parse_expression(expression)
        except TemplateSyntaxError as error:
            raise ValueError(
                f"found {expression!r} ({error.message}); give a column, or one expression such as "
                "'{{ answers | map(attribute=\"text\") | list }}'"
            ) from error
        return expression

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_texts(cls, labels: object) -> object:
        if not isinstance(labels, list | tuple):
            return labels
        if any(isinstance(label, bool) for label in labels):
            raise ValueError(
                f"found {list(labels)} (YAML reads yes, no, on, off, true and false as booleans); "
                "quote the labels: ['yes', 'no']"
            )
        return tuple(str(label) if isinstance(label, int | float) else label for label in labels)

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if isinstance(labels, tuple):
            if len(labels) < 2:
                raise ValueError(f"found {list(labels)}; a closed set has at least two labels")
            if twice := sorted({label for label in labels if labels.count(label) > 1}):
                raise ValueError(f"{', '.join(twice)} stands in it twice")
        return labels

    @field_validator("label_separator")
    @classmethod
    def _words_between_labels_stand_alone(cls, separator: str | None) -> str | None:
        word = (separator or "").strip()
        if separator and word.isalnum() and word.lower() != word.upper() and separator != f" {word} ":
            raise ValueError(f"found {separator!r}, which may stand within a word; write ' {word} '")
        return separator

    @field_validator("reader")
    @classmethod
    def _reader_names_a_function(cls, reader: str | None) -> str | None:
        if reader is not None and not names_function(reader):
            raise ValueError(f"found {reader!r}; expected 'file.py:function'")
        return reader

    @model_validator(mode="after")
    def _no_contradictions(self) -> TaskSettings:
        for complaint in (
            self._contradiction_of_splits(),
            self._contradiction_of_form(),
            self._contradiction_of_answers(),
            self._contradiction_of_several_labels(),
            self._contradiction_of_documents(),
        ):
            if complaint is not None:
                raise ValueError(complaint)
        return self

    def _contradiction_of_splits(self) -> str | None:
        if isinstance(self.data, SplitSources) and isinstance(self.rows, SplitNames):
            for split in SPLITS:
                if (getattr(self.data, split) is None) != (getattr(self.rows, split) is None):
                    return f"data and rows disagree whether there is a {split} split; name it in both or in neither"
        if isinstance(self.data, SplitSources) and isinstance(self.hub_split, SplitNames):
            return "data and hub_split both name the splits; give hub_split one name, or data one id"
        given = self.sources()
        for split in ("test", "validation"):
            if split in given and self.split.is_changed(split):
                return f"split.{split} cuts a {split} split from train, but one is given; leave one of them out"
        return None

    def _contradiction_of_form(self) -> str | None:
        if (self.prompt is None) != (self.completion is None):
            there, missing = ("prompt", "completion") if self.completion is None else ("completion", "prompt")
            return f"{there} is given without {missing}; give both templates"
        if self.format in ("chat", "alpaca") and self.prompt is not None:
            return f"format: {self.format} fixes what prompt and completion are; leave the templates out, or the format"
        if self.reader is not None and self.format not in ("auto", "chat", "alpaca"):
            return f"reader reads the file, so format: {self.format} has no meaning; leave one of them out"
        if self.reader is not None and (self.rows is not None or self.columns is not None):
            return "reader yields whole rows, so rows and columns have no meaning beside it; leave them out"
        if self.rows is not None and self.format not in ("auto", "json", "chat", "alpaca"):
            return f"rows is a path in JSON, but format is {self.format}; leave one of them out"
        if self.columns is not None and self.format in ("parquet", "hub", "chat", "alpaca"):
            return f"columns names what has no names, but format: {self.format} brings its own; leave columns out"
        if (self.hub_config or self.hub_split) and self.format not in ("auto", "hub", "chat", "alpaca"):
            return f"hub_config and hub_split are for the Hugging Face Hub, but format is {self.format}"
        return None

    def _contradiction_of_answers(self) -> str | None:
        if self.answer != "generate" and self.labels is None:
            return f"answer: {self.answer} chooses among labels, but labels is null; set labels to auto or to a list"
        writing = [k for k in ("max_new_tokens", "stop", "temperature", "top_p") if self.is_changed(k)]
        if self.answer != "generate" and writing:
            have, it = ("has", "it") if len(writing) == 1 else ("have", "them")
            return f"answer: {self.answer} writes no text, so {' and '.join(writing)} {have} no meaning; leave {it} out"
        if self.is_changed("top_p") and self.temperature == 0:
            return "top_p has no meaning where temperature is 0, which takes the likeliest token; set a temperature"
        if self.merge_references and self.labels is not None:
            return "merge_references is for open-ended tasks: with labels, two answers to one prompt are a conflict"
        if self.metric is not None and self.metrics is not None and self.metric not in self.metrics:
            return f"metric {self.metric} is not among metrics ({', '.join(self.metrics)}); add it"
        if self.metrics == ():
            return "metrics is empty; name at least one, or leave it out"
        if stray := sorted(set(self.metric_options) - set(self.all_metrics())):
            return f"metric_options names {', '.join(stray)}, which is not computed; add it to metrics"
        return None

    def _contradiction_of_several_labels(self) -> str | None:
        if self.join_labels and self.labels is None:
            return "join_labels joins spellings of labels, but labels is null; set labels to auto or to a list"
        if self.join_labels and isinstance(self.labels, tuple):
            alike = alike_labels(dict.fromkeys(self.labels, 0))
            if alike:
                return f"labels names {' and '.join(map(repr, alike[0]))}, which join_labels takes for one; keep one"
        if self.label_separator is None:
            return None
        if self.labels is None:
            return "label_separator stands between labels, but labels is null; set labels to auto or to a list"
        if self.answer != "generate":
            return (
                f"answer: {self.answer} chooses one label, but with label_separator an answer may have several; "
                "use answer: generate"
            )
        if self.labels != "auto" and (label := cannot_be_split(self.labels, self.label_separator)):
            return (
                f"label {label!r} would be split by label_separator {self.label_separator!r}; separate labels by "
                "something that stands in none of them"
            )
        return None

    def _contradiction_of_documents(self) -> str | None:
        stray = [name for name in ("relevant", "evidence", "document_leaks") if self.is_changed(name)]
        if stray and self.documents is None:
            return f"{' and '.join(stray)} {'is' if len(stray) == 1 else 'are'} about documents; name their folder too"
        return None

    def sources(self) -> dict[Split, tuple[str, ...]]:
        """The files or ids of each split that is given, as far as the settings alone tell."""
        if isinstance(self.data, SplitSources):
            given = {split: getattr(self.data, split) for split in SPLITS}
        else:
            names = next((n for n in (self.rows, self.hub_split) if isinstance(n, SplitNames)), None)
            given = {s: self.data if s == "train" or (names and getattr(names, s)) else None for s in SPLITS}
        return {split: (names,) if isinstance(names, str) else names for split, names in given.items() if names}

    def rows_of(self, split: Split) -> str | None:
        """The path of the rows of one split in nested JSON."""
        return getattr(self.rows, split) if isinstance(self.rows, SplitNames) else self.rows

    def hub_split_of(self, split: Split) -> str | None:
        """The Hub's name of one split."""
        return getattr(self.hub_split, split) if isinstance(self.hub_split, SplitNames) else self.hub_split

    def all_metrics(self) -> tuple[str, ...]:
        """Every metric to compute, the deciding one first."""
        metrics = self.metrics if self.metrics is not None else self._usual_metrics()
        first = self.metric or metrics[0]
        return tuple(dict.fromkeys((first, *metrics)))

    def _usual_metrics(self) -> tuple[str, ...]:
        if self.labels is None:
            return ("token_f1", "exact_match_normalised")
        return ("accuracy", "macro_f1") if self.label_separator is None else ("accuracy", "label_f1", "macro_f1")

    def decoding(self, seed: int) -> Decoding:
        """How answers are got; `seed` decides where they are drawn."""
        return Decoding(
            answer=self.answer,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed if self.temperature else 0,
        )
