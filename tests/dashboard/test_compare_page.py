"""The Compare page in every state, on a real workspace with drawn predictions."""

import compared
import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page
from store_edits import edited

from dashboard.components import compare_differences, compare_experiments, compare_users
from dashboard.components.compare_methods import in_order, metric_table, text_colours
from dashboard.components.theme import DIFFERENCE_COLOURS, difference_texts
from dashboard.engine import METRICS, comparisons, summary
from puma_engine import jobs, pipeline
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.formatting import method_names
from puma_engine.evaluation.user_effects import MAX_SAMPLED
from puma_engine.store import Workspace
from puma_engine.studies.catalog import STUDIES


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def no_worker(monkeypatch):
    """Start no worker: jobs stay queued until the test runs them."""
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)


def texts(app):
    assert not app.exception, app.exception
    parts = [*app.text, *app.markdown, *app.warning, *app.error, *app.info, *app.caption]
    return "\n".join(str(part.value) for part in parts).replace("\u00a0", " ")


def see(world, monkeypatch, **query):
    return open_page("compare", world["ws"].root, monkeypatch, **query)


def test_the_verdict_and_every_method_are_shown(world, monkeypatch):
    app = see(world, monkeypatch)
    shown = texts(app)
    verdict = pipeline.judge_comparison(world["ws"], world["comparison"])
    assert verdict.headline.partition(": ")[2][1:] in shown
    assert all(sentence in shown for sentence in (*verdict.evidence, *verdict.cautions))
    table = app.dataframe[0].value
    methods = world["ws"].get_table(world["comparison"].id, "methods")
    names = method_names(methods["method"])
    assert table["Method"].tolist() == in_order(methods)["method"].map(names).tolist()
    assert {"Global mean", "Item mean", "User + item bias"} <= set(table["Method"])
    scores = world["ws"].get_table(world["comparison"].id, "comparison")
    cell = scores[(scores["method"] == "Full retraining") & (scores["metric"] == "rmse")].iloc[0]
    expected = f"{cell['value']:.4f} [{cell['low']:.4f}, {cell['high']:.4f}]"
    assert expected == table.set_index("Method").loc["Full retraining", "RMSE"]
    assert app.query_params["comparison"] in (world["comparison"].id, [world["comparison"].id])


def test_methods_of_a_kind_are_in_the_order_of_the_users_who_train():
    seconds = {6: 3.0, 60: 17.0, 18: 7.5, 180: 14.5, 600: 20.0}
    rows = [("retrained", 600, 16.0, True), ("baseline", None, 0.1, False)]
    rows += [("migrated", users, spent, False) for users, spent in seconds.items()]
    columns = ["kind", "users_trained", "seconds", "is_baseline"]
    ordered = in_order(pd.DataFrame(rows, columns=columns))
    assert ordered["kind"].tolist() == ["retrained", *["migrated"] * 5, "baseline"]
    assert ordered["users_trained"].tolist()[1:-1] == [6, 18, 60, 180, 600]


def test_what_is_kept_of_retrainings_gains_is_listed(world, monkeypatch):
    ws, run = world["ws"], world["comparison"]
    table = see(world, monkeypatch).dataframe[1].value.set_index("Method")
    shares = ws.get_table(run.id, "shares_kept")
    names = method_names(shares["method"])
    assert set(table.index) == set(names.values())
    of_few = shares[shares["method"].str.startswith("Migrated, 30")]
    (row,) = of_few[of_few["aspect"] == "ranking"].itertuples()
    assert names[row.method] == "Migration trained on 30 users"
    cell = table.loc[names[row.method], "Ranking over the item mean"]
    assert cell == f"{row.share:.0%} [{row.share_low:.0%}, {row.share_high:.0%}]".replace("%", " %")


def test_an_older_comparison_without_predictions_is_not_measured(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    ws, run = world["ws"], world["comparison"]
    with edited(ws) as db:
        db.execute("UPDATE runs SET status = 'running' WHERE id = ?", [run.id])
        db.execute("DELETE FROM artifacts WHERE name = 'shares_kept'")
    scores = ws.get_table(run.id, "comparison")
    ws.put_table(run.id, "comparison", scores[scores["metric"] != "pair_accuracy"])
    with edited(ws) as db:
        db.execute("UPDATE runs SET status = 'finished' WHERE id = ?", [run.id])
    column = "Pair accuracy"
    first = see(world, monkeypatch).dataframe[0].value.set_index("Method")[column]
    named = scores.assign(method=scores["method"].map(method_names(scores["method"])))
    expected = named[named["metric"] == "pair_accuracy"].set_index("method")
    for method, text in first.items():
        assert text.startswith(f"{expected.loc[method, 'value']:.4f}")
    for evaluation in world["runs"].values():
        for file in ws.folder(evaluation.id).glob("predictions*"):
            file.unlink()
    comparisons.tables.clear()
    comparisons.shares.clear()
    comparisons.verdict.clear()
    app = see(world, monkeypatch)
    assert set(app.dataframe[0].value[column]) == {"not measured"}
    assert "pair accuracy) is not measured here" in texts(app)


def test_differences_are_shown_on_demand(world, monkeypatch):
    app = see(world, monkeypatch)
    assert "reference" not in app.dataframe[0].value["RMSE"].tolist()
    app.toggle(key="differences").set_value(True).run()
    table = app.dataframe[0].value.set_index("Method")
    assert table.loc["Full retraining", "RMSE"] == "reference"
    assert table.loc["Global mean", "RMSE"][0] in "+-"
    again = see(world, monkeypatch, differences="true")
    pd.testing.assert_frame_equal(again.dataframe[0].value, app.dataframe[0].value)


def test_the_margin_changes_the_verdict_and_is_in_the_address(world, monkeypatch):
    narrow = texts(see(world, monkeypatch, margin="0.1"))
    wide = texts(see(world, monkeypatch, margin="20.0"))
    for margin, shown in ((0.001, narrow), (0.2, wide)):
        verdict = pipeline.judge_comparison(world["ws"], world["comparison"], margin=margin)
        assert verdict.evidence[1] in shown
    assert narrow != wide


def test_users_who_regress_lead_to_their_page(world, monkeypatch):
    few = world["runs"]["few"].id
    app = see(world, monkeypatch, view="users", user_method=few)
    texts(app)
    table = app.dataframe[0].value
    assert set(table["User"].head(3)) == {"000", "001", "002"}
    assert (table["Probability"].head(3) > 90).all()
    here = f"comparison={world['comparison'].id}&method={few}&user=00"
    assert table["Open"][0].startswith(f"people?{here}")
    metric = next(item for item in app.metric if item.label.startswith("Regress with"))
    assert int(metric.value.split()[0]) >= 3


@pytest.mark.parametrize("group", ["variance", "train_rows", "cluster"])
def test_groups_of_users_are_drawn(world, monkeypatch, group):
    app = see(world, monkeypatch, view="users", group=group)
    texts(app)
    assert len(app.get("plotly_chart")) == 4


@pytest.mark.parametrize("view", ["pairs", "chains", "aggregations", "strategies"])
def test_views_without_enough_runs_are_not_there_and_lead_to_published_studies(
    world, monkeypatch, view
):
    app = see(world, monkeypatch, view=view)
    assert "Not measured here" in texts(app)
    control = app.segmented_control(key="choose-view")
    titles = {name: item.title for name, item in compare_experiments.VIEWS.items()}
    assert titles[view] not in control.options and titles["curve"] in control.options
    assert control.value == "methods"
    links = [link.proto.label for link in app.get("page_link")]
    assert titles[view] in links and titles["curve"] not in links
    assert {item.study for item in compare_experiments.VIEWS.values()} <= set(STUDIES)


def test_the_differences_are_drawn_first_with_the_baseline_on_top(world, monkeypatch):
    ws, run = world["ws"], world["comparison"]
    app = see(world, monkeypatch)
    assert app.get("plotly_chart")[0].proto.id.endswith("method-differences")
    methods, scores = comparisons.tables(str(ws.root), run.id)
    rows = compare_differences.relative(
        in_order(methods).merge(
            scores[scores["metric"] == "rmse"].drop(columns="kind"), on="method"
        ),
        "rmse",
    )
    assert rows["is_baseline"].tolist() == [True] + [False] * (len(rows) - 1)
    base = rows["value"].iloc[0]
    assert rows["change"][1:].to_numpy() == pytest.approx(100 * (rows["value"][1:] / base - 1))
    control = rows[rows["kind"] == "shuffled"].iloc[0]
    assert control["outcome"] == "worse" and control["change_low"] > 0
    figure = compare_differences.difference_figure(rows, 0.01)
    # A grid line of a row would cross the value that is written on it.
    assert figure.layout.yaxis.showgrid is False
    low, high = figure.layout.xaxis.range
    assert figure.layout.yaxis.categoryarray[-1] == "Full retraining"
    for trace, row in list(zip(figure.data, rows.itertuples(), strict=True))[1:]:
        assert trace.text[0] == f"{row.change:+.1f} %"
        assert trace.x[0] == pytest.approx(min(max(row.change, low), high))
        assert trace.marker.color == DIFFERENCE_COLOURS[row.outcome]
    # A metric that is to be high turns good and bad around.
    assert compare_differences.relative(rows, "uauc")["outcome"].tolist() == [
        {"better": "worse", "worse": "better"}.get(outcome, outcome) for outcome in rows["outcome"]
    ]


def test_three_sentences_say_what_is_kept_what_it_costs_and_who_is_worse_off(world, monkeypatch):
    shown = texts(see(world, monkeypatch))
    run = world["comparison"]
    plans = summary.plans(run)
    verdict = comparisons.verdict(str(world["ws"].root), run.id)
    row = plans[plans["method"] == verdict.method].iloc[0]
    assert f"It keeps {100 * row['kept']:.0f} % of the rating accuracy" in shown
    assert f"It takes {100 * row['seconds'] / 40:.0f} % of full retraining's time" in shown
    assert "surely worse off than with full retraining" in shown


def test_sure_differences_have_their_colour_in_the_table(world):
    ws, run = world["ws"], world["comparison"]
    methods, scores = comparisons.tables(str(ws.root), run.id)
    names = ["rmse", "pair_accuracy"]
    table = metric_table(methods, scores, names, differences=True, intervals=False)
    colours = text_colours(table, scores, names)
    shades = difference_texts()
    for index, method in table["Method"].items():
        for metric in names:
            (score,) = scores[
                (scores["method"] == method) & (scores["metric"] == metric)
            ].itertuples()
            gain = (-1 if metric == "rmse" else 1) * np.array(
                [score.difference_low, score.difference_high]
            )
            shade = (
                shades["better"]
                if (gain > 0).all()
                else shades["worse"]
                if (gain < 0).all()
                else ""
            )
            assert colours.loc[index, METRICS[metric].heading] == (shade and f"color: {shade}")


def test_a_method_of_an_unknown_device_is_in_the_table(world):
    """Prompts that were fitted elsewhere may name no device."""
    ws, run = world["ws"], world["comparison"]
    methods, scores = comparisons.tables(str(ws.root), run.id)
    devices = ["cpu", None, float("nan"), *["cuda:1"] * (len(methods) - 3)]
    methods = methods.assign(device=pd.Series(devices, dtype=object))
    table = metric_table(methods, scores, ["rmse"], differences=False, intervals=False)
    assert list(table["Device"][:4].fillna("")) == ["CPU", "", "", "GPU 1"]


def test_plots_are_drawn_from_the_runs_of_the_workspace(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    ws, data = world["ws"], world["data"]
    source = ws.run("source-old")
    new, third = ws.run("new"), compared.backbone(ws, "third")
    hop_one = compared.migrate(ws, [source], third, name="one")
    hop_two = compared.migrate(ws, [hop_one], new, name="hop")
    second = compared.prompts(ws, data, compared.backbone(ws, "second"), "source")
    fused = compared.migrate(ws, [source, second], new, name="fused")
    again = compared.prompts(ws, data, third, "retrained")
    random = compared.migrate(ws, [source], new, compared.select(ws, source, "random"), name="r")
    for number, run in enumerate((hop_one, hop_two, fused, again, random)):
        compared.evaluate(ws, run, 0.8 + 0.02 * number)
    for view in ("curve", "pairs", "chains", "aggregations", "strategies"):
        app = see(world, monkeypatch, view=view)
        # Below the differences of all methods.
        assert "Not measured here" not in texts(app)
        assert len(app.get("plotly_chart")) == 2, view


def test_a_click_task_is_shown_in_its_own_metrics(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path, task="click")
    app = see(world, monkeypatch)
    assert "AUC" in texts(app) and {"AUC", "uAUC", "Log loss"} <= set(app.dataframe[0].value)
    users = see(world, monkeypatch, view="users")
    assert "log loss" in texts(users)
    # A share of clicks has no stars.
    assert "Variance of clicks" in users.segmented_control(key="choose-group").options


def test_hostile_names_are_text(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path, hostile=True)
    for view in ("methods", "users", "pairs", "chains", "aggregations", "strategies"):
        app = see(world, monkeypatch, view=view)
        assert not app.exception
        assert not any("<script>" in part.value for part in app.markdown), view


def test_without_a_retraining_it_says_what_is_missing(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    chosen = [world["runs"]["source"], world["runs"]["few"]]
    run = pipeline.compare(world["ws"], chosen, baselines=True, name="no retraining")
    shown = texts(see(world, monkeypatch, comparison=run.id))
    assert "No verdict yet" in shown and "Add the full retraining" in shown


def test_one_method_alone_is_compared_with_the_baselines(tmp_path, monkeypatch, no_worker):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path)
    source = compared.prompts(ws, data, compared.backbone(ws, "old"), "source")
    scored = compared.evaluate(ws, source, 0.5)
    app = open_page("compare", ws.root, monkeypatch)
    assert "not compared yet" in texts(app)
    assert app.dataframe[0].value["Method"].tolist() == ["Old model"]
    next(button for button in app.button if button.label == "Compare them").click().run()
    assert "is queued" in texts(app)
    (job,) = jobs.jobs(ws)
    assert job.args["evaluations"] == [scored.id] and job.args["baselines"]
    run = pipeline.compare(ws, job.args["evaluations"], reference=scored, baselines=True)
    app = open_page("compare", ws.root, monkeypatch)
    assert "No verdict yet" in texts(app)
    assert len(app.dataframe[0].value) == 1 + len(BASELINES)
    assert app.query_params["comparison"] in (run.id, [run.id])


def test_pinning_another_baseline_queues_one_job_and_then_shows_it(
    tmp_path, monkeypatch, no_worker
):
    world = compared.workspace(tmp_path)
    ws, source = world["ws"], world["runs"]["source"]
    app = see(world, monkeypatch)
    app.selectbox(key="choose-pin").select(source.id).run()
    assert "not compared yet" in texts(app)
    next(button for button in app.button if button.label == "Compare them").click().run()
    (job,) = jobs.jobs(ws)
    assert job.args["reference"] == source.id
    # Asked again, by another visitor: the same job, no second one.
    again = see(world, monkeypatch, comparison=world["comparison"].id, pin=source.id)
    assert "is queued" in texts(again) and len(jobs.jobs(ws)) == 1
    done = pipeline.compare(ws, job.args["evaluations"], reference=source, baselines=True)
    app = see(world, monkeypatch, comparison=world["comparison"].id, pin=source.id)
    texts(app)
    assert app.query_params["comparison"] in (done.id, [done.id])
    table = app.dataframe[0].value.set_index("Method")
    assert table.loc["Old model", "Pinned"] == "baseline"


def test_methods_follow_the_names_in_the_workspace(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    monkeypatch.setenv("PUMA_WORKSPACE", str(world["ws"].root))
    (split,) = comparisons.splits()
    first = comparisons.methods(split).iloc[0]
    world["ws"].rename(first["evaluation"], "another and longer name")
    assert "another and longer name" in comparisons.methods(split)["name"].tolist()


def test_a_failed_comparison_says_why(tmp_path, monkeypatch, no_worker):
    world = compared.workspace(tmp_path)
    ws = world["ws"]
    inputs = world["comparison"].inputs
    run = ws.begin("comparison", name="broken", config={"split": "test"}, inputs=inputs, seed=9)
    ws.fail(run.id, "The evaluations have no example in common <b>.")
    shown = texts(see(world, monkeypatch, comparison=run.id))
    assert "This comparison is failed." in shown and "no example in common <b>" in shown


def test_a_failed_job_can_be_tried_again(tmp_path, monkeypatch, no_worker):
    world = compared.workspace(tmp_path)
    ws, few = world["ws"], world["runs"]["few"]
    query = {"comparison": world["comparison"].id, "pin": few.id}
    app = see(world, monkeypatch, **query)
    next(button for button in app.button if button.label == "Compare them").click().run()
    (job,) = jobs.jobs(ws)
    ws.db.execute("UPDATE jobs SET status = 'failed', error = 'no room' WHERE id = ?", [job.id])
    app = see(world, monkeypatch, **query)
    assert "no room" in texts(app)
    app.button(key="retry-comparison").click().run()
    assert jobs.job(ws, job.id).status == "queued"


def test_missing_predictions_are_reported(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    ws = world["ws"]
    gone = "name IN ('users', 'predictions') OR name LIKE 'effects%'"
    with edited(ws) as db:
        db.execute(f"DELETE FROM artifacts WHERE {gone}")
    assert "Evaluate the prompts again" in texts(see(world, monkeypatch, view="users"))


def test_unknown_addresses_are_reported(world, monkeypatch):
    app = see(world, monkeypatch, comparison="../../etc", view="<b>", group="x", metric="nope")
    shown = texts(app)
    assert "unknown value" in shown and len(app.dataframe[0].value) == 5 + len(BASELINES)


def test_an_empty_workspace_says_how_to_begin(tmp_path, monkeypatch):
    Workspace.open(tmp_path / "ws", create=True)
    assert "Nothing to compare yet" in texts(open_page("compare", tmp_path / "ws", monkeypatch))


def test_a_chart_of_many_users_stays_small():
    count = 50_000
    rng = np.random.default_rng(0)
    users = pd.DataFrame({"n": 5, "first": rng.random(count), "second": rng.random(count)})
    figure = compare_users.user_scatter(users.head(MAX_SAMPLED))
    assert len(figure.to_json()) < 1_000_000
