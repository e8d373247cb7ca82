"""Inputs that the Triton kernels support; plain attention computes all others."""

import pytest
import torch
from attention_inputs import AttentionInputs

from puma_engine.backbone.attention import triton_attention
from puma_engine.backbone.attention.prefix_attention import (
    Prefix,
    PrefixLayer,
    plain_attention,
    prefix_attention,
)
from puma_engine.backbone.attention.triton_attention import (
    Attention,
    Blocks,
    attend,
    choose_blocks,
    is_supported,
)


def inputs(dtype=torch.bfloat16, **sizes):
    return AttentionInputs(**sizes, device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("length", "width", "supported"),
    [(1, 64, True), (64, 256, True), (128, 128, True), (65, 256, False), (129, 64, False)],
)
def test_blocks_that_are_too_large_are_refused(length, width, supported):
    blocks = choose_blocks(3, length, 40, width)
    assert (blocks is not None) == supported
    if supported:
        assert blocks.new >= length and blocks.width >= width and blocks.past == 64


def test_block_sizes_are_shared_by_many_widths():
    lengths, prefixes = range(33, 65), range(65, 300)
    assert (
        len({choose_blocks(3, length, past, 128) for length in lengths for past in prefixes}) == 1
    )


def test_support_depends_on_dtypes_and_mask():
    given = inputs()
    rest = given.past, given.key
    assert is_supported(given.query, *rest, given.mask)
    assert is_supported(given.query, *rest, given.mask[:1])
    assert is_supported(given.query, None, given.key, given.mask[..., 11:])
    exact = inputs(torch.float32)
    assert not is_supported(exact.query, exact.past, exact.key, exact.mask)
    assert not is_supported(given.query, exact.past, given.key, given.mask)
    assert not is_supported(given.query, *rest, given.mask[..., 1:])
    assert not is_supported(given.query, *rest, given.mask.float())
    assert not is_supported(given.query, *rest, given.mask.expand(-1, 6, -1, -1))
    assert not is_supported(given.query[:, :, 1:], *rest, given.mask[:, :, 1:])


def test_a_cpu_uses_plain_attention():
    given = inputs()
    assert attend(given.query, given.past, given.key, given.value, given.mask, 1.0) is None


def test_attention_tries_the_fused_function_first():
    given, calls = inputs(), []

    def refuse(query, past, key, value, mask, scale):
        calls.append((past, scale))

    def run(fused, **options):
        layer = PrefixLayer(Prefix(given.past, fused=fused))
        key, value = layer.update(given.key, given.value)
        with torch.no_grad():
            return prefix_attention(
                None, given.query, key, value, given.mask, scaling=0.5, **options
            )[0]

    plain = run(None)
    assert torch.equal(run(refuse), plain) and calls == [(given.past, 0.5)]
    assert len(run(lambda *_: plain[:1])) == 1
    run(refuse, softcap=5.0)
    assert len(calls) == 1


def test_kernels_that_fail_or_give_other_results_are_not_used(monkeypatch):
    given = inputs(length=4)
    blocks = choose_blocks(3, 4, 11, 64)
    assert isinstance(blocks, Blocks)

    def trial(function):
        monkeypatch.setattr(triton_attention, "pack_mask", lambda mask, past: mask)
        monkeypatch.setattr(Attention, "apply", function)
        return triton_attention._try(given.query, given.past[0], given.key, blocks)

    def plain(query, past_key, past_value, key, value, mask, scale, _):
        return plain_attention(query, (past_key, past_value), key, value, mask, scale)

    def fails(*_):
        raise RuntimeError("out of resource: shared memory")

    assert trial(plain)
    assert not trial(fails)
    assert not trial(lambda *given: 1.2 * plain(*given))
