"""The adapter: the paper's network, input scaling, norm bound, and stored names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.errors import ConfigError, MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile
from puma_engine.files import load_tensors, save_tensors
from puma_engine.migration import adapter as adapters
from puma_engine.migration.adapter import (
    Adapter,
    adapter_tensors,
    apply_adapter,
    input_scaling,
    load_adapter,
)
from puma_engine.requests import overrides


def test_the_papers_adapter_has_its_number_of_parameters():
    with torch.device("meta"):
        adapter = Adapter(2048, 3072)
    assert sum(p.numel() for p in adapter.parameters()) == 88_128_512


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("tokens", [1, 4])
def test_depth_and_prompt_length_set_the_shape(depth, tokens):
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, depth=depth, dropout=0.0))
    prompts = torch.randn(5, tokens, 6)
    moved = adapter(prompts)
    assert moved.shape == (5, tokens, 10)
    torch.testing.assert_close(moved[2, -1], adapter(prompts[2, -1]))


def test_residual_connections_follow_the_paper():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    with torch.no_grad():
        for number in (0, 2):
            adapter.blocks[number].layers[-1].weight.zero_()
            adapter.blocks[number].layers[-1].bias.zero_()
    prompts = torch.randn(3, 1, 6)
    without = adapter.blocks[3](adapter.blocks[1](prompts))
    torch.testing.assert_close(adapter(prompts), without)


def test_the_same_generator_gives_the_same_adapter():
    first, second = (
        Adapter(6, 10, AdapterConfig(hidden=8), generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_input_scaling_bounds_the_mean_by_the_standard_deviation(ratio):
    rng = np.random.default_rng(0)
    near = 4 + 0.05 * rng.normal(size=(300, 2, 8))
    far = 0.1 + rng.normal(size=(300, 2, 5))
    vectors = np.concatenate([near, far], axis=2).astype(np.float32)
    scale, bias = input_scaling(vectors, [8, 5], ratio)
    scaled = vectors * scale + bias
    np.testing.assert_array_equal(scaled[..., 8:], vectors[..., 8:])
    after, before = scaled[..., :8], vectors[..., :8]
    assert rms(after.mean(0)) == pytest.approx(ratio * rms(after.std(0)), rel=1e-3)
    assert rms(after) == pytest.approx(rms(before), rel=1e-3)
    centred, original = after - after.mean(0), before - before.mean(0)
    np.testing.assert_allclose(centred / rms(centred), original / rms(original), atol=1e-3)
    direction = after.mean(0) / rms(after.mean(0))
    np.testing.assert_allclose(direction, before.mean(0) / rms(before.mean(0)), atol=1e-3)


@pytest.mark.parametrize(
    "vectors", [np.ones((9, 1, 4)), np.array([[[1.0, -1.0]], [[-1.0, 1.0]]]), np.eye(6)[:, None]]
)
def test_prompts_below_the_ratio_are_not_scaled(vectors):
    assert input_scaling(vectors, [vectors.shape[2]], 1.0) is None


def test_input_scaling_is_applied_before_the_first_block():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    prompts, scale, bias = torch.randn(5, 2, 6), torch.rand(2, 6), torch.randn(2, 6)
    expected = adapter(prompts * scale + bias)
    adapter.input_scale, adapter.input_bias = scale, bias
    torch.testing.assert_close(adapter(prompts), expected)


def test_a_norm_bound_shortens_tokens_without_changing_directions():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    prompts = 3 * torch.randn(5, 2, 6)
    free = adapter(prompts).detach()
    for max_norm in (1e-3, 0.7, 1e6):
        adapter.max_norm = torch.tensor(max_norm)
        bounded = adapter(prompts).detach()
        assert (bounded.norm(dim=-1) < max_norm).all()
        torch.testing.assert_close(
            torch.nn.functional.cosine_similarity(bounded, free, dim=-1), torch.ones(5, 2)
        )
    torch.testing.assert_close(bounded, free)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(2, 4)),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_an_adapter_is_the_same_after_a_round_trip(tmp_path_factory, shape, scaled, bounded):
    d_in, d_out, hidden, depth = shape
    config = AdapterConfig(hidden=hidden, depth=depth, dropout=0.0)
    adapter = Adapter(d_in, d_out, config, generator=torch.Generator().manual_seed(hidden))
    if scaled:
        adapter.input_scale, adapter.input_bias = torch.rand(2, d_in), torch.randn(2, d_in)
    if bounded:
        adapter.max_norm = torch.tensor(0.5)
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_tensors(path, adapter_tensors(adapter))
    stored, _ = load_tensors(path)
    # The names that files of earlier versions have.
    assert {"gain", "shift", "longest"} & set(stored) == (
        ({"gain", "shift"} if scaled else set()) | ({"longest"} if bounded else set())
    )
    loaded = load_adapter(stored, {"d_in": d_in, "d_out": d_out} | config.to_dict())
    prompts = np.random.default_rng(0).normal(size=(3, 2, d_in)).astype(np.float32)
    np.testing.assert_array_equal(apply_adapter(loaded, prompts), apply_adapter(adapter, prompts))
    for name, tensor in adapter_tensors(adapter).items():
        np.testing.assert_array_equal(adapter_tensors(loaded)[name], tensor)


def test_batches_change_no_prompt(monkeypatch):
    adapter = Adapter(6, 4, AdapterConfig(hidden=8), generator=torch.Generator().manual_seed(0))
    prompts = np.random.default_rng(0).normal(size=(7, 2, 6)).astype(np.float32)
    with torch.no_grad():
        expected = adapter.eval()(torch.from_numpy(prompts)).numpy()
    for limit in (1, 6, 512):
        monkeypatch.setattr(adapters, "CPU_BATCH", limit)
        np.testing.assert_allclose(apply_adapter(adapter, prompts), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply_adapter(adapter, prompts, 3), expected, rtol=1e-5, atol=1e-6)
    assert apply_adapter(adapter, prompts[:0]).shape == (0, 2, 4)


def test_settings_are_stored_and_hashed_under_their_old_names():
    config = AdapterConfig(hidden=8, noise=0.3, max_mean_to_std=3.0, max_norm=1.0)
    # Computed before the two settings were renamed.
    assert config.hash == "7599ba8dfc1919c9"
    assert (config.to_dict()["balance"], config.to_dict()["norm_limit"]) == (3.0, 1.0)
    assert AdapterConfig(**config.to_dict()) == config
    assert AdapterConfig(hidden=8, noise=0.3, balance=3.0, norm_limit=1.0) == config
    default = AdapterConfig(max_norm=2.0, noise=0.3)
    settings = {"hidden": 8, "norm_limit": 1.0, "max_mean_to_std": 3.0, "dropout": None}
    assert replace(default, **overrides(AdapterConfig, settings)) == config
    with pytest.raises(ConfigError, match="given twice: max_norm and norm_limit"):
        AdapterConfig(max_norm=1.0, norm_limit=2.0)


def test_wrong_settings_are_reported_together():
    with pytest.raises(ConfigError, match=r"hidden.*depth.*dropout"):
        AdapterConfig(hidden=0, depth=1, dropout=1.0)


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "learning_rate", "optimizer", "seed"])
@pytest.mark.parametrize("value", [[], {}, None, "x", True, float("nan"), -1])
def test_settings_of_a_wrong_type_or_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        TrainingConfig(**{setting: value})


@pytest.mark.parametrize("name", ["d_in", "d_out", "hidden", "depth", "dropout"])
@pytest.mark.parametrize("value", [None, "x", [], {}, float("nan"), 10**30, 10**9, -1, 0.5, True])
def test_a_damaged_shape_is_refused_before_anything_is_allocated(name, value):
    config = AdapterConfig(hidden=5, depth=3)
    meta = {"d_in": 4, "d_out": 6} | config.to_dict()
    file = AdapterFile(adapter_tensors(Adapter(4, 6, config)), meta | {name: value})
    if (name, value) == ("dropout", 0.5):
        assert file.network().config.dropout == 0.5
    else:
        with pytest.raises(MigrationError, match="do not fit its config.json"):
            file.network()
