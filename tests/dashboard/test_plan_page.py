"""The Plan page, and running a plan: costs from measurements, launch, progress, comparison."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page, press, texts, words
from measured_runs import ran
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from units import columns_without_unit, numbers_without_unit, old_words

from dashboard.components import plan_costs, plan_figures, plan_quality
from dashboard.engine import plans, quality, user_maps
from dashboard.engine.quality import Expected
from puma_engine import jobs, pipeline
from puma_engine.backbone.templates import Template
from puma_engine.config import TrainingConfig
from puma_engine.defaults import DEFAULT_STRATEGIES, PAIRS_PER_USER
from puma_engine.errors import ConfigError, StoreError
from puma_engine.evaluation.cost_model import predict_training_time
from puma_engine.pipeline.importing_vectors import import_vectors
from puma_engine.pipeline.planning import Costs, measured_trainings
from puma_engine.pipeline.source_predictions import WITHOUT_RECORDS
from puma_engine.report import label_layout
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
    for task in ("click", "rating"):
        app = open_page("plan", ws.root, monkeypatch, source=sources[task])
        assert not app.exception
        assert app.selectbox("choose-strategy").value == DEFAULT_STRATEGIES[task]
        assert "strategy" not in app.query_params
    app.selectbox("choose-strategy").select("random").run()
    assert app.query_params["strategy"] in ("random", ["random"])
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


@pytest.mark.parametrize("create", [False, True])
def test_an_empty_workspace_begins_with_a_file(tmp_path, monkeypatch, create):
    if create:
        Workspace.open(tmp_path / "ws", create=True)
    app = open_page("plan", tmp_path / "ws", monkeypatch)
    shown = words(app)
    assert [header.value for header in app.header] == ["1. Data"]
    assert app.file_uploader("upload") and "Models and route" in shown
    # An address of a workspace that had more leads to the first step, too.
    app = open_page("plan", tmp_path / "ws", monkeypatch, step="users", source="0" * 16)
    assert not app.exception and [header.value for header in app.header] == ["1. Data"]


def step_of(app):
    (header,) = app.header
    return header.value


def test_each_answer_becomes_a_line_and_opens_the_next_step(world, monkeypatch):
    ws, source, large = world
    app = open_page("plan", ws.root, monkeypatch)
    assert step_of(app) == "1. Data" and "24 users" in words(app)
    app = press(app, "Continue")
    assert step_of(app) == "2. Models and route"
    assert app.selectbox("choose-old").value == source.inputs["backbone"]
    assert app.selectbox("choose-target").value == large.id
    app = press(app, "Continue")
    assert step_of(app) == "3. Prompts of the old model"
    assert app.selectbox("choose-source").value == source.id
    app = press(app, "Continue")
    assert step_of(app) == "4. Users who train it, and cost"
    assert "What it will cost" in words(app) and "What it may keep" in words(app)
    assert not numbers_without_unit(app) and not old_words(app)
    address = dict(app.query_params)
    assert {"dataset", "old", "target", "source", "step"} <= set(address)
    app.button("change-models").click().run()
    assert step_of(app) == "2. Models and route"
    again = open_page("plan", ws.root, monkeypatch, **{**address, "step": "users"})
    assert step_of(again) == "4. Users who train it, and cost"


def test_prompts_can_be_fitted_first_on_a_model_that_ships(world, monkeypatch):
    ws, source, large = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    data = source.inputs["dataset"]
    query = {"dataset": data, "old": "llama-small", "target": large.id, "step": "prompts"}
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert app.selectbox("choose-source").options == ["Fit them first"]
    app = press(app, "Continue")
    assert "Add llama" in words(app) and "Retrain all users too" in app.checkbox("retrain").label
    app = press(app, "Launch the migration")
    job = jobs.jobs(ws)[0]
    assert job.args["fit_on"] == ["llama-small"] and job.args["dataset"] == data
    assert job.args["retrain"] is True and "sources" not in job.args
    assert "fitted first on llama" in words(app)
    jobs.cancel(ws, job.id)


def test_several_sources_name_the_prompts_of_each_old_model(world, monkeypatch):
    ws, source, large = world
    olds = [source.inputs["backbone"], large.id]
    query = {"dataset": source.inputs["dataset"], "topology": "merge", "olds": olds}
    app = open_page("plan", ws.root, monkeypatch, **query, target="llama-small", step="prompts")
    boxes = [box for box in app.selectbox if box.label.startswith("Prompts on")]
    assert [box.value for box in boxes] == [source.id, f"fit:{large.id}"]
    assert app.query_params["sources"] == [source.id, f"fit:{large.id}"]
    app = press(app, "Continue")
    shown = words(app).replace("\\", "")
    assert "Fit source prompts on" in shown and "Add llama-small" in shown


def test_vectors_need_no_old_model(world, monkeypatch, tmp_path):
    ws, source, large = world
    users = ws.get_table(source.inputs["dataset"], "interactions")["user_id"].unique()
    path = tmp_path / "vectors.csv"
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(len(users), 4)))
    frame.insert(0, "user_id", users)
    frame.to_csv(path, index=False)
    vectors = import_vectors(ws, source.inputs["dataset"], path)
    query = {"dataset": source.inputs["dataset"], "old": "vectors", "target": large.id}
    app = open_page("plan", ws.root, monkeypatch, **query, step="prompts")
    assert not app.exception and app.selectbox("choose-source").value == vectors.id
    assert len(app.selectbox("choose-source").options) == 1
    app = press(app, "Continue")
    assert not app.exception and not app.info
    offered = {option.partition(":")[0] for option in app.selectbox("choose-strategy").options}
    assert "kmeans" in offered and not any(map(plans.asks_model, offered))
    assert [button.label for button in app.button if button.label.startswith("Launch")]


def test_an_import_that_ends_opens_the_next_step(world, monkeypatch):
    ws, source, _large = world
    data = source.inputs["dataset"]
    job = jobs.enqueue(ws, "import_dataset", {"source": "table"}, title="Import x")
    query = {"import": job.id}
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert step_of(app) == "1. Data" and "Import x" in words(app)
    with ws.transaction() as db:
        ends = ["finished", data, job.id]
        db.execute("UPDATE jobs SET status = ?, run_id = ? WHERE id = ?", ends)
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert step_of(app) == "2. Models and route"
    assert app.query_params["dataset"] in (data, [data]) and "import" not in app.query_params
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET status = 'failed', error = 'No rows.' WHERE id = ?", [job.id])
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert "No rows." in words(app)
    app = press(app, "Choose other data")
    assert step_of(app) == "1. Data" and "import" not in app.query_params


def costs_by_row(app):
    """The predicted cost that the page shows: the texts of both options by the name of their row."""
    rows = app.table[0].value.set_index("Option")
    assert len(rows.columns) == 2
    return {name: row.tolist() for name, row in rows.iterrows()}


def test_the_cost_of_a_model_without_measurements_is_unknown(world, monkeypatch):
    ws, _source, large = world
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    shown = words(app)
    assert "Not comparable yet" in shown and "never measured here" in shown
    assert costs_by_row(app)["Time"] == ["unknown", "unknown"]


@pytest.mark.parametrize("topology", ["chain", "merge"])
def test_an_incomplete_topology_says_what_it_needs(world, monkeypatch, topology):
    ws, source, _large = world
    query = {"dataset": source.inputs["dataset"], "topology": topology}
    app = open_page("plan", ws.root, monkeypatch, **query)
    assert not app.exception and "two" in app.info[0].value
    (button,) = (button for button in app.button if button.label == "Continue")
    assert button.disabled


@pytest.mark.parametrize(
    "query",
    [{"target": "../x"}, {"step": "nowhere"}, {"strategy": "<script>"}, {"budget": "0"}]
    + [{"source": "fit:../x"}, {"dataset": "x"}, {"olds": "x"}, {"import": "zzzz"}],
)
def test_a_wrong_address_shows_the_page_with_defaults(world, monkeypatch, query):
    app = open_page("plan", world[0].root, monkeypatch, **query)
    assert not app.exception and not app.error
    assert step_of(app) == "1. Data"
    app = open_page("plan", world[0].root, monkeypatch, **({"target": world[2].id} | query))
    assert not app.exception and not app.error and app.header


def test_the_address_restores_device_price_and_edited_numbers(world, monkeypatch):
    query = {"device": "cpu", "price": "3.5", "epochs": "7", "learning_rate": "0.002"}
    app = open_page("plan", world[0].root, monkeypatch, target=world[2].id, **query)
    assert not app.exception
    numbers = {field.label: field.value for field in app.number_input}
    assert numbers["Price of a device hour"] == 3.5
    assert (numbers["Epochs"], numbers["Learning rate"]) == (7, 0.002)


def test_money_is_shown_where_a_price_is_set_and_the_page_says_where_to_set_it(world, monkeypatch):
    opened = {
        price: open_page("plan", world[0].root, monkeypatch, target=world[2].id, **query)
        for price, query in (("none", {}), ("2", {"price": "2"}))
    }
    said = {price: "no price is set" in texts(app) for price, app in opened.items()}
    assert said == {"none": True, "2": False}
    settings = [expander.label for expander in opened["none"].expander]
    assert plan_costs.SETTINGS in settings and plan_costs.SETTINGS in texts(opened["none"])
    rows = {
        price: [name for name in costs_by_row(app) if "Money" in name]
        for price, app in opened.items()
    }
    assert rows == {"none": [], "2": ["Money (at 2 an hour)"]}


def test_a_reason_that_both_times_share_is_said_once():
    guess = replace(predict_training_time(1000, 1, 256, [ran(10)]), other_batches=True)
    both = Costs(guess, guess, 100, 1000, 50)
    assert plan_costs.guesses(both) == [
        "Both times are guesses: they were measured with another batch size."
    ]
    assert plan_costs.guesses(replace(both, retraining=None)) == [
        "The time of the migration is a guess: it was measured with another batch size."
    ]
    other = replace(guess, other_templates=True)
    assert len(plan_costs.guesses(replace(both, retraining=other))) == 2


@pytest.mark.parametrize(
    "query", [{"price": "-1"}, {"price": "inf"}, {"epochs": "0"}, {"device": "<b>tpu</b>"}]
)
def test_forbidden_values_in_an_address_are_ignored(world, monkeypatch, query):
    target = world[2].id
    default_page = open_page("plan", world[0].root, monkeypatch, target=target)
    app = open_page("plan", world[0].root, monkeypatch, target=target, **query)
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
    (migration,) = measured_trainings(ws, "migration", large.id, "cpu")
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
    assert app.metric[0].value == "2.0 s"
    assert app.button(f"verdict-{job.id}").label == "See the verdict"
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    assert "unknown" not in costs_by_row(app)["Time"]
    # The page asks for a retraining with the default settings; that one has others.
    assert "with other settings exists" in words(app)
    assert app.checkbox("retrain").value is True
    pipeline.fit_prompts(ws, source.inputs["dataset"], large, role="retrained")
    app = open_page("plan", ws.root, monkeypatch, target=large.id, budget="6")
    assert "exists already" in words(app)
    # What the run kept is a dot where as many users train.
    template = Template.from_config(source.config)
    points = quality.measured(source.inputs["dataset"], large.id, template)
    assert points["users"].tolist() in ([], [6])
    here = (migration.run, source.inputs["dataset"], large.id)
    assert quality.is_of(*here, template)
    assert not quality.is_of(*here, replace(template, chat_template=True))
    # An evaluation in another template says nothing of how prompts do in their own.
    own = user_maps.evaluation_of(again.id)
    other = pipeline.evaluate(ws, again, template="rating")
    assert own.id in done.inputs.values() and other.id != own.id
    assert user_maps.evaluation_of(again.id) == own


def test_visitors_who_may_only_view_see_what_was_launched(world, monkeypatch):
    monkeypatch.setattr("dashboard.engine.read_only", lambda: True)
    app = open_page("plan", world[0].root, monkeypatch)
    assert "may only be viewed" in words(app)
    assert {button.label for button in app.button} <= {"See the verdict"}


def test_a_plan_with_several_sources_and_several_targets_is_refused(world):
    ws, source, large = world
    with pytest.raises(ConfigError, match="not 2 and 2"):
        pipeline.run_plan(ws, [source] * 2, [large] * 2)


def test_labels_of_ticks_do_not_meet_and_the_chosen_number_has_its_own():
    users = [60, 18, 56, 102, 126, 306, 714, 1802, 10206]
    kept = plan_quality.spread_ticks(users)
    assert 60 in kept and 56 not in kept and {18, 10206} <= set(kept) and kept == sorted(kept)
    scale = plan_quality.PLOT_PIXELS / np.log(max(users) / min(users))
    for low, high in pairwise(kept):
        room = scale * np.log(high / low)
        assert room > label_layout.CHARACTER * (len(f"{low:,}") + len(f"{high:,}")) / 2
    assert plan_quality.spread_ticks([7]) == [7] and plan_quality.spread_ticks([7, 7]) == [7]


def test_costs_are_formatted_with_units():
    slow, fast = (
        predict_training_time(1000, 1, 256, [ran(10)]),
        predict_training_time(1000, 1, 256, [ran(100)]),
    )
    costs = Costs(slow, fast, 100, 1000, 50)
    assert "10.0 times as long" in plan_costs.sentence(costs)
    assert "from 100 users on" in plan_costs.sentence(costs)
    assert "never cheaper" in plan_costs.sentence(replace(costs, break_even=None))
    assert "a full retraining" in plan_costs.sentence(replace(costs, retraining=None))
    table = plan_costs.table(costs, 36.0)
    assert table["Money (at 36 an hour)"].tolist() == ["1.00", "0.1"]
    assert not [name for name in plan_costs.table(costs, None) if "Money" in name]
    assert not list(columns_without_unit(table))
    # Retraining grows with the users; 50 of them train the adapter of any number.
    assert table["Time at a million users"].tolist() == ["27 h 46 min", "10 s"]
    everybody = plans.at_users(replace(costs, trained=1000), 2000)
    assert everybody == (200.0, 20.0)


def points(*rows, series=quality.HERE):
    columns = ["users", "kept", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(series=series, name="x")


def test_expected_quality_is_read_between_measured_runs_only():
    here = points((10, 0.8, 0.7, 0.9), (1000, 1.0, 0.9, 1.1))
    assert quality.expected(here, 10) == Expected(0.8, 0.7, 0.9, "measured with as many users")
    between = quality.expected(here, 100)
    assert (between.kept, between.low) == (pytest.approx(0.9), pytest.approx(0.8))
    assert quality.expected(here, 9) is None and quality.expected(here, 1001) is None
    published = pd.concat(
        [
            points((10, 0.8, 0, 0), (1000, 1.0, 0, 0), series="a"),
            points((100, 1.2, 0, 0), series="b"),
        ]
    )
    both = quality.expected(published, 100)
    assert (both.kept, both.low, both.high) == pytest.approx((1.05, 0.9, 1.2))
    assert both.basis == "2 published studies, not measured here"
    assert quality.expected(published[published["series"] == "a"], 100).basis.startswith(
        "1 published study,"
    )
    assert quality.expected(published.iloc[:0], 5) is None
    assert "10 users kept 80 %" in plan_quality.sentence(None, here, 5)


def test_published_curves_are_those_of_the_task_and_of_the_nearest_models(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path))
    Workspace.open(tmp_path, create=True).close()
    ratings, clicks = quality.published("rating"), quality.published("click")
    assert len(clicks) and set(ratings["series"]) == {
        "Published: goodbooks, 10,206 users",
        "Published: movietweetings, 1,802 users",
    }
    assert not set(ratings["series"]) & set(clicks["series"])
    assert ratings["users"].gt(0).all() and ratings["low"].lt(ratings["high"]).all()
    for sources, target, series in (
        (["llama-small"], "llama-medium", "Published: goodbooks, 10,206 users"),
        (["llama-small"], "smollm2", "Published: goodbooks on SmolLM2, 2,000 users"),
        (
            ["llama-small", "smollm2"],
            "qwen2-small",
            "Published: goodbooks from SmolLM2, 2,000 users",
        ),
    ):
        role = quality.published_role(sources, target)
        assert series in set(quality.published("rating", role)["series"])


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
