# mypy: disallow-untyped-defs=False
"""Triton kernels of attention from a few new positions to prefixes in a cache and to themselves.

They follow FlashAttention-2 (Dao 2023, https://arxiv.org/abs/2307.08691): an online softmax
forwards, recomputed probabilities backwards. Keys and values of prefixes are read where the cache
holds them, packed by token. One program computes a tile: rows of the batch that continue the same
prefix, and the query heads that share a key head, so that keys and values are read once for all of
them. Its query rows are triples (row of the tile, position, head of the group). Prefix keys come
in any number of blocks, new keys of a tile in a single one. Backwards one program goes through all
query rows of its tile, so that dk and dv of the new keys need no atomics. Prefix keys and values
get no gradients.

Names: q, k, v and their gradients dq, dk, dv; do is the gradient of the output; p are
probabilities, ds gradients of the scores; m_i and l_i are the running maximum (base 2) and sum of a
query row, lse its log-sum-exp (base 2). `tiles` is what `CachedPrefix.tiles` returns.
`triton_attention` launches these kernels. It imports this module only before the first launch,
since `triton` comes only with PyTorch for GPUs.
"""

import triton
import triton.language as tl

# These differ between batches: compiling for each of them would take minutes.
VARYING = ["tokens"]


@triton.jit
def _load(base, offset, exists, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    mask = exists[:, None] & (column < width)[None, :]
    return tl.load(base + offset[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit
def _store(base, offset, exists, x, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    mask = exists[:, None] & (column < width)[None, :]
    tl.store(base + offset[:, None] + column[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _tile(tiles, tile):
    """Return a tile's row numbers (a pointer), how many, and its text's place, length and common."""
    line = tiles + tile * 6
    order = tiles + tl.load(line) * 6 + 5
    return order, tl.load(line + 1), tl.load(line + 2), tl.load(line + 3), tl.load(line + 4)


@triton.jit
def _query_rows(order, start, count, length, kv_head, group: tl.constexpr, block_m: tl.constexpr):
    """Return which of block_m query rows exist, their rows in the tile and batch, position, head."""
    m = start + tl.arange(0, block_m)
    exists = m < count * length * group
    row = m // (length * group)
    batch = tl.load(order + row * 6, mask=exists, other=0)
    return exists, row, batch, (m // group) % length, kv_head * group + m % group


@triton.jit
def _prefix_kv(
    cache, part, start, start_of_text, prefix, common, width: tl.constexpr, block_p: tl.constexpr,
    block_d: tl.constexpr,
):  # fmt: skip
    """Load one block of a prefix's keys and values; return them and which exist."""
    column = start + tl.arange(0, block_p)
    exists = column < prefix
    offset = tl.where(column < common, column, start_of_text + column) * width
    k = _load(cache, offset, exists, width, block_d)
    return k, _load(cache + part, offset, exists, width, block_d), exists


@triton.jit
def _online_softmax(q, k, v, mask, scale, m_i, l_i, acc):
    """Add one block of keys to the running maximum m_i (base 2), sum l_i and output acc."""
    qk = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
    qk = tl.where(mask, qk, -1e30)
    m_new = tl.maximum(m_i, tl.max(qk, 1))
    p = tl.where(mask, tl.exp2(qk - m_new[:, None]), 0.0)
    alpha = tl.exp2(m_i - m_new)
    acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return m_new, l_i * alpha + tl.sum(p, 1), acc


@triton.jit
def _p_and_ds(q, k, v, mask, scale, lse, do, delta):
    """Recompute probabilities p and the gradient ds of the scores of one block of keys."""
    qk = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
    p = tl.where(mask, tl.exp2(qk - lse[:, None]), 0.0)
    ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
    return p.to(q.dtype), ds.to(q.dtype)


@triton.jit
def _new_keys(order, count, length, block_s: tl.constexpr):
    """Return which of block_s new keys of a tile exist, their rows in tile and batch, position."""
    new = tl.arange(0, block_s)
    exists = new < count * length
    row = new // length
    return exists, row, tl.load(order + row * 6, mask=exists, other=0), new % length


@triton.jit(do_not_specialize=VARYING)
def prefix_attention_forward(
    query, cache, key, value, tiles, out, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    tokens, length, kv_heads, scale,
    group: tl.constexpr, width: tl.constexpr, tile_blocks: tl.constexpr,
    block_m: tl.constexpr, block_p: tl.constexpr, block_s: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0) // tile_blocks
    kv_head, heads = pair % kv_heads, kv_heads * group
    order, count, start_of_text, prefix, common = _tile(tiles, pair // kv_heads)
    start_m = (tl.program_id(0) % tile_blocks) * block_m
    if start_m < count * length * group:
        exists, row, q_of, position, head = _query_rows(
            order, start_m, count, length, kv_head, group, block_m
        )
        offset = q_of * q_batch + head * q_head + position * q_row
        q = _load(query, offset, exists, width, block_d)
        new_exists, new_row, k_of, new_position = _new_keys(order, count, length, block_s)
        k_offset = k_of * k_batch + kv_head * k_head + new_position * k_row
        v_offset = k_of * v_batch + kv_head * v_head + new_position * v_row
        k = _load(key, k_offset, new_exists, width, block_d)
        v = _load(value, v_offset, new_exists, width, block_d)
        # A position sees those of its own row up to itself.
        mask = (row[:, None] == new_row[None, :]) & (new_position[None, :] <= position[:, None])
        m_i = tl.full([block_m], -1e30, tl.float32)
        l_i = tl.zeros([block_m], tl.float32)
        acc = tl.zeros([block_m, block_d], tl.float32)
        m_i, l_i, acc = _online_softmax(q, k, v, mask & new_exists[None, :], scale, m_i, l_i, acc)
        part = tokens.to(tl.int64) * width * kv_heads
        cache += tokens.to(tl.int64) * width * kv_head
        for start in range(0, prefix, block_p):
            pk, pv, visible = _prefix_kv(
                cache, part, start, start_of_text, prefix, common, width, block_p, block_d
            )
            m_i, l_i, acc = _online_softmax(q, pk, pv, visible[None, :], scale, m_i, l_i, acc)
        l_i = tl.where(exists, l_i, 1.0)
        line = (q_of * length + position) * heads + head
        _store(out, line * width, exists, acc / l_i[:, None], width, block_d)
        tl.store(lse + line, m_i + tl.log2(l_i), mask=exists)


@triton.jit
def _dq_of_prefix(
    dq, q, do, lse, delta, cache, part, start_of_text, prefix, common, scale,
    width: tl.constexpr, block_p: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    """Add the part of dq that comes from the keys of a prefix, without the scale."""
    for start in range(0, prefix, block_p):
        pk, pv, visible = _prefix_kv(
            cache, part, start, start_of_text, prefix, common, width, block_p, block_d
        )
        _, d_past = _p_and_ds(q, pk, pv, visible[None, :], scale, lse, do, delta)
        dq += tl.dot(d_past, pk, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=VARYING)
def prefix_attention_backward(
    query, cache, key, value, tiles, out, lse, d_out, d_query, d_key, d_value,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    do_batch, do_row, do_head,
    dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    tokens, length, kv_heads, scale,
    group: tl.constexpr, width: tl.constexpr, tile_blocks: tl.constexpr,
    block_m: tl.constexpr, block_p: tl.constexpr, block_s: tl.constexpr, block_d: tl.constexpr,
    one_block: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    kv_head, heads = pair % kv_heads, kv_heads * group
    order, count, start_of_text, prefix, common = _tile(tiles, pair // kv_heads)
    if count > 0:
        part = tokens.to(tl.int64) * width * kv_heads
        cache += tokens.to(tl.int64) * width * kv_head
        new_exists, new_row, k_of, new_position = _new_keys(order, count, length, block_s)
        k_offset = k_of * k_batch + kv_head * k_head + new_position * k_row
        v_offset = k_of * v_batch + kv_head * v_head + new_position * v_row
        dk_offset = k_of * dk_batch + kv_head * dk_head + new_position * dk_row
        dv_offset = k_of * dv_batch + kv_head * dv_head + new_position * dv_row
        k = _load(key, k_offset, new_exists, width, block_d)
        v = _load(value, v_offset, new_exists, width, block_d)
        # Without a loop inside it, the loop over query rows prefetches the next ones.
        if one_block and tile_blocks > 1:
            pk, pv, visible = _prefix_kv(
                cache, part, 0, start_of_text, prefix, common, width, block_p, block_d
            )
        dk = tl.zeros([block_s, block_d], tl.float32)
        dv = tl.zeros([block_s, block_d], tl.float32)
        for start_m in range(0, 1 if tile_blocks == 1 else count * length * group, block_m):
            exists, row, q_of, position, head = _query_rows(
                order, start_m, count, length, kv_head, group, block_m
            )
            line = (q_of * length + position) * heads + head
            q_offset = q_of * q_batch + head * q_head + position * q_row
            do_offset = q_of * do_batch + head * do_head + position * do_row
            q = _load(query, q_offset, exists, width, block_d)
            do = _load(d_out, do_offset, exists, width, block_d)
            o = _load(out, line * width, exists, width, block_d)
            lse_i = tl.load(lse + line, mask=exists, other=0.0)
            delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
            mask = (row[:, None] == new_row[None, :]) & (new_position[None, :] <= position[:, None])
            mask = mask & new_exists[None, :] & exists[:, None]
            p, ds = _p_and_ds(q, k, v, mask, scale, lse_i, do, delta)
            dv += tl.dot(tl.trans(p), do, input_precision="ieee")
            dk += tl.dot(tl.trans(ds), q, input_precision="ieee")
            dq = tl.dot(ds, k, input_precision="ieee")
            if tile_blocks == 1:
                # Stored before the loop over the prefix, they take no registers there.
                _store(d_key, dk_offset, new_exists, dk * scale, width, block_d)
                _store(d_value, dv_offset, new_exists, dv, width, block_d)
            if one_block and tile_blocks > 1:
                _, d_past = _p_and_ds(q, pk, pv, visible[None, :], scale, lse_i, do, delta)
                dq += tl.dot(d_past, pk, input_precision="ieee")
            else:
                dq = _dq_of_prefix(
                    *(dq, q, do, lse_i, delta, cache, part, start_of_text, prefix, common, scale),
                    *(width, block_p, block_d),
                )
            dq_offset = q_of * dq_batch + head * dq_head + position * dq_row
            _store(d_query, dq_offset, exists, dq * scale, width, block_d)
        if tile_blocks > 1:
            _store(d_key, dk_offset, new_exists, dk * scale, width, block_d)
            _store(d_value, dv_offset, new_exists, dv, width, block_d)
