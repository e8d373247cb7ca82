"""Inputs of attention to prefixes in a cache, with the results of plain attention as the reference."""

import torch

from puma_engine.backbone.attention.kv_cache import CachedPrefix, KVCache, RaggedTensor
from puma_engine.backbone.attention.prefix_attention import plain_attention
from puma_engine.backbone.attention.triton_attention import attend_in_place, block_tokens, tile_rows


class AttentionInputs:
    """Query, new keys and values in the layout of transformers, and rows of some cached texts.

    texts: tokens of each text, `common` of which all texts share; rows: each row's text.
    """

    def __init__(
        self, width=64, group=3, length=1, texts=(11, 5, 30), rows=(2, 0, 1, 0), common=4, *,
        device, dtype,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        kv_heads, batch = 2, len(rows)

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        # Texts differ behind their `common` tokens, so that they share no more of them.
        tokens = [[0] * common + [1 + n] * (size - common) for n, size in enumerate(texts)]
        packed = RaggedTensor.pack(tokens, device, share=True)
        assert packed.common == (common if len(texts) > 1 else texts[0])
        self.layer = draw(2, kv_heads, max(1, len(packed.ids)), width)
        rows = torch.tensor(rows, device=device)
        self.prefix = CachedPrefix(KVCache([self.layer]), packed, rows, max(texts))
        self.query, self.key, self.value = (
            draw(batch, length, count, width).transpose(1, 2).requires_grad_()
            for count in (group * kv_heads, kv_heads, kv_heads)
        )
        self.d_out = draw(batch, length, group * kv_heads, width)
        self.scale = 0.7 * width**-0.5
        self.tile_rows = tile_rows(group, length)

    @property
    def new(self):
        return self.query, self.key, self.value

    @property
    def mask(self):
        """The mask [B, 1, S, P + S] of the reference: prefixes, then new positions."""
        _, exists = self.prefix.gather()
        length = self.query.shape[2]
        new = torch.ones(length, length, dtype=torch.bool, device=exists.device).tril()
        past = exists[:, None, None].expand(-1, 1, length, -1)
        return torch.cat([past, new.expand(len(exists), 1, -1, -1)], dim=-1)

    def kernels(self):
        """Output and gradients from the Triton kernels."""
        tiles = self.prefix.tiles(self.tile_rows)
        one_block = self.prefix.longest <= block_tokens(self.query.dtype)
        out, _ = attend_in_place(*self.new, self.layer, tiles, one_block, self.scale)
        return out, *torch.autograd.grad(out, self.new, self.d_out)

    def reference(self):
        """Output and gradients from plain attention in fp32."""
        new = [part.detach().float().requires_grad_() for part in self.new]
        (past,), _ = self.prefix.gather()
        past = [part.float() for part in past]
        out = plain_attention(new[0], past, *new[1:], self.mask, self.scale)
        return out, *torch.autograd.grad(out, new, self.d_out.float())
