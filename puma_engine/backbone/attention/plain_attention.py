"""Attention of new positions to a prefix and to themselves, as matrix products and a softmax.

Query heads that share a key head (grouped-query attention, Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245) stand side by side in one matrix product, so keys and values are
never repeated. Prefix keys and values stay apart from the new ones, since they need no gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]
# As `joint_softmax`: scores of prefix keys, scores of new keys, mask, softcap.
Softmax = Callable[[Tensor, Tensor, Tensor, "float | None"], "tuple[Tensor, Tensor]"]


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
    """Attend from query [B, heads, S, d] to past, if any, and to key [B, kv_heads, S, d].

    past: keys and values [B, kv_heads, P, d]; mask [B or 1, 1, S, P + S] is True where a key is
    visible, the prefix first. Returns [B, S, heads, d].
    """
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
