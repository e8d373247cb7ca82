"""Calibrations: short trainings that measure what a plan would take, and the page that asks."""

import pytest
from dashboard_pages import open_page
from test_dashboard_plan import TRAINING, press, words
from test_pipeline import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import jobs, pipeline
from puma_engine.store import Workspace


@pytest.fixture
def world(tmp_path):
    """A workspace with source prompts on one model, and a second model."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(tmp_path / "ratings.csv"), task="rating", name="data"
    )
    small = tiny_backbone_folder(tmp_path / "models", "llama")
    folder = tiny_backbone_folder(tmp_path / "models", "qwen2", width=48)
    large = pipeline.add_backbone(ws, folder, name="large")
    return ws, pipeline.fit_prompts(ws, data, small, training=QUICK), large


def test_a_calibration_measures_what_a_plan_lacks(world, monkeypatch):
    ws, _source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    query = {"target": large.id, "budget": "6"}
    app = press(open_page("plan", ws.root, monkeypatch, **query), "Measure it now")
    job = jobs.jobs(ws)[0]
    assert (job.command, job.status) == ("calibrate", "queued")
    assert not [one for one in app.button if one.label == "Measure it now"]
    *hops, whole = pipeline.calibrate(ws, **job.args)
    assert [run.kind for run in (*hops, whole)] == ["calibration"] * 2
    assert pipeline.calibrate(ws, **job.args)[-1].id == whole.id
    jobs.cancel(ws, job.id)
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert "unknown" not in app.dataframe[0].value["Time"].tolist()
    assert "times as long" in words(app)


def test_an_aggregation_is_predicted_from_adapters_that_read_as_many(world):
    ws, source, large = world
    other = pipeline.fit_prompts(
        ws, source.inputs["dataset"], source.inputs["backbone"], training=QUICK, seed=5
    )
    settings = {"adapter": TRAINING, "retraining": TRAINING, "device": "cpu", "budget": 6}
    pipeline.calibrate(ws, [source], [large], training=QUICK, adapter=SMALL)
    both = [source, other]
    assert pipeline.costs(ws, both, [large], **settings).migration.other_sources
    hop, _ = pipeline.calibrate(ws, both, [large], training=QUICK, adapter=SMALL)
    found = pipeline.costs(ws, both, [large], **settings).migration
    assert not found.other_sources and [one.run for one in found.evidence] == [hop.id]
    assert found.evidence[0].sources == 2 and found.evidence[0].short


def test_a_chain_is_calibrated_hop_by_hop(world):
    ws, source, large = world
    targets = [large, source.inputs["backbone"]]
    first, second, _ = pipeline.calibrate(ws, [source], targets, training=QUICK, adapter=SMALL)
    assert second.config["widths"] == [large.summary["width"]]
    assert first.config["widths"] == [source.summary["width"]]
