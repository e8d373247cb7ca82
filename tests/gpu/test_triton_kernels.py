"""The Triton kernels of attention equal plain attention, gradients included."""

import os

import pytest
import torch
from attention_inputs import AttentionInputs

# Triton's interpreter (TRITON_INTERPRET=1) runs on a CPU and multiplies no bf16.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float16] if INTERPRETED else [torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.005, torch.bfloat16: 0.02}


def assert_kernels_equal_reference(*sizes, dtype=DTYPES[0], inputs=None, **named):
    inputs = inputs or AttentionInputs(*sizes, **named, device=DEVICE, dtype=dtype)
    for actual, expected in zip(inputs.kernels(), inputs.reference(), strict=True):
        assert actual.isfinite().all()
        # The gradient of a single key is the difference of two equal numbers: only rounding.
        size = max(expected.norm(), 0.5 * expected.numel() ** 0.5)
        assert (actual.float() - expected).norm() <= TOLERANCE[dtype] * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 96, 128, 256])
@pytest.mark.parametrize(("group", "length"), [(1, 1), (3, 1), (3, 4), (7, 1), (24, 1)])
def test_kernels_equal_plain_attention(width, group, length, dtype):
    assert_kernels_equal_reference(width, group, length, dtype=dtype)


@pytest.mark.parametrize("width", [64, 96, 128])
@pytest.mark.parametrize(("group", "length"), [(1, 1), (3, 1), (3, 4)])
def test_few_new_positions_in_fp32_equal_plain_attention(width, group, length):
    assert_kernels_equal_reference(width, group, length, dtype=torch.float32)


@pytest.mark.parametrize("length", [1, 4, 48])
@pytest.mark.parametrize(
    ("texts", "common"),
    [((1,), 1), ((5, 3), 3), ((40, 64, 65), 0), ((150, 7, 90), 7)],
)
def test_texts_of_any_length_equal_plain_attention(length, texts, common):
    rows = [len(texts) - 1, 0, 0, len(texts) - 1, 0]
    assert_kernels_equal_reference(length=length, texts=texts, rows=rows, common=common)


@pytest.mark.parametrize("group", [1, 3, 5])
def test_many_rows_of_one_text_and_few_of_others_equal_plain_attention(group):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 3, (61,), generator=generator) // 2 + torch.arange(61) % 2
    assert_kernels_equal_reference(group=group, rows=rows.tolist())


def test_more_new_positions_than_one_block_of_queries_equal_plain_attention():
    assert_kernels_equal_reference(length=90, texts=(70, 3), rows=(0, 1, 0), common=2)


def test_gradients_have_the_layout_of_their_inputs_and_any_layout_is_read():
    inputs = AttentionInputs(length=4, device=DEVICE, dtype=DTYPES[0])
    for gradient, part in zip(inputs.kernels()[1:], inputs.new, strict=True):
        assert gradient.stride() == part.stride()
    joined = torch.cat([inputs.key, inputs.value], dim=-1).detach()
    key, value = joined.chunk(2, dim=-1)
    inputs.key, inputs.value = key.requires_grad_(), value.requires_grad_()
    inputs.d_out = inputs.d_out[..., :1].expand_as(inputs.d_out)
    assert_kernels_equal_reference(inputs=inputs)
