"""Matrix products of a frozen decoder and of its gradients in 8-bit floats (e4m3).

Weights have one scale for each row or column, activations one for each row (Micikevicius et al.
2022, "FP8 formats for deep learning", https://arxiv.org/abs/2209.05433).
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from puma_engine.backbone.attention.compiled_layers import CompiledOnGpu
from puma_engine.errors import BackboneError

FP8_MAX = 448.0  # the largest e4m3 number
# The 8-bit products need sizes in steps of 16, and a GPU of this compute capability (Ada) or newer.
FP8_STEP = 16
FP8_CAPABILITY = (8, 9)


def check_fp8(device: torch.device, *, spread: bool = False) -> None:
    """Raise BackboneError if a device cannot compute products in fp8."""
    if spread:
        raise BackboneError("A model in fp8 lives on one GPU; choose a device, or leave fp8 out.")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise BackboneError(
            f"Products in fp8 need an NVIDIA GPU of the Ada or Hopper generation or newer, not "
            f"{device}; leave fp8 out."
        )


def use_fp8(decoder: nn.Module) -> int:
    """Replace the linear layers of a frozen decoder by 8-bit ones; return how many."""
    layers = [
        (parent, name, child)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and not any(size % FP8_STEP for size in child.weight.shape)
    ]
    for parent, name, child in layers:
        setattr(parent, name, Fp8Linear(child))
    return len(layers)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows x [n, k] as e4m3, and the scale [n, 1] of each, so that the largest number fits."""
    largest = x.abs().amax(dim=1, keepdim=True).float()
    scale = largest.clamp(min=1e-12) / FP8_MAX
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


@functools.cache
def _compiled_quantize_rows() -> CompiledOnGpu:
    return CompiledOnGpu(quantize_rows)


def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    # In a layer that is being compiled, plain operations are fused with what computes x.
    if torch._guards.TracingContext.try_get() is not None:
        return quantize_rows(x)
    return _compiled_quantize_rows()(x)  # type: ignore[no-any-return]


class Fp8Linear(nn.Module):
    """A frozen linear layer that computes its products and those of the gradient in e4m3."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.bias = linear.bias
        for name, values in (("forward_weight", weight), ("backward_weight", weight.t())):
            quantized, scale = quantize_rows(values.contiguous())
            self.register_buffer(name, quantized)
            self.register_buffer(f"{name}_scale", scale.view(1, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in_features] to [..., out_features]."""
        product = _Fp8Product.apply(
            x.reshape(-1, x.shape[-1]),
            *(self.forward_weight, self.forward_weight_scale),
            *(self.backward_weight, self.backward_weight_scale),
        )
        product = product.view(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


@torch._dynamo.allow_in_graph
class _Fp8Product(torch.autograd.Function):
    """apply(x [n, k], weight and its scale forwards, the same backwards)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, back: Tensor, back_scale: Tensor
    ) -> Tensor:
        ctx.save_for_backward(back, back_scale)
        return _product(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _product(gradients[0], *ctx.saved_tensors), None, None, None, None


def _product(x: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Return x [n, k] times the transpose of an e4m3 weight [m, k], in the dtype of x."""
    rows, scale = _quantize(x)
    return torch._scaled_mm(
        rows, weight.t(), scale_a=scale, scale_b=weight_scale, out_dtype=x.dtype,
        use_fast_accum=True,
    )  # fmt: skip
