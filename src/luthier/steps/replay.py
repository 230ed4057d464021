"""`replay:` of a step that trains: examples that the model writes before it is trained, to be learned along."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luthier.data.normalise import fingerprint
from luthier.errors import TrainingError
from luthier.settings import Count, Settings
from luthier.steps.mixture import drawn
from luthier.types import Decoding, Example, Message, Place, Prompt, PromptedModel, Task

if TYPE_CHECKING:
    from luthier.prompt.render import TrainingSequence
    from luthier.steps.base import StepContext
    from luthier.steps.lesson import Lesson

_ROWS, _ABOUT = "replay.jsonl", "replay.json"
_SCRATCH = "(replay)"
# Added to the seed for prompts, which would else be drawn by the same numbers as their answers.
_OTHER_DRAWS = 1 << 32


class Replay(Settings):
    """Examples that the model answers before this step and learns again in it, so that it goes on answering so
    (pseudo-rehearsal, Robins 1995; self-synthesised rehearsal, Huang et al. 2024). For data of your own, give `data`
    several tasks."""

    task: str | None = None
    """The task whose training prompts it answers, as it is asked that task. Default: the model writes the prompts, too,
    after the opening of a user's turn (Xu et al. 2024, "Magpie"), which needs a model that was trained on chats."""
    examples: Count
    """Prompts that are answered; of a task, training examples drawn by the seed, all where it has fewer. What comes out
    empty or twice is left out and counted."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of the answers: 0 takes the likeliest tokens, above 0 they are drawn by the seed. Prompts that the model writes
    are drawn at temperature 1 in any case. Without meaning where answers are chosen among labels."""
    max_new_tokens: Count | None = None
    """Upper bound of an answer, in tokens, and of a prompt that the model writes. Of an answer that reaches it the end
    of the turn is not learned. Default: the task's, or 128."""

    def decoding(self, task: Decoding | None, seed: int) -> Decoding:
        """How answers are got.

        Args:
            task: How the task's answers are got; None where prompts are the model's own.
        """
        known = task or Decoding(max_new_tokens=128)
        if known.answer != "generate":
            return known
        most = self.max_new_tokens or known.max_new_tokens
        return replace(known, max_new_tokens=most, temperature=self.temperature, top_p=1.0, seed=seed)

    def drawn_from(self, task: Task, seed: int) -> list[Example]:
        """The examples whose prompts are answered."""
        return drawn(task.train, min(self.examples, len(task.train)), f"{seed}/replay/{task.name}")

    def stand_ins(self, lesson: Lesson, seed: int) -> list[tuple[Task, Example]]:
        """Examples of about the same size and number, for what is reckoned before anything is written."""
        if self.task is not None:
            return [(_rehearsed(lesson), example) for example in self.drawn_from(_rehearsed(lesson), seed)]
        learned = [(task, example) for task in lesson.tasks for example in task.train]
        return list(itertools.islice(itertools.cycle(learned), self.examples))

    def written(self, predictor: PromptedModel, context: StepContext) -> Written:
        """What the model wrote, from the step's folder where it is there already.

        Raises:
            TrainingError: Nothing that it wrote can be learned.
        """
        rows, about = context.folder / _ROWS, context.folder / _ABOUT
        if not rows.is_file():
            started = time.perf_counter()
            found, dropped = self._write(predictor, context)
            if not found:
                raise TrainingError(
                    f"replay: all that the model wrote was left out ({_listed(dropped)}); there is nothing to replay. "
                    "Use another task's prompts, or leave replay out."
                )
            facts: dict[str, Any] = {
                "asked": len(found) + dropped.total(),
                "kept": len(found),
                "dropped": dict(dropped),
            }
            facts["cut"] = sum(row["stopped"] == "length" for row in found)
            context.folder.mkdir(parents=True, exist_ok=True)
            _save(about, json.dumps({**facts, "seconds": time.perf_counter() - started}, indent=1))
            # Last: where this file is, all is there.
            _save(rows, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
        read = [json.loads(line) for line in rows.read_text(encoding="utf-8").split("\n") if line]
        return Written(tuple(self._taught(read, predictor, context.lesson)), _cut(read), json.loads(about.read_text()))

    def _write(self, predictor: PromptedModel, context: StepContext) -> tuple[list[dict[str, Any]], Counter[str]]:
        engine, seed = context.engine, context.seed
        if self.task is not None:
            task = _rehearsed(context.lesson)
            prompts = [example.prompt for example in self.drawn_from(task, seed)]
            asked, labels = predictor.asked(task, context.lesson.target), task.labels
            decoding = self.decoding(asked.decoding, seed)
        else:
            decoding, labels = self.decoding(None, seed), ()
            asked = PromptedModel(predictor.model, decoding)
            drawing = replace(decoding, temperature=1.0, seed=seed + _OTHER_DRAWS)
            with context.progress.track("replay: writing prompts", self.examples) as advance:
                texts = engine.questions(predictor.model, self.examples, drawing, advance=advance)
            prompts = [_own_prompt(number, text) for number, text in enumerate(texts, 1)]
        dropped: Counter[str] = Counter()
        kept: dict[str, Prompt] = {}
        for prompt in prompts:
            if not prompt.messages[-1].content:
                dropped["empty prompt"] += 1
            elif kept.setdefault(prompt.fingerprint, prompt) is not prompt:
                dropped["prompt twice"] += 1
        with context.progress.track("replay: answering", len(kept)) as advance:
            answers = engine.answer(replace(asked, decoding=decoding), [*kept.values()], labels, advance=advance)
        rows = []
        for prompt, answer in zip(kept.values(), answers, strict=True):
            if not answer.text:
                dropped["empty answer"] += 1
                continue
            question = prompt.messages[-1].content
            rows.append({"id": prompt.id, "prompt": question, "answer": answer.text, "stopped": answer.stopped})
        return rows, dropped

    def _taught(
        self, rows: Sequence[Mapping[str, Any]], predictor: PromptedModel, lesson: Lesson
    ) -> list[tuple[Task, Example]]:
        if self.task is not None:
            task = _rehearsed(lesson)
            prompts = {example.id: example.prompt for example in task.train}
            found = [prompts[row["id"]] for row in rows]
        else:
            task = _scratch(predictor)
            found = [_own_prompt(int(row["id"].rpartition("-")[2]), row["prompt"]) for row in rows]
        return [
            (task, Example(prompt, row["answer"], (row["answer"],), None, Place(_ROWS, line)))
            for line, (prompt, row) in enumerate(zip(found, rows, strict=True), 1)
        ]


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote.

    Attributes:
        taught: Its examples, each with its task.
        cut: For each of them whether the answer was cut off.
        facts: How many were asked for, kept, dropped (by reason) and cut, and the seconds it took.
    """

    taught: tuple[tuple[Task, Example], ...]
    cut: tuple[bool, ...]
    facts: Mapping[str, Any]

    def without_false_ends(self, sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
        """The sequences of `taught` without the end of the turn where the answer was cut off."""
        return [
            replace(s, ids=s.ids[:-1], trained=s.trained[:-1]) if cut and sum(s.trained) > 1 else s
            for s, cut in zip(sequences, self.cut, strict=True)
        ]


def _rehearsed(lesson: Lesson) -> Task:
    (task,) = lesson.rehearsed
    return task


def _scratch(predictor: PromptedModel) -> Task:
    """The task of prompts that the model wrote: no wording, no shots, no labels."""
    return Task(_SCRATCH, (), (), (), (), "loss", ("loss",), {}, predictor.decoding, {})


def _own_prompt(number: int, text: str) -> Prompt:
    messages = (Message("user", text),)
    return Prompt(f"replay-{number}", _SCRATCH, messages, {}, fingerprint(messages))


def _cut(rows: Sequence[Mapping[str, Any]]) -> tuple[bool, ...]:
    return tuple(row["stopped"] == "length" for row in rows)


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in dropped.items())


def _save(file: Path, text: str) -> None:
    new = file.with_name(file.name + ".writing")
    new.write_text(text, encoding="utf-8")
    new.replace(file)  # whole or not at all
