"""The adapter: maps soft prompts of one backbone (or several) into another's space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puma_engine.config import AdapterConfig


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
    """

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
        if generator is not None:
            self._start(generator)

    def _start(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    def forward(self, prompts: Tensor) -> Tensor:
        x = prompts
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x) if number in (1, last) else x + block(x)
        return x
