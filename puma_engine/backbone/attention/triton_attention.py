"""Attention of a few new positions to prefixes in the cache, on a GPU.

Triton kernels, one for the forward and one for the backward pass, read and write tensors in the
layout of transformers. They copy no keys or values, store no probabilities, and compute no
gradients of prefixes. They are registered as operators of PyTorch, so compiled layers and CUDA
graphs can use them. Each configuration is tried once on small random inputs. Where Triton is
missing, fails to compile it, or gives other results, the caller gathers keys and values and uses
PyTorch's operations.
"""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from puma_engine.backbone.attention.kv_cache import CachedPrefix, KVCache, RaggedTensor
from puma_engine.backbone.attention.plain_attention import plain_attention

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MIN_BLOCK, MAX_QUERY_ROWS, MAX_PAST_BLOCK = 16, 64, 64
# Smallest number of rows (positions times heads) of a program's matrix product; rows of one text share it.
TILE_ROWS = 16
MAX_NEW = 128
# Numbers in one block of new keys, by bytes of a number: the gradients of two blocks must fit into
# a program's registers.
MAX_NEW_NUMBERS = {2: 16_384, 4: 2_048}
TOLERANCE = 0.05


@dataclass(frozen=True)
class Launch:
    """Settings of a kernel launch: query rows, warps and pipeline stages of a program."""

    rows: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Blocks:
    """Block sizes of prefix keys, new keys and the head dimension, and the launch of each kernel."""

    past: int
    new: int
    width: int
    forward: Launch
    backward: Launch


def block_tokens(dtype: torch.dtype) -> int:
    """Return how many prefix keys a program reads at once: half as many in fp32."""
    return MAX_PAST_BLOCK // (2 if dtype is torch.float32 else 1)


def tile_rows(group: int, length: int) -> int:
    """Return how many rows of one text a program computes: those that cost no more than one.

    group: query heads a key head; length: new positions.
    """
    return max(1, TILE_ROWS // (group * length))


def choose_blocks(group: int, length: int, width: int, dtype: torch.dtype) -> Blocks | None:
    """Return block sizes, or None if the new keys do not fit into registers.

    group: query heads a key head; length: new positions; width: head dimension.
    """

    def power_of_two(size: int) -> int:
        return max(MIN_BLOCK, 1 << (size - 1).bit_length())

    tile = tile_rows(group, length) * length
    new, block_width = power_of_two(tile), power_of_two(width)
    numbers, limit = new * block_width, MAX_NEW_NUMBERS[dtype.itemsize]
    if new > MAX_NEW or numbers > limit:
        return None
    rows = min(MAX_QUERY_ROWS, power_of_two(group * tile))
    # The larger the gradients that a program sums, the fewer registers are left for rows.
    rows_back = min(16 if numbers >= limit // 2 else 32, rows)
    warps = 8 if numbers == limit else 4
    if rows == MIN_BLOCK and dtype.itemsize == 2:
        # Loading takes the time here: small programs, many of which run at once, are fastest.
        launch = Launch(MIN_BLOCK, 2, 4)
        return Blocks(MIN_BLOCK, new, block_width, launch, launch)
    return Blocks(
        block_tokens(dtype), new, block_width, Launch(rows, 4, 2), Launch(rows_back, warps, 2)
    )


@torch.library.custom_op("puma_engine::attend_in_place", mutates_args=())
def attend_in_place(
    query: Tensor, key: Tensor, value: Tensor, layer: Tensor, tiles: Tensor, one_block: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend from query [B, heads, S, d] to prefixes in the cache and to key [B, kv_heads, S, d].

    layer [2, kv_heads, tokens, d]: keys and values of all prefixes (`KVCache.layers`); tiles: as
    `CachedPrefix.tiles` returns them for `tile_rows`; one_block: whether no prefix has more than
    `block_tokens`. A position sees its row's prefix and the row's new positions up to itself. Returns
    [B, S, heads, d] and the log-sum-exp (base 2) [B, S, heads].
    """
    from puma_engine.backbone.attention.triton_kernels import prefix_attention_forward

    batch, heads, length, width = query.shape
    blocks = _blocks(query, key)
    tensors = [_dense(part) for part in (query, key, value)]
    out = query.new_empty((batch, length, heads, width))
    lse = query.new_empty((batch, length, heads), dtype=torch.float32)
    constants = _constants(query, key, blocks, blocks.forward)
    with torch.cuda.device_of(query):
        prefix_attention_forward[(batch * key.shape[1] * constants["tile_blocks"],)](
            *(tensors[0], layer, tensors[1], tensors[2], tiles, out, lse),
            *_strides(*tensors),
            *(layer.shape[2], length, key.shape[1], scale),
            **constants,
        )
    return out, lse


@attend_in_place.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, layer: Tensor, tiles: Tensor, one_block: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, heads, length, width = query.shape
    out = query.new_empty((batch, length, heads, width))
    return out, query.new_empty((batch, length, heads), dtype=torch.float32)


@torch.library.custom_op("puma_engine::attend_in_place_backward", mutates_args=())
def attend_in_place_backward(
    query: Tensor, key: Tensor, value: Tensor, layer: Tensor, tiles: Tensor, out: Tensor,
    lse: Tensor, d_out: Tensor, one_block: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of query, key and value."""
    from puma_engine.backbone.attention.triton_kernels import prefix_attention_backward

    blocks = _blocks(query, key)
    tensors = [_dense(part) for part in (query, key, value)]
    d_out = _dense(d_out)
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    with torch.cuda.device_of(query):
        prefix_attention_backward[(len(query) * key.shape[1],)](
            *(tensors[0], layer, tensors[1], tensors[2], tiles, out, lse, d_out),
            *gradients,
            *_strides(*tensors, d_out, *gradients),
            *(layer.shape[2], query.shape[2], key.shape[1], scale),
            **_constants(query, key, blocks, blocks.backward),
            one_block=one_block,
        )
    return gradients


@attend_in_place_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, layer: Tensor, tiles: Tensor, out: Tensor,
    lse: Tensor, d_out: Tensor, one_block: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.one_block, ctx.scale = inputs[5:]


def _backward(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = attend_in_place_backward(*ctx.saved_tensors, d_out, ctx.one_block, ctx.scale)
    return (*gradients, None, None, None, None)


attend_in_place.register_autograd(_backward, setup_context=_setup_context)


def can_attend_in_place(
    device: torch.device, dtype: torch.dtype, heads: int, shapes: Collection[tuple[int, int]],
    length: int, longest: int,
) -> bool:  # fmt: skip
    """Return whether the kernels can read caches of these shapes (kv_heads, head_dim) on a GPU.

    heads: query heads; length: new positions; longest: tokens of the longest prefix. The first call
    of a configuration tries the kernels. That is impossible during the capture of a CUDA graph,
    where the answer for an untried configuration is False.
    """
    return device.type == "cuda" and all(
        _is_tried(device, dtype, heads, kv_heads, width, length, longest)
        for kv_heads, width in shapes
    )


def _is_tried(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int, length: int,
    longest: int,
) -> bool:  # fmt: skip
    if dtype not in DTYPES or heads % kv_heads:
        return False
    blocks = choose_blocks(heads // kv_heads, length, width, dtype)
    if blocks is None:
        return False
    configuration = device, dtype, heads, kv_heads, width, length, longest <= blocks.past
    if configuration not in _tried:
        if importlib.util.find_spec("triton") is None or torch.cuda.is_current_stream_capturing():
            return False
        size = min(longest, blocks.past + 5)
        _tried[configuration] = _try(device, dtype, heads, kv_heads, width, length, size)
    return _tried[configuration]


_tried: dict[object, bool] = {}


def _try(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int, length: int,
    longest: int,
) -> bool:  # fmt: skip
    """Whether the kernels compile and agree with plain attention, gradients included."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=device)

    def agree(actual: Tensor, expected: Tensor) -> bool:
        difference = torch.linalg.vector_norm(actual.float() - expected.float())
        return bool(difference <= TOLERANCE * torch.linalg.vector_norm(expected.float()))

    texts = RaggedTensor.pack([[1] * longest, [1] * (longest // 2)], device, share=longest > 2)
    rows = torch.tensor([0, 1, 0], device=device)
    with torch.inference_mode(False), torch.enable_grad():
        layer = draw(2, kv_heads, max(1, len(texts.ids)), width)
        prefix = CachedPrefix(KVCache([layer]), texts, rows, longest)
        new = [draw(3, length, n, width).transpose(1, 2) for n in (heads, kv_heads, kv_heads)]
        q, k, v = (part.requires_grad_() for part in new)
        (past,), exists = prefix.gather()
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask = torch.cat(
            [exists[:, None, None].expand(-1, -1, length, -1), causal.expand(3, 1, -1, -1)], -1
        )
        scale, d_out = width**-0.5, draw(3, length, heads, width)
        tiles = prefix.tiles(tile_rows(heads // kv_heads, length))
        try:
            out, _ = attend_in_place(q, k, v, layer, tiles, longest <= block_tokens(dtype), scale)
            expected = plain_attention(q, past, k, v, mask, scale)
            gradients = [torch.autograd.grad(part, new, d_out) for part in (out, expected)]
        except Exception:  # compilers fail with errors of their own
            return False
        return all(map(agree, (out, *gradients[0]), (expected, *gradients[1])))


def _blocks(query: Tensor, key: Tensor) -> Blocks:
    group = query.shape[1] // key.shape[1]
    blocks = choose_blocks(group, query.shape[2], query.shape[3], query.dtype)
    assert blocks is not None
    return blocks


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _constants(query: Tensor, key: Tensor, blocks: Blocks, launch: Launch) -> dict[str, int]:
    group, length = query.shape[1] // key.shape[1], query.shape[2]
    return {
        "group": group,
        "width": query.shape[3],
        "tile_blocks": -(-tile_rows(group, length) * length * group // launch.rows),
        "block_m": launch.rows,
        "block_p": blocks.past,
        "block_s": blocks.new,
        "block_d": blocks.width,
        "num_warps": launch.warps,
        "num_stages": launch.stages,
    }


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor with a contiguous last axis; most have one already."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
