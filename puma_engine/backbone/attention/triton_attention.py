"""Attention of few new positions to a cached prefix, fused into one kernel forwards and one backwards.

The kernels read and write tensors in the layout of transformers, without copies, store no
probabilities, and give no gradients to prefix keys and values. Each configuration is tried once
on small random inputs. Where Triton is missing, fails to compile it, or gives other results,
`attend` returns None and the caller uses PyTorch's operations.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from puma_engine.backbone.attention.prefix_attention import KeyValue, plain_attention

DTYPES = (torch.bfloat16, torch.float16)
MIN_BLOCK, MAX_QUERY_ROWS, MAX_PAST_BLOCK = 16, 64, 64
# Bits of a mask word; a row's new keys fit into two words.
WORD, MAX_NEW = 64, 128
# Numbers in one block of new keys: the gradients of two blocks must fit into a program's registers.
MAX_NEW_NUMBERS = 16_384
TOLERANCE = 0.05


@dataclass(frozen=True)
class Launch:
    """Query rows of a program, its warps and its pipeline stages."""

    rows: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Blocks:
    """Block sizes of prefix keys, new keys and the head dimension, and the launch of each kernel.

    past_blocks: blocks of prefix keys (0, 1, or 2 for any larger number).
    """

    past_blocks: int
    past: int
    new: int
    width: int
    forward: Launch
    backward: Launch


def choose_blocks(group: int, length: int, past: int, width: int) -> Blocks | None:
    """Return block sizes, or None if the new keys do not fit into registers.

    group: query heads a key head; length: new positions; past: prefix keys; width: head dimension.
    """

    def power_of_two(size: int) -> int:
        return max(MIN_BLOCK, 1 << (size - 1).bit_length())

    new, block_width = power_of_two(length), power_of_two(width)
    if new > MAX_NEW or new * block_width > MAX_NEW_NUMBERS:
        return None
    block_past = min(MAX_PAST_BLOCK, power_of_two(past))
    rows = min(MAX_QUERY_ROWS, power_of_two(group * length))
    # The larger the gradients that a program sums, the fewer registers are left for rows.
    rows_back = min(16 if new * block_width >= MAX_NEW_NUMBERS // 2 else 32, rows)
    warps = 8 if new * block_width == MAX_NEW_NUMBERS else 4
    past_blocks = min(2, -(-past // block_past))
    forward, backward = Launch(rows, 4, 2), Launch(rows_back, warps, 2)
    return Blocks(past_blocks, block_past, new, block_width, forward, backward)


class Attention(torch.autograd.Function):
    """apply(query, past_key, past_value, key, value, bits, scale, blocks), with three gradients.

    bits: a mask as `pack_mask` returns it; the other tensors and the result as in `attend`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        from puma_engine.backbone.attention.triton_kernels import forward_kernel

        query, past_key, past_value, key, value, bits, scale, blocks = arguments
        batch, heads, length, width = query.shape
        out = query.new_empty((batch, length, heads, width))
        lse = torch.empty((batch, heads, length), dtype=torch.float32, device=query.device)
        tensors = query, past_key, past_value, key, value
        programs = -(-length * heads // key.shape[1] // blocks.forward.rows)
        with torch.cuda.device_of(query):
            forward_kernel[(batch * key.shape[1] * programs,)](
                *tensors,
                *(bits, out, lse),
                *_strides(*tensors),
                *_bit_strides(bits),
                *(length, past_key.shape[2], key.shape[1], float(scale)),
                **_constants(query, key, blocks, blocks.forward),
            )
        ctx.save_for_backward(*tensors, bits, out, lse)
        ctx.scale, ctx.blocks = scale, blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Any:
        from puma_engine.backbone.attention.triton_kernels import backward_kernel

        query, past_key, past_value, key, value, bits, out, lse = ctx.saved_tensors
        d_out, tensors = _dense(d_out), (query, past_key, past_value, key, value)
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        with torch.cuda.device_of(query):
            backward_kernel[(len(query) * key.shape[1],)](
                *tensors,
                *(bits, out, lse, d_out),
                *gradients,
                *_strides(*tensors),
                *_bit_strides(bits),
                *_strides(d_out, *gradients),
                *(query.shape[2], past_key.shape[2], key.shape[1], float(ctx.scale)),
                **_constants(query, key, ctx.blocks, ctx.blocks.backward),
                past_blocks=ctx.blocks.past_blocks,
            )
        d_query, d_key, d_value = gradients
        return d_query, None, None, d_key, d_value, None, None, None


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _bit_strides(bits: Tensor) -> tuple[int, int]:
    return (bits.stride(0) if len(bits) > 1 else 0), bits.shape[2]


def _constants(query: Tensor, key: Tensor, blocks: Blocks, launch: Launch) -> dict[str, int]:
    return {
        "group": query.shape[1] // key.shape[1],
        "width": query.shape[3],
        "block_m": launch.rows,
        "block_p": blocks.past,
        "block_s": blocks.new,
        "block_d": blocks.width,
        "num_warps": launch.warps,
        "num_stages": launch.stages,
    }


def attend(
    query: Tensor, past: KeyValue | None, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> Tensor | None:
    """Attend from query [B, heads, S, d] to the prefix, if any, and to key [B, kv_heads, S, d].

    past: prefix keys and values [B, kv_heads, P, d]; mask [B or 1, 1, S, P + S] is True where a
    key is visible. Returns [B, S, heads, d], zeros where no key is visible, or None for inputs
    that the kernels do not support.
    """
    if not query.is_cuda or not is_supported(query, past, key, mask):
        return None
    heads, length, width = query.shape[1:]
    past = (key[:, :, :0], value[:, :, :0]) if past is None else past
    blocks = choose_blocks(heads // key.shape[1], length, past[0].shape[2], width)
    if blocks is None:
        return None
    kind = query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], blocks
    if kind not in _tried:
        if importlib.util.find_spec("triton") is None or torch.cuda.is_current_stream_capturing():
            return None
        _tried[kind] = _try(query, past[0], key, blocks)
    if not _tried[kind]:
        return None
    dense = [_dense(tensor) for tensor in (query, *past, key, value)]
    return Attention.apply(*dense, pack_mask(mask, past[0].shape[2]), scale, blocks)


def is_supported(query: Tensor, past: KeyValue | None, key: Tensor, mask: Tensor) -> bool:
    """Whether the kernels support these dtypes and shapes, on any device."""
    keys = key.shape[2] + (0 if past is None else past[0].shape[2])
    dtypes = {query.dtype, key.dtype, key.dtype if past is None else past[0].dtype}
    return (
        len(dtypes) == 1
        and query.dtype in DTYPES
        and query.shape[2] == key.shape[2]
        and mask.dtype is torch.bool
        and mask.shape[0] in (1, len(query))
        and mask.shape[1:] == (1, query.shape[2], keys)
    )


# All layers of a model get the same mask, or two in turn; no layer writes to it.
_packed_masks: Any = WeakTensorKeyDictionary()


def pack_mask(mask: Tensor, past: int) -> Tensor:
    """Return mask [B or 1, 1, S, past + S] as int64 words of 64 bits, the prefix keys' words first.

    The words of a mask are computed once and cached as long as the mask exists.
    """
    if mask not in _packed_masks:
        from puma_engine.backbone.attention.triton_kernels import pack_mask_kernel

        dense = _dense(mask)
        batch, _, length, _ = dense.shape
        past_words, new_words = -(-past // WORD), -(-length // WORD)
        shape = batch, length, past_words + new_words
        bits = torch.empty(shape, dtype=torch.int64, device=mask.device)
        with torch.cuda.device_of(mask):
            pack_mask_kernel[(bits.numel(),)](
                *(dense.view(torch.uint8), bits),
                *(dense.stride(0), dense.stride(2)),
                *(length, past, past_words),
                new_words=new_words,
                num_warps=1,
            )
        _packed_masks[mask] = bits
    return _packed_masks[mask]


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor with a contiguous last axis; most have one already."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


_tried: dict[object, bool] = {}


def _try(query: Tensor, past_key: Tensor, key: Tensor, blocks: Blocks) -> bool:
    """Whether the kernels compile and agree with plain attention, gradients included."""
    generator = torch.Generator(query.device).manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        shape = (2, *like.shape[1:])
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def agree(actual: Tensor, expected: Tensor) -> bool:
        difference = torch.linalg.vector_norm(actual.float() - expected.float())
        return bool(difference <= TOLERANCE * torch.linalg.vector_norm(expected.float()))

    with torch.inference_mode(False), torch.enable_grad():
        new = q, k, v = [draw(like).requires_grad_() for like in (query, key, key)]
        past = draw(past_key), draw(past_key)
        length, past_length = query.shape[2], past_key.shape[2]
        shape = 2, 1, length, past_length + length
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(past_length)
        mask[1, ..., : past_length // 2] = False
        scale, d_out = query.shape[3] ** -0.5, draw(query).transpose(1, 2)
        expected = plain_attention(q, past, k, v, mask, scale)
        try:
            out = Attention.apply(q, *past, k, v, pack_mask(mask, past_length), scale, blocks)
            gradients = [torch.autograd.grad(result, new, d_out) for result in (out, expected)]
        except Exception:  # compilers fail with errors of their own
            return False
        return all(map(agree, (out, *gradients[0]), (expected, *gradients[1])))
