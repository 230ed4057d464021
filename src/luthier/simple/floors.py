"""Floors: rules so simple that an approach which is not shown to beat them is of no use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from luthier.prompt.similar import Reading
from luthier.types import NAMED, Completion, Predictor, Prompt, Retrieval, Tools

# A sentence ends with a mark, perhaps with quotes or brackets, before white space; in some scripts without it.
_SENTENCE = re.compile(r".+?(?:[.!?…।؟۔]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’]*|\n+|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MostFrequent(Predictor):
    """Gives the most frequent answer of the training examples.

    Attributes:
        answers: Task → that answer.
    """

    kind: ClassVar[str] = "most frequent answer"

    answers: Mapping[str, str]

    def declines(self, task: str) -> str:
        return "" if task in self.answers else "it knows the answers of other tasks"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        return _copies(prompts, [self.answers[prompt.task] for prompt in prompts], advance)


@dataclass(frozen=True, slots=True)
class DrawByFrequency(Predictor):
    """Draws among the labels as often as the training examples have them, the same for the same prompt.

    Attributes:
        counts: Task → label → how often.
    """

    kind: ClassVar[str] = "draw by frequency"

    counts: Mapping[str, Mapping[str, int]]
    seed: int

    def declines(self, task: str) -> str:
        return "" if task in self.counts else "it knows the labels of other tasks"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        texts = []
        for prompt in prompts:
            counts = self.counts[prompt.task]
            draw = Random(f"{self.seed}/{prompt.id}")
            texts += draw.choices(list(counts), weights=list(counts.values()))
        return _copies(prompts, texts, advance)


@dataclass(frozen=True, slots=True)
class FirstSentences(Predictor):
    """Gives the first sentences of what the prompt is about.

    Attributes:
        sentences: How many, by task: as many as come nearest to the length of the answers that are wanted.
        reading: What is read of a prompt, by task.
    """

    kind: ClassVar[str] = "first sentences"

    sentences: Mapping[str, int]
    reading: Mapping[str, Reading]

    def declines(self, task: str) -> str:
        return "" if task in self.sentences else "it knows other tasks"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        texts = [" ".join(sentences_of(self.reading[p.task].text(p))[: self.sentences[p.task]]) for p in prompts]
        return _copies(prompts, texts, advance)


@dataclass(frozen=True, slots=True)
class BestSentence(Predictor):
    """Gives the sentence that is most similar to the question, out of the passages that search finds first.

    Attributes:
        embedder: What similarity is measured by.
    """

    kind: ClassVar[str] = "best sentence"

    task: str
    retrieval: Retrieval
    embedder: str = field(metadata=NAMED)

    def declines(self, task: str) -> str:
        return "" if task == self.task else "it reads the documents of another task"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        texts = []
        for prompt, passages in zip(prompts, tools.find_passages(self.retrieval, prompts), strict=True):
            sentences = [sentence for passage in passages for sentence in sentences_of(passage.text)]
            if not sentences:
                texts.append("")
                continue
            vectors = tools.embedder(self.embedder).embed([prompt.messages[-1].content, *sentences])
            texts.append(sentences[int((vectors[1:] @ vectors[0]).argmax())])
        return _copies(prompts, texts, advance)


def most_frequent(answers: Sequence[str]) -> str:
    """The most frequent of the answers, of equals the first."""
    return Counter(answers).most_common(1)[0][0]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    return [sentence for match in _SENTENCE.finditer(text) if (sentence := match.group().strip())]


def sentences_that_fit(texts: Sequence[str], answers: Sequence[str], most: int = 8) -> int:
    """How many first sentences of the texts come nearest to the answers in length, of all together; 1 at least."""
    split = [sentences_of(text) for text in texts]
    wanted = sum(map(len, answers))

    def distance(count: int) -> int:
        return abs(sum(len(" ".join(own[:count])) for own in split) - wanted)

    return min(range(1, most + 1), key=distance)


def _copies(prompts: Sequence[Prompt], texts: Sequence[str], advance: Callable[[int], None]) -> list[Completion]:
    advance(len(prompts))
    return [Completion(own.id, text, own.messages, 0, 0, "copy") for own, text in zip(prompts, texts, strict=True)]
