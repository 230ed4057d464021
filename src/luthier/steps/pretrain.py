"""`pretrain`: go on with the model's pretraining, on raw text of the domain or of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.data.text import AnyText, Text
from luthier.settings import Count, Open, Positive, Share
from luthier.steps.adapters import AnyAdapter, Full
from luthier.steps.lesson import Lesson, TextLesson
from luthier.steps.training import TrainingStep
from luthier.types import PromptedModel

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.prompt.render import TrainingSequence
    from luthier.steps.replay import Written


class PretrainStep(TrainingStep):
    """Train on raw text, every next token of it, without a chat template (Gururangan et al. 2020, "Don't Stop
    Pretraining").

    With text of the task's domain, before `sft`, this is their domain-adaptive pretraining (DAPT); with the unlabelled
    prompts of the task, their task-adaptive one (TAPT). The weights are kept that do best on documents kept apart.
    """

    learns: ClassVar[bool] = False

    step: Literal["pretrain"] = "pretrain"
    text: AnyText
    """What is read: a path or a pattern such as `notes/*.txt` (relative to the study file), a list of them, or a
    mapping of settings, for files with columns and for the text of a task, such as `{task: billing}`."""
    block_tokens: Annotated[int, Field(gt=1)] = 512
    """Documents longer than this are cut into blocks of so many tokens (512 as in Gururangan et al. 2020); never more
    than the model's window. What is cut off begins the next block, and no block holds two documents."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents, drawn by the seed, whose loss decides which weights are kept; one document at least."""
    adapter: Open[AnyAdapter] = Full()
    """What is trained, as in `sft`. Default: every weight, as in Gururangan et al.; LoRA learns less from raw text, and
    forgets less (Biderman et al. 2024, "LoRA Learns Less and Forgets Less")."""
    learning_rate: Open[Positive] | None = None
    """Peak learning rate. Default: as in `sft`; 1e-4 for every weight, which is Gururangan et al.'s for task text."""
    epochs: Open[Positive] = 1.0
    """Passes over the text; may be a fraction. One, as Gururangan et al. over text of a domain. A little text bears
    more: up to four are nearly as good as new text (Muennighoff et al. 2023)."""
    batch_size: Open[Count] = 8
    """Blocks an optimizer step."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards."""
    weight_decay: Open[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = 0.01
    """AdamW's weight decay on matrices (Gururangan et al. 2020)."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    evaluations: Count = 4
    """How often, evenly spread, the loss of the documents kept apart is taken; the best of them is kept."""
    patience: Annotated[int, Field(ge=0)] = 2
    """Evaluations without a gain after which training stops; 0 trains to the end."""
    compile: bool = False
    """Compile the model's layers, as in `sft`."""
    liger: bool = False
    """Use Liger's kernels, as in `sft`."""

    def lesson(self, text: Text, target: str, seed: int) -> TextLesson:
        """What it learns from, once the text is read."""
        return TextLesson((), (), target, text, self.block_tokens, self.held_out, seed)

    def sequences(
        self, predictor: PromptedModel, lesson: Lesson, engine: Engine, seed: int, written: Written | None = None
    ) -> list[TrainingSequence]:
        """The blocks of the documents to learn from."""
        assert isinstance(lesson, TextLesson)
        renderer = self.training_renderer(predictor.model, engine)
        return [
            block
            for document in lesson.documents.train
            for block in renderer.blocks(document.text, str(document.place), self.block_tokens)
        ]

    def learned_facts(self, sequences: Sequence[TrainingSequence], lesson: Lesson, seed: int) -> Mapping[str, Any]:
        assert isinstance(lesson, TextLesson)
        return {
            "text": lesson.text.name,
            "documents": len(lesson.documents.train),
            "held_out_documents": len(lesson.documents.held),
            "empty_documents": lesson.text.empty,
            "repeated_documents": lesson.text.repeated,
            "blocks": len(sequences),
        }
