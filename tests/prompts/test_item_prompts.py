"""Item prompts: read after user prompts, migrated, stored, and refused where unsupported."""

import dataclasses

import numpy as np
import pytest
import torch
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.errors import ConfigError, DataError
from puma_engine.evaluation.prediction import predict
from puma_engine.exchange.prompt_embeddings import read_embedded
from puma_engine.migration.adapter_training import train_migration
from puma_engine.pipeline.evaluating import method_label
from puma_engine.pipeline.method_survey import evaluated_methods
from puma_engine.pipeline.planning import measured_trainings, replaces
from puma_engine.pipeline.predicting import Predictor
from puma_engine.pipeline.stored_prompts import load_prompts
from puma_engine.prompts.item_prompts import ItemPrompts, join_items
from puma_engine.prompts.new_users import fit_new_users
from puma_engine.prompts.tuning import fit_prompts
from puma_engine.store import Workspace

TEMPLATE = "rating-item-first"
TRAINING = TrainingConfig(epochs=2, batch_size=64, learning_rate=2e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def small():
    data = load_shipped("movietweetings", users=12)
    backbone = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    both = PromptConfig(item_tokens=1)
    fitted = fit_prompts(backbone, data, template=TEMPLATE, training=TRAINING, prompt=both)
    return data, backbone, fitted.table


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Users' and items' prompts in a workspace, and a migration of both, on tiny models."""
    folder = tmp_path_factory.mktemp("items")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating"
    )
    first = tiny_backbone_folder(folder / "models", "llama")
    second = tiny_backbone_folder(folder / "models", "gemma3", width=48)
    plain = pipeline.fit_prompts(ws, data, first, training=QUICK)
    source = pipeline.fit_prompts(ws, data, first, training=QUICK, prompt={"item_tokens": 2})
    moved = pipeline.migrate(ws, source, second, training=QUICK, adapter=SMALL)
    names = ("ws", "data", "plain", "source", "moved")
    return dict(zip(names, (ws, data, plain, source, moved), strict=True))


@pytest.fixture(scope="module")
def before():
    """Prompts whose items' tokens stand before the users'."""
    data = load_shipped("movietweetings", users=12)
    backbone = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    both = PromptConfig(item_tokens=1, item_order="before")
    fitted = fit_prompts(backbone, data, template=TEMPLATE, training=TRAINING, prompt=both)
    return data, backbone, fitted.table


@pytest.mark.parametrize("order", ["small", "before"])
def test_item_prompts_are_read_next_to_user_prompts(order, request):
    data, backbone, table = request.getfixturevalue(order)
    assert table.items.first == (order == "before")
    rows = data.rows("test")
    joined = table.take_pairs(rows["user_id"].to_numpy(), rows["item_id"].to_numpy())
    assert joined.shape == (len(rows), 2, backbone.width)
    users = joined[:, 1 if order == "before" else 0]
    np.testing.assert_array_equal(users, table.take(rows["user_id"].to_numpy())[:, 0])
    one_row_each = dataclasses.replace(
        table,
        user_ids=np.array([f"{user}|{item}" for user, item in rows[["user_id", "item_id"]].values]),
        vectors=joined,
        items=None,
    )
    interactions = data.interactions.copy()
    interactions["user_id"] = interactions["user_id"] + "|" + interactions["item_id"]
    same = dataclasses.replace(
        data, interactions=interactions[interactions["split"] == "test"].reset_index(drop=True)
    )
    expected = predict(backbone, one_row_each, same, "test", template=TEMPLATE)
    predicted = predict(backbone, table, data, "test", template=TEMPLATE)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    without = dataclasses.replace(table, items=None)
    assert (
        np.abs(predicted - predict(backbone, without, data, "test", template=TEMPLATE)).max() > 1e-3
    )


def test_items_are_joined_by_id_and_unknown_ones_get_the_common_prompt(small):
    data, _, table = small
    trained = set(data.rows("train")["item_id"])
    assert set(table.items.item_ids) == trained
    order = np.random.default_rng(0).permutation(len(table.items.item_ids))
    shuffled = ItemPrompts(
        table.items.item_ids[order], table.items.vectors[order], table.items.other
    )
    item_ids = data.items["item_id"].to_numpy()
    np.testing.assert_array_equal(shuffled.take(item_ids), table.items.take(item_ids))
    fresh = np.setdiff1d(item_ids, sorted(trained))
    assert len(fresh) and (shuffled.take(fresh) == table.items.other).all()


def test_migration_maps_items_with_a_separate_adapter(small):
    data, _, table = small
    target = FrozenBackbone.load("qwen2-small", device="cpu", precision="fp32")
    shape = AdapterConfig(hidden=16)
    moved = train_migration(
        [table], target, data, template=TEMPLATE, training=TRAINING, adapter=shape
    )
    items = moved.table.items
    assert items.vectors.shape == (len(table.items.item_ids), 1, target.width)
    assert set(moved.item_adapter) == set(moved.adapter_tensors)
    two = train_migration(
        [table, dataclasses.replace(table, items=None)],
        target,
        data,
        template=TEMPLATE,
        training=TRAINING,
        adapter=shape,
    )
    assert two.table.items.vectors.shape == items.vectors.shape
    assert two.adapter_meta["d_in"] == 2 * two.item_adapter["blocks.0.layers.0.weight"].shape[0]


def test_new_users_are_fitted_with_the_known_item_prompts(small):
    data, backbone, table = small
    known = dataclasses.replace(table, user_ids=table.user_ids[4:], vectors=table.vectors[4:])
    new = data.for_users(table.user_ids[:4])
    fitted = fit_new_users(backbone, new, known, template=TEMPLATE, training=TRAINING)
    assert fitted.items is known.items
    assert np.abs(fitted.vectors - known.vectors.mean(0)).max() > 1e-3


def test_bad_item_prompts_are_refused():
    ids, rows, other = np.array(["a", "b"]), np.zeros((2, 1, 4), np.float32), np.zeros((1, 4))
    with pytest.raises(DataError, match="shape"):
        ItemPrompts(ids, rows[:1], other)
    with pytest.raises(DataError, match="twice"):
        ItemPrompts(np.array(["a", "a"]), rows, other)
    with pytest.raises(DataError, match="NaN"):
        ItemPrompts(ids, rows, other * np.nan)
    longer = ItemPrompts(ids, np.zeros((2, 2, 4)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="different lengths"):
        join_items([ItemPrompts(ids, rows, other), longer], ids)


def test_tables_with_items_are_stored_evaluated_and_refined(world):
    ws = world["ws"]
    source, moved = (load_prompts(ws, world[name]) for name in ("source", "moved"))
    assert source.items.tokens == moved.items.tokens == 2
    np.testing.assert_array_equal(np.sort(source.items.item_ids), np.sort(moved.items.item_ids))
    assert "item_tokens" not in world["plain"].config["prompt"]
    assert load_prompts(ws, world["plain"]).items is None
    scored = pipeline.evaluate(ws, world["moved"])
    assert scored.summary["metrics"]["rmse"] > 0
    refined = pipeline.refine(ws, world["moved"], training=QUICK)
    change = np.abs(load_prompts(ws, refined).items.vectors - moved.items.vectors).max()
    # With random ratings it may be that no epoch validates better, and the start stays.
    assert (change > 1e-5) == (refined.summary["best_epoch"] >= 0)
    without_items = pipeline.migrate(
        ws, world["plain"], world["moved"].inputs["backbone"], training=QUICK
    )
    added = pipeline.refine(ws, without_items, item_tokens=1, training=QUICK)
    assert load_prompts(ws, added).items.tokens == 1 and added.config["item_tokens"] == 1
    labels = [
        method_label(ws, pipeline.evaluate(ws, run))
        for run in (without_items, added, world["plain"])
    ]
    assert labels == [
        "Migrated, all users",
        "Migrated, all users, refined, item prompts too",
        "Source prompts",
    ]
    with pytest.raises(ConfigError, match="only some users are refined"):
        pipeline.refine(ws, without_items, item_tokens=1, share=0.5)
    with pytest.raises(ConfigError, match="item prompts of 1 tokens, .* not of 2"):
        pipeline.refine(ws, added, item_tokens=2, template="rating")


def test_a_migration_is_compared_with_retraining_of_the_same_kind(world):
    ws, moved = world["ws"], world["moved"]
    target = moved.inputs["backbone"]
    without_items = pipeline.migrate(ws, world["plain"], target, training=QUICK)
    settings = {"role": "retrained", "training": QUICK}
    retrained_without_items = pipeline.fit_prompts(ws, world["data"], target, **settings)
    retrained = pipeline.fit_prompts(
        ws, world["data"], target, prompt={"item_tokens": 2}, **settings
    )
    assert replaces(without_items, retrained_without_items) and not replaces(
        without_items, retrained
    )
    assert replaces(moved, retrained) and not replaces(moved, retrained_without_items)
    other = pipeline.fit_prompts(ws, world["data"], target, template="rating", **settings)
    assert not replaces(without_items, other)
    scored = [
        pipeline.evaluate(ws, run).id for run in (without_items, retrained_without_items, retrained)
    ]
    rows = evaluated_methods(ws, world["data"].id, "test").set_index("evaluation")
    assert rows.loc[scored, "item_tokens"].tolist() == [0, 0, 2]


def test_migration_storage_and_what_if_preserve_the_order_of_item_prompts(world):
    ws, prompt = world["ws"], {"item_tokens": 1, "item_order": "before"}
    assert "item_order" not in world["source"].config["prompt"]
    source = pipeline.fit_prompts(
        ws, world["data"], world["plain"].inputs["backbone"], training=QUICK, prompt=prompt
    )
    assert source.config["prompt"]["item_order"] == "before"
    moved = pipeline.migrate(
        ws, source, world["moved"].inputs["backbone"], training=QUICK, adapter=SMALL
    )
    refined = pipeline.refine(ws, moved, training=QUICK)
    assert all(load_prompts(ws, run).items.first for run in (source, moved, refined))
    row = pipeline.read_predictions(ws, pipeline.evaluate(ws, moved, device="cpu")).iloc[0]
    items = ws.get_table(world["data"].id, "items").set_index("item_id")["text"]
    predictor = Predictor(ws, moved, device="cpu")
    value = predictor.predict(row["user_id"], items[row["item_id"]]).value
    assert value == pytest.approx(row["prediction"], abs=1e-4)
    with pytest.raises(DataError, match="cannot be joined"):
        pipeline.migrate(
            ws, [source, world["source"]], world["moved"].inputs["backbone"], training=QUICK
        )


def test_cost_predictions_exclude_runs_with_item_prompts(world):
    plain, both = world["plain"], world["source"]
    assert both.summary["item_tokens"] == 2
    where = (plain.inputs["backbone"], plain.device)
    assert [run.run for run in measured_trainings(world["ws"], "prompts", *where)] == [plain.id]


def test_a_what_if_request_for_a_known_title_uses_its_item_prompt(world):
    ws = world["ws"]
    predictor = Predictor(ws, world["source"], device="cpu")
    predictions = pipeline.read_predictions(
        ws, pipeline.evaluate(ws, world["source"], device="cpu")
    )
    items = ws.get_table(world["data"].id, "items").set_index("item_id")["text"]
    for row in predictions.head(3).itertuples():
        value = predictor.predict(row.user_id, items[row.item_id]).value
        assert value == pytest.approx(row.prediction, abs=1e-4)


def test_embedded_inputs_are_exported_and_formats_without_items_are_refused(world, tmp_path):
    ws = world["ws"]
    table = load_prompts(ws, world["source"])
    data = pipeline.load_dataset(ws, world["data"])
    row = data.rows("test").iloc[0]
    pairs = [(row["user_id"], row["item_id"])]
    file = pipeline.embed_prompts(ws, world["source"], pairs, tmp_path / "whole.safetensors")
    (tensor,) = read_embedded(file).tensors
    prompt = torch.from_numpy(table.take_pairs(*zip(*pairs, strict=True))[0])
    windows = tensor.float().unfold(0, len(prompt), 1).transpose(1, 2)
    assert (windows - prompt).abs().amax((1, 2)).min() < 1e-6
    for form in ("file", "parquet", "numpy", "packed", "peft"):
        with pytest.raises(ConfigError, match="has item prompts"):
            pipeline.export_prompts(ws, world["source"], tmp_path / form, form=form)
    with pytest.raises(ConfigError, match="has item prompts"):
        pipeline.export_adapter(ws, world["moved"], tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.safetensors"]
