"""Attention for a few new positions after long kept ones, registered with transformers.

Query heads that share a key head are put side by side, so that keys and values are never
repeated, and the few queries of an example make one matrix product with them. Kept keys and
values stay apart from the new ones: they are neither copied nor given gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "puma_grouped"
FEW_QUERIES = 512

KeyValue = tuple[Tensor, Tensor]
Kept = list[KeyValue]
Weights = Callable[[Tensor, Tensor, Tensor, "float | None"], KeyValue]
# As `attending.attend`: query, past, key, value, mask, scale; None for what it cannot compute.
Attend = Callable[[Tensor, "KeyValue | None", Tensor, Tensor, Tensor, float], "Tensor | None"]


def joint_softmax(
    past: Tensor, new: Tensor, mask: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Softmax over scores of kept and of new keys together, given back apart.

    past [B, kv_heads, R, P] and new [B, kv_heads, R, S], where R is heads of a group times S;
    mask [B or 1, 1, S, P + S] is True where a key is seen.
    """
    weights = _weights(torch.cat([past, new], dim=-1), mask, softcap).to(new.dtype)
    return weights[..., : past.shape[-1]], weights[..., past.shape[-1] :]


def two_part_softmax(
    past: Tensor, new: Tensor, mask: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Compute the same as `joint_softmax` in a form that compiles to few kernels.

    Its results are contiguous, which matrix products on a GPU need to be fast.
    """
    length, size = new.shape[-1], past.shape[-1]
    parts = []
    for scores, seen in ((past, mask[..., :size]), (new, mask[..., size:])):
        scores = scores.float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        apart = scores.unflatten(2, (-1, length))
        parts.append(apart.masked_fill(~seen.unsqueeze(1), torch.finfo(torch.float32).min))
    top = torch.maximum(*(part.detach().amax(-1, keepdim=True) for part in parts))
    raised = [torch.exp(part - top) for part in parts]
    total = sum(part.sum(-1, keepdim=True) for part in raised)
    first, second = ((part / total).to(new.dtype).flatten(2, 3) for part in raised)
    return first, second


Given = tuple["Kept | None", Weights, "Attend | None"]
_given: ContextVar[Given] = ContextVar("given", default=(None, joint_softmax, None))


@contextmanager
def kept_apart(
    past: Kept | None, weights: Weights = joint_softmax, attend: Attend | None = None
) -> Iterator[None]:
    """Let attention within see (keys, values) a layer, [B, kv_heads, P, d], before the new ones.

    weights computes what `joint_softmax` does; attend does all the work, where it can.
    """
    token = _given.set((past, weights, attend))
    try:
        yield
    finally:
        _given.reset(token)


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
    """Attend from query [B, heads, S, d] to kept keys, if any, and to key [B, kv_heads, S, d].

    attention_mask [B or 1, 1, S, K] is True where a key is seen, the kept ones first. Returns
    [B, S, heads, d]. Many positions at once (a prefix) go to PyTorch's own kernels.
    """
    heads, length, width = query.shape[1:]
    scale = width**-0.5 if scaling is None else scaling
    kept, weights, attend = _given.get()
    past = None if kept is None else kept[module.layer_idx]
    if attend is not None and attention_mask is not None and softcap is None:
        attended = attend(query, past, key, value, attention_mask, scale)
        if attended is not None:
            return attended, None
    if past is None and length > FEW_QUERIES and softcap is None:
        many = heads != key.shape[1]
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=many
        )
        return out.transpose(1, 2).contiguous(), None
    given = query, past, key, value, attention_mask, scale
    return plain_attention(*given, softcap, weights), None


def plain_attention(
    query: Tensor,
    past: KeyValue | None,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    weights: Weights = joint_softmax,
) -> Tensor:
    """Compute what `grouped_attention` gives from products and softmaxes, for past of one layer."""
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    packed = query.reshape(batch, kv_heads, heads // kv_heads * length, width) * scale
    scores = packed @ key.transpose(2, 3)
    if past is None:
        out = _weights(scores, mask, softcap).to(value.dtype) @ value
    else:
        assert mask is not None
        past_key, past_value = past
        first, second = weights(packed @ past_key.transpose(2, 3), scores, mask, softcap)
        out = first @ past_value + second @ value
    return out.view(batch, heads, length, width).transpose(1, 2).contiguous()


def _weights(scores: Tensor, mask: Tensor | None, softcap: float | None) -> Tensor:
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        apart = scores.unflatten(2, (-1, mask.shape[2]))
        lowest = torch.finfo(scores.dtype).min
        scores = apart.masked_fill(~mask.unsqueeze(1), lowest).view_as(scores)
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def kept_layer(keys: Tensor, values: Tensor, *, apart: bool) -> Any:
    """A layer of a transformers cache that holds keys and values [B, kv_heads, P, d].

    It gives attention the new ones joined to them, or, kept apart, the new ones alone.
    """
    from transformers.cache_utils import DynamicLayer

    class Apart(DynamicLayer):
        def update(
            self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            return key_states, value_states

    layer = Apart() if apart else DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def full_mask(*args: Any, **kwargs: Any) -> Tensor:
    """The mask [B or 1, 1, S, K] of transformers' SDPA attention, never left out."""
    from transformers.masking_utils import sdpa_mask

    mask = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    assert mask is not None
    return mask


def use_grouped_attention(model: Any) -> str | None:
    """Switch a transformers model to this attention; return what it used, or None if it cannot."""
    from transformers import AttentionInterface, AttentionMaskInterface

    # Some models that can do this do not say so under `_supports_attention_backend`.
    if not model._can_set_attn_implementation():
        return None
    before: str = model.config._attn_implementation
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, full_mask)
    model.set_attn_implementation(NAME)
    return before
