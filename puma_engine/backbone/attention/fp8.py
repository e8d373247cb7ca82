"""Fewer and shorter kernels for large frozen models: fused layers, and products in 8 bits.

Norms, feed-forward activations, rotary embeddings and attention weights are compiled, each once
for all shapes and layers, so that they read their input once and keep little of it; attention of
few positions has kernels of its own. In fp8 every product of the decoder's layers, also of its
gradient, is computed from 8-bit floats (e4m3) with one scale a row and a column.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from puma_engine.backbone.attention.prefix_attention import Attend, Weights, two_part_softmax
from puma_engine.backbone.attention.triton_attention import attend
from puma_engine.errors import BackboneError

PARTS = ("RMSNorm", "LayerNorm", "MLP")
ROTARY = "apply_rotary_pos_emb"
LARGE = 300_000_000
FP8_MAX = 448.0
# The 8-bit kernels want sizes in steps of 16, and came with this generation of GPUs.
FP8_STEP = 16
FP8_GENERATION = (8, 9)
# Training and predicting, with and without kept keys, are variants of one compiled function; beyond
# PyTorch's own limit of eight the rest would run uncompiled.
VARIANTS = 64


@dataclass(frozen=True)
class Fused:
    """What attention in a fused decoder is given from outside: for all its work, or a part."""

    joint_softmax: Weights
    attend: Attend


def fuse_layers(decoder: nn.Module) -> Fused:
    """Compile the parts of a decoder in place, on their first use; CPU inputs stay uncompiled."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    for part in _outermost(decoder):
        part.compile(dynamic=True)
    for name in {type(part).__module__ for part in decoder.modules()}:
        space = vars(sys.modules[name])
        if ROTARY in space and not isinstance(space[ROTARY], OnGpu):
            space[ROTARY] = OnGpu(space[ROTARY])
    return Fused(OnGpu(two_part_softmax), attend)


def unfuse_layers(decoder: nn.Module) -> None:
    """Let every part of a decoder run as it is written."""
    for part in _outermost(decoder):
        part._compiled_call_impl = None


class OnGpu:
    """A function of tensors that is compiled for those on a GPU."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self.compiled = torch.compile(function, dynamic=True)

    def __call__(self, first: Tensor, *others: Any, **named: Any) -> Any:
        """Call the function, compiled if its first argument is on a GPU."""
        return (self.compiled if first.is_cuda else self.plain)(first, *others, **named)


def _outermost(decoder: nn.Module) -> list[nn.Module]:
    parts = [part for part in decoder.modules() if type(part).__name__.endswith(PARTS)]
    inner = {id(child) for part in parts for child in part.modules() if child is not part}
    return [part for part in parts if id(part) not in inner]


def check_fp8(device: torch.device, *, spread: bool = False) -> None:
    """Raise BackboneError if a device cannot compute products in fp8."""
    if spread:
        raise BackboneError("A model in fp8 lives on one GPU; choose a device, or leave fp8 out.")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_GENERATION:
        raise BackboneError(
            f"Products in fp8 need an NVIDIA GPU of the Ada or Hopper generation or newer, not "
            f"{device}; leave fp8 out."
        )


def use_fp8(decoder: nn.Module) -> int:
    """Replace the linear layers of a frozen decoder by 8-bit ones; return how many."""
    found = [
        (parent, name, child)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and not any(size % FP8_STEP for size in child.weight.shape)
    ]
    rows = LatestRows()
    for parent, name, child in found:
        setattr(parent, name, Fp8Linear(child, rows))
    return len(found)


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, k] as e4m3 and the scale [n, 1] of each, so that the largest fits."""
    largest = rows.abs().amax(dim=1, keepdim=True).float()
    scale = largest.clamp(min=1e-12) / FP8_MAX
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


_fused_quantised = OnGpu(quantised)


class LatestRows:
    """The input that was quantised last: layers side by side read the same one."""

    def __init__(self) -> None:
        self._of: Callable[[], Tensor | None] = lambda: None
        self._found: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def quantised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise x [..., k] by row, or return what came of it the last time."""
        if self._found is None or self._of() is not x:
            self._found = _fused_quantised(x.reshape(-1, x.shape[-1]))
            self._of = weakref.ref(x)
        return self._found


class Fp8Linear(nn.Module):
    """A frozen linear layer whose products, also the gradient's, are computed in e4m3."""

    def __init__(self, linear: nn.Linear, rows: LatestRows) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.rows, self.bias = rows, linear.bias
        for name, values in (("ahead", weight), ("back", weight.t())):
            small, scale = quantised(values.contiguous())
            self.register_buffer(name, small)
            self.register_buffer(f"{name}_scale", scale.view(1, -1))

    @torch._dynamo.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in_features] to [..., out_features]."""
        small = self.rows.quantised(x)
        frozen = self.ahead, self.ahead_scale, self.back, self.back_scale
        out = _Fp8Product.apply(x.reshape(-1, x.shape[-1]), *small, *frozen)
        out = out.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, small: Tensor, small_scale: Tensor, *frozen: Tensor) -> Tensor:
        weight, scale, *back = frozen
        ctx.save_for_backward(*back)
        return _product(small, small_scale, weight, scale, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        small, small_scale = _fused_quantised(gradient)
        weight, scale = ctx.saved_tensors
        found = _product(small, small_scale, weight, scale, gradient.dtype)
        return found, None, None, None, None, None, None


def _product(
    rows: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """rows [n, k] times the transpose of weight [m, k], both e4m3."""
    return torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale,
        out_dtype=dtype,
        use_fast_accum=True,
    )
