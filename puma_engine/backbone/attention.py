"""Attention for a few new positions after long kept ones, registered with transformers.

Query heads that share a key head are put side by side, so that keys and values are never
repeated, and the few queries of an example make one matrix product with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "puma_grouped"
FEW_QUERIES = 512


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from query [B, heads, S, d] to key and value [B, kv_heads, K, d].

    attention_mask [B or 1, 1, S, K] is True where a key is seen. Returns [B, S, heads, d]. Many
    positions at once (a prefix) go to PyTorch's own kernels.
    """
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    if length > FEW_QUERIES and softcap is None:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=heads != kv_heads
        )
        return out.transpose(1, 2).contiguous(), None
    groups = heads // kv_heads
    packed = query.reshape(batch, kv_heads, groups * length, width) * scale
    scores = packed @ key.transpose(2, 3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        apart = scores.view(batch, kv_heads, groups, length, -1)
        hidden = ~attention_mask.unsqueeze(1)
        scores = apart.masked_fill(hidden, torch.finfo(scores.dtype).min).view_as(scores)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    out = (weights @ value).view(batch, heads, length, width)
    return out.transpose(1, 2).contiguous(), None


def full_mask(*args: Any, **kwargs: Any) -> Tensor:
    """The mask [B or 1, 1, S, K] of transformers' SDPA attention, never left out."""
    from transformers.masking_utils import sdpa_mask

    mask = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    assert mask is not None
    return mask


def use_grouped_attention(model: Any) -> str | None:
    """Switch a transformers model to this attention; return what it used, or None if it cannot."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if not getattr(model, "_supports_attention_backend", False):
        return None
    before: str = model.config._attn_implementation
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, full_mask)
    model.set_attn_implementation(NAME)
    return before
