"""Inputs of attention to a prefix, with the results of plain attention as the reference."""

import torch

from puma_engine.backbone.attention.prefix_attention import plain_attention
from puma_engine.backbone.attention.triton_attention import Attention, choose_blocks, pack_mask


class AttentionInputs:
    """Query, prefix and new keys and values in the layout of transformers, a mask and d_out."""

    def __init__(self, width=64, group=3, length=6, past=11, *, device, dtype):
        generator = torch.Generator().manual_seed(0)
        batch, kv_heads = 3, 2

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        heads = group * kv_heads
        self.query, self.key, self.value = (
            draw(batch, length, count, width).transpose(1, 2).requires_grad_()
            for count in (heads, kv_heads, kv_heads)
        )
        self.past = draw(batch, kv_heads, past, width), draw(batch, kv_heads, past, width)
        self.d_out = draw(batch, length, heads, width)
        self.scale = 0.7 * width**-0.5
        self.mask = torch.ones(batch, 1, length, past + length, dtype=torch.bool).tril(past)
        self.mask[1, ..., : past // 2] = False
        self.mask[2, ..., : past - 1] = False
        self.mask[2, ..., past + length // 2 :] = False
        self.mask = self.mask.to(device)

    @property
    def new(self):
        return self.query, self.key, self.value

    def kernels(self):
        """Output and gradients from the Triton kernels."""
        group = self.query.shape[1] // self.key.shape[1]
        past = self.past[0].shape[2]
        blocks = choose_blocks(group, self.query.shape[2], past, self.query.shape[3])
        bits = pack_mask(self.mask, past)
        out = Attention.apply(
            self.query, *self.past, self.key, self.value, bits, self.scale, blocks
        )
        return out, *torch.autograd.grad(out, self.new, self.d_out)

    def reference(self):
        """Output and gradients from plain attention in fp32; zeros where no key is visible."""
        new = [part.detach().float().requires_grad_() for part in self.new]
        past = [part.float() for part in self.past]
        out = plain_attention(new[0], past, *new[1:], self.mask, self.scale)
        out = out * self.mask.any(-1).transpose(1, 2).unsqueeze(-1)
        return out, *torch.autograd.grad(out, new, self.d_out.float())
