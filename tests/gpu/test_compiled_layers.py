"""Compiled layers and 8-bit products on a GPU: close to plain layers."""

import pytest
import torch

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.templates import get_template

CONTEXTS = [Context("Dune by Frank Herbert"), Context("Emma"), Context("A history of all " * 6)]


@pytest.mark.parametrize("template", ["rating-prompt-last", "rating-item-first", "rating"])
@pytest.mark.parametrize(("fp8", "tolerance"), [(False, 0.1), (True, 0.6)])
def test_compiled_layers_equal_plain_ones(template, fp8, tolerance):
    """On so small a model bf16 rounds by 5 % and 8 bits by far more, so gradients are compared by direction."""
    backbone = FrozenBackbone.load("llama-small", device="cuda", precision="bf16")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.rand(3, 2, backbone.width, generator=generator) - 0.5
    rows = torch.tensor([0, 1, 2])

    def logits_and_gradient():
        leaf = prompts.cuda().requires_grad_()
        logits = Reader(backbone, get_template(template), CONTEXTS).logits(leaf, rows)
        return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), leaf)[0]

    expected = logits_and_gradient()
    assert backbone.compile_layers(fp8=fp8) and backbone.compiled
    for actual, plain in zip(logits_and_gradient(), expected, strict=True):
        assert (actual - plain).norm() <= tolerance * plain.norm()
        assert torch.cosine_similarity(actual.flatten(), plain.flatten(), dim=0) > 1 - tolerance / 3
