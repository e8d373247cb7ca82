"""Anchor predictions are those of evaluations and of what-if questions, by any interface."""

import json

import numpy as np
import pandas as pd
import pytest
from html_text import Page
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine import Workbench
from puma_engine.cli import app
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


def test_predictions_are_those_of_the_evaluation_and_of_what_if_questions(world):
    bench, source, _ = world
    every = bench.dataset(source.inputs["dataset"]).items
    run = bench.predict_anchors(source, items=every["item_id"].tolist())
    frame = bench.anchors(run).frame
    assert len(frame) == 24 * len(every)
    held_out = bench.predictions(bench.evaluate(source))
    joined = held_out.merge(frame, on=["user_id", "item_id"], suffixes=("", "_anchor"))
    assert len(joined) == len(held_out)
    np.testing.assert_allclose(joined["prediction_anchor"], joined["prediction"], atol=1e-5)
    texts = dict(zip(every["item_id"], every["text"], strict=True))
    for row in frame.iloc[:: len(frame) // 5].itertuples():
        asked = bench.predict_title(source, row.user_id, texts[row.item_id])
        assert row.prediction == pytest.approx(asked.value, abs=1e-5)


def test_every_interface_asks_the_same_question_and_blocks_change_nothing(world, monkeypatch):
    bench, source, _ = world
    ws = bench.workspace
    run = bench.predict_anchors(source, count=5)
    assert run.config["items"] == choose_anchors(bench.dataset(source.inputs["dataset"]), 5)
    assert run.summary == {"task": "rating", "users": 24, "anchors": 5}
    words = ["anchors", source.name, "--workspace", str(ws.root), "--json"]
    printed = CliRunner().invoke(app, [*words, "--count", "5"])
    assert json.loads(printed.stdout)["id"] == run.id
    named = [word for item in run.config["items"] for word in ("--item", item)]
    assert json.loads(CliRunner().invoke(app, [*words, *named]).stdout)["id"] == run.id
    before = bench.anchors(run).predictions
    ws.delete(run.id)
    monkeypatch.setattr(stage, "BLOCK", 7)
    seen = []
    again = bench.predict_anchors(source, count=5, progress=seen.append)
    np.testing.assert_allclose(bench.anchors(again).predictions, before, atol=1e-6)
    assert again.id == run.id and seen[-1].step == seen[-1].total == 24 * 5


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"items": ["i1", "nothing"]}, DataError, "no item 'nothing'"),
        ({"items": ["i1", "i1"]}, DataError, "One anchor item has no spread"),
        ({"count": 1}, ConfigError, "two anchor items or more, not 1"),
        ({"items": ["i1", "i2"], "count": 9}, ConfigError, "2 anchor items are named, so 9"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(world, asked, kind, text):
    bench, source, _ = world
    with pytest.raises(kind, match=text):
        bench.predict_anchors(source, **asked)


def test_a_table_of_predictions_is_exported_by_ids(world, tmp_path):
    bench, source, _ = world
    run = bench.predict_anchors(source)
    file = bench.export_table(run, "anchors", tmp_path / "anchors.csv")
    table = pd.read_csv(file, dtype={"user_id": str})
    pd.testing.assert_frame_equal(
        table, bench.anchors(run).frame, check_dtype=False, check_exact=False, rtol=1e-6
    )


def test_a_plan_predicts_them_and_the_printed_page_draws_them(world):
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
    shown = behaviour_of_evaluations(ws, of_prompts, 100)
    assert shown.anchors == runs[0].summary["anchors"]
    frame = shown.frame.set_index("user_id")
    for number, run in enumerate(runs):
        own = bench.anchors(run).frame.groupby("user_id")["prediction"]
        np.testing.assert_allclose(frame[f"mean_{number}"], own.mean(), rtol=1e-5)
        np.testing.assert_allclose(frame[f"spread_{number}"], own.std(), rtol=1e-4)
    over = f"Predictions of the same {shown.anchors} titles"
    assert over in Page(render_summary(ws, compared)).text
    assert is_cheap(ws, source.id)
    # A baseline predicts no anchor items, so its behaviour is over held-out records.
    baseline = next(key for key in evaluations if key not in of_prompts)
    assert behaviour_of_evaluations(ws, [of_prompts[0], baseline], 100).anchors == 0


def test_methods_are_compared_over_the_newest_items_that_all_of_them_have(world):
    bench, source, _ = world
    ws = bench.workspace
    moved = ws.runs("migration")[0]
    usual = common_anchors(ws, [source.id, moved.id])
    own = bench.predict_anchors(source, items=["i1", "i2", "i3"])
    assert common_anchors(ws, [source.id]) == [own]
    assert common_anchors(ws, [source.id, moved.id]) == usual
    both = bench.predict_anchors(moved, items=["i1", "i2", "i3"])
    assert common_anchors(ws, [source.id, moved.id]) == [own, both]
    assert common_anchors(ws, [source.id, ws.runs("prompts")[0].id]) != [own, both]
    ws.delete(own.id)
    ws.delete(both.id)


def test_a_damaged_file_is_refused(world):
    bench, source, _ = world
    run = bench.predict_anchors(source, count=3)
    (file,) = bench.workspace.folder(run.id).glob("anchors.*")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError):
        bench.anchors(run)
    bench.workspace.delete(run.id)


def test_common_users_alone_are_compared():
    first = (["b", "a", "c"], np.array([[1.0, 2], [3, 5], [0, 0]], "f4"))
    second = (["c", "b"], np.array([[4.0, 4], [1, 3]], "f4"))
    frame = anchor_behaviour([first, second])
    assert frame["user_id"].tolist() == ["b", "c"]
    assert frame["mean_0"].tolist() == [1.5, 0] and frame["mean_1"].tolist() == [2, 4]
    np.testing.assert_allclose(frame["spread_0"], [np.std([1, 2], ddof=1), 0])
    np.testing.assert_allclose(frame["spread_1"], [np.std([1, 3], ddof=1), 0])
    # Tables of the same users in the same order are joined in another way.
    alike = anchor_behaviour([first, (list(first[0]), 2 * first[1])])
    assert alike["user_id"].tolist() == ["a", "b", "c"]
    assert alike["mean_0"].tolist() == [4, 1.5, 0] and alike["mean_1"].tolist() == [8, 3, 0]


def test_clicks_are_probabilities_after_the_history_of_the_latest_record(tmp_path):
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
        asked = bench.predict_title(source, row.user_id, texts[row.item_id])
        assert row.prediction == pytest.approx(asked.value, abs=1e-5)
