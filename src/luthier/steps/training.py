"""What the steps that train weights have in common: from sequences to a trained, saved model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from luthier.errors import ModelError, TrainingError
from luthier.settings import Open, closed, given
from luthier.steps.adapters import Adapter, AnyAdapter
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.steps.keep import Keep
from luthier.steps.lesson import Lesson
from luthier.types import ModelRef, Predictor, PromptedModel, Task, Training, prompted

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.infer.logprobs import LogProb
    from luthier.prompt.render import Renderer, TrainingSequence
    from luthier.steps.replay import Replay, Written
    from luthier.train.loop import LoopSettings
    from luthier.train.memory import MemoryPlan, TrainingShape
    from luthier.train.outcome import TrainingOutcome
    from luthier.train.pull import Pull

# How far, in nats a token, a model may predict otherwise when it is loaded (adapters are merged then, and rounded to 16
# bits); of a model that predicts badly a share of its loss.
_NATS_APART, _SHARE_APART = 0.5, 0.25
# Settings that belong to an adapter, for people who write them beside it.
_OF_ADAPTERS = ("rank", "alpha", "dropout", "targets")


@dataclass(frozen=True, slots=True)
class Trained:
    """A model after training, and what went into it."""

    model: Any
    sequences: list[TrainingSequence]
    plan: MemoryPlan
    outcome: TrainingOutcome
    written: Written | None


class TrainingStep(Step):
    """Trains the predictor's model on sequences, and keeps the weights that do best on what is kept apart.

    Each kind of training declares the settings below with defaults and meanings of its own, and gives `sequences`.
    """

    trains: ClassVar[bool] = True
    training: ClassVar[Training] = "language model"

    if TYPE_CHECKING:
        step: str
        adapter: Open[AnyAdapter]
        learning_rate: Open[float] | None
        epochs: Open[float]
        batch_size: Open[int]
        warmup: float
        schedule: Literal["cosine", "linear", "constant"]
        weight_decay: Open[float]
        max_grad_norm: float
        evaluations: int
        patience: int
        compile: bool
        liger: bool

    @model_validator(mode="before")
    @classmethod
    def _adapters_have_settings_of_their_own(cls, value: Any) -> Any:
        if isinstance(value, dict) and (own := [name for name in _OF_ADAPTERS if name in value]):
            shown = ", ".join(f"{name}: {value[name]}" for name in own)
            given_kind = value.get("adapter", "lora")
            kind = given_kind if isinstance(given_kind, str) and given_kind != "none" else "lora"
            raise ValueError(
                f"{' and '.join(own)} {'is a setting' if len(own) == 1 else 'are settings'} of the adapter; write "
                f"adapter: {{kind: {kind}, {shown}}}"
            )
        return value

    def check(self, task: Task) -> list[str]:
        """An adapter that PEFT does not have, or not with these settings; a `keep` that does not go with it."""
        steps = [step for step in closed(self) if isinstance(step, TrainingStep)]
        found = [step.trained.problem() for step in steps]
        found += [step.held.problem(step.trained, step._learning_rate()) for step in steps if step.held is not None]
        return [problem for problem in dict.fromkeys(found) if problem]

    def check_graph(
        self, before: Sequence[Step], others: Mapping[str, Sequence[Step]], tasks: Sequence[str], target: str
    ) -> list[str]:
        """The adapter must be one that can be trained behind those before it."""
        earlier = [_adapters(step) for step in before if step.trains]  # none of a merge, say, of which it is not known
        virtual = any(own and all(a.virtual_tokens for a in own) for own in earlier)
        adapted = virtual or (bool(earlier and earlier[-1]) and not any(own.full for own in earlier[-1]))
        found = (own.problem_behind(adapted, virtual) for own in _adapters(self))
        return [f"adapter: {problem}" for problem in dict.fromkeys(found) if problem]

    @property
    def unmergeable(self) -> str:
        """Virtual tokens are no weights of the model."""
        virtual = any(own.virtual_tokens for own in _adapters(self))
        return "trains virtual tokens, which are no weights of the model" if virtual else ""

    def described(self) -> dict[str, Any]:
        """The settings with those filled in that follow from others."""
        return super().described() | {"adapter": self.trained.described(), "learning_rate": self._learning_rate()}

    def disk_bytes(self, model_bytes: int) -> int:
        return self.trained.disk_bytes(model_bytes)

    @property
    def trained(self) -> Adapter:
        """The adapter, which is not left open any more."""
        assert isinstance(self.adapter, Adapter)
        return self.adapter

    @property
    def held(self) -> Keep | None:
        """What holds the model near the one before this step."""
        return None

    @property
    def replays(self) -> Replay | None:
        """What the model writes before this step and learns along."""
        return None

    @property
    def fewest_steps(self) -> int:
        """Optimizer steps at least."""
        return 1

    @property
    def whole(self) -> bool:
        """Whether values left open are each trained to the end before they are compared."""
        return True

    def on_trial(self) -> TrainingStep:
        """The short training by which one value of a setting left open is compared with others."""
        return self

    @property
    def smaller(self) -> tuple[TrainingStep, ...]:
        """Further trainings that `fit` does, on fewer examples."""
        return ()

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Train the predictor's model; the returned predictor is the same with the model replaced."""
        from luthier.model.adapter import movement_matrix
        from luthier.model.load import count_parameters, load_model

        began = predictor = self.asking(prompted(predictor))
        started = time.perf_counter()
        engine = context.engine
        trained = self.trained_model(predictor, context)
        model, sequences, memory, outcome = trained.model, trained.sequences, trained.plan, trained.outcome
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = count_parameters(model)
        # An interrupted training counts whole; what is measured below for the report is no part of it.
        written = trained.written
        writing_s = 0.0 if written is None else written.facts["seconds"]
        train_s = max(time.perf_counter() - started, outcome.seconds + outcome.validation_s + writing_s)
        live = context.lesson.few_logprobs(engine, predictor, model=model)
        head = self._save_head(model, context)
        moved = self.trained.movement(model, lambda: load_model(began.model, device=engine.device, precision="float32"))
        ref = self._save(model, predictor.model, context, engine)
        del model, trained
        engine.release()
        after = replace(predictor, model=replace(ref, head=head))
        see_that_it_answers_alike(live, context.lesson.few_logprobs(engine, after))
        return StepOutcome(
            predictor=after,
            train_s=train_s,
            loop_s=outcome.seconds,
            trained_tokens=outcome.tokens,
            trainable_parameters=trainable,
            trainable_share=trainable / total,
            peak_bytes=outcome.peak_bytes,
            results={"movement": movement_matrix(moved)} if moved else {},
            facts={
                **asdict(outcome),
                **self.learned_facts(sequences, context.lesson, context.seed),
                "longest_tokens": max(len(s.ids) for s in sequences),
                "memory_plan": asdict(memory),
                "trained_tokens_per_epoch": sum(sum(s.trained) for s in sequences),
                "learning_rate": self._learning_rate(),
                **({} if written is None else {"replay": dict(written.facts)}),
            },
        )

    def trained_model(self, predictor: PromptedModel, context: StepContext) -> Trained:
        """The predictor's model after training, in memory alone, with the best of its weights."""
        from luthier.train.loop import train

        engine = context.engine
        written = None if self.replays is None else self.replays.written(predictor, context)
        engine.release()
        sequences = self.sequences(predictor, context.lesson, engine, context.seed, written)
        plan = self._kept_plan(predictor.model, sequences, context)
        model = self.ready(self.trainable_model(predictor.model, engine, context.seed), context.lesson)
        settings = self.loop_settings(engine, plan, context.seed)
        with context.progress.track("training", settings.total_steps(len(sequences))) as advance:
            outcome = train(
                model,
                sequences,
                settings,
                validate=lambda live: context.lesson.validate(engine, predictor, model=live),
                score_of=context.lesson.score_of,
                log=context.log,
                folder=context.folder,
                rate=self.trained.rate,
                pull=self.pull(model, predictor.model, engine),
                give_up=context.give_up,
                advance=advance,
            )
        return Trained(model, sequences, plan, outcome, written)

    def sequences(
        self, predictor: PromptedModel, lesson: Lesson, engine: Engine, seed: int, written: Written | None = None
    ) -> list[TrainingSequence]:
        """What one pass over the training data learns.

        Args:
            written: What the model wrote to be replayed.
        """
        raise NotImplementedError

    def asking(self, predictor: PromptedModel) -> PromptedModel:
        """The predictor as it is asked on validation and afterwards, with the model that is trained."""
        return predictor

    def ready(self, model: Any, lesson: Lesson) -> Any:
        """What `trainable_model` gave, with what the lesson decides of it."""
        return model

    def pull(self, model: Any, ref: ModelRef, engine: Engine) -> Pull:
        """What holds the training near the model before it.

        Args:
            model: What `trainable_model` gave.
        """
        from luthier.train.pull import FREE

        return FREE if self.held is None else self.held.pull(self.trained, model, ref, engine)

    def learned_facts(self, sequences: Sequence[TrainingSequence], lesson: Lesson, seed: int) -> Mapping[str, Any]:
        """What is worth keeping in `step.json` of the data that were learned from."""
        return {}

    def training_renderer(self, ref: ModelRef, engine: Engine) -> Renderer:
        """The renderer for the model with the adapter to be trained: its virtual tokens stand behind earlier ones."""
        have = len(engine.renderer(ref).before)
        return engine.renderer(ref, virtual=have + self.trained.virtual_tokens)

    def training_shape(self, ref: ModelRef, sequences: Sequence[TrainingSequence], engine: Engine) -> TrainingShape:
        """What the memory of training depends on; no weights are loaded for it.

        Raises:
            ModelError: The adapter cannot be trained on this device, or does not fit the model; or `keep` does not.
        """
        from luthier.model.load import count_parameters, empty_model
        from luthier.train.batches import merged_tokens
        from luthier.train.forward import needs_a_tree
        from luthier.train.memory import TrainingShape
        from luthier.tree.logprobs import base_of
        from luthier.tree.support import refusal_by_configuration

        if problem := self.trained.problem_on(engine.device):
            raise ModelError(problem)
        model = self._with_adapter(empty_model(ref), ref, engine, seed=0)
        compared = self.held is not None and self.held.compares
        refused = refusal_by_configuration(base_of(model))
        if refused and compared:
            raise ModelError(needs_a_tree(refused))
        return TrainingShape(
            config=model.config.get_text_config(),
            parameters=count_parameters(model),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            full=self.trained.full,
            width=2 if engine.precision == "bfloat16" else 4,
            longest=max(len(s.ids) for s in sequences),
            shortest=min(len(s.ids) for s in sequences),
            step_tokens=merged_tokens(sequences, int(given(self.batch_size))),
            padded=bool(refused),
            compared=compared,
            copied=count_parameters(model) if compared and not self.trained.leaves_the_start else 0,
            anchored=self.held is not None and self.held.anchors,
        )

    def memory_plan(self, shape: TrainingShape, engine: Engine) -> MemoryPlan:
        """How steps are split to fit in the memory that is free.

        Raises:
            TrainingError: The training does not fit however it is split.
        """
        from luthier.model.device import free_bytes
        from luthier.train.memory import plan_memory

        return plan_memory(shape, engine.device, free_bytes(engine.device))

    def trainable_model(self, ref: ModelRef, engine: Engine, seed: int) -> Any:
        """The model with what is trained in float32 and the rest in the engine's precision."""
        from luthier.model.fused import use_liger

        model = self.trained.load(ref, engine.device, engine.precision)
        if self.liger:
            use_liger(model, engine.device)
        return self._with_adapter(model, ref, engine, seed)

    def loop_settings(self, engine: Engine, plan: MemoryPlan, seed: int) -> LoopSettings:
        """These settings as the loop takes them."""
        from luthier.train.loop import LoopSettings

        return LoopSettings(
            epochs=given(self.epochs),
            batch_size=int(given(self.batch_size)),
            learning_rate=self._learning_rate(),
            warmup=self.warmup,
            schedule=self.schedule,
            weight_decay=given(self.weight_decay),
            max_grad_norm=self.max_grad_norm,
            evaluations=self.evaluations,
            patience=self.patience,
            seed=seed,
            device=engine.device,
            precision=engine.precision,
            max_tokens=plan.max_tokens,
            checkpointing=plan.checkpointing,
            compiled=self.compile,
            liger=self.liger,
            least_steps=self.fewest_steps,
        )

    def _with_adapter(self, model: Any, ref: ModelRef, engine: Engine, seed: int) -> Any:
        tokenizer = engine.renderer(ref).tokenizer
        return self.trained.attach(model, seed, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])

    def _kept_plan(self, ref: ModelRef, sequences: Sequence[TrainingSequence], context: StepContext) -> MemoryPlan:
        """The plan, kept in the folder: an interrupted training goes on as it began, whatever is free by then."""
        from luthier.train.memory import MemoryPlan

        file = context.folder / "memory.json"
        if not file.is_file():
            context.folder.mkdir(parents=True, exist_ok=True)
            plan = self.memory_plan(self.training_shape(ref, sequences, context.engine), context.engine)
            new = file.with_suffix(".new")
            new.write_text(json.dumps(asdict(plan)), encoding="utf-8")
            new.replace(file)  # whole or not at all
        return MemoryPlan(**json.loads(file.read_text(encoding="utf-8")))

    def _save_head(self, model: Any, context: StepContext) -> str | None:
        """Keep the model's classification head, if it has one, and give it back the layer that gives the next token."""
        from luthier.model.classify import detach_head, labels_of, save_head

        if labels_of(model) is None:
            return None
        folder = context.folder / "head"
        save_head(model, folder)
        detach_head(model)
        return str(folder)

    def _save(self, model: Any, ref: ModelRef, context: StepContext, engine: Engine) -> ModelRef:
        folder = context.folder / self.trained.saved_as
        self.trained.save(model, engine.renderer(ref).tokenizer, folder)
        if not self.trained.full:
            return replace(ref, adapters=(*ref.adapters, str(folder)))
        from luthier.model.virtual import count_virtual_tokens

        return ModelRef(str(folder), tuple(own for own in ref.adapters if count_virtual_tokens(own)))

    def _learning_rate(self) -> float:
        return self.trained.learning_rate if self.learning_rate is None else given(self.learning_rate)


def see_that_it_answers_alike(trained: Sequence[LogProb], saved: Sequence[LogProb]) -> None:
    """Compare what a model predicted in training with what it predicts when it is loaded as everybody loads it.

    Raises:
        TrainingError: They differ by more than another precision explains.
    """
    tokens = sum(own.tokens for own in trained)
    if not tokens:
        return
    apart = sum(abs(one.nats - other.nats) for one, other in zip(trained, saved, strict=True)) / tokens
    surprise = -sum(own.nats for own in trained) / tokens
    if not apart <= max(_NATS_APART, _SHARE_APART * surprise):
        raise TrainingError(
            f"the model as it was saved predicts otherwise than it did in training ({apart:.2g} nats a token apart, on "
            f"{len(trained)} validation examples): what was trained cannot be merged into this model's weights as "
            "PEFT does it. Train other modules (adapter: lora without targets takes every linear layer but the head)."
        )


def _adapters(step: Step) -> list[Adapter]:
    """Those that a step may train, every open setting given; none where it trains in another way."""
    return [own.trained for own in closed(step) if isinstance(own, TrainingStep)]
