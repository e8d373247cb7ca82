# mypy: disallow-untyped-defs=False
"""Attention of few new positions in two Triton kernels, one forwards and one backwards.

A program takes the query heads that share a key head, so that keys and values are read once for
all of them: its rows are (position, head of the group), in that order. Kept keys come in blocks of
any number, new ones in a single block; backwards a program goes through all of its rows, so that
the new keys' gradients are summed without atomics. Import this only where a kernel is to run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from puma_engine.backbone.attention.triton_attention import Launch, Tiles

# Widths of batches differ by little: a compilation for each of them would take minutes.
VARYING = ["length", "kept", "words", "b_batch"]
WORD = 64


@triton.jit
def _load(base, offset, real, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    inside = real[:, None] & (column < width)[None, :]
    return tl.load(base + offset[:, None] + column[None, :], mask=inside, other=0.0)


@triton.jit
def _pair(keys, values, k_row, v_row, column, there, width: tl.constexpr, block_d: tl.constexpr):
    k = _load(keys, column * k_row, there, width, block_d)
    return k, _load(values, column * v_row, there, width, block_d)


@triton.jit
def _rows(first, length, shared, group: tl.constexpr, block_m: tl.constexpr):
    """Which of block_m rows exist, and their positions and heads."""
    row = first + tl.arange(0, block_m)
    return row < length * group, row // group, shared * group + row % group


@triton.jit
def _store(base, offset, real, found, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    inside = real[:, None] & (column < width)[None, :]
    place = base + offset[:, None] + column[None, :]
    tl.store(place, found.to(base.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["m_batch", "m_row", "length", "kept", "old"])
def _pack(mask, bits, m_batch, m_row, length, kept, old, new: tl.constexpr):
    """Write one word of a row's bits: its `old` words are of kept keys, its `new` ones of others."""
    word, line = tl.program_id(0) % (old + new), tl.program_id(0) // (old + new)
    batch, position = (line // length).to(tl.int64), line % length
    start = tl.where(word < old, word * 64, kept + (word - old) * 64)
    end = tl.where(word < old, kept, kept + length)
    bit = tl.arange(0, 64)
    place = mask + batch * m_batch + position * m_row + start + bit
    seen = tl.load(place, mask=start + bit < end, other=0)
    found = tl.sum((seen != 0).to(tl.int64) << bit.to(tl.int64), 0)
    tl.store(bits + tl.program_id(0), found)


@triton.jit
def _seen(bits, real, size: tl.constexpr):
    """Which of the next `size` keys are seen: those whose bits are set, from bits [rows] on."""
    column = tl.arange(0, size)
    word = tl.load(bits, mask=real, other=0)[:, None]
    if size > 64:
        after = tl.load(bits + 1, mask=real, other=0)[:, None]
        word = tl.where((column < 64)[None, :], word, after)
    return ((word >> (column % 64).to(tl.int64)[None, :]) & 1) != 0


@triton.jit
def _online(q, k, v, seen, scale, top, total, out):
    """Add keys to a softmax that is kept as its top score (base 2), its total and its result."""
    scores = tl.where(seen, tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634), -1e30)
    higher = tl.maximum(top, tl.max(scores, 1))
    raised = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
    shrunk = tl.exp2(top - higher)
    out = out * shrunk[:, None] + tl.dot(raised.to(v.dtype), v)
    return higher, total * shrunk + tl.sum(raised, 1), out


@triton.jit
def _slopes(q, k, v, seen, scale, norm, upstream, delta):
    """Weights of keys, and the loss's gradient with respect to their scores."""
    scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
    weights = tl.where(seen, tl.exp2(scores - norm[:, None]), 0.0)
    slopes = weights * (tl.dot(upstream, tl.trans(v)) - delta[:, None])
    return weights.to(q.dtype), slopes.to(q.dtype)


@triton.jit
def _towards_kept(q, k, v, bits, real, scale, norm, upstream, delta):
    """The gradient of q, but for the scale, that comes from one block of kept keys."""
    seen = _seen(bits, real, k.shape[0])
    _, slopes = _slopes(q, k, v, seen, scale, norm, upstream, delta)
    return tl.dot(slopes, k)


@triton.jit(do_not_specialize=VARYING)
def _forward(
    query, past_key, past_value, key, value, bits, out, norm,
    q_batch, q_head, q_row, pk_batch, pk_head, pk_row, pv_batch, pv_head, pv_row,
    k_batch, k_head, k_row, v_batch, v_head, v_row, b_batch,
    words, length, kept, kv_heads, scale,
    group: tl.constexpr, width: tl.constexpr, block_m: tl.constexpr, block_p: tl.constexpr,
    block_s: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(length * group, block_m)
    pair = tl.program_id(0) // blocks
    batch, shared, heads = (pair // kv_heads).to(tl.int64), pair % kv_heads, kv_heads * group
    first = (tl.program_id(0) % blocks) * block_m
    real, position, head = _rows(first, length, shared, group, block_m)
    q = _load(query + batch * q_batch, head * q_head + position * q_row, real, width, block_d)
    bits += batch * b_batch + position * words
    past_key += batch * pk_batch + shared * pk_head
    past_value += batch * pv_batch + shared * pv_head
    key += batch * k_batch + shared * k_head
    value += batch * v_batch + shared * v_head
    top = tl.full([block_m], -1e30, tl.float32)
    total = tl.zeros([block_m], tl.float32)
    found = tl.zeros([block_m, block_d], tl.float32)
    for start in range(0, kept, block_p):
        old = start + tl.arange(0, block_p)
        k, v = _pair(past_key, past_value, pk_row, pv_row, old, old < kept, width, block_d)
        seen = _seen(bits + start // 64, real, block_p)
        top, total, found = _online(q, k, v, seen, scale, top, total, found)
    new = tl.arange(0, block_s)
    k, v = _pair(key, value, k_row, v_row, new, new < length, width, block_d)
    seen = _seen(bits + tl.cdiv(kept, 64), real, block_s)
    top, total, found = _online(q, k, v, seen, scale, top, total, found)
    # A row that sees nothing gets zeros.
    total = tl.where(total == 0.0, 1.0, total)
    found = found / total[:, None]
    out += batch * length * heads * width
    _store(out, (position * heads + head) * width, real, found, width, block_d)
    norm += batch * heads * length
    tl.store(norm + head * length + position, top + tl.log2(total), mask=real)


@triton.jit(do_not_specialize=VARYING)
def _backward(
    query, past_key, past_value, key, value, bits, out, norm, upstream, d_query, d_key, d_value,
    q_batch, q_head, q_row, pk_batch, pk_head, pk_row, pv_batch, pv_head, pv_row,
    k_batch, k_head, k_row, v_batch, v_head, v_row, b_batch, words, g_batch, g_row, g_head,
    dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    length, kept, kv_heads, scale, group: tl.constexpr, width: tl.constexpr, block_m: tl.constexpr,
    block_p: tl.constexpr, block_s: tl.constexpr, block_d: tl.constexpr, kept_blocks: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    batch, shared, heads = (pair // kv_heads).to(tl.int64), pair % kv_heads, kv_heads * group
    query += batch * q_batch
    upstream += batch * g_batch
    out += batch * length * heads * width
    norm += batch * heads * length
    past_key += batch * pk_batch + shared * pk_head
    past_value += batch * pv_batch + shared * pv_head
    key += batch * k_batch + shared * k_head
    value += batch * v_batch + shared * v_head
    new, old = tl.arange(0, block_s), tl.arange(0, block_p)
    k, v = _pair(key, value, k_row, v_row, new, new < length, width, block_d)
    # Without a loop within, the loop over rows loads the next ones ahead.
    if kept_blocks == 1:
        pk, pv = _pair(past_key, past_value, pk_row, pv_row, old, old < kept, width, block_d)
    dk, dv = tl.zeros([block_s, block_d], tl.float32), tl.zeros([block_s, block_d], tl.float32)
    for first in range(0, length * group, block_m):
        real, position, head = _rows(first, length, shared, group, block_m)
        q = _load(query, head * q_head + position * q_row, real, width, block_d)
        g = _load(upstream, head * g_head + position * g_row, real, width, block_d)
        o = _load(out, (position * heads + head) * width, real, width, block_d)
        n = tl.load(norm + head * length + position, mask=real, other=0.0)
        delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        word = bits + batch * b_batch + position * words
        seen = _seen(word + tl.cdiv(kept, 64), real, block_s)
        weights, slopes = _slopes(q, k, v, seen, scale, n, g, delta)
        dv += tl.dot(tl.trans(weights), g)
        dk += tl.dot(tl.trans(slopes), q)
        dq = tl.dot(slopes, k)
        if kept_blocks == 1:
            dq += _towards_kept(q, pk, pv, word, real, scale, n, g, delta)
        if kept_blocks > 1:
            for start in range(0, kept, block_p):
                at = start + old
                pk, pv = _pair(past_key, past_value, pk_row, pv_row, at, at < kept, width, block_d)
                dq += _towards_kept(q, pk, pv, word + start // 64, real, scale, n, g, delta)
        place = batch * dq_batch + head * dq_head + position * dq_row
        _store(d_query, place, real, dq * scale, width, block_d)
    d_key += batch * dk_batch + shared * dk_head
    _store(d_key, new * dk_row, new < length, dk * scale, width, block_d)
    d_value += batch * dv_batch + shared * dv_head
    _store(d_value, new * dv_row, new < length, dv, width, block_d)


def packed(mask: Tensor, kept: int) -> Tensor:
    """Return mask [B or 1, 1, S, kept + S] as 64 bits a word, the kept keys' words first."""
    batch, _, length, _ = mask.shape
    old, new = triton.cdiv(kept, WORD), triton.cdiv(length, WORD)
    bits = torch.empty((batch, length, old + new), dtype=torch.int64, device=mask.device)
    with torch.cuda.device_of(mask):
        _pack[(bits.numel(),)](
            mask.view(torch.uint8),
            bits,
            *(mask.stride(0), mask.stride(2)),
            *(length, kept, old),
            new=new,
            num_warps=1,
        )
    return bits


def forward(
    query: Tensor, past: tuple[Tensor, Tensor], key: Tensor, value: Tensor, bits: Tensor,
    scale: float, tiles: Tiles,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what `attending.attend` does and, [B, heads, S], each row's logarithm of its total."""
    batch, heads, length, width = query.shape
    out = query.new_empty((batch, length, heads, width))
    norm = torch.empty((batch, heads, length), dtype=torch.float32, device=query.device)
    tensors = query, *past, key, value
    blocks = triton.cdiv(length * heads // key.shape[1], tiles.forward.rows)
    with torch.cuda.device_of(query):
        _forward[(batch * key.shape[1] * blocks,)](
            *tensors,
            bits,
            out,
            norm,
            *_strides(*tensors),
            *_bit_strides(bits),
            *_sizes(query, past, key, scale),
            **_constants(query, key, tiles, tiles.forward),
        )
    return out, norm


def backward(
    query: Tensor, past: tuple[Tensor, Tensor], key: Tensor, value: Tensor, bits: Tensor,
    scale: float, tiles: Tiles, out: Tensor, norm: Tensor, upstream: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return gradients of query, key and value, laid out as they are, for one of out."""
    tensors = query, *past, key, value
    found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    with torch.cuda.device_of(query):
        _backward[(len(query) * key.shape[1],)](
            *tensors,
            bits,
            out,
            norm,
            upstream,
            *found,
            *_strides(*tensors),
            *_bit_strides(bits),
            *_strides(upstream, *found),
            *_sizes(query, past, key, scale),
            **_constants(query, key, tiles, tiles.backward),
            kept_blocks=tiles.kept_blocks,
        )
    return found


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _bit_strides(bits: Tensor) -> tuple[int, int]:
    return (bits.stride(0) if len(bits) > 1 else 0), bits.shape[2]


def _sizes(query: Tensor, past: tuple[Tensor, Tensor], key: Tensor, scale: float) -> tuple:
    return query.shape[2], past[0].shape[2], key.shape[1], float(scale)


def _constants(query: Tensor, key: Tensor, tiles: Tiles, launch: Launch) -> dict[str, int]:
    return {
        "group": query.shape[1] // key.shape[1],
        "width": query.shape[3],
        "block_m": launch.rows,
        "block_p": tiles.past,
        "block_s": tiles.new,
        "block_d": tiles.width,
        "num_warps": launch.warps,
        "num_stages": launch.stages,
    }
