"""Calibrations: short trainings that measure the cost of a plan, and their page."""

import subprocess
import sys
import time

import pytest
from dashboard_pages import open_page, press, words
from small_runs import QUICK, SMALL, write_ratings
from store_edits import edited
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from dashboard.engine import plans
from puma_engine import jobs, pipeline
from puma_engine.cli import app as cli
from puma_engine.config import TrainingConfig
from puma_engine.defaults import migration_defaults
from puma_engine.errors import ConfigError, StoreError
from puma_engine.pipeline.planning import measured_trainings
from puma_engine.requests import PlanRequest
from puma_engine.store import Workspace
from puma_engine.training.device import CpuContention

TRAINING = TrainingConfig(**QUICK)


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


def plan_of(job):
    """The plan that a calibration was queued for."""
    request = PlanRequest.from_dict(job.args)
    return plans.Plan("single", request.sources, request.targets, request.strategy, request.budget)


def test_a_calibration_measures_the_missing_costs_of_a_plan(world, monkeypatch):
    ws, _source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    query = {"target": large.id, "budget": "6"}
    app = press(open_page("plan", ws.root, monkeypatch, **query), "Measure it now")
    job = jobs.jobs(ws)[0]
    assert (job.command, job.status) == ("calibrate", "queued")
    assert not [button for button in app.button if button.label == "Measure it now"]
    # A second click on the button, in another browser, queues no second job.
    with pytest.raises(StoreError, match=f"The job {job.id} measures these models already"):
        plans.calibrate(plan_of(job))
    assert len(jobs.jobs(ws)) == 1
    *hops, retraining = pipeline.calibrate(ws, **job.args)
    assert [run.kind for run in (*hops, retraining)] == ["calibration"] * 2
    assert pipeline.calibrate(ws, **job.args)[-1].id == retraining.id
    jobs.cancel(ws, job.id)
    app = open_page("plan", ws.root, monkeypatch, **query)
    costs = app.table[0].value.set_index("Option")
    assert "unknown" not in costs.loc["Time"].tolist()
    assert "times as long" in words(app)


def test_an_aggregation_is_predicted_from_adapters_with_equally_many_sources(world):
    ws, source, large = world
    other = pipeline.fit_prompts(
        ws, source.inputs["dataset"], source.inputs["backbone"], training=QUICK, seed=5
    )
    settings = {"adapter": TRAINING, "retraining": TRAINING, "device": "cpu", "budget": 6}
    pipeline.calibrate(ws, [source], [large], training=QUICK, adapter=SMALL)
    both = [source, other]
    assert pipeline.costs(ws, both, [large], **settings).migration.other_sources
    hop, _ = pipeline.calibrate(ws, both, [large], training=QUICK, adapter=SMALL)
    migration = pipeline.costs(ws, both, [large], **settings).migration
    assert not migration.other_sources
    assert [measured.run for measured in migration.evidence] == [hop.id]
    assert migration.evidence[0].sources == 2 and migration.evidence[0].short


def test_each_template_is_predicted_from_its_own_measurements(world, monkeypatch):
    ws, source, large = world
    first, last = "rating-item-first", "rating-prompt-last"
    assert source.config["template"] == last
    plan = {"adapter": SMALL, "training": QUICK, "from_predictions": 8}
    measured = {
        name: pipeline.calibrate(ws, source, large, template=first, **plan) for name in [first]
    }
    # From measurements of another template the time is a guess, and the command line and the page say so.
    guess = pipeline.costs(ws, source, large, device="cpu", retraining=QUICK, **plan)
    for prediction in (guess.migration, guess.retraining):
        assert "another prompt template" in prediction.mismatches
    arguments = ["plan", "costs", "--source", source.id, "--target", large.id, "--device", "cpu"]
    result = CliRunner().invoke(cli, [*arguments, "-w", str(ws.root)])
    assert result.exit_code == 0, result.output
    assert "come from runs with another prompt template" in result.output
    app = open_page("plan", ws.root, monkeypatch, target=large.id)
    assert "some of its runs had another prompt template" in words(app)
    measured[last] = pipeline.calibrate(ws, source, large, **plan)
    for template, runs in measured.items():
        costs = pipeline.costs(
            ws, source, large, device="cpu", template=template, retraining=QUICK, **plan
        )
        hop, _teacher, retraining = (run.id for run in runs)
        training, predicting = (
            [run.run for run in costs.migration.evidence if bool(run.items) == reads]
            for reads in (False, True)
        )
        assert training == [hop] and [run.run for run in costs.retraining.evidence] == [retraining]
        # The source predicts with the template of its prompts, not with that of the adapter.
        assert predicting == [run.id for run in measured[last] if run.config["way"] == "prediction"]
        assert not costs.migration.other_templates and not costs.retraining.other_templates


def test_a_chain_is_calibrated_hop_by_hop(world):
    ws, source, large = world
    targets = [large, source.inputs["backbone"]]
    first, second, _ = pipeline.calibrate(ws, [source], targets, training=QUICK, adapter=SMALL)
    assert second.config["widths"] == [large.summary["width"]]
    assert first.config["widths"] == [source.summary["width"]]


def test_predictions_of_the_source_model_are_calibrated_and_counted(world):
    ws, source, large = world
    learned = {"from_predictions": 8, "training": QUICK, "adapter": SMALL, "device": "cpu"}
    settings = learned | {"retraining": TRAINING}
    assert pipeline.costs(ws, [source], [large], **settings).migration is None
    hop, teacher, retraining = pipeline.calibrate(ws, [source], [large], **settings)
    assert teacher.config["way"] == "prediction" and teacher.config["pairs"] == 8
    assert teacher.inputs["backbone"] == source.inputs["backbone"]
    assert teacher.cost["predicted_pairs"] == 24 * 9 and teacher.cost["prediction_flops"] > 0
    costs = pipeline.costs(ws, [source], [large], **settings)
    # All 24 users learn from 8 pairs and hold out one.
    cost = teacher.cost
    predicting = cost["prediction_item_seconds"] + cost["prediction_pair_seconds"]
    training, predicted = (
        [run for run in costs.migration.evidence if bool(run.items) == reads] for reads in (0, 1)
    )
    assert [run.run for run in training] == [hop.id]
    assert [run.run for run in predicted] == [teacher.id]
    rows = 24 * 8
    expected = rows * (QUICK["epochs"] / training[0].rate + training[0].preparation)
    items = 30 / cost["predicted_items"] * cost["prediction_item_seconds"]
    expected += items + cost["prediction_pair_seconds"]
    assert costs.migration.seconds == pytest.approx(expected)
    assert (
        costs.migration.seconds > predicting and costs.retraining.evidence[0].run == retraining.id
    )
    # A full migration replaces the calibration, and its predictions do not count as preparation.
    run = pipeline.migrate(ws, source, large, **learned)
    (retraining_run,) = [
        m for m in measured_trainings(ws, "migration", large.id, "cpu") if not m.short
    ]
    cost = run.cost
    predicting = cost["prediction_item_seconds"] + cost["prediction_pair_seconds"]
    assert retraining_run.seconds == pytest.approx(run.seconds - predicting)
    costs = pipeline.costs(ws, [source], [large], **settings)
    assert {m.run for m in costs.migration.evidence} == {run.id}
    with pytest.raises(ConfigError, match="'activity' chooses users by their records"):
        pipeline.costs(ws, [source], [large], strategy="activity", budget=3, from_predictions=8)


def test_cpu_contention_measures_the_cores_that_other_processes_use():
    busy_loop = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy_loop], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        contention = CpuContention()
        time.sleep(0.6)
        cores = contention.cores()
        child.kill()
    assert cores > 0.3


def test_a_measurement_on_busy_cores_is_reported(world, monkeypatch):
    ws, source, large = world
    (hop, _whole) = pipeline.calibrate(ws, [source], [large], training=QUICK, adapter=SMALL)
    assert hop.cost["cores"] >= 1 and hop.cost["cores_of_others"] >= 0
    query = {"target": large.id, "budget": "6"}
    for share, is_reported in ((0.6, True), (0.1, False)):
        with edited(ws) as db:
            db.execute(
                "UPDATE runs SET cost = json_set(cost, '$.cores_of_others', ?, '$.cores', 2)"
                " WHERE kind = 'calibration'",
                [2 * share],
            )
        app = open_page("plan", ws.root, monkeypatch, **query)
        assert ("up to 60 % of the machine's cores" in words(app)) == is_reported
        evidence = next(frame.value for frame in app.dataframe if "Other work" in frame.value)
        assert set(evidence["Other work"]) == {f"{100 * share:.0f} %"}


def test_only_changed_settings_are_sent_and_defaults_follow_the_budget(world, monkeypatch):
    ws, source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    changed = {"batch_size": 7, "epochs": 3, "learning_rate": 0.002}
    for budget, query in ((3, {}), (20, {}), (20, changed)):
        app = open_page("plan", ws.root, monkeypatch, target=large.id, budget=str(budget), **query)
        default, _ = migration_defaults("rating", source.summary["users"], budget)
        epochs = next(number for number in app.number_input if number.label == "Epochs")
        assert epochs.placeholder == f"{default.epochs} (default)"
        press(app, "Launch the migration")
        assert jobs.jobs(ws)[0].args.get("training", {}) == query
