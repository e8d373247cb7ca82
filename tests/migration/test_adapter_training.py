"""Training an adapter: training users, early-stopping users, and effects of settings."""

import numpy as np
import pytest
import torch
from tiny import tiny_backbone_folder

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration.adapter import apply_adapter, load_adapter
from puma_engine.migration.adapter_training import choose_early_stopping_users, train_migration
from puma_engine.prompts.table import PromptTable


@pytest.fixture(scope="module")
def data():
    return load_shipped("movietweetings", users=30)


def test_early_stopping_prefers_users_outside_training_with_validation_rows(data):
    trained, with_rows = data.users[:5], data.rows("validation")["user_id"].unique()
    users = choose_early_stopping_users(trained, data.users, with_rows, 12, seed=0)
    assert len(users) == len(set(users)) == 12 and not set(users) & set(trained)
    assert set(users) <= set(with_rows)
    same_seed = choose_early_stopping_users(trained, data.users, with_rows, 12, seed=0)
    assert np.array_equal(users, same_seed)
    other_seed = choose_early_stopping_users(trained, data.users, with_rows, 12, seed=1)
    assert not np.array_equal(users, other_seed)


def test_training_users_fill_up_early_stopping_users(data):
    with_rows = data.rows("validation")["user_id"].unique()
    users = choose_early_stopping_users(data.users[3:], data.users, with_rows, 10, seed=0)
    assert set(data.users[:3]) & set(with_rows) <= set(users)
    assert len(users) == 10


def test_all_users_decide_early_stopping_where_all_train(data):
    assert choose_early_stopping_users(data.users, data.users, data.users, 5, seed=0) is data.users


def test_exactly_the_selected_users_train(data):
    model = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    vectors = np.random.default_rng(0).normal(size=(len(data.users), 1, 8)).astype(np.float32)
    source = PromptTable(data.users, vectors)
    moved = train_migration(
        [source],
        model,
        data,
        template="rating-item-first",
        training=TrainingConfig(epochs=2, batch_size=16, patience=0),
        adapter=AdapterConfig(hidden=8),
        users=data.users[:6],
        early_stopping_users=10,
    )
    rows = data.rows("train")["user_id"].isin(set(data.users[:6])).sum()
    assert moved.result.examples == 2 * rows
    assert moved.table.meta["users_trained"] == 6 and len(moved.table.user_ids) == 30


def test_the_stored_adapter_rescales_nearly_equal_prompts(data):
    model = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1, 1, 8)) + 0.01 * rng.normal(size=(len(data.users), 1, 8))
    source = PromptTable(data.users, vectors.astype(np.float32))
    settings = {"epochs": 1, "batch_size": 16, "patience": 0, "precision": "fp32"}
    moved = {
        ratio: train_migration(
            [source],
            model,
            data,
            template="rating-item-first",
            training=TrainingConfig(**settings),
            adapter=AdapterConfig(hidden=8, max_mean_to_std=ratio),
            users=data.users[:6],
        )
        for ratio in (0.0, 1.0)
    }
    assert "longest" not in moved[1.0].adapter_tensors
    spread = {ratio: result.table.vectors.std(axis=0).mean() for ratio, result in moved.items()}
    assert spread[1.0] > 10 * spread[0.0]
    assert "gain" not in moved[0.0].adapter_tensors
    for result in moved.values():
        network = load_adapter(result.adapter_tensors, result.adapter_meta)
        np.testing.assert_allclose(
            apply_adapter(network, source.vectors), result.table.vectors, atol=1e-6
        )


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_mapped_prompts_are_bounded_by_the_norms_of_the_targets_embeddings(data, tmp_path, family):
    model = FrozenBackbone.load(
        tiny_backbone_folder(tmp_path, family), device="cpu", precision="fp32"
    )
    median = np.median(np.linalg.norm(embedded(model), axis=-1))
    assert model.token_norm() == pytest.approx(median, rel=1e-3)
    rng = np.random.default_rng(0)
    source = PromptTable(data.users, 9 * rng.normal(size=(len(data.users), 2, 8)).astype("float32"))
    moved = train_migration(
        [source],
        model,
        data,
        template="rating-item-first",
        training=TrainingConfig(epochs=2, batch_size=16, learning_rate=0.1, precision="fp32"),
        adapter=AdapterConfig(hidden=8, max_norm=0.5),
    )
    norms = np.linalg.norm(moved.table.vectors, axis=-1)
    assert norms.max() < 0.5 * median
    network = load_adapter(moved.adapter_tensors, moved.adapter_meta)
    again = apply_adapter(network, source.vectors)
    np.testing.assert_allclose(again, moved.table.vectors, atol=1e-6)


def embedded(model):
    """Input embeddings of the whole vocabulary, as the first layer sees them."""
    table = model.model.get_input_embeddings()
    return model.embed(torch.arange(table.num_embeddings)).detach().numpy()
