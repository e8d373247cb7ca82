"""Anchor predictions: equal to evaluations and to what-if predictions, from every interface."""

import numpy as np
import pandas as pd
import pytest
from command_line import puma
from html_text import Page
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import Workbench
from puma_engine.datasets.anchor_items import choose_anchors
from puma_engine.errors import ConfigError, DataError, StoreError
from puma_engine.maps.behaviour import anchor_behaviour
from puma_engine.pipeline import anchors as stage
from puma_engine.pipeline.anchors import common_anchors, is_cheap
from puma_engine.pipeline.summary_page import render_summary
from puma_engine.pipeline.user_behaviour import behaviour_of_evaluations


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A plan on tiny models: source prompts, a migration, full retraining and their comparison."""
    folder = tmp_path_factory.mktemp("anchors")
    bench = Workbench(folder / "ws", create=True)
    data = bench.import_dataset("table", path=write_ratings(folder / "r.csv"), task="rating")
    source = bench.fit_prompts(
        data, tiny_backbone_folder(folder / "models", "llama"), training=QUICK
    )
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    compared = bench.run_plan(
        source, large, retrain=True, training=QUICK, adapter=SMALL, retraining=QUICK
    )
    return bench, source, compared


def test_anchor_predictions_equal_those_of_evaluations_and_what_if(world):
    bench, source, _ = world
    items = bench.dataset(source.inputs["dataset"]).items
    run = bench.predict_anchors(source, items=items["item_id"].tolist())
    frame = bench.anchors(run).frame
    assert len(frame) == 24 * len(items)
    held_out = bench.predictions(bench.evaluate(source))
    joined = held_out.merge(frame, on=["user_id", "item_id"], suffixes=("", "_anchor"))
    assert len(joined) == len(held_out)
    np.testing.assert_allclose(joined["prediction_anchor"], joined["prediction"], atol=1e-5)
    texts = dict(zip(items["item_id"], items["text"], strict=True))
    for row in frame.iloc[:: len(frame) // 5].itertuples():
        expected = bench.predict_title(source, row.user_id, texts[row.item_id])
        assert row.prediction == pytest.approx(expected.value, abs=1e-5)


def test_every_interface_makes_the_same_run_for_any_block_size(world, monkeypatch):
    bench, source, _ = world
    ws = bench.workspace
    run = bench.predict_anchors(source, count=5)
    assert run.config["items"] == choose_anchors(bench.dataset(source.inputs["dataset"]), 5)
    assert run.summary == {"task": "rating", "users": 24, "anchors": 5}
    assert puma(ws, "anchors", source.name, "--count", 5)["id"] == run.id
    items = [word for item in run.config["items"] for word in ("--item", item)]
    assert puma(ws, "anchors", source.name, *items)["id"] == run.id
    before = bench.anchors(run).predictions
    ws.delete(run.id)
    monkeypatch.setattr(stage, "BLOCK", 7)
    seen = []
    again = bench.predict_anchors(source, count=5, progress=seen.append)
    np.testing.assert_allclose(bench.anchors(again).predictions, before, atol=1e-6)
    assert again.id == run.id and seen[-1].step == seen[-1].total == 24 * 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"items": ["i1", "nothing"]}, DataError, "no item 'nothing'"),
        ({"items": ["i1", "i1"]}, DataError, "One anchor item has no spread"),
        ({"count": 1}, ConfigError, "two anchor items or more, not 1"),
        ({"items": ["i1", "i2"], "count": 9}, ConfigError, "2 anchor items are named, so 9"),
    ],
)
def test_invalid_anchor_requests_are_refused(world, arguments, error, message):
    bench, source, _ = world
    with pytest.raises(error, match=message):
        bench.predict_anchors(source, **arguments)


def test_exported_anchor_predictions_equal_the_stored_ones(world, tmp_path):
    bench, source, _ = world
    run = bench.predict_anchors(source)
    file = bench.export_table(run, "anchors", tmp_path / "anchors.csv")
    table = pd.read_csv(file, dtype={"user_id": str})
    pd.testing.assert_frame_equal(
        table, bench.anchors(run).frame, check_dtype=False, check_exact=False, rtol=1e-6
    )


def test_a_plan_predicts_anchor_items_and_the_summary_page_shows_them(world):
    bench, source, compared = world
    ws = bench.workspace
    evaluations = [
        key for role, key in sorted(compared.inputs.items()) if role.startswith("evaluation_")
    ]
    of_prompts = [key for key in evaluations if "prompts" in ws.run(key).inputs]
    prompts = [ws.run(key).inputs["prompts"] for key in of_prompts]
    assert len(prompts) == 3 and source.id in prompts
    runs = common_anchors(ws, prompts)
    assert runs and {tuple(run.config["items"]) for run in runs} == {
        tuple(choose_anchors(bench.dataset(source.inputs["dataset"]), 32))
    }
    behaviour = behaviour_of_evaluations(ws, of_prompts, 100)
    assert behaviour.anchors == runs[0].summary["anchors"]
    frame = behaviour.frame.set_index("user_id")
    for number, run in enumerate(runs):
        predictions = bench.anchors(run).frame.groupby("user_id")["prediction"]
        np.testing.assert_allclose(frame[f"mean_{number}"], predictions.mean(), rtol=1e-5)
        np.testing.assert_allclose(frame[f"spread_{number}"], predictions.std(), rtol=1e-4)
    heading = f"Predictions of the same {behaviour.anchors} titles"
    assert heading in Page(render_summary(ws, compared)).text
    assert is_cheap(ws, source.id)
    # A baseline predicts no anchor items, so its behaviour is over held-out records.
    baseline = next(key for key in evaluations if key not in of_prompts)
    assert behaviour_of_evaluations(ws, [of_prompts[0], baseline], 100).anchors == 0


def test_methods_are_compared_over_the_newest_anchor_items_of_all_of_them(world):
    bench, source, _ = world
    ws = bench.workspace
    moved = ws.runs("migration")[0]
    default_runs = common_anchors(ws, [source.id, moved.id])
    source_run = bench.predict_anchors(source, items=["i1", "i2", "i3"])
    assert common_anchors(ws, [source.id]) == [source_run]
    assert common_anchors(ws, [source.id, moved.id]) == default_runs
    moved_run = bench.predict_anchors(moved, items=["i1", "i2", "i3"])
    assert common_anchors(ws, [source.id, moved.id]) == [source_run, moved_run]
    assert common_anchors(ws, [source.id, ws.runs("prompts")[0].id]) != [source_run, moved_run]
    ws.delete(source_run.id)
    ws.delete(moved_run.id)


def test_a_damaged_file_is_refused(world):
    bench, source, _ = world
    run = bench.predict_anchors(source, count=3)
    (file,) = bench.workspace.folder(run.id).glob("anchors.*")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError):
        bench.anchors(run)
    bench.workspace.delete(run.id)


def test_only_users_of_all_methods_are_compared():
    first = (["b", "a", "c"], np.array([[1.0, 2], [3, 5], [0, 0]], "f4"))
    second = (["c", "b"], np.array([[4.0, 4], [1, 3]], "f4"))
    frame = anchor_behaviour([first, second])
    assert frame["user_id"].tolist() == ["b", "c"]
    assert frame["mean_0"].tolist() == [1.5, 0] and frame["mean_1"].tolist() == [2, 4]
    np.testing.assert_allclose(frame["spread_0"], [np.std([1, 2], ddof=1), 0])
    np.testing.assert_allclose(frame["spread_1"], [np.std([1, 3], ddof=1), 0])
    # Tables of the same users in the same order take a faster path.
    doubled = anchor_behaviour([first, (list(first[0]), 2 * first[1])])
    assert doubled["user_id"].tolist() == ["a", "b", "c"]
    assert doubled["mean_0"].tolist() == [4, 1.5, 0] and doubled["mean_1"].tolist() == [8, 3, 0]


def test_click_predictions_are_probabilities_given_the_latest_history(tmp_path):
    bench = Workbench(tmp_path / "ws", create=True)
    frame = pd.read_csv(write_ratings(tmp_path / "r.csv", users=12), dtype={"user_id": str})
    frame = frame.assign(outcome=(frame["outcome"] > 3).astype(int), time=range(len(frame), 0, -1))
    frame["history"] = frame["item_id"].where(frame.index % 2 == 0, "").shift(1, fill_value="")
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    data = bench.import_dataset(
        "table", path=tmp_path / "clicks.csv", task="click", history_separator="|"
    )
    model = tiny_backbone_folder(tmp_path / "models", "llama")
    source = bench.fit_prompts(data, model, template="click-history", training={"epochs": 1})
    assert not is_cheap(bench.workspace, source.id)
    run = bench.predict_anchors(source, count=4)
    values = bench.anchors(run).frame
    assert values["prediction"].between(0, 1, inclusive="neither").all()
    texts = bench.dataset(data).items.set_index("item_id")["text"]
    for row in values.iloc[::7].itertuples():
        expected = bench.predict_title(source, row.user_id, texts[row.item_id])
        assert row.prediction == pytest.approx(expected.value, abs=1e-5)
