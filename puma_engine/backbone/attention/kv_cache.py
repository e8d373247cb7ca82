"""Keys and values of texts before the prompt slot, computed once and packed by token."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class RaggedTensor:
    """Rows of token ids of different lengths, packed: row r is ids[offset[r] : offset[r + 1]]."""

    ids: Tensor
    offset: Tensor

    @classmethod
    def pack(cls, rows: list[list[int]], device: torch.device) -> "RaggedTensor":
        lengths = torch.tensor([0, *map(len, rows)])
        flat = [token for row in rows for token in row]
        ids = torch.tensor(flat, dtype=torch.long, device=device)
        return cls(ids, lengths.cumsum(0).to(device))

    @property
    def lengths(self) -> Tensor:
        return self.offset[1:] - self.offset[:-1]

    def __len__(self) -> int:
        return len(self.offset) - 1

    def take(self, rows: Tensor) -> "RaggedTensor":
        """Return some rows, packed anew."""
        width = int(self.lengths[rows].max())
        index, exists = self.index(rows, width, left=False)
        offset = torch.cat([self.offset.new_zeros(1), self.lengths[rows].cumsum(0)])
        return RaggedTensor(self.ids[index][exists], offset)

    def index(self, rows: Tensor, width: int, *, left: bool) -> tuple[Tensor, Tensor]:
        """Return positions in the packed axis for a padded view [B, width], and which exist.

        The padding is on the left of each row if `left`, else on the right.
        """
        length = self.lengths[rows].unsqueeze(1)
        column = torch.arange(width, device=rows.device).unsqueeze(0)
        column = column - (width - length) if left else column
        exists = (column >= 0) & (column < length)
        start = self.offset[rows].unsqueeze(1)
        return (start + column).masked_fill(~exists, 0), exists


@dataclass(frozen=True)
class KVCache:
    """Keys and values a layer, [2, kv_heads, tokens, head_dim] each, for the tokens of a RaggedTensor.

    It has no layers until the first of them are written.
    """

    layers: list[Tensor] = field(default_factory=list)

    def write(
        self, tokens: int, index: Tensor, states: list[tuple[Tensor, Tensor]], exists: Tensor
    ) -> None:
        """Store states at the packed positions index [B, P] where exists [B, P].

        states: keys and values a layer, [B, kv_heads, P, head_dim]; tokens: length of the packed
        axis.
        """
        if not self.layers:
            self.layers.extend(
                keys.new_zeros((2, keys.shape[1], tokens, keys.shape[3])) for keys, _ in states
            )
        flat = index[exists]
        for layer, pair in zip(self.layers, states, strict=True):
            for part, state in zip(layer, pair, strict=True):
                rows = state.transpose(0, 1)[:, exists.to(state.device)]
                part[:, flat.to(part.device)] = rows

    def gather(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (keys, values) a layer, [B, kv_heads, P, head_dim], for an index [B, P]."""
        gathered = []
        rows: dict[tuple[int, int, torch.device], Tensor] = {}
        for layer in self.layers:
            # Copying whole rows of head_dim numbers is fast and gives the layout of attention.
            _, heads, tokens, width = layer.shape
            key = (heads, tokens, layer.device)
            if key not in rows:
                first = torch.arange(2 * heads, device=layer.device) * tokens
                rows[key] = first.view(2, 1, heads, 1) + index.to(layer.device)[None, :, None]
            both = torch.nn.functional.embedding(rows[key], layer.view(-1, width))
            gathered.append((both[0], both[1]))
        return gathered
