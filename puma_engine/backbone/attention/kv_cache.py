"""Keys and values of texts before the prompt slot, computed once and packed by token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class RaggedTensor:
    """Packed rows of token ids of different lengths; tokens that all rows begin with are stored once.

    Row r is ids[:common] followed by ids[offset[r] : offset[r + 1]].
    """

    ids: Tensor
    offset: Tensor
    common: int = 0

    @classmethod
    def pack(
        cls, rows: Sequence[Sequence[int]], device: torch.device, *, share: bool = False
    ) -> "RaggedTensor":
        """Pack rows of ids. share: store the tokens that all rows begin with once."""
        common = 0
        if share and rows:
            # All rows begin with what the first and the last in alphabetical order begin with.
            first, last = min(map(tuple, rows)), max(map(tuple, rows))
            pairs = enumerate(zip(first, last, strict=False))
            common = next((n for n, (a, b) in pairs if a != b), len(first))
        offsets = torch.tensor([common, *(len(row) - common for row in rows)]).cumsum(0)
        flat = [*rows[0][:common]] if common else []
        flat += [token for row in rows for token in row[common:]]
        return cls(torch.tensor(flat, dtype=torch.long, device=device), offsets.to(device), common)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each row, the common ones included."""
        return self.offset[1:] - self.offset[:-1] + self.common

    def __len__(self) -> int:
        return len(self.offset) - 1

    def row(self, number: int) -> list[int]:
        """Return the ids of one row."""
        tail = self.ids[self.offset[number] : self.offset[number + 1]]
        return [*self.ids[: self.common].tolist(), *tail.tolist()]

    def take(self, rows: Tensor) -> "RaggedTensor":
        """Return some rows, packed anew."""
        width = int(self.lengths[rows].max())
        index, exists = self.index(rows, width, left=False)
        is_tail = exists.clone()
        is_tail[:, : self.common] = False
        ids = torch.cat([self.ids[: self.common], self.ids[index][is_tail]])
        lengths = torch.cat([rows.new_full((1,), self.common), self.lengths[rows] - self.common])
        return RaggedTensor(ids, lengths.cumsum(0), self.common)

    def index(self, rows: Tensor, width: int, *, left: bool) -> tuple[Tensor, Tensor]:
        """Return positions in the packed axis for a padded view [B, width], and which exist.

        The padding is on the left of each row if `left`, else on the right.
        """
        length = self.lengths[rows].unsqueeze(1)
        column = torch.arange(width, device=rows.device).unsqueeze(0)
        column = column - (width - length) if left else column
        exists = (column >= 0) & (column < length)
        packed = self.offset[rows].unsqueeze(1) + column - self.common
        return torch.where(column < self.common, column, packed).masked_fill(~exists, 0), exists


@dataclass(frozen=True)
class KVCache:
    """Keys and values of each layer, [2, kv_heads, tokens, head_dim], for the tokens of a RaggedTensor.

    It has no layers before the first `write` or `put`.
    """

    layers: list[Tensor] = field(default_factory=list)

    def write(
        self, tokens: int, index: Tensor, states: list[tuple[Tensor, Tensor]], exists: Tensor
    ) -> None:
        """Store states at the packed positions index [B, P] where exists [B, P].

        states: keys and values of each layer, [B, kv_heads, P, head_dim]; tokens: length of the
        packed axis.
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

    def put(self, tokens: int, start: int, layers: Sequence[Tensor]) -> None:
        """Store layers [2, kv_heads, n, head_dim] at the packed positions from start on."""
        if not self.layers:
            self.layers.extend(
                part.new_zeros((2, part.shape[1], tokens, part.shape[3])) for part in layers
            )
        for layer, part in zip(self.layers, layers, strict=True):
            layer[:, :, start : start + part.shape[2]] = part

    def take(self, index: Tensor) -> list[Tensor]:
        """Return copies of the packed positions index [n] for each layer, [2, kv_heads, n, head_dim]."""
        return [layer[:, :, index.to(layer.device)] for layer in self.layers]

    def gather(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (keys, values) of each layer, [B, kv_heads, P, head_dim], for an index [B, P]."""
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


@dataclass(frozen=True)
class CachedPrefix:
    """The cached texts that stand before the rows of a batch.

    rows [B]: numbers of texts in `tokens`, whose keys and values are in `cache`; longest: no text
    of the batch has more tokens.
    """

    cache: KVCache
    tokens: RaggedTensor
    rows: Tensor
    longest: int

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row's text, [B]."""
        return self.tokens.lengths[self.rows]

    def gather(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return copies, (keys, values) of each layer [B, kv_heads, longest, head_dim], and which exist.

        The padding is on the left.
        """
        index, exists = self.tokens.index(self.rows, self.longest, left=True)
        return self.cache.gather(index), exists

    def tiles(self, tile_rows: int) -> Tensor:
        """Return where attention finds the keys of each tile of rows, [B, 6], for `attend_in_place`.

        Rows of one text stand together, in tiles of at most `tile_rows`. Columns of line t: where
        the rows of tile t start in the last column, and how many there are (0 where there is no
        such tile); the position of their text in the cache less the number of common tokens, its
        tokens, and that number. The last column holds all row numbers by text.
        """
        # A kernel that loads one number after the other is slow, so all numbers of a tile stand side
        # by side. No single number is assigned, since that would wait for the device.
        batch = len(self.rows)
        count = torch.arange(batch, device=self.rows.device)
        ordered, order = torch.sort(self.rows)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        position = count - torch.where(is_first, count, 0).cummax(0).values
        tile = (position % tile_rows == 0).cumsum(0) - 1
        first = self.rows.new_full((batch + 1,), batch)
        first.scatter_reduce_(0, tile, count, "amin")
        text = ordered[first[:-1].clamp(max=batch - 1)]
        common = torch.full_like(text, self.tokens.common)
        start = self.tokens.offset[text] - common
        sizes = first[1:] - first[:-1]
        return torch.stack([first[:-1], sizes, start, self.tokens.lengths[text], common, order], 1)
