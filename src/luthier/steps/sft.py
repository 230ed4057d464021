"""`sft`: supervised fine-tuning, of all weights or of a LoRA adapter, on prompts as the predictor renders them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.settings import Choose, Open
from luthier.steps.base import Step, StepContext, StepOutcome
from luthier.steps.validate import score_of, validation_metrics
from luthier.types import ModelRef, Predictor, Task

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.prompt.render import TrainingSequence
    from luthier.train.loop import LoopSettings
    from luthier.train.memory import MemoryPlan

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class SftStep(Step):
    """Train on the task's training examples; keep the weights that do best on validation."""

    trains: ClassVar[bool] = True

    step: Literal["sft"] = "sft"
    adapter: Open[Literal["lora", "none"]] = "lora"
    """`lora` trains small added matrices (Hu et al. 2022); `none` trains every weight (full fine-tuning)."""
    rank: Open[Count] | None = None
    """LoRA rank. Default: 16, ample for some thousand examples (Schulman et al. 2025)."""
    alpha: Open[Positive] | None = None
    """LoRA scale; the update counts alpha / rank. Default: twice the rank, the usual choice (Raschka 2023)."""
    dropout: Open[Share] = 0.0
    """Dropout inside LoRA, a share."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that LoRA adapts. Default: every linear layer but the head (Dettmers et al. 2023)."""
    learning_rate: Open[Positive] | None = None
    """Peak learning rate. Default: 1e-3 for LoRA, 1e-4 for full fine-tuning (LoRA's best rate is about ten times
    that of full fine-tuning; Schulman et al. 2025, "LoRA Without Regret")."""
    epochs: Open[Positive] = 3.0
    """Passes over the training examples; may be a fraction. Three as in Alpaca (Taori et al. 2023)."""
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
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that the loss counts: those of the answer, or the prompt's as well."""
    compile: bool = False
    """Compile the model's layers (torch.compile) in place of the engine's own fused functions: the first steps take a
    minute or more, whether later ones get faster depends on the machine. Needs a C++ compiler."""
    liger: bool = False
    """Use Liger's kernels for norms, feed-forward blocks and rotary embeddings. Needs a CUDA GPU and liger-kernel."""

    @model_validator(mode="after")
    def _no_lora_settings_without_lora(self) -> SftStep:
        if "none" in (self.adapter.choose if isinstance(self.adapter, Choose) else (self.adapter,)):
            given = [name for name in ("rank", "alpha", "dropout", "targets") if self.is_changed(name)]
            if given:
                have = "has" if len(given) == 1 else "have"
                raise ValueError(
                    f"{' and '.join(given)} {have} no meaning with adapter: none, which trains every weight; "
                    "leave it out, or set adapter: lora"
                )
        return self

    def described(self) -> dict[str, Any]:
        """The settings with those filled in that follow from others; those of LoRA only where it is used."""
        settings = super().described() | {"learning_rate": self._learning_rate()}
        if self.adapter == "none":
            return {name: value for name, value in settings.items() if name not in ("dropout", "targets")}
        return settings | {"rank": self._rank(), "alpha": self._alpha()}

    def disk_bytes(self, model_bytes: int) -> int:
        """Three checkpoints at a time (weights, two moments, the best weights; float32), and the result."""
        return 13 * model_bytes if self.adapter == "none" else model_bytes // 2

    def fit(self, predictor: Predictor, context: StepContext) -> StepOutcome:
        """Train the predictor's model; the returned predictor is the same with the model replaced."""
        from luthier.model.adapter import adapter_movement, full_movement, movement_matrix
        from luthier.model.load import count_parameters, load_model
        from luthier.train.loop import train

        started = time.perf_counter()
        engine = context.engine
        engine.release()
        sequences = self.sequences(predictor, context.task, engine)
        plan = self._kept_plan(predictor.model, sequences, context)
        model = self.trainable_model(predictor.model, engine, context.seed)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = count_parameters(model)

        def validate(live: Any) -> dict[str, float]:
            return validation_metrics(engine, predictor, context.task, context.metric, model=live)

        settings = self.loop_settings(engine, plan, context.seed)
        with context.progress.track("training", settings.total_steps(len(sequences))) as advance:
            outcome = train(
                model,
                sequences,
                settings,
                validate=validate,
                score_of=lambda metrics: score_of(metrics, context.metric),
                log=context.log,
                folder=context.folder,
                advance=advance,
            )
        # An interrupted training counts whole; what is measured below for the report is no part of it.
        train_s = max(time.perf_counter() - started, outcome.seconds + outcome.validation_s)
        if self.adapter == "lora":
            moved = adapter_movement(model)
        else:
            base = load_model(predictor.model, device=engine.device, precision="float32")
            moved = full_movement(model, base)
            del base
        ref = self._save(model, predictor.model, context, engine)
        del model
        engine.release()
        return StepOutcome(
            predictor=replace(predictor, model=ref),
            train_s=train_s,
            loop_s=outcome.seconds,
            trained_tokens=outcome.tokens,
            trainable_parameters=trainable,
            trainable_share=trainable / total,
            peak_bytes=outcome.peak_bytes,
            results={"movement": movement_matrix(moved)},
            facts={
                **asdict(outcome),
                "examples": len(sequences),
                "longest_tokens": max(len(s.ids) for s in sequences),
                "memory_plan": asdict(plan),
                "dropped_shots": sum(s.dropped_shots for s in sequences),
                "trained_tokens_per_epoch": sum(sum(s.trained) for s in sequences),
                "learning_rate": self._learning_rate(),
            },
        )

    def sequences(self, predictor: Predictor, task: Task, engine: Engine) -> list[TrainingSequence]:
        """The task's training examples as the predictor renders them."""
        renderer = engine.renderer(predictor.model)
        shots = engine.select_shots(predictor, [e.prompt for e in task.train])
        return [
            renderer.training(example, predictor.wording, own, loss_on=self.loss_on)
            for example, own in zip(task.train, shots, strict=True)
        ]

    def memory_plan(self, ref: ModelRef, sequences: Sequence[TrainingSequence], engine: Engine) -> MemoryPlan:
        """How steps are split to fit in the memory that is free; no weights are loaded for it.

        Raises:
            TrainingError: The training does not fit however it is split.
        """
        from luthier.model.device import free_bytes
        from luthier.model.load import count_parameters, empty_model
        from luthier.train.batches import merged_tokens
        from luthier.train.memory import TrainingShape, plan_memory
        from luthier.tree.logprobs import base_of
        from luthier.tree.support import refusal_by_configuration

        model = self._with_adapter(empty_model(ref), seed=0)
        shape = TrainingShape(
            config=model.config.get_text_config(),
            parameters=count_parameters(model),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            full=self.adapter == "none",
            width=2 if engine.precision == "bfloat16" else 4,
            longest=max(len(s.ids) for s in sequences),
            step_tokens=merged_tokens(sequences, int(_given(self.batch_size))),
            padded=bool(refusal_by_configuration(base_of(model))),
        )
        return plan_memory(shape, engine.device, free_bytes(engine.device))

    def trainable_model(self, ref: ModelRef, engine: Engine, seed: int) -> Any:
        """The model with what is trained in float32 and the rest in the engine's precision."""
        from luthier.model.fused import use_liger
        from luthier.model.load import load_model

        precision = engine.precision if self.adapter == "lora" else "float32"
        model = load_model(ref, device=engine.device, precision=precision)
        if self.liger:
            use_liger(model, engine.device)
        return self._with_adapter(model, seed)

    def loop_settings(self, engine: Engine, plan: MemoryPlan, seed: int) -> LoopSettings:
        """These settings as the loop takes them."""
        from luthier.train.loop import LoopSettings

        return LoopSettings(
            epochs=_given(self.epochs),
            batch_size=int(_given(self.batch_size)),
            learning_rate=self._learning_rate(),
            warmup=self.warmup,
            schedule=self.schedule,
            weight_decay=_given(self.weight_decay),
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
        )

    def _with_adapter(self, model: Any, seed: int) -> Any:
        if self.adapter == "none":
            return model
        from luthier.model.adapter import add_lora

        return add_lora(
            model,
            rank=self._rank(),
            alpha=self._alpha(),
            dropout=_given(self.dropout),
            targets=self.targets if isinstance(self.targets, str) else list(self.targets),
            seed=seed,
        )

    def _kept_plan(self, ref: ModelRef, sequences: Sequence[TrainingSequence], context: StepContext) -> MemoryPlan:
        """The plan, kept in the folder: an interrupted training goes on as it began, whatever is free by then."""
        from luthier.train.memory import MemoryPlan

        file = context.folder / "memory.json"
        if not file.is_file():
            context.folder.mkdir(parents=True, exist_ok=True)
            plan = self.memory_plan(ref, sequences, context.engine)
            new = file.with_suffix(".new")
            new.write_text(json.dumps(asdict(plan)), encoding="utf-8")
            new.replace(file)  # whole or not at all
        return MemoryPlan(**json.loads(file.read_text(encoding="utf-8")))

    def _save(self, model: Any, ref: ModelRef, context: StepContext, engine: Any) -> ModelRef:
        from luthier.model.adapter import save_adapter, save_full

        if self.adapter == "lora":
            folder = context.folder / "adapter"
            save_adapter(model, folder)
            return replace(ref, adapters=(*ref.adapters, str(folder)))
        folder = context.folder / "model"
        save_full(model, engine.renderer(ref).tokenizer, folder)
        return ModelRef(base=str(folder))

    def _rank(self) -> int:
        return 16 if self.rank is None else int(_given(self.rank))

    def _alpha(self) -> float:
        return 2.0 * self._rank() if self.alpha is None else _given(self.alpha)

    def _learning_rate(self) -> float:
        if self.learning_rate is not None:
            return _given(self.learning_rate)
        return 1e-3 if self.adapter == "lora" else 1e-4


def _given(setting: Any) -> float:
    assert not isinstance(setting, Choose), "a step is fitted with all settings given"
    return float(setting)
