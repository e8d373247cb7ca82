"""torch.compile for the layers of large frozen models, so that they run as fewer kernels.

Where attention reads prefixes in place, a whole decoder layer is compiled. Elsewhere norms,
feed-forward activations, rotary embeddings and the softmax of attention are compiled. Each is
compiled once for all shapes and layers.

torch.compile loads the compiler, which takes almost a second, so it is called where layers are
compiled, and not when this module is imported.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from puma_engine.backbone.attention.last_position_mlp import LastPositionMLP, decoder_layers
from puma_engine.backbone.attention.plain_attention import two_part_softmax

# Endings of the class names of modules that are compiled as a whole.
PARTS = ("RMSNorm", "LayerNorm", "MLP")
ROTARY = "apply_rotary_pos_emb"
# Training and predicting, with and without a prefix, are variants of one compiled function. Beyond
# PyTorch's default limit of eight the rest would run uncompiled.
VARIANTS = 64


class CompiledOnGpu:
    """A function of tensors that runs compiled if its first argument is on a GPU."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self.compiled = torch.compile(function, dynamic=True)

    def __call__(self, first: Tensor, *others: Any, **named: Any) -> Any:
        return (self.compiled if first.is_cuda else self.plain)(first, *others, **named)


@functools.cache
def compiled_softmax() -> CompiledOnGpu:
    """Return the softmax of attention over a prefix and new positions, compiled on a GPU."""
    return CompiledOnGpu(two_part_softmax)


def compile_layers(decoder: nn.Module) -> None:
    """Compile the parts of a decoder in place, on their first use; CPU inputs stay uncompiled."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    for part in _outermost(decoder):
        part.compile(dynamic=True)
    for name in {type(part).__module__ for part in decoder.modules()}:
        namespace = vars(sys.modules[name])
        if ROTARY in namespace and not isinstance(namespace[ROTARY], CompiledOnGpu):
            namespace[ROTARY] = CompiledOnGpu(namespace[ROTARY])


def run_module(module: nn.Module, *arguments: Any, **named: Any) -> Any:
    return module._call_impl(*arguments, **named)


@functools.cache
def _compiled_run_module() -> Callable[..., Any]:
    return torch.compile(run_module, dynamic=True)


@contextmanager
def whole_layers_compiled(decoder: nn.Module) -> Iterator[None]:
    """Context manager: each layer of a decoder runs as one compiled function."""
    layers, run = decoder_layers(decoder) or (), _compiled_run_module()
    for layer in layers:
        layer._compiled_call_impl = functools.partial(run, layer)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def uncompile_layers(decoder: nn.Module) -> None:
    """Run every part of a decoder uncompiled again."""
    for part in _outermost(decoder):
        part._compiled_call_impl = None


def _outermost(decoder: nn.Module) -> list[nn.Module]:
    # The wrapper's positions change from call to call, so only its inner module is compiled.
    parts = [
        part
        for part in decoder.modules()
        if type(part).__name__.endswith(PARTS) and not isinstance(part, LastPositionMLP)
    ]
    inner = {id(child) for part in parts for child in part.modules() if child is not part}
    return [part for part in parts if id(part) not in inner]
