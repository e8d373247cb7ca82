"""Attention of a few new positions to a long cached prefix, registered with transformers.

It gets keys and values of prefixes in one of two ways. On a GPU they stay in the cache, and
`reading_in_place` tells each attention module their location. Elsewhere they are gathered, and
`PrefixLayer` passes them on with the new keys, without another copy and without gradients.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from puma_engine.backbone.attention.plain_attention import (
    KeyValue,
    Softmax,
    joint_softmax,
    plain_attention,
)
from puma_engine.backbone.attention.triton_attention import attend_in_place

# The name under which transformers knows this attention.
NAME = "puma_grouped"
# Longer runs of new positions without a prefix go to PyTorch's own attention kernels.
FEW_QUERIES = 512
# The attribute of an attention module that says where its prefixes are in the cache.
PREFIX_ATTRIBUTE = "prefix_in_place"


@dataclass(frozen=True)
class Prefix:
    """The prefix that attention of one layer reads before the new positions, and the softmax function.

    past: keys and values [B, kv_heads, P, d], or None. softmax: a function as `joint_softmax`.
    """

    past: KeyValue | None = None
    softmax: Softmax = joint_softmax


@dataclass(frozen=True)
class InPlace:
    """Location of the prefixes of a batch in the cache, for attention of one layer; see `attend_in_place`."""

    layer: Tensor
    tiles: Tensor
    one_block: bool


def attention_modules(decoder: nn.Module) -> list[nn.Module]:
    """Return a decoder's attention modules by layer, none if they cannot be told apart."""
    modules = [m for m in decoder.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    attentions = [m for m in modules if type(m).__name__.endswith("Attention")]
    return attentions if [m.layer_idx for m in attentions] == list(range(len(attentions))) else []


@contextmanager
def reading_in_place(modules: Sequence[nn.Module], prefixes: Sequence[InPlace]) -> Iterator[None]:
    """Context manager: each attention module reads the prefix of its layer in the cache."""
    for module, prefix in zip(modules, prefixes, strict=True):
        setattr(module, PREFIX_ATTRIBUTE, prefix)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, PREFIX_ATTRIBUTE, None)


class PrefixLayer(DynamicLayer):
    """One layer of a transformers cache that keeps a prefix apart from the new keys and values.

    `update` returns the new keys and values alone and marks the keys with the prefix, which
    `prefix_attention` reads. A keyword argument would be simpler, but some decoders (StableLM) pass
    none to their attention.
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

    The prefix is read in the cache if the module knows its location there; else it is the one that
    `PrefixLayer` attached to key. attention_mask [B or 1, 1, S, P + S] is True where a key is
    visible, the prefix first; it is not used for a prefix in the cache. Returns [B, S, heads, d].
    Many positions without a prefix go to PyTorch's own kernels. Raises NotImplementedError for a
    softcap with a prefix in the cache.
    """
    heads, length, width = query.shape[1:]
    scale = width**-0.5 if scaling is None else scaling
    in_place: InPlace | None = getattr(module, PREFIX_ATTRIBUTE, None)
    if in_place is not None:
        if softcap is not None:
            raise NotImplementedError("Attention to prefixes in the cache supports no softcap.")
        out, _ = attend_in_place(
            query, key, value, in_place.layer, in_place.tiles, in_place.one_block, scale
        )
        return out, None
    prefix: Prefix = getattr(key, "prefix", None) or Prefix()
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
