"""The last layer's feed-forward part, computed only where its result is read.

Answers are read at one position a row, and of a prefix only keys and values are kept, which come
before this part. In a model of few layers that is a good share of all work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "mlp"
STACKS = ("layers", "h", "blocks")


class Tail(nn.Module):
    """A feed-forward module [B, S, d] to [B, S, d] that may be told which positions matter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._everywhere = True
        self._index: Tensor | None = None

    @contextmanager
    def only_at(self, index: Tensor | None) -> Iterator[None]:
        """Within, compute at positions index [B, 1, 1] alone, or (None) nowhere: zeros elsewhere."""
        self._everywhere, self._index = False, index
        try:
            yield
        finally:
            self._everywhere, self._index = True, None

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        """Apply the inner module where its result is read; everywhere if it is given more than x."""
        if self._everywhere or others:
            return self.inner(x, *others)
        if self._index is None:
            return torch.zeros_like(x)
        index = self._index.to(x.device).expand(-1, -1, x.shape[-1])
        return torch.zeros_like(x).scatter(1, index, self.inner(x.gather(1, index)))


def add_tail(decoder: nn.Module) -> Tail | None:
    """Wrap the last layer's feed-forward part in place, if the decoder has one of that name."""
    for stack in STACKS:
        layers = getattr(decoder, stack, None)
        if isinstance(layers, nn.ModuleList) and isinstance(
            getattr(layers[-1], NAME, None), nn.Module
        ):
            tail = Tail(getattr(layers[-1], NAME))
            setattr(layers[-1], NAME, tail)
            return tail
    return None


def remove_tail(decoder: nn.Module) -> None:
    """Undo `add_tail`."""
    for module in list(decoder.modules()):
        inner = getattr(module, NAME, None)
        if isinstance(inner, Tail):
            setattr(module, NAME, inner.inner)
