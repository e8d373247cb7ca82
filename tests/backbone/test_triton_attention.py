"""The attention kernels give what plain attention does; what they are not for is left to it."""

import importlib.util
import os

import pytest
import torch

from puma_engine.backbone.attention import triton_attention
from puma_engine.backbone.attention.fp8 import fuse_layers
from puma_engine.backbone.attention.prefix_attention import (
    grouped_attention,
    kept_apart,
    plain_attention,
)
from puma_engine.backbone.attention.triton_attention import (
    Attention,
    Tiles,
    attend,
    fits,
    packed,
    tiles_for,
)

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton")
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
# Triton's interpreter multiplies no bf16, and is exact otherwise.
DTYPE, TOLERANCE = (torch.bfloat16, 0.02) if DEVICE == "cuda" else (torch.float32, 1e-5)
needs_kernels = pytest.mark.skipif(
    not GPU and not INTERPRETED, reason="Triton's kernels need a GPU or TRITON_INTERPRET=1"
)


class Given:
    """Query, kept and new keys and values as transformers lays them out, a mask and a gradient."""

    def __init__(self, width=64, group=3, length=6, kept=11, *, device=DEVICE, dtype=DTYPE):
        generator = torch.Generator().manual_seed(0)
        batch, kv_heads = 3, 2

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        heads = group * kv_heads
        self.query, self.key, self.value = (
            draw(batch, length, many, width).transpose(1, 2).requires_grad_()
            for many in (heads, kv_heads, kv_heads)
        )
        self.past = draw(batch, kv_heads, kept, width), draw(batch, kv_heads, kept, width)
        self.upstream = draw(batch, length, heads, width)
        self.scale = 0.7 * width**-0.5
        self.mask = torch.ones(batch, 1, length, kept + length, dtype=torch.bool).tril(kept)
        self.mask[1, ..., : kept // 2] = False
        self.mask[2, ..., : kept - 1] = False
        self.mask[2, ..., kept + length // 2 :] = False
        self.mask = self.mask.to(device)

    @property
    def new(self):
        return self.query, self.key, self.value

    def kernels(self):
        """Result and gradients from the kernels."""
        group = self.query.shape[1] // self.key.shape[1]
        kept = self.past[0].shape[2]
        tiles = tiles_for(group, self.query.shape[2], kept, self.query.shape[3])
        bits = packed(self.mask, kept)
        out = Attention.apply(self.query, *self.past, self.key, self.value, bits, self.scale, tiles)
        return out, *torch.autograd.grad(out, self.new, self.upstream)

    def plainly(self):
        """Result and gradients from plain attention in fp32; nothing where no key is seen."""
        new = [part.detach().float().requires_grad_() for part in self.new]
        past = [part.float() for part in self.past]
        out = plain_attention(new[0], past, *new[1:], self.mask, self.scale)
        out = out * self.mask.any(-1).transpose(1, 2).unsqueeze(-1)
        return out, *torch.autograd.grad(out, new, self.upstream.float())


def assert_near(given):
    for found, wanted in zip(given.kernels(), given.plainly(), strict=True):
        assert found.isfinite().all()
        # Slopes of a single key are the difference of two like numbers: nothing but rounding.
        size = max(wanted.norm(), 0.5 * wanted.numel() ** 0.5)
        assert (found.float() - wanted).norm() <= TOLERANCE * size


@needs_kernels
@pytest.mark.parametrize("width", [64, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_the_kernels_give_what_plain_attention_does(width, group):
    assert_near(Given(width, group))


@needs_kernels
@pytest.mark.parametrize("length", [1, 6, 48])
@pytest.mark.parametrize("kept", [0, 1, 11, 40, 150])
def test_any_number_of_new_and_of_kept_positions(length, kept):
    assert_near(Given(length=length, kept=kept))


@needs_kernels
def test_more_new_positions_than_one_word_of_bits_holds():
    assert_near(Given(length=90, kept=70))


@needs_kernels
def test_a_sliding_window_one_mask_for_all_and_rows_that_see_nothing():
    given = Given(length=20, kept=40)
    given.mask = given.mask & given.mask.new_ones(given.mask.shape[2:]).triu(12)
    given.mask[0, 0, 7] = False
    given.mask[1] = False
    assert_near(given)
    assert not given.kernels()[0][0, 7].any()
    given.mask = given.mask[:1]
    assert_near(given)


@needs_kernels
def test_gradients_lie_as_what_they_are_for_and_odd_layouts_are_read():
    given = Given()
    for found, part in zip(given.kernels()[1:], given.new, strict=True):
        assert found.stride() == part.stride()
    joined = torch.cat([given.key, given.value], dim=-1).detach()
    key, value = joined.chunk(2, dim=-1)
    given.key, given.value = key.requires_grad_(), value.requires_grad_()
    given.upstream = given.upstream[..., :1].expand_as(given.upstream)
    assert_near(given)


@pytest.mark.parametrize(
    ("length", "width", "there"),
    [(1, 64, True), (64, 256, True), (128, 128, True), (65, 256, False), (129, 64, False)],
)
def test_tiles_that_are_too_large_are_refused(length, width, there):
    tiles = tiles_for(3, length, 40, width)
    assert (tiles is not None) == there
    if there:
        assert tiles.new >= length and tiles.width >= width and tiles.past == 64


def test_few_kinds_of_tiles_serve_many_widths():
    kinds = {tiles_for(3, length, kept, 128) for length in range(33, 65) for kept in range(65, 300)}
    assert len(kinds) == 1


def half(**sizes):
    return Given(**sizes, device="cpu", dtype=torch.bfloat16)


def test_what_fits_depends_on_numbers_and_mask():
    given = half()
    rest = given.past, given.key
    assert fits(given.query, *rest, given.mask)
    assert fits(given.query, *rest, given.mask[:1])
    assert fits(given.query, None, given.key, given.mask[..., 11:])
    exact = Given(device="cpu", dtype=torch.float32)
    assert not fits(exact.query, exact.past, exact.key, exact.mask)
    assert not fits(given.query, exact.past, given.key, given.mask)
    assert not fits(given.query, *rest, given.mask[..., 1:])
    assert not fits(given.query, *rest, given.mask.float())
    assert not fits(given.query, *rest, given.mask.expand(-1, 6, -1, -1))
    assert not fits(given.query[:, :, 1:], *rest, given.mask[:, :, 1:])


def test_a_cpu_keeps_plain_attention():
    given = half()
    assert attend(given.query, given.past, given.key, given.value, given.mask, 1.0) is None


class Layer:
    layer_idx = 0


def test_attention_asks_the_kernels_first_and_does_what_they_do_not():
    given, asked = half(), []

    def refuse(query, past, key, value, mask, scale):
        asked.append((past, scale))

    def run(attend, **how):
        with kept_apart([given.past], attend=attend), torch.no_grad():
            return grouped_attention(Layer(), *given.new, given.mask, scaling=0.5, **how)[0]

    plain = run(None)
    assert torch.equal(run(refuse), plain) and asked == [(given.past, 0.5)]
    assert run(lambda *_: plain[:1]) is not plain and len(run(lambda *_: plain[:1])) == 1
    run(refuse, softcap=5.0)
    assert len(asked) == 1


def test_fused_layers_ask_the_kernels():
    assert fuse_layers(torch.nn.Linear(2, 2)).attend is attend


def test_kernels_that_fail_or_give_other_results_are_not_used(monkeypatch):
    given = half(length=4)
    tiles = tiles_for(3, 4, 11, 64)
    assert isinstance(tiles, Tiles)

    def trial(function):
        monkeypatch.setattr(triton_attention, "packed", lambda mask, kept: mask)
        monkeypatch.setattr(Attention, "apply", function)
        return triton_attention._try(given.query, given.past[0], given.key, tiles)

    def plain(query, past_key, past_value, key, value, mask, scale, _):
        return plain_attention(query, (past_key, past_value), key, value, mask, scale)

    def fails(*_):
        raise RuntimeError("out of resource: shared memory")

    assert trial(plain)
    assert not trial(fails)
    assert not trial(lambda *given: 1.2 * plain(*given))
