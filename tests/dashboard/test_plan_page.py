"""The Plan page, and running a plan: costs from measurements, launch, progress, comparison."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from dashboard_pages import open_page, press, words
from measured_runs import ran
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from dashboard.components import plan_costs, plan_figures
from dashboard.engine import plans
from puma_engine import jobs, pipeline
from puma_engine.config import TrainingConfig
from puma_engine.defaults import DEFAULT_STRATEGIES, PAIRS_PER_USER
from puma_engine.errors import ConfigError, StoreError
from puma_engine.evaluation.cost_model import predict
from puma_engine.pipeline.planning import Costs, measured
from puma_engine.pipeline.source_predictions import WITHOUT_RECORDS
from puma_engine.store import Workspace

TRAINING = TrainingConfig(**QUICK)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A workspace with source prompts of ratings and of clicks on one model, and a second model."""
    folder = tmp_path_factory.mktemp("both")
    ws = Workspace.open(folder / "ws", create=True)
    model = tiny_backbone_folder(folder / "models", "llama")
    pipeline.add_backbone(ws, tiny_backbone_folder(folder / "models", "qwen2", width=48))
    sources = {}
    for task in ("rating", "click"):
        path = write_ratings(folder / f"{task}.csv")
        if task == "click":
            rows = pd.read_csv(path, dtype={"user_id": str})
            rows.assign(outcome=rows["outcome"] % 2).to_csv(path, index=False)
        data = pipeline.import_dataset(ws, "table", path=path, task=task, name=task)
        sources[task] = pipeline.fit_prompts(ws, data, model, training=QUICK).id
    return ws, sources


def test_the_strategy_follows_the_task_until_the_user_chooses_one(both, monkeypatch):
    ws, sources = both
    app = open_page("plan", ws.root, monkeypatch, source=sources["rating"])
    for task in ("click", "rating", "click"):
        app.selectbox("choose-source").select(sources[task]).run()
        assert not app.exception
        assert app.selectbox("choose-strategy").value == DEFAULT_STRATEGIES[task]
        assert "strategy" not in app.query_params
    app.selectbox("choose-strategy").select("random").run()
    assert app.query_params["strategy"] in ("random", ["random"])
    app.selectbox("choose-source").select(sources["rating"]).run()
    assert app.selectbox("choose-strategy").value == "random"
    default = DEFAULT_STRATEGIES["click"]
    app = open_page("plan", ws.root, monkeypatch, source=sources["rating"], strategy=default)
    assert app.selectbox("choose-strategy").value == default


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with source prompts on one model, a second model, and nothing migrated."""
    folder = tmp_path_factory.mktemp("plan")
    ws = Workspace.open(folder / "ws", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating", name="<b>data</b>"
    )
    small = tiny_backbone_folder(folder / "models", "llama")
    large = pipeline.add_backbone(
        ws, tiny_backbone_folder(folder / "models", "qwen2", width=48), name="**bold**"
    )
    source = pipeline.fit_prompts(ws, data, small, training=QUICK)
    return ws, source, large


def test_without_sources_the_page_says_what_is_missing(tmp_path, monkeypatch):
    assert "No workspace yet" in words(open_page("plan", tmp_path / "none", monkeypatch))
    Workspace.open(tmp_path / "empty", create=True)
    assert "Nothing to migrate yet" in words(open_page("plan", tmp_path / "empty", monkeypatch))


def test_the_cost_of_a_model_without_measurements_is_unknown(world, monkeypatch):
    ws, _source, large = world
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    shown = words(app)
    assert "Not comparable yet" in shown and "never measured here" in shown
    assert app.dataframe[0].value["Time"].tolist() == ["unknown", "unknown"]


@pytest.mark.parametrize("topology", ["chain", "merge"])
def test_an_incomplete_topology_says_what_it_needs(world, monkeypatch, topology):
    app = open_page("plan", world[0].root, monkeypatch, topology=topology)
    assert not app.exception and app.info
    assert not [button for button in app.button if button.label.startswith("Launch")]


@pytest.mark.parametrize(
    "query", [{"target": "../x"}, {"strategy": "<script>"}, {"budget": "0"}, {"job": "zzzz"}]
)
def test_a_wrong_address_shows_the_page_with_defaults(world, monkeypatch, query):
    assert "What it will cost" in [
        header.value for header in open_page("plan", world[0].root, monkeypatch, **query).header
    ]


def test_the_address_restores_device_price_and_edited_numbers(world, monkeypatch):
    query = {"device": "cpu", "price": "3.5", "epochs": "7", "learning_rate": "0.002"}
    app = open_page("plan", world[0].root, monkeypatch, **query)
    assert not app.exception
    numbers = {field.label: field.value for field in app.number_input}
    assert numbers["Price of a device hour"] == 3.5
    assert (numbers["Epochs"], numbers["Learning rate"]) == (7, 0.002)


@pytest.mark.parametrize(
    "query", [{"price": "-1"}, {"price": "inf"}, {"epochs": "0"}, {"device": "<b>tpu</b>"}]
)
def test_forbidden_values_in_an_address_are_ignored(world, monkeypatch, query):
    default_page = open_page("plan", world[0].root, monkeypatch)
    app = open_page("plan", world[0].root, monkeypatch, **query)
    assert not app.exception
    assert [field.value for field in app.number_input] == [
        field.value for field in default_page.number_input
    ]
    assert [field.value for field in app.selectbox] == [
        field.value for field in default_page.selectbox
    ]


def test_a_plan_is_launched_as_a_job_and_can_be_cancelled_and_resumed(world, monkeypatch):
    ws, source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    app = press(app, "Launch the migration")
    job = jobs.jobs(ws)[0]
    assert job.command == "run_plan" and job.status == "queued"
    assert job.args["sources"] == [source.id] and job.args["targets"] == [large.id]
    assert (job.args["strategy"], job.args["budget"]) == ("facility", 6)
    assert app.query_params["job"] in (job.id, [job.id])
    press(app, "Cancel")
    assert jobs.job(ws, job.id).status == "cancelled"
    press(open_page("plan", ws.root, monkeypatch, job=job.id), "Retry")
    assert jobs.job(ws, job.id).status == "queued"
    jobs.cancel(ws, job.id)


def test_a_plan_without_records_offers_strategies_that_read_none(world, monkeypatch):
    ws, source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    (box,) = [box for box in app.checkbox if box.label.startswith("Use no records")]
    assert not box.value
    app = box.check().run()
    (strategy,) = [field for field in app.selectbox if field.label == "Strategy"]
    assert {option.partition(":")[0] for option in strategy.options} == set(WITHOUT_RECORDS)
    press(app, "Launch the migration")
    job = jobs.jobs(ws)[0]
    assert job.args["from_predictions"] == PAIRS_PER_USER
    jobs.cancel(ws, job.id)
    plan = plans.Plan("single", (source.id,), (large.id,), "activity", 6, from_predictions=24)
    with pytest.raises(StoreError, match="The strategy activity reads records"):
        plans.launch(plan, None)


def test_running_a_plan_ends_in_a_comparison_and_shows_actual_costs(world, monkeypatch):
    ws, source, large = world
    settings = {"strategy": "random", "budget": 6, "training": QUICK, "adapter": SMALL}
    only = pipeline.run_plan(ws, [source], [large], **settings)
    assert only.kind == "evaluation"
    again = pipeline.fit_prompts(
        ws, source.inputs["dataset"], large, role="retrained", training=QUICK
    )
    done = pipeline.run_plan(ws, [source.id], [large.id], **settings)
    assert done.kind == "comparison" and set(done.inputs.values()) >= {only.id}
    assert {run.id for run in ws.lineage(done.id)} >= {again.id, source.id}
    costs = pipeline.costs(
        ws,
        [source],
        [large],
        budget=6,
        adapter=TRAINING,
        retraining=TRAINING,
        device="cpu",
    )
    # The very runs that it was learnt from are predicted as they were.
    assert costs.retraining.seconds == pytest.approx(again.seconds, rel=0.05)
    (migration,) = measured(ws, "migration", large.id, "cpu")
    assert costs.migration.evidence == (migration,) and costs.trained == 6 and costs.users == 24
    job = jobs.enqueue(
        ws,
        "run_plan",
        {
            "sources": [source.id],
            "targets": [large.id],
            "predicted": {"seconds": 2.0, "device": "cpu"},
        },
        title="Plan **x**",
    )
    with ws.transaction() as db:
        db.execute(
            "UPDATE jobs SET status = 'finished', run_id = ? WHERE id = ?", [done.id, job.id]
        )
    app = open_page("plan", ws.root, monkeypatch, job=job.id, target=large.id)
    assert not app.exception
    assert [metric.label for metric in app.metric] == ["Predicted", "Actual", "Actual / predicted"]
    assert (
        app.metric[0].value == "2.0 s" and "unknown" not in app.dataframe[0].value["Time"].tolist()
    )


def test_a_plan_with_several_sources_and_several_targets_is_refused(world):
    ws, source, large = world
    with pytest.raises(ConfigError, match="not 2 and 2"):
        pipeline.run_plan(ws, [source] * 2, [large] * 2)


def test_costs_are_formatted_with_units():
    slow, fast = predict(1000, 1, 256, [ran(10)]), predict(1000, 1, 256, [ran(100)])
    costs = Costs(slow, fast, 100, 1000, 50)
    assert "10.0 times as long" in plan_costs.sentence(costs)
    assert "from 100 users on" in plan_costs.sentence(costs)
    assert "never cheaper" in plan_costs.sentence(replace(costs, break_even=None))
    assert "a full retraining" in plan_costs.sentence(replace(costs, retraining=None))
    table = plan_costs.table(costs, 36.0)
    assert table["Cost"].tolist() == ["1.00", "0.1"]


def test_a_chain_and_an_aggregation_have_different_diagrams():
    chain, boxes = plan_figures.topology(["a"], ["b", "c"])
    assert boxes["x"].tolist() == [0, 1, 2] and len(chain.layout.annotations) == 2
    merge, boxes = plan_figures.topology(["a", "<b>x</b>", "c"], ["t"])
    assert boxes["y"].tolist() == [1, 0, -1, 0] and len(merge.layout.annotations) == 3
    assert "&lt;b&gt;" in merge.data[0].text[1]


def test_losses_of_a_job_have_one_row_per_step():
    losses = plan_figures.losses_of({"trace": {"a": [[1, 0.5], [2, None]], "b": [[1, 0.25]]}})
    pd.testing.assert_frame_equal(
        losses, pd.DataFrame({"stage": ["a", "b"], "step": [1, 1], "loss": [0.5, 0.25]})
    )
    assert plan_figures.losses_of({}).empty


def test_the_page_loads_without_torch():
    code = (
        "import sys, dashboard.views.plan; print({'torch', 'umap', 'sklearn'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
