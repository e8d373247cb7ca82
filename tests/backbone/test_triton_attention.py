"""Configurations that the Triton kernels support; plain attention computes all others."""

from itertools import pairwise

import pytest
import torch
from attention_inputs import AttentionInputs

from puma_engine.backbone.attention import triton_attention
from puma_engine.backbone.attention.plain_attention import plain_attention
from puma_engine.backbone.attention.prefix_attention import (
    InPlace,
    prefix_attention,
    reading_in_place,
)
from puma_engine.backbone.attention.triton_attention import (
    can_attend_in_place,
    choose_blocks,
    tile_rows,
)

HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("length", "width", "dtype", "supported"),
    [
        (1, 64, HALF, True),
        (64, 256, HALF, True),
        (128, 128, HALF, True),
        (65, 256, HALF, False),
        (129, 64, HALF, False),
        (1, 128, torch.float32, True),
        (1, 256, torch.float32, False),
    ],
)
def test_blocks_that_are_too_large_are_refused(length, width, dtype, supported):
    blocks = choose_blocks(3, length, width, dtype)
    assert (blocks is not None) == supported
    if supported:
        assert blocks.new >= length * tile_rows(3, length) and blocks.width >= width


@pytest.mark.parametrize("group", [1, 3, 7, 24])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_a_tile_takes_the_rows_that_cost_no_more_than_one(group, length):
    rows = tile_rows(group, length)
    assert rows == 1 or rows * group * length <= 16
    assert (rows + 1) * group * length > 16


def test_a_cpu_gathers_keys_and_values():
    assert not can_attend_in_place(torch.device("cpu"), HALF, 6, [(2, 64)], 1, 40)


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_tiles_hold_each_row_once_and_one_text_each(tile):
    rows = (2, 0, 1, 0, 0, 2, 0, 0, 0)
    given = AttentionInputs(rows=rows, device="cpu", dtype=HALF)
    place, length, order, first = given.prefix.places(tile)[:, :-1]
    assert sorted(order.tolist()) == list(range(len(rows)))
    ends = [int(end) for end in first if end < len(rows)] + [len(rows)]
    tiles = [order[a:b].tolist() for a, b in pairwise(ends)]
    assert ends[0] == 0 and all(0 < len(part) <= tile for part in tiles)
    assert all(len({rows[row] for row in part}) == 1 for part in tiles)
    # No text is cut into more tiles than it needs.
    assert len(tiles) == sum(-(-rows.count(text) // tile) for text in set(rows))
    assert length.tolist() == [given.prefix.tokens.lengths[row] for row in rows]
    assert (place + given.prefix.tokens.common).tolist() == [
        given.prefix.tokens.offset[row] for row in rows
    ]


def test_a_place_in_the_cache_goes_before_all_else_and_knows_no_softcap(monkeypatch):
    given = AttentionInputs(device="cpu", dtype=torch.float32)
    module, here = torch.nn.Module(), InPlace(given.layer, given.prefix.places(1), True)
    calls = []

    def attend(*arguments):
        calls.append(arguments)
        return given.d_out, None

    monkeypatch.setattr("puma_engine.backbone.attention.prefix_attention.attend_in_place", attend)
    with reading_in_place([module], [here]):
        out, _ = prefix_attention(module, *given.new, None, scaling=0.5)
        with pytest.raises(NotImplementedError, match="softcap"):
            prefix_attention(module, *given.new, None, scaling=0.5, softcap=5.0)
    assert out is given.d_out and calls[0][3:] == (here.layer, here.places, True, 0.5)
    prefix_attention(module, *given.new, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert len(calls) == 1


def test_kernels_that_fail_or_give_other_results_are_not_used(monkeypatch):
    def trial(function):
        monkeypatch.setattr(triton_attention, "attend_in_place", function)
        return triton_attention._try(torch.device("cpu"), torch.float32, 6, 2, 64, 4, 11)

    def plain(query, key, value, layer, places, one_block, scale):
        longest = int(places[1, :-1].max())
        batch, _, length, _ = query.shape
        start, sizes = places[0, :batch], places[1, :batch]
        column = torch.arange(longest) - (longest - sizes[:, None])
        token = torch.where(column < places[0, batch], column, start[:, None] + column)
        exists = (column >= 0)[:, None, None].expand(-1, -1, length, -1)
        causal = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
        past = layer[:, :, token.clamp(min=0)].transpose(1, 2)
        mask = torch.cat([exists, causal], -1)
        return plain_attention(query, tuple(past), key, value, mask, scale), None

    def fails(*_):
        raise RuntimeError("out of resource: shared memory")

    assert trial(plain)
    assert not trial(fails)
    assert not trial(lambda *given: (1.2 * plain(*given)[0], None))
