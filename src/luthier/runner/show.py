"""Training examples as the model gets them: token by token, or a step of them merged at their shared beginnings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import StudyError
from luthier.model.virtual import FIRST_VIRTUAL
from luthier.progress import Silent
from luthier.runner.prepare import Prepared, prepare
from luthier.settings import closed
from luthier.steps import PretrainStep, SftStep
from luthier.steps.base import ShownText, Step, StepContext
from luthier.steps.lesson import Lesson, TextLesson
from luthier.steps.training import TrainingStep
from luthier.study import Study
from luthier.types import Predictor, PromptedModel

if TYPE_CHECKING:
    from luthier.prompt.render import TrainingSequence
    from luthier.tree.trunk import Trunk

# A text, whether it is trained, and whether it is a special token.
Piece = tuple[str, bool, bool]


@dataclass(frozen=True, slots=True)
class ShownSequence:
    """A rendered example, or a block of raw text.

    Attributes:
        training: The training that learns it, in words.
        pieces: One for each token.
    """

    training: str
    place: str
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        return len(self.pieces)

    @property
    def trained(self) -> int:
        return sum(trained for _, trained, _ in self.pieces)


@dataclass(frozen=True, slots=True)
class ShownSegment:
    """A run of tokens that some sequences share, or that is one's own.

    Attributes:
        pieces: Its text, in runs that are trained or special alike.
        tokens: How many tokens it has.
        places: Where the sequences that go through it were read; one where nothing stands below.
        below: The segments that continue it.
    """

    pieces: tuple[Piece, ...]
    tokens: int
    places: tuple[str, ...]
    below: tuple[ShownSegment, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownTree:
    """What goes through the model together, merged at its shared beginnings.

    Attributes:
        trains: Whether it is the first step of a training; else it is prompts to be answered.
        parts: The uppermost segments of each tree; several where a step is split.
        sequences: How many examples, or prompts, there are.
        tokens: All their tokens.
        computed: Those that are computed: shared ones once, and none that only is predicted.
    """

    approach: str
    trains: bool
    parts: tuple[tuple[ShownSegment, ...], ...]
    sequences: int
    tokens: int
    computed: int


def training_examples(
    study: Study, root: Path, n: int, approach: str | None = None, *, allow_code: bool = False
) -> list[ShownSequence]:
    """The first `n` examples, or blocks of raw text, of each training of an approach (default: the first that trains).

    Open settings are shown with their first value; no model is loaded. Where nothing trains, it is the target's
    training examples under the approach's prompts; what answers in the model's place shows them as it reads them.

    Raises:
        StudyError: There is no such approach.
    """
    prepared = prepare(study, root, allow_code=allow_code)
    study = prepared.study
    name = _chosen(study, approach)
    found = [_as_read(title, one) for title, one in _texts_of(prepared, name, n)]
    predictor = prompting_of(prepared, name)
    if not isinstance(predictor, PromptedModel):
        return found
    tokenizer = prepared.engine.renderer(predictor.model).tokenizer
    trainings = _trainings_of(study, name)
    for title, training in trainings or ([] if found else [("", SftStep())]):
        lesson = prepared.lesson(training)
        vocabulary = _vocabulary(tokenizer, training, lesson)
        if isinstance(training, SftStep):
            taught = training.taught(lesson, study.seed)[:n]
            sequences = training.rendered(predictor, taught, prepared.study.target_name, prepared.engine, study.seed)
            places = [str(example.place) for _, example in taught]
        else:
            sequences = training.sequences(predictor, lesson, prepared.engine, study.seed)[:n]
            places = [sequence.id for sequence in sequences]
        found += [_shown(title, place, s, vocabulary) for place, s in zip(places, sequences, strict=True)]
    return found


def token_tree(study: Study, root: Path, approach: str | None = None, *, allow_code: bool = False) -> ShownTree:
    """The examples of an approach's first optimizer step, merged as they go through the model.

    Where an approach trains nothing: its prompts to the validation examples, as far as answering shares them. Open
    settings are shown with their first value; no model is loaded, and memory is taken to be ample.

    Raises:
        StudyError: There is no such approach.
    """
    from luthier.train.batches import epoch_steps, micro_batches
    from luthier.train.memory import WANTED_TOKENS
    from luthier.tree.trunk import find_trunk

    prepared = prepare(study, root, allow_code=allow_code)
    study = prepared.study
    name = _chosen(study, approach)
    predictor, training = prompting_of(prepared, name), _training_of(study, name)
    if not isinstance(predictor, PromptedModel):
        raise StudyError(f"{name} asks no language model, so there are no prompts to merge; leave out --tree.")
    tokenizer = prepared.engine.renderer(predictor.model).tokenizer
    if training is None:
        asked, target = prepared.targets[0], prepared.study.target_name
        prompts = [example.prompt for example in asked.validation]
        ids = [rendered.ids for rendered in prepared.engine.render(predictor.asked(asked, target), prompts, reserve=0)]
        trunk = find_trunk(ids)
        places = [str(example.place) for example in asked.validation]
        roots = _segments(ids, [(False,) * len(own) for own in ids], places, trunk, _Vocabulary.of(tokenizer))
        tokens, depths = sum(map(len, ids)), int(trunk.depths.sum())
        return ShownTree(name, False, (roots,), len(ids), tokens, tokens - depths + len(trunk))
    lesson = prepared.lesson(training)
    taught = training.taught(lesson, study.seed)
    batch = epoch_steps(len(taught), int(training.batch_size), study.seed, 0)  # type: ignore[arg-type]
    examples = sorted((taught[i] for i in batch), key=lambda pair: pair[0].name)
    vocabulary = _vocabulary(tokenizer, training, lesson)
    sequences = training.rendered(predictor, examples, prepared.study.target_name, prepared.engine, study.seed)
    place_of = {example.id: str(example.place) for _, example in examples}
    parts = micro_batches(sequences, max(WANTED_TOKENS[prepared.device], *(len(s.ids) for s in sequences)))
    return ShownTree(
        approach=name,
        trains=True,
        parts=tuple(
            _segments(
                [s.ids for s in part.sequences],
                [s.trained for s in part.sequences],
                [place_of[s.id] for s in part.sequences],
                find_trunk([s.ids for s in part.sequences], least=1),
                vocabulary,
            )
            for part in parts
        ),
        sequences=len(sequences),
        tokens=sum(part.tree.tokens for part in parts),
        computed=sum(len(part.tree) for part in parts),
    )


def prompting_of(prepared: Prepared, name: str) -> Predictor:
    """The predictor of an approach as far as steps make it that train nothing and leave answering to the language
    model, open settings at their first value."""
    predictor = prepared.base(name).predictor
    for step in prepared.study.approaches[name].steps:
        first = next(closed(step))
        assert isinstance(first, Step)
        if first.training == "none" and not first.answers:
            predictor = first.fit(predictor, looking_ahead(prepared, name, first)).predictor
    return predictor


def looking_ahead(prepared: Prepared, name: str, step: Step) -> StepContext:
    """What a step of an approach is given where nothing is kept."""
    base = prepared.base(name).language_model
    return StepContext(
        lesson=prepared.lesson(step),
        start=None if base is None else base.model,
        engine=prepared.engine,
        folder=Path(),
        seed=prepared.study.seed,
        progress=Silent(),
        log=lambda row: None,
        library=prepared.library,
        root=prepared.root,
    )


def _texts_of(prepared: Prepared, name: str, n: int) -> list[tuple[str, ShownText]]:
    """The first examples as the approach's last step reads them, where it answers in the model's place."""
    steps = prepared.study.approaches[name].steps
    first = next(closed(steps[-1])) if steps else None
    if not isinstance(first, Step) or not first.answers:
        return []
    title = f"{len(steps)}: {first.model_dump()['step']}"
    return [(title, one) for one in first.shown(looking_ahead(prepared, name, first), n)]


def _as_read(title: str, shown: ShownText) -> ShownSequence:
    return ShownSequence(title, shown.place, tuple((text, answer, False) for text, answer in shown.pieces))


def _chosen(study: Study, approach: str | None) -> str:
    """The approach to show: the one that is named, or the first that trains."""
    name = approach or next((name for name, a in study.approaches.items() if a.trains), next(iter(study.approaches)))
    if name not in study.approaches:
        raise StudyError(f"the study has no approach '{name}' (there are: {', '.join(study.approaches)}).")
    return name


def _training_of(study: Study, name: str) -> SftStep | None:
    """The first training of an approach by examples, open settings at their first value."""
    return next((step for _, step in _trainings_of(study, name) if isinstance(step, SftStep)), None)


def _trainings_of(study: Study, name: str) -> list[tuple[str, TrainingStep]]:
    """All trainings of an approach, open settings at their first value, each with its number and what it learns."""
    found = []
    for number, step in enumerate(study.approaches[name].steps, 1):
        parts = {f" {part}": own for part, own in step.parts(study.target_name).items()}
        for part, own in {**parts, "": step}.items():
            first = next(iter(closed(own)))
            if isinstance(first, TrainingStep):
                kind = "" if part else f" {first.step}"
                found.append((f"{number}:{part}{kind} {_learned(first, study)}", first))
    return found


def _learned(step: TrainingStep, study: Study) -> str:
    if isinstance(step, PretrainStep):
        sources = [*step.text.names, *([] if step.text.task is None else [f"the prompts of {step.text.task}"])]
        return f"on raw text: {', '.join(sources)}"
    words = f"on {', '.join(step.learns_from or study.targets)}"
    if step.replays is not None:
        of = "of its own" if step.replays.task is None else f"to prompts of {step.replays.task}"
        words += f"; beside them {step.replays.examples} answers {of} that the model writes first"
    return words


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What token ids stand for.

    Attributes:
        labels: What a classification head tells apart, whose numbers stand where tokens are trained; empty where the
            model writes.
    """

    tokenizer: Any
    special: frozenset[int]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, labels: tuple[str, ...] = ()) -> _Vocabulary:
        return cls(tokenizer, frozenset(tokenizer.all_special_ids), labels)

    def is_special(self, token: int, trained: bool) -> bool:
        return not (trained and self.labels) and token in self.special

    def text(self, ids: Sequence[int], trained: bool) -> str:
        """Their text; virtual tokens, which have none, as a dot each."""
        if trained and self.labels:
            return "".join(f"[{self.labels[number]}]" for number in ids)
        real = [token for token in ids if token < FIRST_VIRTUAL]
        return "·" * (len(ids) - len(real)) + str(self.tokenizer.decode(real) if real else "")


def _vocabulary(tokenizer: Any, training: TrainingStep, lesson: Lesson | TextLesson) -> _Vocabulary:
    classifies = isinstance(training, SftStep) and training.head == "classify"
    return _Vocabulary.of(tokenizer, lesson.task.labels if classifies and isinstance(lesson, Lesson) else ())


def _shown(training: str, place: str, sequence: TrainingSequence, vocabulary: _Vocabulary) -> ShownSequence:
    pieces = tuple(
        (vocabulary.text([token], trained), trained, vocabulary.is_special(token, trained))
        for token, trained in zip(sequence.ids, sequence.trained, strict=True)
    )
    return ShownSequence(training, place, pieces)


def _segments(
    ids: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    places: Sequence[str],
    trunk: Trunk,
    vocabulary: _Vocabulary,
) -> tuple[ShownSegment, ...]:
    """The trunk's segments with the sequences' own tokens below them."""

    def pieces(members: Sequence[int], begin: int, end: int) -> Iterator[Piece]:
        # Shared tokens may be the prompt of one sequence and the answer of another.
        own = ids[members[0]]
        marks = [any(trained[i][t] for i in members) for t in range(begin, end)]
        kinds = [(mark, vocabulary.is_special(own[begin + i], mark)) for i, mark in enumerate(marks)]
        for kind, run in itertools.groupby(range(begin, end), key=lambda t: kinds[t - begin]):
            yield vocabulary.text([own[t] for t in run], kind[0]), *kind

    def below(number: int, stop: int) -> tuple[ShownSegment, ...]:
        """What follows directly on segment `number - 1`, whose subtree ends at `stop`."""
        found = []
        above = number - 1
        while number < stop:
            segment = trunk.segments[number]
            members = [i for i, tip in enumerate(trunk.tips) if number <= tip < segment.end]
            text = tuple(pieces(members, segment.depth, segment.depth + len(segment.ids)))
            own = tuple(places[i] for i in members)
            found.append(ShownSegment(text, len(segment.ids), own, below(number + 1, segment.end)))
            number = segment.end
        for i in [i for i, tip in enumerate(trunk.tips) if tip == above]:
            depth, length = int(trunk.depths[i]), len(ids[i])
            found.append(ShownSegment(tuple(pieces([i], depth, length)), length - depth, (places[i],)))
        return tuple(found)

    return below(0, len(trunk.segments))
