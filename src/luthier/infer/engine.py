"""Answering and scoring with predictors: loads what a predictor names, keeps the last model at hand."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from luthier.errors import StudyError
from luthier.infer.choose import label_logprobs
from luthier.infer.divergence import Divergence, Predictions, divergences, predictions
from luthier.infer.generate import Generated, generate
from luthier.infer.hidden import pooled_states
from luthier.infer.logprobs import LogProb, sequence_logprobs
from luthier.model.classify import labels_of, saved_labels
from luthier.model.device import autocast
from luthier.model.fused import fuse
from luthier.model.load import (
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    release_memory,
    reuse_freed_memory,
    window_of,
)
from luthier.model.virtual import count_virtual_tokens, virtual_ids, virtual_tokens_of
from luthier.progress import Advance
from luthier.prompt.passages import passages_of_shot, without_citations
from luthier.prompt.render import RenderedPrompt, Renderer, TrainingSequence, classified
from luthier.prompt.shots import ShotSelector
from luthier.prompt.wording import worded
from luthier.tree.logprobs import base_of
from luthier.tree.work import timed_beside
from luthier.types import (
    Completion,
    Decoding,
    Example,
    Grounding,
    Message,
    ModelRef,
    Passage,
    Predictor,
    Prompt,
    PromptedModel,
    Retrieval,
    Shots,
    TextEmbedder,
)
from luthier.user_code import load_function

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


log = logging.getLogger(__name__)


class PassageSource(Protocol):
    """Where passages come from."""

    def find(self, retrieval: Retrieval, prompts: Sequence[Prompt]) -> Sequence[tuple[Passage, ...]]:
        """For each prompt its passages, best first."""
        ...

    def by_document(self, retrieval: Retrieval) -> Mapping[str, Sequence[Passage]]:
        """Name → passages, of all documents that are searched."""
        ...


class Engine:
    """Runs predictors on one device in one precision.

    Args:
        device: `cpu`, `cuda` or `mps`.
        precision: `bfloat16` or `float32`.
        embedders: Gives the sentence embedder of a name, for predictors that compare texts by it.
        source: Finds passages, for predictors that retrieve.
        allow_code: Whether Python functions of the user's may run, for predictors that answer by them.
    """

    def __init__(
        self,
        device: str,
        precision: str,
        embedders: Callable[[str], TextEmbedder] | None = None,
        source: PassageSource | None = None,
        *,
        allow_code: bool = False,
    ) -> None:
        reuse_freed_memory()
        self.device = device
        self.precision = precision
        self._embedders = embedders
        self._source = source
        self._allow_code = allow_code
        self._loaded: tuple[ModelRef, Any] | None = None
        self._renderers: dict[tuple[str, int], Renderer] = {}
        self._shots_with_passages: dict[Retrieval, dict[str, Example]] = {}
        self._selector: tuple[Shots, ShotSelector] | None = None  # of the predictor used last

    def renderer(self, ref: ModelRef, *, virtual: int | None = None) -> Renderer:
        """The renderer for the model's tokenizer and window.

        Args:
            virtual: Virtual tokens before every prompt; None for those that the model's adapters bring.
        """
        count = sum(map(count_virtual_tokens, ref.adapters)) if virtual is None else virtual
        if (ref.base, count) not in self._renderers:
            tokenizer, config = load_tokenizer(ref.base), load_config(ref.base)
            check_vocabulary(tokenizer, config, ref.base)
            self._renderers[ref.base, count] = Renderer(tokenizer, window_of(config), virtual_ids(count))
        return self._renderers[ref.base, count]

    def _renderer(self, ref: ModelRef, model: Any) -> Renderer:
        """That of a model in training, if one is given."""
        if model is None:
            return self.renderer(ref)
        return self.renderer(ref, virtual=len(virtual_tokens_of(base_of(model)) or ()))

    def embedder(self, name: str) -> TextEmbedder:
        """The embedder of a name."""
        assert self._embedders is not None, "an engine for predictors that embed is given what does"
        return self._embedders(name)

    def function(self, name: str, folder: Path) -> Callable[..., Any]:
        """The user's function `file.py:function` in a folder.

        Raises:
            CodeRefused: The user has not allowed code.
            StudyError: There is no such function, or its file does not run.
        """
        return load_function(
            name,
            folder,
            what="rule",
            allowed=self._allow_code,
            otherwise="leave the approach out that answers by it",
            error=StudyError,
        )

    def hidden(
        self,
        predictor: PromptedModel,
        prompts: Sequence[Prompt],
        layers: Sequence[int],
        advance: Advance = lambda done: None,
    ) -> np.ndarray:
        """What layers (from 1) hold of the prompts as the predictor renders them: the mean over the tokens of the last
        turn and what stands behind it, and that of the last token, float32. (P, layers, 2, H)"""
        # With another last turn, and the same shots and passages, all that stands before it is the same.
        others = [replace(own, messages=(*own.messages[:-1], Message("user", "\u241f"))) for own in prompts]
        shots, grounds = self.select_shots(predictor, prompts), self.ground(predictor, prompts)
        renderer = self.renderer(predictor.model)
        ids, other_ids = (
            [
                renderer.prompt(prompt, predictor.wording, own, 0, ground).ids
                for prompt, own, ground in zip(asked, shots, grounds, strict=True)
            ]
            for asked in (prompts, others)
        )
        begins = [_shared(one, other) for one, other in zip(ids, other_ids, strict=True)]
        whole = [begin if begin < len(own) else 0 for begin, own in zip(begins, ids, strict=True)]
        with self._running(predictor.model, None) as running:
            return pooled_states(running, ids, whole, layers, advance)

    def prompt_tokens(self, predictor: PromptedModel, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt as the predictor renders it."""
        return [len(rendered.ids) for rendered in self.render(predictor, prompts, reserve=0)]

    def layers(self, ref: ModelRef) -> int:
        """How many layers a language model has; nothing is loaded for it."""
        return int(load_config(ref.base).get_text_config().num_hidden_layers)

    def find_passages(self, retrieval: Retrieval, prompts: Sequence[Prompt]) -> Sequence[tuple[Passage, ...]]:
        """For each prompt its passages, best first."""
        return self._passage_source.find(retrieval, prompts)

    def select_shots(self, predictor: PromptedModel, prompts: Sequence[Prompt]) -> list[tuple[Example, ...]]:
        """The shots that the predictor shows before each prompt, with their passages where it shows these too."""
        if predictor.shots is None:
            return [()] * len(prompts)
        shots, embed = predictor.shots, None
        if self._selector is None or self._selector[0] != shots:
            if shots.embedder is not None:
                embed = self.embedder(shots.embedder).embed
            self._selector = (shots, ShotSelector(shots, embed))
        selected = self._selector[1].select(prompts)
        if predictor.retrieval is None or not predictor.retrieval.shot_passages:
            return selected
        known = self._grounded_shots(predictor.retrieval, {shot.id: shot for own in selected for shot in own})
        return [tuple(known[shot.id] for shot in own) for own in selected]

    def _grounded_shots(self, retrieval: Retrieval, shots: Mapping[str, Example]) -> Mapping[str, Example]:
        """Worked examples by their ids, each with its passages; they are looked for once."""
        known = self._shots_with_passages.setdefault(retrieval, {})
        missing = [shot for id, shot in shots.items() if id not in known]
        if missing:
            count = retrieval.shot_passages
            wide = replace(retrieval, k=max(count, retrieval.k))
            by_document = self.documents_of(retrieval)
            for shot, ranked in zip(missing, self.find_passages(wide, [own.prompt for own in missing]), strict=True):
                shown = passages_of_shot(shot, ranked, by_document, count)
                known[shot.id] = replace(shot, prompt=replace(shot.prompt, passages=shown))
        return known

    def ground(self, predictor: PromptedModel, prompts: Sequence[Prompt]) -> list[Grounding | None]:
        """The passages that the predictor shows with each prompt; None for one that shows none."""
        retrieval = predictor.retrieval
        if retrieval is None:
            return [None] * len(prompts)
        open_prompts = [prompt for prompt in prompts if prompt.passages is None]
        found: Iterator[tuple[Passage, ...]] = iter(())
        if open_prompts:
            found = iter(self.find_passages(retrieval, open_prompts))
        return [Grounding(retrieval, next(found) if own.passages is None else own.passages) for own in prompts]

    def documents_of(self, retrieval: Retrieval) -> Mapping[str, Sequence[Passage]]:
        """Name → passages, of all documents that a retrieval searches."""
        return self._passage_source.by_document(retrieval)

    @property
    def _passage_source(self) -> PassageSource:
        assert self._source is not None, "an engine for predictors that retrieve is given where from"
        return self._source

    def render(
        self, predictor: PromptedModel, prompts: Sequence[Prompt], reserve: int, *, model: Any = None
    ) -> list[RenderedPrompt]:
        """The prompts as the model (or one in training) will get them, leaving `reserve` tokens for the answer."""
        renderer = self._renderer(predictor.model, model)
        shots, grounds = self.select_shots(predictor, prompts), self.ground(predictor, prompts)
        return [
            renderer.prompt(prompt, predictor.wording, own, reserve, ground)
            for prompt, own, ground in zip(prompts, shots, grounds, strict=True)
        ]

    def answer(
        self,
        predictor: Predictor,
        prompts: Sequence[Prompt],
        labels: Sequence[str] = (),
        *,
        model: Any = None,
        advance: Advance = lambda done: None,
    ) -> list[Completion]:
        """Answers to `prompts`, in their order.

        Args:
            labels: The task's labels, for predictors that choose among them.
            model: A model in training to use in place of the predictor's own.
            advance: Called with the number of prompts answered since the last call.
        """
        if not prompts:
            return []
        if not isinstance(predictor, PromptedModel):
            return predictor.answer(self, prompts, labels, advance)
        assert not predictor.routes, "which model answers is settled by PromptedModel.asked"
        choosing = predictor.decoding.answer != "generate"
        renderer = self._renderer(predictor.model, model)
        with timed_beside():
            if choosing:
                own = worded(prompts[0], predictor.wording)
                label_ids = self.label_ids(predictor, own, labels, model=model)
                rendered = self.render(predictor, prompts, reserve=max(map(len, label_ids)), model=model)
            else:
                rendered = self.render(predictor, prompts, reserve=predictor.decoding.max_new_tokens, model=model)
        ids = [r.ids for r in rendered]
        with self._running(predictor.model, model) as running:
            if not choosing:
                answers = generate(
                    running,
                    ids,
                    tokenizer=renderer.tokenizer,
                    end_ids=renderer.end_ids,
                    decoding=predictor.decoding,
                    advance=advance,
                )
                cites = predictor.retrieval is not None and predictor.retrieval.cite
                return [_written(r, a, cites=cites) for r, a in zip(rendered, answers, strict=True)]
            sums = label_logprobs(running, ids, label_ids, advance=advance)
        return [
            _chosen(r, row, labels, label_ids, normalised=predictor.decoding.answer == "choose-normalised")
            for r, row in zip(rendered, sums, strict=True)
        ]

    def label_ids(
        self, predictor: PromptedModel, messages: tuple[Message, ...], labels: Sequence[str], *, model: Any = None
    ) -> list[tuple[int, ...]]:
        """Each label as the predictor predicts it behind the messages: its tokens, or its number in the head's labels.

        Args:
            model: A model in training to use in place of the predictor's own.
        """
        classes = self._classes(predictor.model, model)
        if classes is not None:
            return [(classes.index(label),) for label in labels]
        renderer = self._renderer(predictor.model, model)
        return [renderer.completion(messages, label) for label in labels]

    def _classes(self, ref: ModelRef, model: Any) -> tuple[str, ...] | None:
        """The labels of a classification head; None where there is none."""
        if model is not None:
            return labels_of(model)
        return None if ref.head is None else saved_labels(ref.head)

    def questions(
        self, ref: ModelRef, count: int, decoding: Decoding, *, advance: Advance = lambda done: None
    ) -> list[str]:
        """Questions that the model writes itself after the opening of a user's turn (Xu et al. 2024, "Magpie")."""
        turn = self.renderer(ref).question()
        with self._running(ref, None) as running:
            found = generate(
                running,
                [turn.opening] * count,
                tokenizer=self.renderer(ref).tokenizer,
                end_ids=turn.end_ids,
                decoding=replace(decoding, stop=(*decoding.stop, *turn.stop)),
                advance=advance,
            )
        return [own.text for own in found]

    def reference_logprobs(
        self,
        predictor: PromptedModel,
        examples: Sequence[Example],
        *,
        model: Any = None,
        advance: Advance = lambda done: None,
    ) -> list[LogProb]:
        """For each example the log-probability of its completion, end of turn included, given its prompt."""
        if not examples:
            return []
        assert not predictor.routes, "which model answers is settled by PromptedModel.asked"
        renderer = self._renderer(predictor.model, model)
        if self._classes(predictor.model, model) is None:
            sequences = self._references(predictor, examples, renderer)
        else:
            rendered = self.render(predictor, [e.prompt for e in examples], reserve=0, model=model)
            sequences = [
                classified(r, *self.label_ids(predictor, r.messages, [e.completion], model=model))
                for r, e in zip(rendered, examples, strict=True)
            ]
        return self._trained_logprobs(predictor.model, sequences, model, advance)

    def block_logprobs(
        self, ref: ModelRef, texts: Sequence[str], block_tokens: int, *, model: Any = None
    ) -> list[LogProb]:
        """For each block of the raw texts, cut as for training, the log-probability of all its tokens but the first.

        Args:
            model: A model in training to use in place of the predictor's own.
        """
        renderer = self._renderer(ref, model)
        blocks = [block for text in texts for block in renderer.blocks(text, "", block_tokens)]
        return self._trained_logprobs(ref, blocks, model)

    def _trained_logprobs(
        self,
        ref: ModelRef,
        sequences: Sequence[TrainingSequence],
        model: Any,
        advance: Advance = lambda done: None,
    ) -> list[LogProb]:
        """For each sequence the log-probability of its trained tokens."""
        with self._running(ref, model) as running:
            return sequence_logprobs(
                running,
                [s.ids for s in sequences],
                [s.trained for s in sequences],
                advance=advance,
            )

    def text_logprobs(
        self, ref: ModelRef, texts: Sequence[str], *, model: Any = None, advance: Advance = lambda done: None
    ) -> list[LogProb]:
        """For each raw text the log-probability of its tokens but the first.

        Args:
            model: A model in training to use in place of the predictor's own.
        """
        sequences = _texts(texts, self._renderer(ref, model))
        with self._running(ref, model) as running:
            return sequence_logprobs(
                running,
                [s.ids for s in sequences],
                [s.trained for s in sequences],
                advance=advance,
            )

    def reference_sequences(self, predictor: PromptedModel, examples: Sequence[Example]) -> list[TrainingSequence]:
        """Examples with their completions as the predictor asks for them, without virtual tokens, for `predictions`."""
        renderer = self.renderer(predictor.model)
        found = self._references(predictor, examples, renderer)
        return [_without_beginning(sequence, len(renderer.before)) for sequence in found]

    def text_sequences(self, ref: ModelRef, texts: Sequence[str]) -> list[TrainingSequence]:
        """Raw texts whose tokens but the first count, without virtual tokens, for `predictions`."""
        renderer = self.renderer(ref)
        return [_without_beginning(sequence, len(renderer.before)) for sequence in _texts(texts, renderer)]

    def predictions(
        self, ref: ModelRef, sequences: Sequence[TrainingSequence], *, advance: Advance = lambda done: None
    ) -> Predictions:
        """What a model predicts at the counted tokens of sequences, behind its own virtual tokens if it has any."""
        before = self.renderer(ref).before
        with self._running(ref, None) as running:
            return predictions(
                running,
                [before + s.ids for s in sequences],
                [(False,) * len(before) + s.trained for s in sequences],
                advance=advance,
            )

    def divergences(self, before: Predictions, after: Predictions) -> list[Divergence]:
        """For each sequence how far the second model's predictions lie from the first's: KL(before‖after)."""
        import torch

        with torch.inference_mode():
            return divergences(before, after)

    def _references(
        self, predictor: PromptedModel, examples: Sequence[Example], renderer: Renderer
    ) -> list[TrainingSequence]:
        prompts = [e.prompt for e in examples]
        shots, grounds = self.select_shots(predictor, prompts), self.ground(predictor, prompts)
        return [
            renderer.training(example, predictor.wording, own, grounding=ground)
            for example, own, ground in zip(examples, shots, grounds, strict=True)
        ]

    def load(self, ref: ModelRef) -> Any:
        """The predictor's model, from memory where it is the last one used."""
        if self._loaded is None or self._loaded[0] != ref:
            self.release()
            model = load_model(ref, device=self.device, precision=self.precision)
            fuse(model)
            self._loaded = (ref, model)
            if reason := self.refusal(ref):
                log.warning("%s cannot be run on token trees (%s); nothing is shared in answering", ref.base, reason)
        return self._loaded[1]

    def refusal(self, ref: ModelRef) -> str:
        """Why the model cannot be run on token trees; empty where it can."""
        from luthier.tree.support import refusal

        return refusal(self.load(ref))

    def release(self) -> None:
        """Forget the loaded model, so that its memory can be used for something else."""
        self._loaded = None
        release_memory()

    @contextlib.contextmanager
    def _running(self, ref: ModelRef, model: Any) -> Iterator[Any]:
        """The model in evaluation mode; one in training keeps its float32 weights and computes as it trains."""
        import torch

        if model is None:
            with torch.inference_mode():
                yield self.load(ref)
            return
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), autocast(self.device, self.precision):
                yield model
        finally:
            model.train(was_training)


def _texts(texts: Sequence[str], renderer: Renderer) -> list[TrainingSequence]:
    before, found = len(renderer.before), []
    for text in texts:
        ids = renderer.before + tuple(renderer.tokenizer(text, add_special_tokens=True)["input_ids"])
        ids = ids[: renderer.window]
        found.append(TrainingSequence(text, ids, tuple(i > before for i in range(len(ids)))))
    return found


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _without_beginning(sequence: TrainingSequence, count: int) -> TrainingSequence:
    return replace(sequence, ids=sequence.ids[count:], trained=sequence.trained[count:])


def _written(rendered: RenderedPrompt, answer: Generated, *, cites: bool) -> Completion:
    text, cited = without_citations(answer.text, len(rendered.passages)) if cites else (answer.text, ())
    return Completion(
        rendered.id,
        text,
        rendered.messages,
        len(rendered.ids),
        answer.tokens,
        answer.stopped,
        rendered.dropped_shots,
        passages=rendered.passages,
        passage_tokens=rendered.passage_tokens,
        dropped_passages=rendered.dropped_passages,
        cited=cited,
        written=answer.text if cited else None,
    )


def _chosen(
    rendered: RenderedPrompt,
    sums: Sequence[float],
    labels: Sequence[str],
    label_ids: Sequence[Sequence[int]],
    *,
    normalised: bool,
) -> Completion:
    values = [s / len(ids) for s, ids in zip(sums, label_ids, strict=True)] if normalised else list(sums)
    best = max(range(len(labels)), key=values.__getitem__)
    share = 1 / sum(math.exp(value - values[best]) for value in values)
    return Completion(
        rendered.id,
        labels[best],
        rendered.messages,
        len(rendered.ids),
        len(label_ids[best]),
        "choice",
        rendered.dropped_shots,
        dict(zip(labels, sums, strict=True)),
        rendered.passages,
        rendered.passage_tokens,
        rendered.dropped_passages,
        confidence=share,
    )
