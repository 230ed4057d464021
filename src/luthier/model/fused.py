"""The modules that training spends its time in, computed in fewer passes over memory.

`fuse` replaces the forward of PEFT's LoRA layers, of RMS norms and of gated feed-forward blocks by functions with the
same values and gradients that keep less and run fewer operations. Modules that differ in any way from what is known
here are left as they are.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear, silu

from luthier.errors import ModelError
from luthier.model.device import compute_dtype


def fuse(model: Any, *, only_lora: bool = False) -> int:
    """Replace what can be replaced in `model`, in place; returns how many modules were.

    Args:
        only_lora: Leave norms and feed-forward blocks as they are, where other kernels have taken their place.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear

    replaced = 0
    for module in model.modules():
        if type(module) is LoraLinear and type(module.base_layer) is torch.nn.Linear:
            forward: Any = _lora_forward
        elif only_lora:
            continue
        elif _is_plain_rms_norm(module):
            forward = _rms_norm_forward
        elif _is_gated_mlp(module):
            forward = _gated_mlp_forward
        else:
            continue
        module.forward = MethodType(forward, module)
        replaced += 1
    return replaced


def use_liger(model: Any, device: str) -> None:
    """Put Liger's kernels (Hsu et al. 2024) into the model, for good; not its losses, which ours replace.

    Raises:
        ModelError: There is no CUDA GPU, or the package is missing.
    """
    if device != "cuda":
        raise ModelError(f"liger: true needs a CUDA GPU; this runs on {device}. Leave it out.")
    from transformers.integrations.liger import apply_liger_kernel

    try:
        apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    except ImportError as error:
        raise ModelError(
            "liger: true needs the package liger-kernel; install it with: pip install liger-kernel"
        ) from error


def unfuse(model: Any) -> None:
    """Give all modules their own forward back."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), MethodType) and module.forward.__module__ == __name__:
            del module.forward


def _lora_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    names = [name for name in self.active_adapters if name in self.lora_A]
    plain = (
        not (args or kwargs or self.disable_adapters or self.merged)
        and len(names) == 1
        and names[0] not in self.lora_variant
        and self.lora_A[names[0]].bias is None
        and self.lora_B[names[0]].bias is None
        and (isinstance(self.lora_dropout[names[0]], torch.nn.Identity) or not self.training)
    )
    if not plain:
        return type(self).forward(self, x, *args, **kwargs)  # type: ignore[no-any-return]
    base, name = self.base_layer, names[0]
    dtype = compute_dtype(x.device, base.weight.dtype)
    x = x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        flat = x.reshape(-1, x.shape[-1])
        bias = None if base.bias is None else base.bias.to(dtype)
        out: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            flat,
            base.weight.to(dtype),
            bias,
            self.lora_A[name].weight.to(dtype),
            self.lora_B[name].weight.to(dtype),
            self.scaling[name],
        )
    return out.view(*x.shape[:-1], -1)


class _LoraLinear(torch.autograd.Function):
    """x Wᵀ + b + scaling · (x Aᵀ) Bᵀ, the update added in place of a copy (Hu et al. 2022)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        low = linear(x, a)  # (T, r)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scaling = scaling
        return linear(x, weight, bias).addmm_(low, b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_a = grad_low.t() @ x if ctx.needs_input_grad[3] else None
        grad_b = (grad.t() @ low).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, grad_a, grad_b, None


def _is_plain_rms_norm(module: torch.nn.Module) -> bool:
    """Whether the module scales by the root mean square and then by its weight; Gemma's, say, adds 1 to the weight."""
    epsilon = getattr(module, "variance_epsilon", None)
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or epsilon is None or weight is None or weight.ndim != 1:
        return False
    probe = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        found = module(probe)
        wanted = weight * (probe * torch.rsqrt(probe.square().mean(-1, keepdim=True) + epsilon))
    return bool(torch.allclose(found, wanted, rtol=1e-4, atol=1e-5))


def _rms_norm_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    # Linear layers read the output: rounded here once, not in each of them.
    dtype = compute_dtype(x.device, torch.promote_types(x.dtype, self.weight.dtype))
    return _RmsNorm.apply(x, self.weight, self.variance_epsilon, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    """weight · x / rms(x) (Zhang & Sennrich 2019), the square root in float32; keeps x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, weight, scale)
        out: torch.Tensor = (wide * scale).to(dtype).mul_(weight.to(dtype))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grad.float()
        normal = x.float() * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normal).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight.float()
        inner = torch.linalg.vecdot(grad, normal).unsqueeze(-1).div_(x.shape[-1])
        return grad.addcmul_(normal, inner, value=-1).mul_(scale).to(x.dtype), grad_weight, None, None


def _is_gated_mlp(module: torch.nn.Module) -> bool:
    """Whether the module is `down(silu(gate(x)) * up(x))` and no more: its forward is Llama's to the instruction."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    known, own = LlamaMLP.forward.__code__, getattr(type(module).forward, "__code__", None)
    return (
        own is not None
        and (own.co_code, own.co_names, own.co_consts) == (known.co_code, known.co_names, known.co_consts)
        and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")
    )


def _gated_mlp_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    inner: torch.Tensor = _GatedSilu.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
    return self.down_proj(inner)  # type: ignore[no-any-return]


class _GatedSilu(torch.autograd.Function):
    """silu(gate) · up (Shazeer 2020); keeps its two inputs only."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up
