"""Compiled layers and 8-bit products: close to plain ones."""

import pytest
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.attention.compiled_layers import (
    CompiledOnGpu,
    compile_layers,
    uncompile_layers,
)
from puma_engine.backbone.attention.fp8 import Fp8Linear, use_fp8
from puma_engine.backbone.attention.plain_attention import joint_softmax, two_part_softmax
from puma_engine.errors import BackboneError


def relative(actual, expected):
    return float(((actual - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_both_softmaxes_over_prefix_and_new_keys_agree(softcap):
    generator = torch.Generator().manual_seed(0)
    batch, heads, groups, length, size = 3, 2, 2, 4, 5
    past = torch.randn(batch, heads, groups * length, size, generator=generator)
    new = torch.randn(batch, heads, groups * length, length, generator=generator)
    mask = torch.rand(batch, 1, length, size + length, generator=generator) > 0.4
    mask[..., -1] = True
    inputs = [part.requires_grad_() for part in (past, new)]
    weight = torch.randn(batch, heads, groups * length, size + length, generator=generator)
    results = []
    for function in (joint_softmax, two_part_softmax):
        joined = torch.cat(function(*inputs, mask, softcap), dim=-1)
        results.append((joined, *torch.autograd.grad((joined * weight).sum(), inputs)))
    for joint, two_part in zip(*results, strict=True):
        torch.testing.assert_close(joint, two_part, atol=1e-6, rtol=1e-5)
    assert torch.allclose(results[0][0].sum(-1), torch.ones(batch, heads, groups * length))


def test_fp8_products_and_their_gradients_are_near_the_exact_ones():
    generator = torch.Generator().manual_seed(1)
    linear = torch.nn.Linear(64, 48)
    x = torch.randn(5, 6, 64, generator=generator, requires_grad=True)
    small = Fp8Linear(linear)
    d_out = torch.randn(5, 6, 48, generator=generator)
    exact, quantised = linear(x), small(x)
    assert 0 < relative(quantised, exact) < 0.06
    expected = torch.autograd.grad(exact, x, d_out)[0]
    assert 0 < relative(torch.autograd.grad(quantised, x, d_out)[0], expected) < 0.06


def test_fp8_logits_are_near_those_of_full_precision():
    backbone = FrozenBackbone.load("llama-small", device="cpu")
    ids = torch.arange(5, 25).view(2, 10)
    before = backbone.model(input_ids=ids).logits
    count = use_fp8(backbone.model.base_model)
    assert count == 7 * backbone.info.layers
    assert 0 < relative(backbone.model(input_ids=ids).logits, before) < 0.3


def test_compiling_on_a_cpu_changes_nothing_and_can_be_undone():
    backbone = FrozenBackbone.load("llama-small", device="cpu")
    assert not backbone.compile_layers() and not backbone.compiled
    compile_layers(backbone.model.base_model)
    wrapper = backbone.last_mlp
    assert wrapper.inner._compiled_call_impl and wrapper._compiled_call_impl is None
    uncompile_layers(backbone.model.base_model)
    ids = torch.arange(5, 15).view(1, 10)
    again = FrozenBackbone.load("llama-small", device="cpu")
    assert torch.equal(backbone.model(input_ids=ids).logits, again.model(input_ids=ids).logits)


def test_a_cpu_runs_functions_uncompiled():
    calls = []
    function = CompiledOnGpu(lambda x: calls.append("plain") or x + 1)
    assert torch.equal(function(torch.zeros(2)), torch.ones(2)) and calls == ["plain"]


def test_fp8_on_a_cpu_is_refused_with_the_requirements():
    with pytest.raises(BackboneError, match="Ada or Hopper"):
        FrozenBackbone.load("llama-small", device="cpu", quantise="fp8")
