"""Keys and values of what stands before the prompt slot, computed once and packed by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Rows of token ids of different lengths, packed: row r is ids[offset[r] : offset[r + 1]]."""

    ids: Tensor
    offset: Tensor

    @classmethod
    def pack(cls, rows: list[list[int]], device: torch.device) -> Ragged:
        lengths = torch.tensor([0, *map(len, rows)])
        flat = [token for row in rows for token in row]
        return cls(
            torch.tensor(flat, dtype=torch.long, device=device), lengths.cumsum(0).to(device)
        )

    @property
    def lengths(self) -> Tensor:
        return self.offset[1:] - self.offset[:-1]

    def __len__(self) -> int:
        return len(self.offset) - 1

    def take(self, rows: Tensor) -> Ragged:
        """Return some rows, packed anew."""
        width = int(self.lengths[rows].max())
        index, real = self.index(rows, width, left=False)
        offset = torch.cat([self.offset.new_zeros(1), self.lengths[rows].cumsum(0)])
        return Ragged(self.ids[index][real], offset)

    def index(self, rows: Tensor, width: int, *, left: bool) -> tuple[Tensor, Tensor]:
        """Positions in the packed axis for a padded [B, width] view, and which are real.

        The padding is on the left of each row if `left`, else on the right.
        """
        length = self.lengths[rows].unsqueeze(1)
        column = torch.arange(width, device=rows.device).unsqueeze(0)
        column = column - (width - length) if left else column
        real = (column >= 0) & (column < length)
        start = self.offset[rows].unsqueeze(1)
        return (start + column).masked_fill(~real, 0), real


@dataclass(frozen=True)
class PackedKeysValues:
    """Keys and values a layer, [2, heads, tokens, head_dim] each, for the tokens of a Ragged.

    It has no layers until the first of them are written.
    """

    layers: list[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def write(
        self, tokens: int, index: Tensor, states: list[tuple[Tensor, Tensor]], real: Tensor
    ) -> None:
        """Keep states (keys, values a layer, [B, heads, P, head_dim]) at tokens index [B, P]."""
        if not self.layers:
            self.layers.extend(
                keys.new_zeros((2, keys.shape[1], tokens, keys.shape[3])) for keys, _ in states
            )
        flat = index[real]
        for layer, pair in zip(self.layers, states, strict=True):
            for part, state in zip(layer, pair, strict=True):
                rows = state.transpose(0, 1)[:, real.to(state.device)]
                part[:, flat.to(part.device)] = rows

    def gather(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (keys, values) a layer, [B, heads, P, head_dim], for an index [B, P]."""
        found = []
        rows: dict[tuple[int, int, torch.device], Tensor] = {}
        for layer in self.layers:
            # Whole rows of head_dim numbers are copied fast, and end where attention wants them.
            _, heads, tokens, width = layer.shape
            place = (heads, tokens, layer.device)
            if place not in rows:
                first = torch.arange(2 * heads, device=layer.device) * tokens
                rows[place] = first.view(2, 1, heads, 1) + index.to(layer.device)[None, :, None]
            both = torch.nn.functional.embedding(rows[place], layer.view(-1, width))
            found.append((both[0], both[1]))
        return found
