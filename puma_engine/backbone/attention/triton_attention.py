"""Attention of few new positions in one kernel forwards and one backwards, where that works.

It reads and writes tensors as transformers lays them out, without copies, keeps no weights, and
gives no gradients to kept keys and values. Each kind of tile is tried once on small numbers: where
Triton is missing, cannot compile it, or gives other results, attention stays as it was.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from puma_engine.backbone.attention.prefix_attention import KeyValue, plain_attention

DTYPES = (torch.bfloat16, torch.float16)
SMALLEST, MOST_ROWS, MOST_KEPT = 16, 64, 64
# As many new keys as two words of bits hold.
MOST_NEW = 128
# Numbers of one tile of new keys: two tiles' gradients must fit into a program's registers.
LARGEST_TILE = 16_384
TOLERANCE = 0.05


@dataclass(frozen=True)
class Launch:
    """Rows of a tile of queries, and how many warps and stages of loads compute it."""

    rows: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """Rows of tiles of kept and of new keys and their width, and what is launched each way.

    kept_blocks are tiles of kept keys: none, one, or two for any greater number.
    """

    kept_blocks: int
    past: int
    new: int
    width: int
    forward: Launch
    backward: Launch


def tiles_for(group: int, length: int, kept: int, width: int) -> Tiles | None:
    """Tiles for `group` heads a key head at `length` positions, or None if those are too large."""
    new, wide = _power(length), _power(width)
    if new > MOST_NEW or new * wide > LARGEST_TILE:
        return None
    past = min(MOST_KEPT, _power(kept))
    rows = min(MOST_ROWS, _power(group * length))
    # The larger the gradients that a program sums, the fewer registers are left for rows.
    back = min(16 if new * wide >= LARGEST_TILE // 2 else 32, rows)
    warps = 8 if new * wide == LARGEST_TILE else 4
    ahead = Launch(rows, 4, 2)
    return Tiles(min(2, -(-kept // past)), past, new, wide, ahead, Launch(back, warps, 2))


def _power(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


class Attention(torch.autograd.Function):
    """attend(query, past_key, past_value, key, value, bits, scale, tiles) with three gradients.

    bits are `triton_kernels.packed` from a mask.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        from puma_engine.backbone.attention import triton_kernels

        query, past_key, past_value, key, value, bits, scale, tiles = given
        out, norm = triton_kernels.forward(
            query, (past_key, past_value), key, value, bits, scale, tiles
        )
        ctx.save_for_backward(*given[:6], out, norm)
        ctx.scale, ctx.tiles = scale, tiles
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        from puma_engine.backbone.attention import triton_kernels

        query, past_key, past_value, key, value, bits, out, norm = ctx.saved_tensors
        past = past_key, past_value
        given = query, past, key, value, bits, ctx.scale, ctx.tiles, out, norm
        d_query, d_key, d_value = triton_kernels.backward(*given, _dense(upstream))
        return d_query, None, None, d_key, d_value, None, None, None


def attend(
    query: Tensor, past: KeyValue | None, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> Tensor | None:
    """Attend from query [B, heads, S, d] to kept keys, if any, and to key [B, kv_heads, S, d].

    past are kept keys and values [B, kv_heads, P, d]; mask [B or 1, 1, S, P + S] is True where a
    key is seen. Returns [B, S, heads, d], zeros where nothing is seen, or None for what the kernels
    cannot compute.
    """
    if not query.is_cuda or not fits(query, past, key, mask):
        return None
    heads, length, width = query.shape[1:]
    past = (key[:, :, :0], value[:, :, :0]) if past is None else past
    tiles = tiles_for(heads // key.shape[1], length, past[0].shape[2], width)
    if tiles is None or not _works(query, past[0], key, tiles):
        return None
    dense = [_dense(tensor) for tensor in (query, *past, key, value)]
    found: Tensor = Attention.apply(*dense, packed(mask, past[0].shape[2]), scale, tiles)
    return found


def fits(query: Tensor, past: KeyValue | None, key: Tensor, mask: Tensor) -> bool:
    """Whether the kernels are for such numbers and such a mask, on whatever device."""
    keys = key.shape[2] + (0 if past is None else past[0].shape[2])
    same = {query.dtype, key.dtype, key.dtype if past is None else past[0].dtype}
    return (
        len(same) == 1
        and query.dtype in DTYPES
        and query.shape[2] == key.shape[2]
        and mask.dtype is torch.bool
        and mask.shape[0] in (1, len(query))
        and mask.shape[1:] == (1, query.shape[2], keys)
    )


# All layers of a model are given the same mask, or two in turn.
_bits: Any = WeakTensorKeyDictionary()


def packed(mask: Tensor, kept: int) -> Tensor:
    """Return `triton_kernels.packed` of a mask that nobody changes, computed once."""
    from puma_engine.backbone.attention import triton_kernels

    if mask not in _bits:
        _bits[mask] = triton_kernels.packed(_dense(mask), kept)
    bits: Tensor = _bits[mask]
    return bits


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with neighbours in its last axis side by side; most are already."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


_tried: dict[object, bool] = {}


def _works(query: Tensor, past_key: Tensor, key: Tensor, tiles: Tiles) -> bool:
    kind = query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], tiles
    if kind not in _tried:
        if importlib.util.find_spec("triton") is None or torch.cuda.is_current_stream_capturing():
            return False
        _tried[kind] = _try(query, past_key, key, tiles)
    return _tried[kind]


def _try(query: Tensor, past_key: Tensor, key: Tensor, tiles: Tiles) -> bool:
    """Whether the kernels compile and give what plain attention does, with its gradients."""
    generator = torch.Generator(query.device).manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        shape = (2, *like.shape[1:])
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    with torch.inference_mode(False), torch.enable_grad():
        new = q, k, v = [draw(like).requires_grad_() for like in (query, key, key)]
        past = draw(past_key), draw(past_key)
        length, kept = query.shape[2], past_key.shape[2]
        seen = torch.ones(2, 1, length, kept + length, dtype=torch.bool, device=query.device)
        seen = seen.tril(kept)
        seen[1, ..., : kept // 2] = False
        scale, upstream = query.shape[3] ** -0.5, draw(query).transpose(1, 2)
        wanted = plain_attention(q, past, k, v, seen, scale)
        try:
            found = Attention.apply(q, *past, k, v, packed(seen, kept), scale, tiles)
            slopes = [torch.autograd.grad(out, new, upstream) for out in (found, wanted)]
        except Exception:  # compilers fail in ways of their own
            return False
        return all(map(_near, (found, *slopes[0]), (wanted, *slopes[1])))


def _near(found: Tensor, wanted: Tensor) -> bool:
    difference = torch.linalg.vector_norm(found.float() - wanted.float())
    return bool(difference <= TOLERANCE * torch.linalg.vector_norm(wanted.float()))
