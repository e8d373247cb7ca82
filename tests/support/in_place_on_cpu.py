"""Attention in place on a CPU, from plain operations, to test its callers without a GPU."""

import torch

from puma_engine.backbone.attention.triton_attention import (
    attend_in_place,
    attend_in_place_backward,
)


def _parts(query, key, value, layer, tiles, scale):
    """Queries by key head, all keys and values of each row, and the probabilities."""
    batch, kv_heads, length, _ = key.shape
    _, count, first_position, prefix_length, common, order = tiles.unbind(1)
    start, sizes = torch.empty(2, batch, 1, dtype=torch.long).unbind(0)
    start[order, 0], sizes[order, 0] = (
        first_position.repeat_interleave(count),
        prefix_length.repeat_interleave(count),
    )
    common = common[0]
    column = torch.arange(int(sizes.max()))
    exists = column < sizes
    token = torch.where(column < common, column, start + column) * exists
    past = layer[:, :, token].transpose(1, 2)
    k, v = (torch.cat(pair, dim=2) for pair in zip(past, (key, value), strict=True))
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)
    mask = torch.cat([exists[:, None].expand(-1, length, -1), causal], dim=-1)
    q = query.unflatten(1, (kv_heads, -1))
    scores = q @ k[:, :, None].transpose(3, 4) * scale
    p = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    return q, k[:, :, None], v[:, :, None], p


@attend_in_place.register_kernel("cpu")
def _(query, key, value, layer, tiles, one_block, scale):
    _, _, v, p = _parts(query, key, value, layer, tiles, scale)
    out = (p @ v).flatten(1, 2).transpose(1, 2).contiguous()
    return out, query.new_zeros(out.shape[:3], dtype=torch.float32)


@attend_in_place_backward.register_kernel("cpu")
def _(query, key, value, layer, tiles, out, lse, d_out, one_block, scale):
    q, k, v, p = _parts(query, key, value, layer, tiles, scale)
    d_o = d_out.transpose(1, 2).unflatten(1, q.shape[1:3])
    d_p = d_o @ v.transpose(3, 4)
    ds = p * (d_p - (d_p * p).sum(-1, keepdim=True)) * scale
    length = key.shape[2]
    d_key = (ds.transpose(3, 4) @ q).sum(2)[:, :, -length:]
    d_value = (p.transpose(3, 4) @ d_o).sum(2)[:, :, -length:]
    gradients = (ds @ k).flatten(1, 2), d_key, d_value
    inputs = query, key, value
    return tuple(torch.empty_like(x).copy_(g) for x, g in zip(inputs, gradients, strict=True))
