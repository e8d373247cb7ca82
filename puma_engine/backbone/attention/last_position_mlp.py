"""The last layer's feed-forward module, computed only at the position whose result is read.

Each row's answer is read at one position. The cache of a prefix needs only keys and values, which
are computed before this module. In a model with few layers, skipping the rest saves much of the
work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LAYER_LISTS = ("layers", "h", "blocks")


class LastPositionMLP(nn.Module):
    """Wraps a feed-forward module [B, S, d] to [B, S, d]; it computes all positions, except in `only_at`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._everywhere = True
        self._index: Tensor | None = None

    @contextmanager
    def only_at(self, index: Tensor | None) -> Iterator[None]:
        """Context manager: compute only the positions index [B, 1, 1], or none for None; others are zeros."""
        self._everywhere, self._index = False, index
        try:
            yield
        finally:
            self._everywhere, self._index = True, None

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        """Apply the inner module at the chosen positions; at all if it takes further arguments."""
        if self._everywhere or others:
            return self.inner(x, *others)
        if self._index is None:
            return torch.zeros_like(x)
        index = self._index.to(x.device).expand(-1, -1, x.shape[-1])
        return torch.zeros_like(x).scatter(1, index, self.inner(x.gather(1, index)))


def wrap_last_mlp(decoder: nn.Module) -> LastPositionMLP | None:
    """Wrap the last layer's feed-forward module in place; None if there is none named `mlp`."""
    layers = decoder_layers(decoder)
    mlp = None if layers is None else getattr(layers[-1], "mlp", None)
    if layers is None or not isinstance(mlp, nn.Module):
        return None
    wrapped = LastPositionMLP(mlp)
    layers[-1].mlp = wrapped
    return wrapped


def decoder_layers(decoder: nn.Module) -> nn.ModuleList | None:
    """Return a decoder's list of layers, None if it has none of a known name."""
    lists = (getattr(decoder, name, None) for name in LAYER_LISTS)
    return next((layers for layers in lists if isinstance(layers, nn.ModuleList)), None)
