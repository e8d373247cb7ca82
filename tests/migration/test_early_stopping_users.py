"""Who picks the epoch of an adapter: users whom it never saw, where there are any."""

import numpy as np
import pytest
import torch
from tiny import tiny_backbone_folder

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration import adapter_training
from puma_engine.migration.adapter import apply_adapter, load_adapter
from puma_engine.migration.adapter_training import train_migration
from puma_engine.prompts.table import PromptTable


@pytest.fixture(scope="module")
def data():
    return load_shipped("movietweetings", users=30)


def judging(data, chosen, count, seed=0):
    return adapter_training._judges(chosen, data.users, data, count, seed)


def test_others_judge_and_only_those_with_validation_rows(data):
    chosen = data.users[:5]
    found = judging(data, chosen, 12)
    assert len(found) == len(set(found)) == 12 and not set(found) & set(chosen)
    assert set(found) <= set(data.rows("validation")["user_id"])
    assert np.array_equal(found, judging(data, chosen, 12))
    assert not np.array_equal(found, judging(data, chosen, 12, seed=1))


def test_chosen_users_fill_up_what_others_lack(data):
    chosen = data.users[3:]
    found = judging(data, chosen, 10)
    assert set(data.users[:3]) & set(data.rows("validation")["user_id"]) <= set(found)
    assert len(found) == 10


def test_all_judge_where_all_train(data):
    assert judging(data, data.users, 5) is data.users


def test_every_chosen_user_trains_and_no_other(data):
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


def test_prompts_that_hardly_differ_are_read_balanced_by_the_adapter_that_is_kept(data):
    model = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(1, 1, 8)) + 0.01 * rng.normal(size=(len(data.users), 1, 8))
    source = PromptTable(data.users, alike.astype(np.float32))
    settings = {"epochs": 1, "batch_size": 16, "patience": 0, "precision": "fp32"}
    moved = {
        most: train_migration(
            [source],
            model,
            data,
            template="rating-item-first",
            training=TrainingConfig(**settings),
            adapter=AdapterConfig(hidden=8, max_mean_to_std=most),
            users=data.users[:6],
        )
        for most in (0.0, 1.0)
    }
    assert "longest" not in moved[1.0].adapter_tensors
    spread = {most: one.table.vectors.std(axis=0).mean() for most, one in moved.items()}
    assert spread[1.0] > 10 * spread[0.0]
    assert "gain" not in moved[0.0].adapter_tensors
    for one in moved.values():
        network = load_adapter(one.adapter_tensors, one.adapter_meta)
        np.testing.assert_allclose(
            apply_adapter(network, source.vectors), one.table.vectors, atol=1e-6
        )


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_mapped_prompts_stay_as_short_as_the_target_s_own_embeddings(data, tmp_path, family):
    model = FrozenBackbone.load(
        tiny_backbone_folder(tmp_path, family), device="cpu", precision="fp32"
    )
    usual = np.median(np.linalg.norm(embedded(model), axis=-1))
    assert model.token_norm() == pytest.approx(usual, rel=1e-3)
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
    assert norms.max() < 0.5 * usual
    network = load_adapter(moved.adapter_tensors, moved.adapter_meta)
    again = apply_adapter(network, source.vectors)
    np.testing.assert_allclose(again, moved.table.vectors, atol=1e-6)


def embedded(model):
    """Input embeddings of the whole vocabulary, as the first layer sees them."""
    table = model.model.get_input_embeddings()
    return model.embed(torch.arange(table.num_embeddings)).detach().numpy()
