"""Attention of a few new positions to a long cached prefix, registered with transformers.

Query heads that share a key head (grouped-query attention, Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245) stand side by side in one matrix product, so keys and values are
never repeated. Prefix keys and values stay apart from the new ones: they are neither copied nor
given gradients. They reach attention through the cache: `PrefixLayer` hands them on with the new
keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

# The name under which transformers knows this attention.
NAME = "puma_grouped"
# Longer runs of new positions without a prefix go to PyTorch's own attention kernels.
FEW_QUERIES = 512

KeyValue = tuple[Tensor, Tensor]
# As `joint_softmax`: scores of prefix keys, scores of new keys, mask, softcap.
Softmax = Callable[[Tensor, Tensor, Tensor, "float | None"], "tuple[Tensor, Tensor]"]
# As `triton_attention.attend`: query, past, key, value, mask, scale; None for unsupported inputs.
FusedAttention = Callable[
    [Tensor, "KeyValue | None", Tensor, Tensor, Tensor, float], "Tensor | None"
]


def joint_softmax(
    past: Tensor, new: Tensor, mask: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Softmax over scores of prefix keys and of new keys together, returned in two parts.

    past [B, kv_heads, R, P] and new [B, kv_heads, R, S], where R is heads of a group times S;
    mask [B or 1, 1, S, P + S] is True where a key is visible. softcap: scores are squashed to
    softcap * tanh(scores / softcap), as Gemma 2 does; None leaves them.
    """
    p = _softmax(torch.cat([past, new], dim=-1), mask, softcap).to(new.dtype)
    return p[..., : past.shape[-1]], p[..., past.shape[-1] :]


def two_part_softmax(
    past: Tensor, new: Tensor, mask: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Compute the same as `joint_softmax` in a form that compiles to few kernels.

    Its results are contiguous, which matrix products on a GPU need to be fast.
    """
    length, size = new.shape[-1], past.shape[-1]
    parts = []
    for scores, visible in ((past, mask[..., :size]), (new, mask[..., size:])):
        scores = scores.float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        by_head = scores.unflatten(2, (-1, length))
        parts.append(by_head.masked_fill(~visible.unsqueeze(1), torch.finfo(torch.float32).min))
    m = torch.maximum(*(part.detach().amax(-1, keepdim=True) for part in parts))
    exponentials = [torch.exp(part - m) for part in parts]
    total = sum(part.sum(-1, keepdim=True) for part in exponentials)
    first, second = ((part / total).to(new.dtype).flatten(2, 3) for part in exponentials)
    return first, second


@dataclass(frozen=True)
class Prefix:
    """What attention of one layer reads before the new positions, and how it is computed.

    past: keys and values [B, kv_heads, P, d], or None. softmax: a function as `joint_softmax`.
    fused: does all the work where it supports the inputs, or None.
    """

    past: KeyValue | None = None
    softmax: Softmax = joint_softmax
    fused: FusedAttention | None = None


class PrefixLayer(DynamicLayer):
    """One layer of a transformers cache that holds a prefix apart from the new keys and values.

    `update` returns the new keys and values alone and marks the keys with the prefix, which
    `prefix_attention` reads. A keyword argument would be plainer, but some decoders (StableLM)
    hand none to their attention.
    """

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.prefix = prefix
        if prefix.past is not None:
            # Masks and positions are made from the length of these.
            self.lazy_initialization(*prefix.past)
            self.keys, self.values = prefix.past

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return key_states [B, kv_heads, S, d], marked with the prefix, and value_states."""
        cast(Any, key_states).prefix = self.prefix
        return key_states, value_states


def prefix_attention(
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
    """Attend from query [B, heads, S, d] to the prefix, if any, and to key [B, kv_heads, S, d].

    The prefix is the one that `PrefixLayer` marked key with. attention_mask [B or 1, 1, S, P + S]
    is True where a key is visible, the prefix first. Returns [B, S, heads, d]. Many positions
    without a prefix go to PyTorch's own kernels.
    """
    heads, length, width = query.shape[1:]
    scale = width**-0.5 if scaling is None else scaling
    prefix: Prefix = getattr(key, "prefix", None) or Prefix()
    if prefix.fused is not None and attention_mask is not None and softcap is None:
        out = prefix.fused(query, prefix.past, key, value, attention_mask, scale)
        if out is not None:
            return out, None
    if prefix.past is None and length > FEW_QUERIES and softcap is None:
        grouped = heads != key.shape[1]
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2).contiguous(), None
    out = plain_attention(
        query, prefix.past, key, value, attention_mask, scale, softcap, prefix.softmax
    )
    return out, None


def plain_attention(
    query: Tensor,
    past: KeyValue | None,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    softmax: Softmax = joint_softmax,
) -> Tensor:
    """Compute `prefix_attention` from matrix products and a softmax; shapes as there."""
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    q = query.reshape(batch, kv_heads, heads // kv_heads * length, width) * scale
    scores = q @ key.transpose(2, 3)
    if past is None:
        out = _softmax(scores, mask, softcap).to(value.dtype) @ value
    else:
        assert mask is not None
        past_key, past_value = past
        p_past, p_new = softmax(q @ past_key.transpose(2, 3), scores, mask, softcap)
        out = p_past @ past_value + p_new @ value
    return out.view(batch, heads, length, width).transpose(1, 2).contiguous()


def _softmax(scores: Tensor, mask: Tensor | None, softcap: float | None) -> Tensor:
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        by_head = scores.unflatten(2, (-1, mask.shape[2]))
        lowest = torch.finfo(scores.dtype).min
        scores = by_head.masked_fill(~mask.unsqueeze(1), lowest).view_as(scores)
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def full_mask(*args: Any, **kwargs: Any) -> Tensor:
    """Return the mask [B or 1, 1, S, K] of transformers' SDPA attention, never left out."""
    from transformers.masking_utils import sdpa_mask

    mask = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    assert mask is not None
    return mask


def use_prefix_attention(model: Any) -> str | None:
    """Switch a transformers model to this attention; return its former one, or None if it cannot."""
    from transformers import AttentionInterface, AttentionMaskInterface

    # Some models that can do this do not say so under `_supports_attention_backend`.
    if not model._can_set_attn_implementation():
        return None
    former: str = model.config._attn_implementation
    AttentionInterface.register(NAME, prefix_attention)
    AttentionMaskInterface.register(NAME, full_mask)
    model.set_attn_implementation(NAME)
    return former
