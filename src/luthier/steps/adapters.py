"""`adapter:` of a step that trains: which weights are trained, and how the change is kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from luthier.settings import Count, Open, Positive, Settings, Share, given

Tokenize = Callable[[str], Sequence[int]]


class Adapter(Settings):
    """What the kinds of adapters have in common."""

    learning_rate: ClassVar[float] = 1e-3
    # The folder that `save` writes, in the step's own.
    saved_as: ClassVar[str] = "adapter"
    # Whether the model's own weights are trained, all of them.
    full: ClassVar[bool] = False

    @property
    def virtual_tokens(self) -> int:
        """Virtual tokens that the adapter puts before every sequence."""
        return 0

    @property
    def leaves_the_start(self) -> bool:
        """Whether the model without the adapter is the model that training began from."""
        return False

    def model_post_init(self, context: Any) -> None:
        """The kind counts as given, so that what is dumped of the settings given can be read again."""
        self.__pydantic_fields_set__.add("kind")

    def described(self) -> dict[str, Any]:
        """The settings as they take effect."""
        return self.model_dump(mode="json", exclude_none=True)

    def problem(self) -> str:
        """Why these settings cannot be used anywhere, found without a model; empty where they can."""
        return ""

    def problem_behind(self, adapted: bool, virtual: bool) -> str:
        """Why it cannot be trained behind other trainings; empty where it can.

        Args:
            adapted: Whether they left an adapter beside the model's own weights.
            virtual: Whether they left virtual tokens before its sequences.
        """
        if virtual and self.virtual_tokens:
            return "the model has virtual tokens already; prompt and prefix tuning come once in an approach"
        return ""

    def problem_on(self, device: str) -> str:
        """Why it cannot be used on a device; empty where it can."""
        return ""

    def load(self, ref: Any, device: str, precision: str) -> Any:
        """The model that `attach` is given: frozen weights in `precision`."""
        from luthier.model.load import load_model

        return load_model(ref, device=device, precision=precision)

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        """The model with what is trained in float32 and nothing else trainable."""
        raise NotImplementedError

    def rate(self, name: str) -> float:
        """Share of the learning rate with which a weight is trained."""
        return 1.0

    def save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        """Write what was trained, so that `load_model` finds it."""
        from luthier.model.adapter import save_adapter

        save_adapter(model, folder)

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        """How far each weight matrix moved, relative to its own norm; empty where none did.

        Args:
            load_base: Loads the model as it was, in float32.
        """
        return {}

    def disk_bytes(self, model_bytes: int) -> int:
        """Most bytes that training and saving may write, checkpoints included, for a model of so many bytes."""
        return model_bytes // 2


class Lora(Adapter):
    """Small matrices added to linear layers (LoRA, Hu et al. 2022), with its variants."""

    kind: Literal["lora"] = "lora"
    rank: Open[Count] = 16
    """Rank of the update. 16 is ample for some thousand examples (Schulman et al. 2025)."""
    alpha: Open[Positive] | None = None
    """Scale; the update counts alpha / rank. Default: twice the rank, the usual choice (Raschka 2023); with
    `scaling: sqrt`, which is for comparing ranks under one scale, 16."""
    dropout: Open[Share] = 0.0
    """Dropout before the added matrices, a share."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the modules that are adapted. Default: every linear layer but the head (Dettmers et al. 2023)."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Numbers of the layers that are adapted, from 0. Default: all."""
    scaling: Literal["rank", "sqrt"] = "rank"
    """`rank`: the update counts alpha / rank. `sqrt`: alpha / √rank, so that high ranks learn as fast (rsLoRA,
    Kalajdzievski 2023); `rslora` for short."""
    init: Literal["zero", "pissa"] = "zero"
    """`zero`: the update begins at nothing. `pissa`: it begins as the largest singular values of the weights, which
    stay behind as the rest (PiSSA, Meng et al. 2024); it is saved as an ordinary LoRA of twice the rank. `pissa` for
    short."""
    dora: bool = False
    """Train the magnitude of each weight's columns apart from their direction (DoRA, Liu et al. 2024); `dora` for
    short."""
    rate_ratio: Open[Positive] = 1.0
    """How much faster B is trained than A (LoRA+, Hayou et al. 2024); `loraplus` for short, with 16."""
    bits: Literal[4, 8] | None = None
    """Keep the frozen weights in so many bits while training (QLoRA, Dettmers et al. 2023); needs bitsandbytes, and is
    slow without a CUDA GPU. What it trained is used with the weights as they were. `qlora` for short, with 4."""

    @model_validator(mode="after")
    def _pissa_needs_whole_weights(self) -> Lora:
        if self.init == "pissa" and self.bits is not None:
            raise ValueError("init: pissa changes the frozen weights, which bits rounds; leave one of them out")
        if self.init == "pissa" and self.dora:
            raise ValueError("init: pissa and dora cannot be saved together as one adapter; leave one of them out")
        return self

    @property
    def leaves_the_start(self) -> bool:
        return self.init == "zero"

    def described(self) -> dict[str, Any]:
        return super().described() | {"alpha": self._alpha}

    def problem_behind(self, adapted: bool, virtual: bool) -> str:
        if adapted and self.bits:
            return "qlora (bits) begins at a model as it was loaded, and here it was adapted before; use lora"
        return ""

    def problem_on(self, device: str) -> str:
        from luthier.model.adapter import quantising_problem

        return quantising_problem(device) if self.bits else ""

    def load(self, ref: Any, device: str, precision: str) -> Any:
        from luthier.model.load import load_quantised

        return load_quantised(ref, device=device, bits=self.bits) if self.bits else super().load(ref, device, precision)

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.adapter import add_lora

        return add_lora(
            model,
            rank=int(given(self.rank)),
            alpha=self._alpha,
            dropout=given(self.dropout),
            targets=self.targets if isinstance(self.targets, str) else list(self.targets),
            seed=seed,
            layers=self.layers,
            sqrt_scaling=self.scaling == "sqrt",
            pissa=self.init == "pissa",
            dora=self.dora,
        )

    def rate(self, name: str) -> float:
        return given(self.rate_ratio) if ".lora_B." in name else 1.0

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        from luthier.model.adapter import adapter_movement

        return adapter_movement(model)

    @property
    def _alpha(self) -> float:
        if self.alpha is not None:
            return given(self.alpha)
        return 16.0 if self.scaling == "sqrt" else 2 * given(self.rank)


class Ia3(Adapter):
    """Factors on keys, values and feed-forward activations ((IA)³, Liu et al. 2022)."""

    learning_rate: ClassVar[float] = 1e-2

    kind: Literal["ia3"] = "ia3"

    @property
    def leaves_the_start(self) -> bool:
        return True

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.adapter import add_ia3

        return add_ia3(model, seed=seed)

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        from luthier.model.adapter import adapter_movement

        return adapter_movement(model)


class PromptTuning(Adapter):
    """Trained embeddings before every prompt (prompt tuning, Lester et al. 2021)."""

    learning_rate: ClassVar[float] = 1e-2

    kind: Literal["prompt-tuning"] = "prompt-tuning"
    tokens: Open[Count] = 20
    """Virtual tokens; the model's window holds so many fewer others."""
    text: str | None = None
    """They begin as the tokens of this text, repeated or cut. Default: as tokens drawn from the vocabulary."""

    @property
    def virtual_tokens(self) -> int:
        return int(given(self.tokens))

    @property
    def leaves_the_start(self) -> bool:
        return True

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.virtual import add_virtual_tokens

        ids = _first_ids(self.virtual_tokens, self.text, tokenize, model.get_input_embeddings().num_embeddings, seed)
        model.requires_grad_(False)
        add_virtual_tokens(model, self._new(model, ids))
        model.virtual_tokens.requires_grad_(True)
        return model

    def save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        from luthier.model.virtual import save_virtual_tokens

        save_virtual_tokens(model, folder)

    def _new(self, model: Any, ids: Sequence[int]) -> Any:
        from luthier.model.virtual import new_soft_prompt

        return new_soft_prompt(model, ids)


class PrefixTuning(PromptTuning):
    """Trained keys and values before every prompt, in every layer (prefix tuning, Li & Liang 2021)."""

    kind: Literal["prefix-tuning"] = "prefix-tuning"  # type: ignore[assignment]

    def _new(self, model: Any, ids: Sequence[int]) -> Any:
        from luthier.model.virtual import new_prefix

        return new_prefix(model, ids)


class _Part(Adapter):
    """Some of the model's own weights."""

    learning_rate: ClassVar[float] = 1e-4
    saved_as: ClassVar[str] = "part"

    def names(self, model: Any) -> list[str]:
        raise NotImplementedError

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.part import train_only

        train_only(model, self.names(model))
        return model

    def save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        from luthier.model.part import save_part

        save_part(model, folder)

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        from luthier.model.adapter import full_movement

        return {k: v for k, v in full_movement(model, load_base()).items() if v}

    def disk_bytes(self, model_bytes: int) -> int:
        return 13 * model_bytes


class LastLayers(_Part):
    """The last layers and the norm behind them, the lower ones frozen (Howard & Ruder 2018)."""

    kind: Literal["last-layers"] = "last-layers"
    count: Open[Count] = 4
    """How many."""

    def names(self, model: Any) -> list[str]:
        from luthier.model.part import names_of_last_layers

        return names_of_last_layers(model, int(given(self.count)))


class Head(_Part):
    """The output layer alone, over frozen features; where it shares the input embedding's weights, it gets its own."""

    kind: Literal["head"] = "head"

    def names(self, model: Any) -> list[str]:
        from luthier.model.part import names_of_head

        return names_of_head(model)


class BiasesAndNorms(_Part):
    """All biases (BitFit, Ben Zaken et al. 2022) and the weights of all norms."""

    learning_rate: ClassVar[float] = 1e-3

    kind: Literal["biases-and-norms"] = "biases-and-norms"

    def names(self, model: Any) -> list[str]:
        from luthier.model.part import names_of_biases_and_norms

        return names_of_biases_and_norms(model)


class Peft(Adapter):
    """Any other adapter of PEFT's that changes modules, by its name there."""

    kind: Literal["peft"] = "peft"
    type: str
    """Its name in PEFT, such as LoHa, OFT or VeRA."""
    settings: Mapping[str, Any] = {}
    """The arguments of its configuration. Default of target_modules: every linear layer but the head; of a type that is
    not for linear layers (LN_TUNING, TRAINABLE_TOKENS) what PEFT has for it."""

    def problem(self) -> str:
        from luthier.model.adapter import peft_problem

        return peft_problem(self.type, self.settings)

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.adapter import add_peft, peft_config

        return add_peft(model, peft_config(self.type, self.settings), seed)

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        from luthier.model.adapter import adapter_movement

        return adapter_movement(model)


class Full(Adapter):
    """Every weight (full fine-tuning)."""

    learning_rate: ClassVar[float] = 1e-4
    saved_as: ClassVar[str] = "model"
    full: ClassVar[bool] = True

    kind: Literal["none"] = "none"
    start: Literal["model", "random"] = "model"
    """Where training begins: at the model as it is, or at weights of the same shape drawn by the seed, as before any
    pre-training. The difference is what the pre-training is worth."""

    def load(self, ref: Any, device: str, precision: str) -> Any:
        return super().load(ref, device, "float32")

    def attach(self, model: Any, seed: int, tokenize: Tokenize) -> Any:
        from luthier.model.fresh import draw_weights

        if self.start == "random":
            draw_weights(model, seed)
        return model

    def save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        from luthier.model.adapter import save_full

        save_full(model, tokenizer, folder)

    def movement(self, model: Any, load_base: Callable[[], Any]) -> dict[str, float]:
        from luthier.model.adapter import full_movement

        return full_movement(model, load_base())

    def disk_bytes(self, model_bytes: int) -> int:
        """Three checkpoints at a time (weights, two moments, the best weights; float32), and the result."""
        return 13 * model_bytes


# Names for settings of LoRA that go by a name of their own.
_SHORT: Mapping[str, Mapping[str, Any]] = {
    "rslora": {"scaling": "sqrt"},
    "pissa": {"init": "pissa"},
    "dora": {"dora": True},
    "loraplus": {"rate_ratio": 16.0},
    "qlora": {"bits": 4},
}


def _long_form(value: Any) -> Any:
    """A bare name is a kind without settings, `dora` is a LoRA with `dora: true`, and LoRA need not be named."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Adapter) or (isinstance(value, Mapping) and "choose" in value):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"an adapter is the name of a kind or a mapping of its settings; found {value!r}")
    kind = value.get("kind", "lora")
    return {**_SHORT[kind], **value, "kind": "lora"} if kind in _SHORT else {**value, "kind": kind}


AnyAdapter = Annotated[
    Annotated[
        Lora | Ia3 | PromptTuning | PrefixTuning | LastLayers | Head | BiasesAndNorms | Peft | Full,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_long_form),
]


def _first_ids(count: int, text: str | None, tokenize: Tokenize, vocabulary: int, seed: int) -> list[int]:
    """The tokens that virtual ones begin as."""
    if text is None:
        drawn = random.Random(seed)
        return [drawn.randrange(vocabulary) for _ in range(count)]
    ids = tokenize(text)
    return [ids[i % len(ids)] for i in range(count)]
