"""The Triton kernels of attention equal plain attention, gradients included."""

import os

import pytest
import torch
from attention_inputs import AttentionInputs

# Triton's interpreter (TRITON_INTERPRET=1) runs on a CPU, multiplies no bf16, and is exact otherwise.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPE, TOLERANCE = (torch.float32, 1e-5) if INTERPRETED else (torch.bfloat16, 0.02)


def inputs(*sizes, **named):
    return AttentionInputs(*sizes, **named, device=DEVICE, dtype=DTYPE)


def assert_kernels_equal_reference(given):
    for actual, expected in zip(given.kernels(), given.reference(), strict=True):
        assert actual.isfinite().all()
        # The gradient of a single key is the difference of two equal numbers: only rounding.
        size = max(expected.norm(), 0.5 * expected.numel() ** 0.5)
        assert (actual.float() - expected).norm() <= TOLERANCE * size


@pytest.mark.parametrize("width", [64, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_kernels_equal_plain_attention(width, group):
    assert_kernels_equal_reference(inputs(width, group))


@pytest.mark.parametrize("length", [1, 6, 48])
@pytest.mark.parametrize("past", [0, 1, 11, 40, 150])
def test_any_number_of_new_and_prefix_positions_equals_plain_attention(length, past):
    assert_kernels_equal_reference(inputs(length=length, past=past))


def test_more_new_positions_than_a_mask_word_holds_equal_plain_attention():
    assert_kernels_equal_reference(inputs(length=90, past=70))


def test_sliding_windows_shared_masks_and_fully_masked_rows_equal_plain_attention():
    given = inputs(length=20, past=40)
    given.mask = given.mask & given.mask.new_ones(given.mask.shape[2:]).triu(12)
    given.mask[0, 0, 7] = False
    given.mask[1] = False
    assert_kernels_equal_reference(given)
    assert not given.kernels()[0][0, 7].any()
    given.mask = given.mask[:1]
    assert_kernels_equal_reference(given)


def test_gradients_have_the_layout_of_their_inputs_and_any_layout_is_read():
    given = inputs()
    for gradient, part in zip(given.kernels()[1:], given.new, strict=True):
        assert gradient.stride() == part.stride()
    joined = torch.cat([given.key, given.value], dim=-1).detach()
    key, value = joined.chunk(2, dim=-1)
    given.key, given.value = key.requires_grad_(), value.requires_grad_()
    given.d_out = given.d_out[..., :1].expand_as(given.d_out)
    assert_kernels_equal_reference(given)
