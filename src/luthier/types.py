"""The values that flow through Luthier: plain, frozen, and free of torch.

File → `Example` → steps fold over a `Predictor` → `Completion` → `Score`. A `Prompt` is an example
without its target; predictors are given prompts only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from luthier.words import spaced

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "validation", "test"]

Training = Literal["none", "small model", "language model"]
"""What was trained for an approach: nothing, a small model beside the language model (a classifier, an embedder), or
the language model itself."""
TRAININGS: tuple[Training, ...] = get_args(Training)

# Marks a field that holds a folder, or a name that may be one: inside a run it is written relative to the run.
FOLDER = {"place": "folder"}
NAMED = {"place": "named"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an example was read: a file and, where there is one, the line (or row) in it, from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document.

    Attributes:
        id: Of its document's name and its number there: `manual.pdf#3`.
        document: The document's name.
        headings: Those that it stands under, the uppermost first.
        page: The page that most of it stands on, from 1; None where there are no pages.
        start, end: Its place in the document's text, in characters.
        digest: Of its document, to tell a version from another.
    """

    id: str
    document: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    digest: str

    @property
    def place(self) -> str:
        """Where it stands, for people: page, and heading."""
        parts = [f"page {self.page}"] if self.page is not None else []
        parts += self.headings[-1:]
        return ", ".join([self.document, *parts])

    def searched(self, *, headings: bool) -> str:
        """What is embedded and searched for it."""
        above = list(dict.fromkeys([self.title, *self.headings])) if headings else []
        return "\n".join([" > ".join(above), self.text]) if above else self.text


@dataclass(frozen=True, slots=True)
class Relevance:
    """Where the documents hold what an example asks for.

    Attributes:
        documents: Names of the documents that do; none where only `evidence` says it.
        evidence: Texts of the documents that do, word for word, case and punctuation aside; none where a whole document
            does.
    """

    documents: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    def holds(self, passage: Passage) -> bool:
        """Whether a passage is a right one: of one of the documents, and holding an evidence, of a longer one half."""
        if self.documents and passage.document not in self.documents:
            return False
        if not self.evidence:
            return bool(self.documents)
        return any(_half_stands_in(own, passage.text) for own in self.evidence)


# A half, or a passage, of fewer words may stand somewhere by chance.
_LEAST_WORDS = 5


def _half_stands_in(part: str, text: str) -> bool:
    """Whether the first or the second half of a part's words, or all of a text that they go around, stands in it; of
    few words all of them."""
    own = spaced(part).split()
    if not own:
        return False
    middle = (len(own) + 1) // 2
    halves = [own[:middle], own[middle:]] if len(own) >= 2 * _LEAST_WORDS else [own]
    within = spaced(text)
    around = within.count(" ") > _LEAST_WORDS and within in spaced(part)
    return around or any(f" {' '.join(half)} " in within for half in halves)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a predictor is asked. It never holds the target.

    Attributes:
        id: Unique within the task, stable from run to run.
        task: Name of the task.
        messages: The conversation up to the answer; the last turn is not the assistant's.
        fields: The row's columns as text, for wording templates; columns that make up the
            completion, the label or the references are left out.
        fingerprint: Hash of the normalised text; equal for duplicates.
        group: Value of the grouping column, None where there is none.
        passages: Shown by a predictor that retrieves, in place of those that it would find; None where it looks.
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    fields: Mapping[str, str]
    fingerprint: str
    group: str | None = None
    passages: tuple[Passage, ...] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with the completion that is wanted.

    Attributes:
        references: All right answers, the completion among them; at least one.
        label: The completion as one of the task's labels, None for open-ended tasks.
        place: Where the example was read.
        relevance: Where the task's documents hold the answer, None where that is not known.
    """

    prompt: Prompt
    completion: str
    references: tuple[str, ...]
    label: str | None
    place: Place
    relevance: Relevance | None = None

    @property
    def id(self) -> str:
        return self.prompt.id


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents that a task is answered from: where they lie, and the hash of what was read of them."""

    folder: str
    digest: str


@dataclass(frozen=True, slots=True)
class Task:
    """Examples in three splits, with what is needed to answer and score them.

    Attributes:
        labels: The closed label set in its order, empty for open-ended tasks.
        phrasings: Templates of other ways to put the question, which only training examples take.
        metric: The metric that decides; `metrics` are all that are computed, `metric` first.
        metric_options: Settings of metrics, by metric name (such as the pattern of `regex`).
        report: What reading, checking, deduplicating and splitting found: counts and reasons,
            ready for JSON.
        documents: What it may be answered from, None where there are none.
        label_separator: What stands between the labels of an answer, where it may have several; empty where it has one.
            `labels` are then `luthier.data.labels.Labels`, and a completion has its labels in their order.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    metric_options: Mapping[str, Mapping[str, str]]
    decoding: Decoding
    report: Mapping[str, object]
    phrasings: tuple[str, ...] = ()
    documents: Documents | None = None
    label_separator: str = ""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is got from the model.

    Attributes:
        answer: `generate` free text; `choose` the label with the highest log-probability;
            `choose-normalised` the one with the highest log-probability per token.
        max_new_tokens: Upper bound of a generated answer, in tokens.
        stop: Strings at which generation ends; they are cut off.
        temperature: 0 takes the likeliest token; above, tokens are drawn from the distribution at this temperature.
        top_p: Where tokens are drawn: only from the likeliest that together have this probability.
        seed: Where tokens are drawn: decides which.
    """

    answer: Literal["generate", "choose", "choose-normalised"] = "generate"
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as a name and folders, without its tensors.

    Attributes:
        base: Folder of the base model (safetensors, config, tokenizer), or of a fully tuned one.
        adapters: PEFT adapter folders, merged into the base one after the other.
        head: Folder of a classification head that stands in the place of the layer that gives the next token; None for
            a model that writes.
    """

    base: str = field(metadata=FOLDER)
    adapters: tuple[str, ...] = field(default=(), metadata=FOLDER)
    head: str | None = field(default=None, metadata=FOLDER)

    @property
    def writing(self) -> ModelRef:
        """The same model with the layer that gives the next token."""
        return replace(self, head=None)


@dataclass(frozen=True, slots=True)
class Wording:
    """How the question is put: a system text and a Jinja template for the last user turn.

    The template sees the prompt's `fields` and `prompt`, the user text as the task words it.
    None leaves the task's own wording.
    """

    system: str | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Shots:
    """Worked examples shown before the question.

    Attributes:
        pool: Training examples to draw from. For `random` and `spread` in the order in which they
            are taken: the same first `count` for every prompt, except that an example which is
            the prompt itself, its duplicate or of its group is passed over.
        count: Shots a prompt.
        by: How they are chosen.
        embedder: For `embedding`: the sentence embedder, as the study names it.
    """

    pool: tuple[Example, ...]
    count: int
    by: Literal["random", "spread", "bm25", "embedding"]
    embedder: str | None = None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Where the passages for a prompt come from, and how they are shown.

    Attributes:
        index: The index's folder.
        embedder: Folder or name of the embedder that the index was made with.
        kind: How is searched.
        k: Passages a prompt, at most.
        query: Jinja template of what is searched for; None for the prompt's last turn.
        reranker: Folder or name of a cross-encoder that orders what was found; None for none.
        depth: With a reranker: passages that it orders.
        tokens: Tokens that passages may take together.
        order: `document`: as they stand in the documents, so that prompts with the same passages share them;
            `best-first`, `best-last`: by their rank.
        instruction: What stands before the passages.
        absent: The answer where the passages do not hold it; empty where the model is not told of one.
        cite: Whether the answer is to name passages by their numbers.
        guarded: Whether passages are fenced off as data.
        shot_passages: Passages that stand with each worked example; 0 for none.
    """

    index: str = field(metadata=NAMED)
    embedder: str = field(metadata=NAMED)
    kind: Literal["dense", "lexical", "hybrid"] = "hybrid"
    k: int = 3
    query: str | None = None
    reranker: str | None = field(default=None, metadata=NAMED)
    depth: int = 20
    tokens: int = 1000
    order: Literal["document", "best-first", "best-last"] = "document"
    instruction: str = ""
    absent: str = ""
    cite: bool = False
    guarded: bool = True
    shot_passages: int = 0


@dataclass(frozen=True, slots=True)
class Grounding:
    """The passages for one prompt, the best first, and how they are shown."""

    retrieval: Retrieval
    passages: tuple[Passage, ...]


EmbeddedAs = Literal["text", "query", "document"]
"""What a text is to an embedder that reads questions and documents each in its own way, such as behind other words; two
texts of one kind are compared as `text`."""


class TextEmbedder(Protocol):
    """What makes vectors of texts."""

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, float32. (N, D)"""
        ...

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than it reads; what is behind that is cut."""
        ...

    def unknown_share(self, texts: Sequence[str]) -> float:
        """Share of the texts' words that it has no token for, from 0 to 1."""
        ...


class Tools(Protocol):
    """What a predictor may use to answer. The engine is one."""

    def embedder(self, name: str) -> TextEmbedder:
        """The embedder of a name."""
        ...

    def hidden(self, predictor: PromptedModel, prompts: Sequence[Prompt], layers: Sequence[int]) -> np.ndarray:
        """What layers of a language model hold of its prompts: the mean over their own tokens, and that of the last
        one, float32. (P, layers, 2, H)"""
        ...

    def prompt_tokens(self, predictor: PromptedModel, prompts: Sequence[Prompt]) -> Sequence[int]:
        """Tokens of each prompt as a language model gets it."""
        ...

    def layers(self, ref: ModelRef) -> int:
        """How many layers a language model has; nothing is loaded for it."""
        ...

    def function(self, name: str, folder: Path) -> Callable[..., Any]:
        """The user's function `file.py:function` in a folder.

        Raises:
            CodeRefused: The user has not allowed code.
        """
        ...

    def find_passages(self, retrieval: Retrieval, prompts: Sequence[Prompt]) -> Sequence[tuple[Passage, ...]]:
        """For each prompt its passages, best first."""
        ...


class Predictor:
    """Something that answers prompts: a frozen record, of one of several kinds. Steps return it with fields replaced.

    A kind is a frozen dataclass under this class with a `kind` of its own and `answer`; that is all that measuring,
    writing and reading need. `luthier.record` writes every field and reads every field. A field that holds a folder is
    marked by `FOLDER` or `NAMED`.
    """

    __slots__ = ()
    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Predictor]]] = {}
    """All of them, by `kind`."""
    reads_columns: ClassVar[bool] = False
    """Whether it reads a row's columns. A run's answers do not keep them, so it is not asked again when exported."""

    def __init_subclass__(cls, **more: object) -> None:
        super().__init_subclass__(**more)
        Predictor.kinds[cls.kind] = cls  # a dataclass with slots is made twice, and the second is the one

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The language models that it answers with, each once; none where it needs none."""
        return ()

    def asked(self, task: Task, target: str) -> Predictor:
        """As it is asked a task, where `target` is the task that the verdict concerns."""
        return self.serving(task.name, task.decoding, target)

    def serving(self, task: str, decoding: Decoding, target: str) -> Predictor:
        """The same for a task that is known by its name and the decoding that its settings give."""
        return self

    def declines(self, task: str) -> str:
        """Why it has no answers to a task's prompts; empty where it has."""
        return ""

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        """Answers to prompts, in their order.

        Args:
            labels: The task's labels, none for open-ended tasks.
            advance: Called with the number of prompts answered since the last call.
        """
        raise NotImplementedError

    def export(self, folder: Path, tools: Tools) -> Predictor:
        """Write all that it answers with into a folder, for others to load; what gives the same answers from there.

        A language model is exported elsewhere.
        """
        raise NotImplementedError

    def usage(self) -> str:
        """Markdown: how what `export` wrote is loaded and asked without Luthier."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Nothing(Predictor):
    """What an approach begins from that uses no language model. It answers nothing: its first step gives what does."""

    kind: ClassVar[str] = "nothing"


@dataclass(frozen=True, slots=True)
class PromptedModel(Predictor):
    """A language model, and how it is prompted. The engine answers with it.

    Attributes:
        model: What answers, but for the tasks in `routes`.
        retrieval: How passages are found and shown; None where it answers without.
        retriever, reranker: Folders of an embedder and a cross-encoder that steps have trained, which `rag` then uses;
            None for those that it names.
        task_shots: Task → the shots for its prompts, where the target is the mean over several tasks.
        routes: Task → the model that answers its prompts.
    """

    kind: ClassVar[str] = "prompted model"

    model: ModelRef
    decoding: Decoding
    wording: Wording = field(default_factory=Wording)
    shots: Shots | None = None
    task_shots: Mapping[str, Shots] = field(default_factory=dict)
    routes: Mapping[str, ModelRef] = field(default_factory=dict)
    retrieval: Retrieval | None = None
    retriever: str | None = field(default=None, metadata=NAMED)
    reranker: str | None = field(default=None, metadata=NAMED)

    def asked(self, task: Task, target: str) -> PromptedModel:
        """As it is asked a task: wording, shots and decoding were made for the target, and serve no other."""
        return self.serving(task.name, task.decoding, target)

    def serving(self, task: str, decoding: Decoding, target: str) -> PromptedModel:
        """The same for a task that is known by its name and the decoding that its settings give."""
        own = self.routed(task)
        if task == target:
            return own
        return PromptedModel(own.model.writing, decoding, shots=self.task_shots.get(task))

    def routed(self, task: str) -> PromptedModel:
        """With the one model that answers the prompts of a task."""
        return replace(self, model=self.routes.get(task, self.model), routes={}) if self.routes else self

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """All that it may answer with, each once."""
        return tuple(dict.fromkeys((self.model, *self.routes.values())))


def prompted(predictor: Predictor) -> PromptedModel:
    """The predictor, where it has been checked before that a language model answers."""
    assert isinstance(predictor, PromptedModel), f"a language model is needed here, and this is {predictor.kind}"
    return predictor


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, with what it took.

    Attributes:
        messages: The whole prompt as sent: wording applied, shots in front.
        stopped: `end` of turn, a `stop` string, the `length` limit, a `choice` among labels, a `copy` of a known
            answer, what a `rule` gives, or `abstained`: it has no answer, and `text` is what it says then.
        dropped_shots: Shots that did not fit in the model's window.
        label_logprobs: For choices: log-probability of each label in nats (summed over its tokens).
        passages: Those that were shown, in their order; the first is number 1.
        passage_tokens: Tokens that showing them took, the instruction that goes with them included.
        dropped_passages: Passages that were found and did not fit.
        cited: Numbers of the passages that the answer named, as it wrote them; `text` is without them.
        written: The answer as it was written, where `text` is without something.
        confidence: How sure it is of its answer, in a unit of its own in which more is surer (of a choice its share of
            the probability of all labels); also of one that it kept back. None where nothing says it.
    """

    id: str
    text: str
    messages: tuple[Message, ...]
    prompt_tokens: int
    completion_tokens: int
    stopped: Literal["end", "stop", "length", "choice", "copy", "rule", "abstained"]
    dropped_shots: int = 0
    label_logprobs: Mapping[str, float] | None = None
    passages: tuple[Passage, ...] = ()
    passage_tokens: int = 0
    dropped_passages: int = 0
    cited: tuple[int, ...] = ()
    written: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One metric's value for one answer; None with a reason where it cannot be scored."""

    id: str
    metric: str
    value: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What an approach took, measured.

    Attributes:
        train_s: Seconds of training, of searching for settings, validation included, and of indexing documents.
        search_s: The part of `train_s` spent on choices that were not taken.
        tokens_seen: Tokens that went through training, padding left out.
        tokens_per_s: `tokens_seen` a second of training proper.
        peak_bytes: Highest resident (or device) memory while training or, untrained, answering.
        trainable_parameters: 0 where no weight is trained.
        trainable_share: Their share of all parameters.
        stored_bytes: Bytes on disk beyond the base model, the weights of every stage included.
        prompt_tokens: Mean prompt tokens a request.
        window_share: `prompt_tokens` as a share of the model's window.
        passage_tokens: The part of `prompt_tokens` that retrieved passages take, with what goes with them.
        latency_p50_s: Median seconds for one request alone.
        latency_p95_s: 95th percentile of the same.
        throughput_per_s: Requests a second when answered in batches.
        seconds_per_request: What the recommendation counts with: of a language model what it computes for a request
            when many are answered together, counted and turned into seconds by its median speed; else 1 / throughput.
        completion_tokens: Mean tokens of an answer; of a choice those of the label.
    """

    train_s: float
    search_s: float
    tokens_seen: int
    tokens_per_s: float | None
    peak_bytes: int
    trainable_parameters: int
    trainable_share: float
    stored_bytes: int
    prompt_tokens: float
    window_share: float
    latency_p50_s: float
    latency_p95_s: float
    throughput_per_s: float
    seconds_per_request: float
    passage_tokens: float = 0.0
    completion_tokens: float = 0.0
