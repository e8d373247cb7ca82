"""Configurations that the Triton kernels support; plain attention computes all others."""

import in_place_on_cpu  # noqa: F401
import pytest
import torch
from attention_inputs import AttentionInputs

from puma_engine.backbone.attention import triton_attention
from puma_engine.backbone.attention.prefix_attention import (
    InPlace,
    prefix_attention,
    reading_in_place,
)
from puma_engine.backbone.attention.triton_attention import (
    attend_in_place,
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
def test_a_tile_has_as_many_rows_as_cost_no_more_than_one(group, length):
    rows = tile_rows(group, length)
    assert rows == 1 or rows * group * length <= 16
    assert (rows + 1) * group * length > 16


def test_a_cpu_gathers_keys_and_values():
    assert not can_attend_in_place(torch.device("cpu"), HALF, 6, [(2, 64)], 1, 40)


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_tiles_hold_each_row_once_and_one_text_each(tile):
    rows = (2, 0, 1, 0, 0, 2, 0, 0, 0)
    inputs = AttentionInputs(rows=rows, device="cpu", dtype=HALF)
    first, count, start, length, common, order = inputs.prefix.tiles(tile).unbind(1)
    assert sorted(order.tolist()) == list(range(len(rows)))
    used = count > 0
    tiles = [order[a : a + n].tolist() for a, n in zip(first[used], count[used], strict=True)]
    assert [row for part in tiles for row in part] == order.tolist()
    assert all(len(part) <= tile and len({rows[row] for row in part}) == 1 for part in tiles)
    # No text has more tiles than needed.
    assert len(tiles) == sum(-(-rows.count(text) // tile) for text in set(rows))
    texts = [rows[part[0]] for part in tiles]
    tokens = inputs.prefix.tokens
    assert length[used].tolist() == tokens.lengths[texts].tolist()
    assert (start + common)[used].tolist() == tokens.offset[texts].tolist()
    assert set(common.tolist()) == {tokens.common}


def test_reading_in_place_is_preferred_and_refuses_a_softcap(monkeypatch):
    inputs = AttentionInputs(device="cpu", dtype=torch.float32)
    module, here = torch.nn.Module(), InPlace(inputs.layer, inputs.prefix.tiles(1), True)
    calls = []

    def attend(*arguments):
        calls.append(arguments)
        return inputs.d_out, None

    monkeypatch.setattr("puma_engine.backbone.attention.prefix_attention.attend_in_place", attend)
    with reading_in_place([module], [here]):
        out, _ = prefix_attention(module, *inputs.new, None, scaling=0.5)
        with pytest.raises(NotImplementedError, match="softcap"):
            prefix_attention(module, *inputs.new, None, scaling=0.5, softcap=5.0)
    assert out is inputs.d_out and calls[0][3:] == (here.layer, here.tiles, True, 0.5)
    prefix_attention(module, *inputs.new, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert len(calls) == 1


def test_kernels_that_fail_or_give_other_results_are_not_used(monkeypatch):
    def trial(function):
        monkeypatch.setattr(triton_attention, "attend_in_place", function)
        return triton_attention._try(torch.device("cpu"), torch.float32, 6, 2, 64, 4, 11)

    exact = attend_in_place

    def fails(*_):
        raise RuntimeError("out of resource: shared memory")

    assert trial(exact)
    assert not trial(fails)
    assert not trial(lambda *given: (1.2 * exact(*given)[0], None))


@pytest.mark.parametrize(("group", "length"), [(1, 1), (3, 4)])
def test_inputs_of_the_gpu_tests_are_valid_for_attention_in_place(group, length):
    """What tests on a GPU call exists, which a machine without one would not notice."""
    inputs = AttentionInputs(group=group, length=length, device="cpu", dtype=torch.float32)
    for actual, expected in zip(inputs.kernels(), inputs.reference(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
