# mypy: disallow-untyped-defs=False
"""Triton kernels of attention from few new positions to a cached prefix and to themselves.

They follow FlashAttention-2 (Dao 2023, https://arxiv.org/abs/2307.08691): an online softmax
forwards, recomputed probabilities backwards. One program computes the query heads that share a
key head, so that keys and values are read once for all of them. Its rows are pairs (position,
head of the group). Prefix keys come in any number of blocks, new keys in a single one. Backwards
one program goes through all of its rows, so that dk and dv of the new keys need no atomics.
Prefix keys and values get no gradients.

Names: q, k, v and their gradients dq, dk, dv; do is the gradient of the output; p are
probabilities, ds gradients of the scores; m_i and l_i are the running maximum (base 2) and sum of
a row, lse its log-sum-exp (base 2). `triton_attention` launches these kernels; it imports this
module only where one is to run, since `triton` comes with PyTorch for GPUs alone.
"""

import triton
import triton.language as tl

# Lengths differ by little between batches: compiling for each of them would take minutes.
VARYING = ["length", "past", "words", "b_batch"]


@triton.jit
def _load(base, offset, exists, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    mask = exists[:, None] & (column < width)[None, :]
    return tl.load(base + offset[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit
def _load_kv(keys, values, k_row, v_row, row, exists, width: tl.constexpr, block_d: tl.constexpr):
    k = _load(keys, row * k_row, exists, width, block_d)
    return k, _load(values, row * v_row, exists, width, block_d)


@triton.jit
def _store(base, offset, exists, x, width: tl.constexpr, block_d: tl.constexpr):
    column = tl.arange(0, block_d)
    mask = exists[:, None] & (column < width)[None, :]
    tl.store(base + offset[:, None] + column[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _query_rows(start, length, kv_head, group: tl.constexpr, block_m: tl.constexpr):
    """Return which of block_m rows exist, and their positions and heads."""
    row = start + tl.arange(0, block_m)
    return row < length * group, row // group, kv_head * group + row % group


@triton.jit(do_not_specialize=["m_batch", "m_row", "length", "past", "past_words"])
def pack_mask_kernel(
    mask, bits, m_batch, m_row, length, past, past_words, new_words: tl.constexpr
):  # fmt: skip
    """Write one word of a row's mask: the words of prefix keys come first, then those of new keys."""
    words = past_words + new_words
    word, line = tl.program_id(0) % words, tl.program_id(0) // words
    batch, position = (line // length).to(tl.int64), line % length
    start = tl.where(word < past_words, word * 64, past + (word - past_words) * 64)
    end = tl.where(word < past_words, past, past + length)
    bit = tl.arange(0, 64)
    pointer = mask + batch * m_batch + position * m_row + start + bit
    visible = tl.load(pointer, mask=start + bit < end, other=0)
    tl.store(bits + tl.program_id(0), tl.sum((visible != 0).to(tl.int64) << bit.to(tl.int64), 0))


@triton.jit
def _unpack_mask(bits, exists, size: tl.constexpr):
    """Return the mask [rows, size] of the next `size` keys from the words at bits [rows]."""
    column = tl.arange(0, size)
    word = tl.load(bits, mask=exists, other=0)[:, None]
    if size > 64:
        next_word = tl.load(bits + 1, mask=exists, other=0)[:, None]
        word = tl.where((column < 64)[None, :], word, next_word)
    return ((word >> (column % 64).to(tl.int64)[None, :]) & 1) != 0


@triton.jit
def _online_softmax(q, k, v, mask, scale, m_i, l_i, acc):
    """Add one block of keys to the running maximum m_i (base 2), sum l_i and output acc."""
    qk = tl.where(mask, tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634), -1e30)
    m_new = tl.maximum(m_i, tl.max(qk, 1))
    p = tl.where(mask, tl.exp2(qk - m_new[:, None]), 0.0)
    alpha = tl.exp2(m_i - m_new)
    acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v)
    return m_new, l_i * alpha + tl.sum(p, 1), acc


@triton.jit
def _p_and_ds(q, k, v, mask, scale, lse, do, delta):
    """Recompute probabilities p and the gradient ds of the scores of one block of keys."""
    qk = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
    p = tl.where(mask, tl.exp2(qk - lse[:, None]), 0.0)
    ds = p * (tl.dot(do, tl.trans(v)) - delta[:, None])
    return p.to(q.dtype), ds.to(q.dtype)


@triton.jit
def _dq_of_past(q, k, v, bits, exists, scale, lse, do, delta):
    """Return what one block of prefix keys adds to dq, before the scale."""
    mask = _unpack_mask(bits, exists, k.shape[0])
    _, ds = _p_and_ds(q, k, v, mask, scale, lse, do, delta)
    return tl.dot(ds, k)


@triton.jit(do_not_specialize=VARYING)
def forward_kernel(
    query, past_key, past_value, key, value, bits, out, lse,
    q_batch, q_head, q_row, pk_batch, pk_head, pk_row, pv_batch, pv_head, pv_row,
    k_batch, k_head, k_row, v_batch, v_head, v_row, b_batch,
    words, length, past, kv_heads, scale,
    group: tl.constexpr, width: tl.constexpr, block_m: tl.constexpr, block_p: tl.constexpr,
    block_s: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(length * group, block_m)
    pair = tl.program_id(0) // blocks
    batch, kv_head, heads = (pair // kv_heads).to(tl.int64), pair % kv_heads, kv_heads * group
    start_m = (tl.program_id(0) % blocks) * block_m
    exists, position, head = _query_rows(start_m, length, kv_head, group, block_m)
    q = _load(query + batch * q_batch, head * q_head + position * q_row, exists, width, block_d)
    bits += batch * b_batch + position * words
    past_key += batch * pk_batch + kv_head * pk_head
    past_value += batch * pv_batch + kv_head * pv_head
    key += batch * k_batch + kv_head * k_head
    value += batch * v_batch + kv_head * v_head
    m_i = tl.full([block_m], -1e30, tl.float32)
    l_i = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, block_d], tl.float32)
    for start in range(0, past, block_p):
        row = start + tl.arange(0, block_p)
        k, v = _load_kv(past_key, past_value, pk_row, pv_row, row, row < past, width, block_d)
        mask = _unpack_mask(bits + start // 64, exists, block_p)
        m_i, l_i, acc = _online_softmax(q, k, v, mask, scale, m_i, l_i, acc)
    new = tl.arange(0, block_s)
    k, v = _load_kv(key, value, k_row, v_row, new, new < length, width, block_d)
    mask = _unpack_mask(bits + tl.cdiv(past, 64), exists, block_s)
    m_i, l_i, acc = _online_softmax(q, k, v, mask, scale, m_i, l_i, acc)
    # A row whose keys are all masked gets zeros.
    l_i = tl.where(l_i == 0.0, 1.0, l_i)
    acc = acc / l_i[:, None]
    out += batch * length * heads * width
    _store(out, (position * heads + head) * width, exists, acc, width, block_d)
    lse += batch * heads * length
    tl.store(lse + head * length + position, m_i + tl.log2(l_i), mask=exists)


@triton.jit(do_not_specialize=VARYING)
def backward_kernel(
    query, past_key, past_value, key, value, bits, out, lse, d_out, d_query, d_key, d_value,
    q_batch, q_head, q_row, pk_batch, pk_head, pk_row, pv_batch, pv_head, pv_row,
    k_batch, k_head, k_row, v_batch, v_head, v_row, b_batch, words, do_batch, do_row, do_head,
    dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    length, past, kv_heads, scale, group: tl.constexpr, width: tl.constexpr, block_m: tl.constexpr,
    block_p: tl.constexpr, block_s: tl.constexpr, block_d: tl.constexpr, past_blocks: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    batch, kv_head, heads = (pair // kv_heads).to(tl.int64), pair % kv_heads, kv_heads * group
    query += batch * q_batch
    d_out += batch * do_batch
    out += batch * length * heads * width
    lse += batch * heads * length
    past_key += batch * pk_batch + kv_head * pk_head
    past_value += batch * pv_batch + kv_head * pv_head
    key += batch * k_batch + kv_head * k_head
    value += batch * v_batch + kv_head * v_head
    new, first_past = tl.arange(0, block_s), tl.arange(0, block_p)
    k, v = _load_kv(key, value, k_row, v_row, new, new < length, width, block_d)
    # Without a loop inside it, the loop over rows prefetches the next ones.
    if past_blocks == 1:
        pk, pv = _load_kv(
            past_key, past_value, pk_row, pv_row, first_past, first_past < past, width, block_d
        )
    dk, dv = tl.zeros([block_s, block_d], tl.float32), tl.zeros([block_s, block_d], tl.float32)
    for start_m in range(0, length * group, block_m):
        exists, position, head = _query_rows(start_m, length, kv_head, group, block_m)
        q = _load(query, head * q_head + position * q_row, exists, width, block_d)
        do = _load(d_out, head * do_head + position * do_row, exists, width, block_d)
        o = _load(out, (position * heads + head) * width, exists, width, block_d)
        lse_i = tl.load(lse + head * length + position, mask=exists, other=0.0)
        delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
        word = bits + batch * b_batch + position * words
        mask = _unpack_mask(word + tl.cdiv(past, 64), exists, block_s)
        p, ds = _p_and_ds(q, k, v, mask, scale, lse_i, do, delta)
        dv += tl.dot(tl.trans(p), do)
        dk += tl.dot(tl.trans(ds), q)
        dq = tl.dot(ds, k)
        if past_blocks == 1:
            dq += _dq_of_past(q, pk, pv, word, exists, scale, lse_i, do, delta)
        if past_blocks > 1:
            for start in range(0, past, block_p):
                row = start + first_past
                pk, pv = _load_kv(
                    past_key, past_value, pk_row, pv_row, row, row < past, width, block_d
                )
                dq += _dq_of_past(q, pk, pv, word + start // 64, exists, scale, lse_i, do, delta)
        offset = batch * dq_batch + head * dq_head + position * dq_row
        _store(d_query, offset, exists, dq * scale, width, block_d)
    d_key += batch * dk_batch + kv_head * dk_head
    _store(d_key, new * dk_row, new < length, dk * scale, width, block_d)
    d_value += batch * dv_batch + kv_head * dv_head
    _store(d_value, new * dv_row, new < length, dv, width, block_d)
