"""The adapter: maps soft prompts of one backbone (or several) into another's space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.config import AdapterConfig

# What an adapter keeps beside its weights: how it reads prompts, and the bound on what it maps.
GIVEN = ("gain", "shift", "longest")


class FeedForward(nn.Module):
    """LayerNorm, Linear(d_in, hidden), SiLU, Dropout, Linear(hidden, d_out)."""

    def __init__(self, d_in: int, d_out: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(d_in),
            nn.Linear(d_in, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, d_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Adapter(nn.Module):
    """The paper's network: x + f1(x), then f2 to the target's width, then x + f3(x), f4.

    With depth n, block 2 changes the width and has no residual, the last block has none
    either, and the blocks between have one. Depth 4 and hidden 4096 from 2048 to 3072 have
    88,128,512 parameters, as in the paper. Prompts [..., l, d_in] become [..., l, d_out].
    After `read_as` they are multiplied and shifted before the first block; after `keep_below` the
    norm of each token that comes out is below a bound, whatever the last block says.
    """

    gain: Tensor | None
    shift: Tensor | None
    longest: Tensor | None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        config: AdapterConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = config or AdapterConfig()
        self.d_in, self.d_out, self.config = d_in, d_out, config
        widths = [(d_in, d_in), (d_in, d_out)] + [(d_out, d_out)] * (config.depth - 2)
        self.blocks = nn.ModuleList(
            FeedForward(a, b, config.hidden, config.dropout) for a, b in widths
        )
        self.register_buffer("gain", None)
        self.register_buffer("shift", None)
        self.register_buffer("longest", None)
        if generator is not None:
            self._start(generator)

    def read_as(self, gain: Tensor, shift: Tensor) -> None:
        """From now on read prompts [..., l, d_in] as prompts * gain + shift, both [l, d_in]."""
        self.gain, self.shift = gain, shift

    def keep_below(self, longest: Tensor) -> None:
        """From now on scale each token x by longest / sqrt(|x|^2 + longest^2); longest: []."""
        self.longest = longest

    def _start(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    def forward(self, prompts: Tensor) -> Tensor:
        x = prompts
        if self.gain is not None and self.shift is not None:
            x = x * self.gain + self.shift
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x) if number in (1, last) else x + block(x)
        if self.longest is not None:
            # Squares of half precision would overflow.
            squares = torch.sum(x.float() ** 2, dim=-1, keepdim=True)
            x = x * (self.longest / torch.sqrt(squares + self.longest**2))
        return x


def balance(
    vectors: np.ndarray, widths: Sequence[int], most: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a gain and a shift [l, d_in] that bring out what sets users apart; None if none is needed.

    vectors [n, l, d_in]: prompts of one source or, side by side, of several of these widths.
    most: how many times as large what users share (their mean) may be as what sets each apart
    from it, as root mean squares. Where it is larger, both change so that it is just that, and
    the prompts as a whole keep their size. Fitted prompts may share twenty times as much as
    they differ in, and a LayerNorm then leaves next to nothing of the differences.
    """
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    gain, shift = np.ones_like(mean), np.zeros_like(mean)
    ends = np.cumsum(widths)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part = (slice(None), slice(start, end))
        shared, own = _size(mean[part]), _size(spread[part])
        if shared > most * own > 0:
            size = float(np.hypot(shared, own) / np.hypot(most, 1))
            gain[part] = size / own
            shift[part] = mean[part] * (most * size / shared - size / own)
    return (gain, shift) if np.any(gain != 1) else None


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
