"""The reading of prompts: piecewise for prompts of version 0.1.0, as running text since."""

from dataclasses import replace

import numpy as np
import pytest
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.backbone.templates import PIECEWISE, get_template
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import fit_defaults
from puma_engine.evaluation.prediction import predict
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.store import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace in which version 0.1.0 began to fit prompts, which were then completed."""
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating"
    )
    model = backbone_run(ws, tiny_backbone_folder(folder / "models", "phi3"))
    training = TrainingConfig(**fit_defaults("rating", 24).to_dict() | QUICK)
    begun = ws.begin(
        "prompts",
        name="old",
        config={
            "role": "source",
            "template": "rating",
            "training": stage.settings_of(training),
            "prompt": PromptConfig().to_dict(),
        },
        inputs={"dataset": data.id, "backbone": model.id},
        seed=training.seed,
    )
    ws.fail(begun.id, "killed", interrupted=True)
    old = pipeline.fit_prompts(ws, data, model, template="rating", training=QUICK)
    return {"ws": ws, "data": data, "model": model, "begun": begun, "old": old}


def test_an_old_request_returns_the_old_run(world):
    assert world["old"].id == world["begun"].id and "reading" not in world["old"].config
    new = pipeline.fit_prompts(
        world["ws"], world["data"], world["model"], template="rating", training=QUICK, seed=5
    )
    assert new.config["reading"] == "running"


def test_old_prompts_are_evaluated_with_the_text_they_were_fitted_on(world):
    ws, old = world["ws"], world["old"]
    evaluation = pipeline.evaluate(ws, old)
    assert "reading" not in evaluation.config
    stored = pipeline.read_predictions(ws, evaluation)["prediction"].to_numpy()
    backbone, table = load_backbone(ws, world["model"]), pipeline.load_prompts(ws, old)
    data, running = pipeline.load_dataset(ws, world["data"]), get_template("rating")
    piecewise = replace(running, reading=PIECEWISE)
    expected = predict(backbone, table, data, "test", template=piecewise)
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert np.abs(predict(backbone, table, data, "test", template=running) - expected).max() > 1e-4


def test_what_if_reads_old_prompts_as_the_evaluation_does(world):
    ws, old = world["ws"], world["old"]
    rows = pipeline.read_predictions(ws, pipeline.evaluate(ws, old)).head(3)
    texts = pipeline.load_dataset(ws, world["data"]).items.set_index("item_id")["text"]
    for row in rows.itertuples():
        predicted = pipeline.predict_title(ws, old, row.user_id, texts[row.item_id])
        assert predicted.value == pytest.approx(row.prediction, abs=1e-4)


def test_a_migration_of_old_prompts_and_its_refinement_read_running_text(world):
    ws = world["ws"]
    moved = pipeline.migrate(ws, world["old"], world["model"], training=QUICK, adapter=SMALL)
    refined = pipeline.refine(ws, moved, training=QUICK)
    assert moved.config["reading"] == refined.config["reading"] == "running"


@pytest.mark.parametrize("kind", ["old", "new"])
def test_an_export_says_how_its_prompts_are_read(world, kind, tmp_path):
    ws, data, model = world["ws"], world["data"], world["model"]
    run = world["old"]
    if kind == "new":
        run = pipeline.fit_prompts(ws, data, model, template="rating", training=QUICK, seed=6)
    file = pipeline.export_prompts(ws, run, tmp_path / "prompts.safetensors")
    imported = pipeline.import_prompts(ws, data, model, file, role="retrained")
    assert imported.config.get("reading") == run.config.get("reading")
    first, second = (
        pipeline.read_predictions(ws, pipeline.evaluate(ws, read))["prediction"]
        for read in (run, imported)
    )
    np.testing.assert_array_equal(first, second)
