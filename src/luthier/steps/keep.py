"""`keep:` of a step that trains: what holds the model near the one that training began from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from luthier.settings import Open, Settings, given
from luthier.steps.adapters import Adapter

if TYPE_CHECKING:
    from luthier.infer.engine import Engine
    from luthier.train.pull import Pull
    from luthier.types import ModelRef

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Keep(Settings):
    """What holds a training near the model that it began from, against forgetting. `keep: 0.1` is `{kl: 0.1}`."""

    kl: Open[Weight] = 0.0
    """Weight, beside the loss, of the Kullback-Leibler divergence between the predictions of the model before this step
    and those of the model in training, over the whole vocabulary; both in nats a token. The model before is the one in
    training with its adapter switched off, or a frozen copy where weights of its own are trained (so with `pissa` and
    `peft`, too). Needs a model that can be run on token trees."""
    direction: Literal["forward", "reverse"] = "forward"
    """`forward`: KL(before‖trained), which holds on to all that the model before would have said. `reverse`:
    KL(trained‖before), the term of RLHF (Ziegler et al. 2019), which keeps it from saying new things."""
    tokens: Literal["trained", "all"] = "trained"
    """Where predictions are compared: at the tokens that the loss counts, or at those of the prompts as well."""
    l2: Open[Weight] = 0.0
    """Pull of the trained weights towards where they began, the penalty l2/2 ‖θ − θ₀‖² (L2-SP, Li et al. 2018),
    decoupled from the gradient as AdamW's weight decay is: each step every weight goes back by learning rate × l2 of
    its distance. Of an adapter it is the adapter's own numbers that go back, which for LoRA is to no change, though not
    by the size of the product B·A. Where it should be the only pull, set `weight_decay: 0`. Not for prompt and prefix
    tuning, which do not begin at the model before."""

    @model_validator(mode="after")
    def _kl_has_what_is_said_of_it(self) -> Keep:
        said = [name for name in ("direction", "tokens") if self.is_changed(name)]
        if said and "kl" not in self.model_fields_set:
            raise ValueError(f"{' and '.join(said)} {'say' if said[1:] else 'says'} how kl is taken; give kl a weight")
        return self

    @property
    def compares(self) -> bool:
        """Whether predictions are compared with those of the model before."""
        return given(self.kl) > 0

    @property
    def anchors(self) -> bool:
        """Whether weights are pulled to where they began."""
        return given(self.l2) > 0

    def problem(self, adapter: Adapter, learning_rate: float) -> str:
        """Why these settings cannot be used with an adapter and a learning rate; empty where they can."""
        if self.anchors and adapter.virtual_tokens:
            return "keep: l2 pulls weights to where they began, and virtual tokens begin at nothing to be kept; use kl."
        fastest = learning_rate * max(1.0, adapter.rate(".lora_B."))
        if given(self.l2) * fastest >= 1:
            return (
                f"keep: an l2 of {given(self.l2):g} at a learning rate of {fastest:g} would put weights back to where "
                f"they began in every step; their product must be below 1."
            )
        return ""

    def pull(self, adapter: Adapter, model: Any, ref: ModelRef, engine: Engine) -> Pull:
        """What the training loop is given.

        Args:
            model: The model in training, as `adapter` made it of `ref`.
        """
        from luthier.train.pull import Pull

        return Pull(
            start=self._start(adapter, model, ref, engine) if self.compares else None,
            kl=given(self.kl),
            reverse=self.direction == "reverse",
            everywhere=self.tokens == "all",
            l2=given(self.l2),
        )

    def _start(self, adapter: Adapter, model: Any, ref: ModelRef, engine: Engine) -> Any:
        from peft import PeftModel

        from luthier.model.fused import fuse
        from luthier.model.load import load_model
        from luthier.model.start import Start
        from luthier.tree.logprobs import base_of

        virtual = adapter.virtual_tokens
        if adapter.leaves_the_start and not isinstance(base_of(model), PeftModel):
            return Start(model, switch_off=not virtual, virtual=virtual)
        copy = load_model(ref, device=engine.device, precision=engine.precision).requires_grad_(False)
        fuse(copy)
        return Start(copy, virtual=virtual)


def _long_form(value: Any) -> Any:
    """A bare weight is that of kl."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kl": value}
    if not isinstance(value, Mapping | Keep):
        raise ValueError(f"keep is the weight of kl or a mapping of settings, such as {{kl: 0.1}}; found {value!r}")
    return value


AnyKeep = Annotated[Keep, BeforeValidator(_long_form)]
