"""`sft`: supervised fine-tuning, of all weights or of an adapter, on prompts as the predictor renders them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.evaluate.over_tasks import MEAN
from luthier.prompt.render import classified
from luthier.prompt.shots import spread_order
from luthier.prompt.wording import phrased
from luthier.settings import Choose, Count, Open, Positive, Share, closed, given
from luthier.steps.adapters import AnyAdapter, Lora
from luthier.steps.base import Step, StepContext
from luthier.steps.keep import AnyKeep, Keep
from luthier.steps.learning_curve import CurvePoint, curve_result, measure_curve
from luthier.steps.lesson import Lesson
from luthier.steps.mixture import Mixture, drawn, tasks_named
from luthier.steps.raft import Raft
from luthier.steps.rag import RagStep
from luthier.steps.replay import Replay, Written
from luthier.steps.training import TrainingStep
from luthier.types import Example, Grounding, Predictor, PromptedModel, Task, prompted

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.prompt.render import TrainingSequence

# Of the usual learning rate: what is tried where none is given, and for which share of the epochs.
_RATES = (1 / 3, 1.0, 3.0)
_TRIAL = 1 / 3
# Of few examples so many passes as give about so many steps, at most so many.
_WANTED_STEPS, _MOST_PASSES = 240, 10


class SftStep(TrainingStep):
    """Train on the task's training examples; keep the weights that do best on validation."""

    drawing: ClassVar[frozenset[str]] = frozenset({"learning_curve"})

    step: Literal["sft"] = "sft"
    data: str | Mixture | None = None
    """The task that it learns from, by name, or a mixture of several. Default: the target; of several targets all
    their examples. Of another task it learns the prompts as that task words them, without shots. The weights are kept
    that do best on the validation split of that task, or on the mean over those of several."""
    examples: Count | None = None
    """Of each task, so many of its training examples, drawn by the seed, every label as often as may be; a larger
    number takes the same and more. Default: all."""
    learning_curve: tuple[Count, ...] = ()
    """Train also on so many examples each, from the same start, and draw what validation gives: whether more examples
    would help. These trainings serve the picture alone and are not counted as the approach's cost."""
    adapter: Open[AnyAdapter] = Lora()
    """What is trained: the name of a kind (`lora`, `rslora`, `dora`, `pissa`, `loraplus`, `qlora`, `ia3`,
    `prompt-tuning`, `prefix-tuning`, `last-layers`, `head`, `biases-and-norms`, `peft`, or `none` for every weight),
    or a mapping of its settings, such as `{kind: lora, rank: 8}`."""
    learning_rate: Open[Positive] | None = None
    """Peak learning rate. Default: what validation takes of a third of, once and three times the usual one of the
    adapter, each tried for a third of the epochs: 1e-3 for LoRA, 1e-4 where the model's own weights are trained (LoRA's
    best rate is about ten times that of full fine-tuning; Schulman et al. 2025, "LoRA Without Regret"), 1e-3 for biases
    and norms, 1e-2 for ia3, prompt and prefix tuning."""
    trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Where values are left open: for which share of the epochs each is trained to be compared; the best is then
    trained whole. With 1, all are trained whole, and those that do badly are given up (`prune`)."""
    epochs: Open[Positive] = 3.0
    """Passes over the training examples; may be a fraction. Default: three, as in Alpaca (Taori et al. 2023), and over
    few examples as many as give 240 optimizer steps, ten at most (few examples need many passes: Mosbach et al. 2021,
    "On the Stability of Fine-tuning BERT")."""
    least_steps: Count = 1
    """Optimizer steps at least: few examples are then passed over more often than `epochs` says."""
    batch_size: Open[Count] = 8
    """Examples an optimizer step. Small, because LoRA loses with large batches what full fine-tuning does not
    (Schulman et al. 2025)."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises (a tenth, as in Zephyr; Tunstall et al. 2023)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards (along a cosine, as in Zephyr)."""
    weight_decay: Open[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = 0.01
    """AdamW's weight decay on matrices."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    evaluations: Count = 4
    """How often, evenly spread, the validation metric is taken; the best of them is kept."""
    patience: Annotated[int, Field(ge=0)] = 2
    """Evaluations without a gain after which training stops; 0 trains to the end."""
    head: Literal["tokens", "classify"] = "tokens"
    """What is learned to predict: the answer's `tokens`, as the model writes them; or, to `classify`, the label, by a
    new head with an output for each label over the prompt's last token, the usual way to fine-tune a model for labels.
    A model with such a head chooses labels and writes nothing."""
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that the loss counts: those of the answer, or the prompt's as well."""
    keep: AnyKeep | None = None
    """What holds the model near the one before this step, against forgetting: the weight of a divergence between their
    predictions, such as `0.1`, or a mapping of settings. Default: nothing does."""
    replay: Replay | None = None
    """Examples that the model writes before this step and learns along, against forgetting. Default: none."""
    passages: Raft | None = None
    """Behind `rag`: how passages stand in the prompts that are learned from. Default: as search finds them; a mapping
    of settings (`{}` for all defaults) puts the right passage among distractors, as RAFT does."""
    compile: bool = False
    """Compile the model's layers (torch.compile) in place of the engine's own fused functions: the first steps take a
    minute or more, whether later ones get faster depends on the machine. Needs a C++ compiler."""
    liger: bool = False
    """Use Liger's kernels for norms, feed-forward blocks and rotary embeddings. Needs a CUDA GPU and liger-kernel."""

    @property
    def gives_model(self) -> bool:
        return self.head == "tokens"

    @property
    def whole(self) -> bool:
        return self.trial == 1

    def on_trial(self) -> SftStep:
        """The same for fewer epochs, evaluated at the end."""
        evaluations = max(1, round(self.evaluations * self.trial))
        short = {"epochs": given(self.epochs) * self.trial, "evaluations": evaluations, "patience": 0}
        short["least_steps"] = max(1, round(self.least_steps * self.trial))
        kept = self.model_fields_set - {"trial", "learning_curve"}
        return type(self).model_validate({name: getattr(self, name) for name in kept} | short)

    def for_data(self, tasks: Sequence[Task]) -> Step:
        """With passes by the number of examples, where none are given; and with learning rates that validation chooses
        among, where none is given and nothing else is left open."""
        own = self._with_passes(tasks)
        if self.learning_rate is not None or len(list(closed(self))) > 1:
            return own
        usual = self.trained.learning_rate
        rates = Choose[Positive](choose=tuple(float(f"{usual * factor:.1g}") for factor in _RATES))
        return own.with_settings(learning_rate=rates, trial=_TRIAL if self.trial == 1 else self.trial)

    def _with_passes(self, tasks: Sequence[Task]) -> SftStep:
        if self.model_fields_set & {"epochs", "least_steps"} or isinstance(self.batch_size, Choose):
            return self
        sizes = {task.name: len(task.train) for task in tasks}
        if isinstance(self.data, Mixture):
            sizes = dict(self.data.counts(sizes))
        elif self.examples is not None:
            sizes = {name: min(size, self.examples) for name, size in sizes.items()}
        a_pass = math.ceil(sum(sizes.values()) / given(self.batch_size))
        passes = min(_MOST_PASSES, _WANTED_STEPS / max(1, a_pass))
        return self.with_settings(epochs=float(f"{passes:.2g}")) if passes > given(self.epochs) else self

    @property
    def learns_from(self) -> tuple[str, ...]:
        return tasks_named(self.data)

    @property
    def rehearses(self) -> tuple[str, ...]:
        return () if self.replay is None or self.replay.task is None else (self.replay.task,)

    @property
    def held(self) -> Keep | None:
        return self.keep

    @property
    def replays(self) -> Replay | None:
        return self.replay

    @model_validator(mode="after")
    def _a_mixture_counts_for_itself(self) -> SftStep:
        if isinstance(self.data, Mixture) and (self.examples is not None or self.learning_curve):
            raise ValueError("examples and learning_curve are for one task; a mixture has examples of its own")
        return self

    @model_validator(mode="after")
    def _a_classifier_writes_nothing(self) -> SftStep:
        if self.head == "classify":
            beside = [name for name in ("loss_on", "replay") if self.is_changed(name)]
            compared = self.keep is not None and self.keep.compares
            names = " and ".join([*beside, *(["keep: kl"] if compared else [])])
            if names:
                raise ValueError(
                    f"{names} needs a model that writes, and head: classify leaves none; leave one of them out"
                )
        return self

    @property
    def unmergeable(self) -> str:
        return (
            "has a classification head, which is no part of the model"
            if self.head == "classify"
            else super().unmergeable
        )

    def asking(self, predictor: PromptedModel) -> PromptedModel:
        """A head that classifies is asked to choose."""
        if self.head == "tokens":
            return predictor
        return replace(predictor, decoding=replace(predictor.decoding, answer="choose"))

    def ready(self, model: Any, lesson: Lesson) -> Any:
        if self.head == "classify":
            from luthier.model.classify import attach_head

            attach_head(model, lesson.task.labels)
        return model

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """Passages come from a step `rag`, and what stands for their absence from its settings."""
        problems = super().check_graph(before, others, tasks, target)
        if self.head == "classify" and (target == MEAN or any(task != target for task in self.learns_from)):
            problems.append(f"head: classify learns the labels of one task, the target ({target}); leave out data")
        if self.passages is None:
            return problems
        searching = [step for step in before if isinstance(step, RagStep)]
        if not searching:
            return [*problems, "passages: there are none to train with; put a step rag before this one"]
        absent = searching[-1].absent
        if self.passages.otherwise == "absent" and "" in (absent.choose if isinstance(absent, Choose) else (absent,)):
            problems.append(
                "passages.otherwise: absent, but the step rag before this one has no answer for that (its absent)"
            )
        return problems

    def check(self, task: Task) -> list[str]:
        problems = super().check(task)
        if self.head == "classify" and not task.labels:
            problems.append(
                f"head: classify needs labels, and task '{task.name}' has none; give labels, or leave it out."
            )
        if self.head == "classify" and task.label_separator:
            problems.append(f"head: classify learns one label an answer, and '{task.name}' may have several.")
        if self.passages is not None and self.passages.otherwise == "absent" and task.decoding.answer != "generate":
            problems.append(
                f"passages.otherwise: absent is for written answers, and '{task.name}' has them chosen among labels."
            )
        most = max((*self.learning_curve, self.examples or 0))
        if most > len(task.train):
            problems.append(f"{most} training examples are asked for; task '{task.name}' has {len(task.train)}.")
        return problems

    def more_results(self, predictor: Predictor, context: StepContext, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The learning curve."""
        if not self.learning_curve:
            return {}
        lesson = context.lesson
        used = len(self.taught(lesson, context.seed)) // len(lesson.tasks)
        points = [own for own in measure_curve(self, self._parts, prompted(predictor), context) if own.examples < used]
        last = CurvePoint(used, lesson.metric_of(facts["best_score"]), facts["seconds"])
        return {"learning-curve": curve_result([*points, last], lesson)}

    @property
    def fewest_steps(self) -> int:
        return self.least_steps

    @property
    def smaller(self) -> tuple[SftStep, ...]:
        """Those of the learning curve, smallest first."""
        return tuple(self._parts.values())

    @property
    def _parts(self) -> dict[int, SftStep]:
        """Number of examples, from few to many → the training on them; those of a smaller are among a larger's."""
        counts = sorted(self.learning_curve)
        return {count: self.model_copy(update={"examples": count, "learning_curve": ()}) for count in counts}

    def sequences(
        self, predictor: PromptedModel, lesson: Lesson, engine: Engine, seed: int, written: Written | None = None
    ) -> list[TrainingSequence]:
        """What one pass over the training examples learns, as the predictor renders it, what is replayed last.

        Args:
            written: What the model wrote to be replayed; before that is known, examples of about its size stand in.
        """
        found = self.rendered(predictor, self.taught(lesson, seed), lesson.target, engine, seed)
        if self.replay is None:
            return found
        replayed = self.replay.stand_ins(lesson, seed) if written is None else written.taught
        more = self.rendered(predictor, replayed, lesson.target, engine, seed)
        return found + (more if written is None else written.without_false_ends(more))

    def learned_facts(self, sequences: Sequence[TrainingSequence], lesson: Lesson, seed: int) -> Mapping[str, Any]:
        return {
            "examples": len(sequences),
            "examples_of_tasks": Counter(task.name for task, _ in self.taught(lesson, seed)),
            "dropped_shots": sum(s.dropped_shots for s in sequences),
            "dropped_passages": sum(s.dropped_passages for s in sequences),
            **({} if self.passages is None else _shown_passages(sequences)),
        }

    def taught(self, lesson: Lesson, seed: int) -> list[tuple[Task, Example]]:
        """The examples of one pass, each with its task, task by task, in the phrasings that it drew."""
        own: dict[str, Sequence[Example]] = {task.name: task.train for task in lesson.tasks}
        if isinstance(self.data, Mixture):
            counts = self.data.counts({name: len(examples) for name, examples in own.items()})
            own = {name: drawn(examples, counts[name], f"{seed}/{name}") for name, examples in own.items()}
        elif self.examples is not None:
            own = {name: spread_order(examples, seed)[: self.examples] for name, examples in own.items()}
        return [
            (task, example) for task in lesson.tasks for example in phrased(own[task.name], task.phrasings, f"{seed}")
        ]

    def rendered(
        self, predictor: PromptedModel, taught: Sequence[tuple[Task, Example]], target: str, engine: Engine, seed: int
    ) -> list[TrainingSequence]:
        """Examples with their answers, as the predictor asks their tasks, in their order.

        Args:
            target: The task that the predictor's wording and shots are made for.
            seed: Decides the passages of `passages`.
        """
        renderer = self.training_renderer(predictor.model, engine)
        found = []
        for _, group in itertools.groupby(taught, key=lambda pair: pair[0].name):
            pairs = list(group)
            asked = predictor.asked(pairs[0][0], target)
            shots = engine.select_shots(asked, [example.prompt for _, example in pairs])
            examples = [example for _, example in pairs]
            grounds: Sequence[Grounding | None]
            if self.passages is None or asked.retrieval is None:
                grounds = engine.ground(asked, [example.prompt for example in examples])
            else:
                examples, grounds = self.passages.grounded(asked, examples, engine, seed)
            cite = asked.retrieval is not None and asked.retrieval.cite
            if self.head == "classify":
                labels = pairs[0][0].labels
                found += [
                    classified(
                        renderer.prompt(example.prompt, asked.wording, own, 0, ground),
                        (labels.index(example.completion),),
                    )
                    for example, own, ground in zip(examples, shots, grounds, strict=True)
                ]
                continue
            found += [
                renderer.training(example, asked.wording, own, loss_on=self.loss_on, grounding=ground, cite=cite)
                for example, own, ground in zip(examples, shots, grounds, strict=True)
            ]
        return found


def _shown_passages(sequences: Sequence[TrainingSequence]) -> dict[str, int]:
    """What the draw of passages came to."""
    return {
        "right_passage_shown": sum(s.shows_right for s in sequences),
        "taught_absent": sum(s.taught_absent for s in sequences),
    }
