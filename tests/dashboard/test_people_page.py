"""The People page in every state: three linked views, selections, the most affected, strategies."""

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import compared
import numpy as np
import pandas as pd
import pytest
from dashboard_pages import add_job, open_page

from dashboard.components import map_figures, map_selection, people_maps, people_views
from dashboard.components.map_selection import MapSelection
from dashboard.components.selection_preview import summary
from dashboard.engine import people
from dashboard.pages import MERGED
from puma_engine import jobs, pipeline
from puma_engine.evaluation.user_effects import effects_between
from puma_engine.maps.behaviour import behaviour, order_agreement
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.prompts.table import PromptTable
from puma_engine.selection.strategies import coverage
from puma_engine.store import Workspace

N = 60
IDS = np.array([f"<b>{number:02}</b>" for number in range(N)])
SQUARE = ((0, 0), (500, 0), (500, 500), (0, 500))
SQUARE_TEXT = ["0,0", "500,0", "500,500", "0,500"]


def test_a_lasso_becomes_an_outline_with_the_same_points():
    rng = np.random.default_rng(0)
    points = rng.integers(0, map_selection.SCALE, size=(4000, 2)).astype(np.int16)
    angle = np.linspace(0, 2 * np.pi, 300)
    x, y = 15_000 + 9000 * np.cos(angle), 15_000 + 6000 * np.sin(angle)
    corners = map_selection.outline(x, y)
    assert 30 < len(corners) <= map_selection.MAX_CORNERS
    truth = ((points[:, 0] - 15_000) / 9000) ** 2 + ((points[:, 1] - 15_000) / 6000.0) ** 2 <= 1
    assert (map_selection.inside(points, corners) == truth).mean() > 0.99


def test_an_outline_may_be_concave():
    arrow = ((0, 0), (1000, 0), (1000, 1000), (500, 100), (0, 1000))
    points = np.array([[15_000, 1500], [15_000, 15_000], [1500, 15_000]], dtype=np.int16)
    assert map_selection.inside(points, arrow).tolist() == [True, False, True]


def test_a_box_names_two_corners_and_a_click_a_row():
    box = {"box": [{"x": [30_000, 0], "y": [0, 15_000]}], "lasso": [], "points": []}
    pick, _ = map_selection.event(box, "umap:migrated")
    assert (pick.view, pick.panel) == ("umap", "migrated") and set(pick.area) == {
        (1000, 0),
        (0, 0),
        (0, 500),
        (1000, 500),
    }
    points = [{"customdata": [7]}, {"customdata": 3}, {"customdata": {"0": 7, "1": 90}}, {"x": 1}]
    assert map_selection.event({"points": points}, "source") == (None, [7, 3])


def test_an_outline_in_stars_holds_the_users_that_it_holds_on_the_wire():
    rng = np.random.default_rng(1)
    drawn = {"old": rng.uniform((1, 0.1), (5, 0.6), (500, 2))}
    points, axes = map_selection.to_grid(drawn, square=False)
    np.testing.assert_allclose(axes.of(points["old"]), drawn["old"], atol=2e-4)
    lasso = {"x": [2.0, 4.0, 4.0, 2.0], "y": [0.2, 0.2, 0.4, 0.4]}
    pick, _ = map_selection.event({"lasso": [lasso]}, "behaviour:old", axes)
    inside = ((drawn["old"] > (2, 0.2)) & (drawn["old"] < (4, 0.4))).all(axis=1)
    actual = map_selection.inside(points["old"], pick.area)
    assert inside.sum() > 50 and (actual == inside).mean() > 0.995


def test_panels_share_one_scale():
    panels = {
        "source": np.array([[0.0, 0], [1, 1]]),
        "migrated": np.array([[0.0, 0], [4, 2]]),
    }
    points, axes = map_selection.to_grid(panels, square=True)
    assert points["migrated"].tolist() == [[0, 7500], [30_000, 22_500]]
    assert points["source"].tolist() == [[0, 7500], [7500, 15_000]]
    assert points["source"].dtype == np.int16 and axes.span == (4.0, 4.0)
    points, axes = map_selection.to_grid(panels, square=False)
    assert points["migrated"].tolist() == [[0, 0], [30_000, 30_000]] and axes.span == (4.0, 2.0)


def test_a_selection_is_by_id_by_outline_or_by_cluster():
    frame = pd.DataFrame({"user_id": ["a", "b", "c"], "cluster": [0, 1, 1]})
    points = {"source": np.array([[0, 0], [9, 9], [29_000, 0]]) + 1}
    selected = [
        map_selection.selected_rows(pick, frame, points).tolist()
        for pick in (
            MapSelection(users=("c", "z")),
            MapSelection(area=SQUARE, on="umap:source"),
            MapSelection(cluster=1),
            MapSelection(),
        )
    ]
    assert selected == [[2], [0, 1], [1, 2], []]


@pytest.mark.parametrize("colour", ["cluster", "chosen", "value"])
@pytest.mark.parametrize("picked", [None, np.array([3, 40_000])])
def test_two_maps_of_fifty_thousand_users_stay_below_one_and_a_half_megabytes(colour, picked):
    n, rng = 50_000, np.random.default_rng(0)
    points = rng.integers(0, map_selection.SCALE, size=(n, 2)).astype(np.int16)
    values, scale = rng.normal(size=n), None
    if colour == "cluster":
        layers = map_figures.cluster_layers(rng.integers(0, 15, n), picked)
    elif colour == "chosen":
        layers = map_figures.selected_layers(values > 1, picked)
    else:
        layers, scale = (
            map_figures.value_layers(values, picked),
            map_figures.value_scale(values, "loss"),
        )
    assert np.sort(np.concatenate([layer.rows for layer in layers])).tolist() == list(range(n))
    figure = map_figures.point_map(points, layers, scale)
    assert 2 * len(figure.to_json()) < 1_500_000


@pytest.mark.parametrize("picked", [None, np.arange(0, 200_000, 7)])
def test_cells_count_all_users_and_their_figure_stays_small(picked):
    n, rng = 200_000, np.random.default_rng(0)
    points = rng.integers(0, map_selection.SCALE + 1, size=(n, 2)).astype(np.int16)
    values = np.where(rng.random(n) < 0.1, np.nan, points[:, 0]).astype(np.float32)
    cells = map_figures.cells(points, values, picked)
    assert cells["users"].sum() == (n if picked is None else len(picked))
    cell = cells.iloc[7]
    inside = map_selection.inside(points, map_figures.cell_corners(int(cell["cell"])))
    rows = np.flatnonzero(inside if picked is None else inside & np.isin(np.arange(n), picked))
    assert abs(len(rows) - cell["users"]) <= 3  # corners are rounded to thousandths
    assert cells["mean"].corr(cells["x"]) > 0.99
    scale = map_figures.value_scale(cells["mean"].to_numpy(), "mean")
    figure = map_figures.density_map(cells, cells, scale, map_figures.cell_corners(3))
    assert 2 * len(figure.to_json()) < 1_500_000


def test_clusters_beyond_the_palette_differ_in_their_symbol():
    layers = map_figures.cluster_layers(np.arange(15), None)
    assert len({(layer.colour, layer.symbol) for layer in layers}) == 15


def test_colour_scale_of_differences_is_symmetric_and_unmeasured_users_have_a_layer():
    values = np.array([-1.0, 0.5, np.nan, 0.25])
    scale = map_figures.value_scale(values, "gain", differences=True)
    assert scale.low == -scale.high
    rows = {layer.name: layer.rows.tolist() for layer in map_figures.value_layers(values, None)}
    assert rows == {"Not measured": [2], "Measured": [0, 1, 3]}


def test_the_summary_counts_groups_without_selected_users():
    cells = coverage(np.array([0, 0, 1]), np.zeros(3, int), np.array([True, False, False]))
    assert "on 1 of 3 users (33.3 %)" in summary(cells)
    assert "1 of 2 clusters; 1 of 2 groups have no selected user" in summary(cells)
    everybody = coverage(np.array([0, 0, 1]), np.zeros(3, int), np.ones(3, bool))
    assert "users (100 %)" in summary(everybody)
    assert "each of 2 groups has a selected user" in summary(everybody)


def keep(ws, kind, role, data, vectors, **more):
    inputs = {"dataset": data.id} | more.pop("inputs", {})
    run = ws.begin(kind, name=f"{role} <i>x</i>", config={"role": role}, inputs=inputs)
    pipeline.stored_prompts.save_prompts(ws, run.id, PromptTable(IDS, vectors, None, {}))
    summary = {"users": N, "tokens": 1, "width": vectors.shape[2]}
    return ws.finish(run.id, seconds=1, device="cpu", cost={"users_trained": N}, summary=summary)


def score(ws, prompts, data, shift):
    """Store metrics of users in the opposite order of the prompts."""
    run = ws.begin(
        "evaluation",
        name="eval",
        config={"method": prompts.config["role"], "split": "test"},
        inputs={"prompts": prompts.id, "dataset": data.id},
    )
    values = np.linspace(0.5, 1.5, N) + shift
    ws.put_user_metrics(run.id, pd.DataFrame({"user_id": IDS[::-1], "n": 3, "rmse": values}))
    summary = {"split": "test", "task": "rating"}
    return ws.finish(run.id, seconds=1, device="cpu", summary=summary)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with source prompts, a migration and a retraining, evaluated but not drawn."""
    folder = tmp_path_factory.mktemp("users")
    ws = Workspace.open(folder / "ws", create=True)
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": user, "item_id": f"i{item}", "outcome": int(rng.integers(1, 6)), "text": "Book"}
        for user in IDS
        for item in range(6)
    ]
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    data = pipeline.import_dataset(ws, "table", path=folder / "ratings.csv", task="rating")
    model = ws.begin("backbone", name="m", config={"spec": "m", "fingerprint": "m"}, inputs={})
    model = ws.finish(model.id, seconds=1, device="cpu", summary={"width": 8})
    vectors = rng.normal(size=(N, 1, 8)).astype(np.float32)
    source = keep(ws, "prompts", "source", data, vectors, inputs={"backbone": model.id})
    inputs = {"backbone": model.id, "source_0": source.id}
    moved = keep(ws, "migration", "migrated", data, 2 * vectors, inputs=inputs)
    again = keep(ws, "prompts", "retrained", data, vectors + 1, inputs={"backbone": model.id})
    for run, shift in ((source, 0), (moved, 0.1), (again, 0.3)):
        score(ws, run, data, shift)
    return ws, source, moved


@pytest.fixture(scope="module")
def drawn(world):
    ws, source, moved = world
    return ws, pipeline.project(ws, source, moved, method="pca")


def words(app):
    assert not app.exception, app.exception
    parts = [*app.markdown, *app.text, *app.caption, *app.info, *app.warning, *app.error]
    return " ".join(str(part.value) for part in parts)


def plain(app):
    """All text of the page without the marks that escape Markdown."""
    return words(app).replace("\\", "").replace("\u00a0", " ")


def listed(app):
    """The table of the selected users."""
    return next(table.value for table in app.dataframe if "Records" in table.value)


def press(app, label):
    (button,) = (button for button in app.button if button.label == label)
    return button.click().run()


def test_without_a_workspace_or_prompts_the_page_says_how_to_begin(tmp_path, monkeypatch):
    assert "No workspace yet" in words(open_page("users", tmp_path / "none", monkeypatch))
    Workspace.open(tmp_path / "empty", create=True)
    assert "No people yet" in words(open_page("users", tmp_path / "empty", monkeypatch))


def test_a_map_is_queued_with_one_click_watched_and_tried_again(world, monkeypatch):
    ws, source, moved = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    app = open_page("users", ws.root, monkeypatch, method=moved.id, map="umap")
    assert "No map of these prompts yet" in words(app)
    app = press(app, "Make the map")
    (job,) = jobs.jobs(ws)
    assert (job.command, job.args) == ("project", {"source": source.id, "migrated": moved.id})
    assert "A job makes the map" in words(app)
    other = add_job(ws, "project", title="Draw another map")
    shown = words(open_page("users", ws.root, monkeypatch, method=moved.id, map="umap"))
    assert "Make the map of migrated" in shown and "Draw another map" not in shown
    with ws.transaction() as db:
        db.execute("DELETE FROM jobs WHERE id = ?", [other])
        db.execute(
            "UPDATE jobs SET status = 'failed', error = '**no** room' WHERE id = ?", [job.id]
        )
    app = open_page("users", ws.root, monkeypatch, method=moved.id, map="umap")
    assert "could not be made" in words(app)
    assert "**no** room" in [text.value for text in app.text]
    press(app, "Try again")
    assert jobs.jobs(ws)[0].status == "queued"
    jobs.cancel(ws, job.id)


def test_the_map_shows_trust_and_the_users_who_trained(drawn, monkeypatch):
    ws, _run = drawn
    app = open_page("users", ws.root, monkeypatch)
    shown = words(app)
    assert "All 60 users are drawn" in shown and "60 of 60 users (100 %)" in shown
    assert [metric.label for metric in app.metric][:2] == [
        "Trust in the source map",
        "Trust in the migrated map",
    ]
    # Both maps; everybody trains, so no picture says which of the users do.
    assert len(app.get("plotly_chart")) == 2
    assert "in none yet" in shown  # nobody can be called worse off without a comparison


def test_prompts_that_were_refined_without_a_migration_are_called_refined(drawn):
    ws, run = drawn
    source, moved = (ws.run(run.inputs[role]) for role in ("source", "migrated"))
    reused = replace(moved, kind="prompts", inputs={"start": source.id})
    refined = replace(moved, kind="prompts", inputs={"start": moved.id})
    words = {}
    for name, prompts in (("moved", moved), ("reused", reused), ("refined", refined)):
        subject = people.Subject(prompts, name, "d", "rating", source, *[None] * 5)
        view = SimpleNamespace(name="pca", facts={"misfit": 0.5}, points={"migrated": None})
        title = people_maps.titles(subject, view)["migrated"][0].partition(" prompts")[0]
        words[name] = (title, people_maps.headline(subject, view).partition(" changed")[0])
    assert words["moved"] == words["refined"] == ("Migrated", "The migration")
    assert words["reused"] == ("Refined", "The refinement")


@pytest.mark.parametrize("colour", list(people_views.COLOURS))
def test_the_map_is_drawn_in_every_colour_mode(drawn, monkeypatch, colour):
    app = open_page("users", drawn[0].root, monkeypatch, colour=colour, map="pca")
    assert not app.info and words(app) and app.query_params["colour"] in (colour, [colour])


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"PAR1")])
def test_a_damaged_map_says_so_and_is_drawn_again(drawn, tmp_path, monkeypatch, harm):
    shutil.copytree(drawn[0].root, tmp_path / "ws")
    ws, run = Workspace.open(tmp_path / "ws"), drawn[1]
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    harm(next(ws.folder(run.id).glob("map.*")))
    app = open_page("users", ws.root, monkeypatch, map="pca")
    assert "This map is damaged" in words(app)
    assert any("map." in text.value for text in app.text)
    press(app, "Make it again")
    (job,) = jobs.jobs(ws, status="queued")
    assert job.args == run.inputs | {"method": "pca"}
    jobs.cancel(ws, job.id)
    pipeline.project(ws, run.inputs["source"], run.inputs["migrated"], method="pca")
    assert "All 60 users are drawn" in words(open_page("users", ws.root, monkeypatch))


def test_the_preview_of_a_strategy_equals_its_selection(drawn, monkeypatch):
    ws, _run = drawn
    for strategy in ("kmeans-variance", "kmeans", "variance", "facility", "kmeans-activity"):
        app = open_page("users", ws.root, monkeypatch, strategy=strategy, budget="12", cluster="1")
        assert "12 of 60 users (20 %)" in words(app)
        run = pipeline.select(ws, "source <i>x</i>", strategy=strategy, budget=12)
        chosen = set(pipeline.selected_users(ws, run))
        table = listed(app)
        assert len(table) and (
            table["Trains the adapter"].tolist() == [user in chosen for user in table["User"]]
        )


def test_a_strategy_that_needs_the_model_asks_for_a_job(drawn, monkeypatch):
    ws, _run = drawn
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    app = open_page("users", ws.root, monkeypatch, strategy="ffn-kmeans", colour="chosen")
    assert "which a job computes" in words(app) and "not known yet" in words(app)
    press(app, "Select these users in a job")
    job = jobs.jobs(ws)[0]
    assert job.command == "select" and job.args["strategy"] == "ffn-kmeans"
    jobs.cancel(ws, job.id)


def test_selected_users_come_from_the_address_and_their_figures_are_joined_by_id(
    drawn, monkeypatch
):
    ws, run = drawn
    app = open_page("users", ws.root, monkeypatch, users=[IDS[0], IDS[59], "nobody"])
    assert "2 of 60 users selected" in words(app) and "Some users" in app.warning[0].value
    table = listed(app).set_index("User")
    # Metrics were stored in the opposite order of the prompts.
    assert table.loc[IDS[0], "Old model: RMSE (stars)"] == pytest.approx(1.5)
    assert table.loc[IDS[59], "Migrated: RMSE (stars)"] == pytest.approx(0.6)
    assert table["Gain over retraining (stars)"].tolist() == pytest.approx([0.2, 0.2])
    area = ["-9,-9", "1009,-9", "1009,1009", "-9,1009"]
    assert "60 of 60 users selected" in words(
        open_page("users", ws.root, monkeypatch, area=area, on="migrated")
    )
    frame = ws.get_table(run.id, "map")
    app = open_page("users", ws.root, monkeypatch, cluster="1")
    assert len(listed(app)) == (frame["cluster"] == 0).sum()
    app = press(app, "Clear")
    assert "cluster" not in app.query_params and not app.dataframe


def test_a_lasso_on_one_map_is_written_into_the_address(drawn, monkeypatch):
    app = open_page("users", drawn[0].root, monkeypatch)
    lasso = {"x": [-9, 30_100, 30_100, -9], "y": [-9, -9, 30_100, 30_100]}
    selection = {"points": [], "lasso": [lasso], "box": []}
    app.session_state["people-pca-migrated"] = {"selection": selection}
    app.run()
    assert "60 of 60 users selected" in words(app)
    assert app.query_params["on"] in ("pca:migrated", ["pca:migrated"])
    assert len(app.query_params["area"]) == 4


@pytest.mark.parametrize(
    "query",
    [
        {"area": ["x,y", "1;2", "9" * 300]},
        {"cluster": "99"},
        {"strategy": "<script>"},
        {"budget": "-4", "strategy": "random"},
        {"users": "../../etc"},
        {"on": "elsewhere", "area": ["0,0", "1,1"]},
    ],
)
def test_a_wrong_address_shows_the_page_with_defaults(drawn, monkeypatch, query):
    shown = words(open_page("users", drawn[0].root, monkeypatch, **query))
    assert "All 60 users are drawn" in shown and "users selected" not in shown


def test_a_map_of_a_sample_says_so_and_a_newer_migration_is_announced(drawn, monkeypatch):
    ws, _run = drawn
    (moved,) = (run for run in ws.runs("migration") if run.seed is None)
    pipeline.project(ws, moved.inputs["source_0"], moved, method="pca", most=20)
    table = pipeline.load_prompts(ws, moved)
    run = ws.begin("migration", name="n", config={"role": "migrated"}, inputs=moved.inputs, seed=1)
    pipeline.stored_prompts.save_prompts(ws, run.id, table)
    ws.finish(run.id, seconds=1, device="cpu", summary={"users": N})
    address = {"migration": moved.id, "strategy": "random", "budget": "30"}
    shown = words(open_page("users", ws.root, monkeypatch, **address))
    assert "All 60 users are counted in cells; a random 20 made the map" in shown
    area = {"area": ["-9,-9", "1009,-9", "1009,1009", "-9,1009"], "shade": "gain"}
    shown = words(open_page("users", ws.root, monkeypatch, **address, **area))
    assert "60 of 60 users selected" in shown
    shown = words(open_page("users", ws.root, monkeypatch, **address, view="sample"))
    assert "random 20 of 60 users are drawn" in shown and "10 of 20 users" in shown
    assert "newer migration" in shown


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Evaluated methods and their comparison; three users fare badly with the method "few"."""
    return compared.workspace(tmp_path_factory.mktemp("judged"))


def drawer(app):
    """All text of the drawer; empty if it is closed."""
    event = app._tree[2]
    kinds = ("markdown", "text", "caption", "error")
    return " ".join(str(part.value) for kind in kinds for part in event.get(kind))


def see(judged, monkeypatch, **query):
    app = open_page("users", judged["ws"].root, monkeypatch, **query)
    assert not app.exception and not app.error
    return app


def test_behaviour_is_drawn_of_the_old_the_migrated_and_the_retrained_prompts(judged, monkeypatch):
    app = see(judged, monkeypatch, method=judged["runs"]["few"].id)
    assert app.query_params["map"] in ("behaviour", ["behaviour"])
    shown = words(app)
    for title in ("Old model, old", "Migrated", "Retrained"):
        assert title in shown
    evaluations = [judged["runs"][name].id for name in ("source", "few", "again")]
    tables = [pipeline.read_predictions(judged["ws"], run) for run in evaluations]
    table = behaviour(tables)
    assert f"median spread {table['spread_0'].median():.2f} ★" in shown
    charts = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    (dots,) = charts[0]["data"]
    row = table["user_id"].tolist().index("007")
    records = pipeline.load_dataset(judged["ws"], judged["data"]).interactions
    mean = records.loc[records["user_id"] == "007", "outcome"].mean()
    numbers = np.frombuffer(base64.b64decode(dots["customdata"]["bdata"]), "f4").reshape(60, 4)
    metrics = judged["ws"].user_metrics
    gain = [metrics(run, ["007"])["rmse"].iloc[0] for run in (evaluations[2], evaluations[1])]
    assert dots["text"][row] == "007"
    assert numbers[row] == pytest.approx([row, mean, 40, gain[0] - gain[1]], rel=1e-5)
    assert "mean rating %{customdata[1]:.2f} ★" in dots["hovertemplate"]
    # One legend for the whole view.
    bars = [data["marker"]["showscale"] for chart in charts[:3] for data in chart["data"]]
    assert bars == [True, False, False]


@pytest.fixture
def copied(judged, tmp_path, monkeypatch):
    """A copy of the judged workspace, in which jobs wait for ever."""
    shutil.copytree(judged["ws"].root, tmp_path / "ws")
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    return Workspace.open(tmp_path / "ws")


def ask_anchors(ws, prompts, predictions, items):
    """Store what a prompt table predicts for anchor items, [users, items]."""
    inputs = {"prompts": prompts.id, "dataset": prompts.inputs["dataset"]}
    run = ws.begin("anchors", name=f"of {prompts.name}", config={"items": items}, inputs=inputs)
    users = [f"{user:03}" for user in range(len(predictions))]
    arrays = {"predictions": predictions.astype("f4")}
    ws.put_tensors(run.id, "anchors", arrays, ids=users, meta={"items": items})
    summary = {"task": "rating", "users": len(users), "anchors": len(items)}
    return ws.finish(run.id, seconds=1, device="cpu", summary=summary)


def test_people_are_shown_on_the_same_titles_where_all_models_predicted_them(
    judged, copied, monkeypatch
):
    few = judged["runs"]["few"].inputs["prompts"]
    own_titles = "over the titles of their own held-out records, which differ between people."
    ask = "Predict the same titles for everybody"
    app = open_page("users", copied.root, monkeypatch, method=few, map="behaviour")
    assert own_titles in words(app)
    app = press(app, ask)
    asked = [judged["runs"][name].inputs["prompts"] for name in ("source", "few", "again")]
    queued = [job for job in jobs.jobs(copied) if job.command == "predict_anchors"]
    assert {job.args["prompts"] for job in queued} == set(asked) and len(queued) == 3
    assert own_titles in words(app) and ask not in [button.label for button in app.button]
    for job in queued:
        jobs.cancel(copied, job.id)

    rng, items = np.random.default_rng(5), ["i3", "i1", "i4"]
    tables = [rng.uniform(1, 5, (60, 3)).astype("f4") for _ in asked]
    for prompts, values in zip(asked[:2], tables, strict=False):
        ask_anchors(copied, copied.run(prompts), values, items)
    # Two of three are not compared with the third, which lacks them alone.
    app = open_page("users", copied.root, monkeypatch, method=few, map="behaviour")
    assert own_titles in words(app)
    press(app, ask)
    (job,) = jobs.jobs(copied, status="queued")
    assert job.args == {"prompts": asked[2]}
    jobs.cancel(copied, job.id)
    last = ask_anchors(copied, copied.run(asked[2]), tables[2], items)

    app = open_page("users", copied.root, monkeypatch, method=few, map="behaviour")
    shown = words(app)
    assert own_titles not in shown and "over the same 3 titles for everybody" in shown
    for values in tables:
        alike = order_agreement(values)
        median = np.median(values.std(axis=1, ddof=1))
        assert f"median spread {median:.2f} ★ · orders alike {alike:.2f}" in shown
    (titles,) = (table.value for table in app.dataframe if "Title" in table.value)
    assert titles["Title"].tolist() == ["Book 3", "Book 1", "Book 4"]
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert chart["layout"]["xaxis"]["title"]["text"] == "Mean prediction (stars)"
    exported = open_page("reports", copied.root, monkeypatch, part="table", run=last.id)
    assert "180 rows" in words(exported)
    # A damaged file leads back to the records that everybody has.
    (file,) = copied.folder(last.id).glob("anchors.*")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    people.positions.clear()
    app = open_page("users", copied.root, monkeypatch, method=few, map="behaviour")
    assert own_titles in words(app)


def test_the_page_says_where_a_migration_gives_people_more_alike_orders(
    judged, copied, monkeypatch
):
    runs = [judged["runs"][name].inputs["prompts"] for name in ("source", "few", "again")]
    rng, order = np.random.default_rng(6), np.linspace(2, 4, 8)
    for prompts, noise in zip(runs, (1.0, 0.01, 1.0), strict=True):
        values = order + noise * rng.normal(size=(60, 8))
        ask_anchors(copied, copied.run(prompts), values, [f"i{number}" for number in range(8)])
    shown = plain(open_page("users", copied.root, monkeypatch, method=runs[1], map="behaviour"))
    assert "orders of these titles are more alike: 1.00, against 0." in shown
    assert "after retraining. 1 is the same order" in shown
    # The retraining is not a migration, and its orders differ.
    shown = words(open_page("users", copied.root, monkeypatch, method=runs[2], map="behaviour"))
    assert "more alike" not in shown


def test_a_failed_prediction_of_the_same_titles_says_why(judged, copied, monkeypatch):
    few = judged["runs"]["few"].inputs["prompts"]
    job = add_job(
        copied, "predict_anchors", args={"prompts": few}, status="failed", error="no room"
    )
    app = open_page("users", copied.root, monkeypatch, method=few, map="behaviour")
    assert "The same titles could not be predicted." in words(app) and "no room" in words(app)
    assert job and "Predict the same titles for everybody" in [item.label for item in app.button]


def test_a_selection_on_one_view_is_the_same_users_on_another(drawn, judged, monkeypatch):
    ws = judged["ws"]
    app = see(judged, monkeypatch, map="behaviour", method=judged["runs"]["few"].id)
    evaluations = [judged["runs"][name].id for name in ("source", "few", "again")]
    table = behaviour([pipeline.read_predictions(ws, run) for run in evaluations])
    limit = float(table["spread_1"].median())
    lasso = {"x": [-9, 9, 9, -9], "y": [0, 0, limit, limit]}
    app.session_state["people-behaviour-migrated"] = {"selection": {"lasso": [lasso]}}
    app.run()
    assert "30 of 60 users selected" in words(app)
    assert app.query_params["on"] in ("behaviour:migrated", ["behaviour:migrated"])
    # On the world with prompts, an outline on the PCA selects the same ids on the UMAP.
    app = open_page(
        "users", drawn[0].root, monkeypatch, map="pca", area=SQUARE_TEXT, on="pca:source"
    )
    ids = set(listed(app)["User"])
    app = open_page("users", drawn[0].root, monkeypatch, map="pca", users=sorted(ids))
    assert 0 < len(ids) < N and set(listed(app)["User"]) == ids


def test_the_most_affected_are_told_apart_by_certainty(judged, monkeypatch):
    few, again = judged["runs"]["few"].id, judged["runs"]["again"].id
    effects = effects_between(comparison_users(judged["ws"], judged["comparison"].id), few, again)
    expected = [
        int(((low <= effects.frame["probability"]) & (effects.frame["probability"] < high)).sum())
        for low, high in ((0.9, 2), (0.75, 0.9), (0.25, 0.75), (0, 0.25))
    ]
    app = see(judged, monkeypatch, method=few)
    (groups,) = (item for item in app.button_group if item.key == "choose-affected")
    labels = [option.content for option in groups.proto.options]
    names = ("Surely", "Likely", "Cannot be told")
    assert labels == [f"{name} · {count}" for name, count in zip(names, expected, strict=False)]
    assert expected[0] >= 3 and sum(expected) == 60
    # The group follows the selection until one is chosen.
    assert "affected" not in app.query_params
    assert f"The other {expected[3]} are likely not worse off" in words(app)
    (table,) = (item.value for item in app.dataframe if "Probability" in item.value)
    assert set(table["User"].head(3)) == {"000", "001", "002"}
    assert (table["Probability"] >= 90).all() and (table["Change"] > 0).all()
    # Among selected users alone.
    app = see(judged, monkeypatch, method=few, users=["001", "030"])
    (table,) = (item.value for item in app.dataframe if "Probability" in item.value)
    assert table["User"].tolist() == ["001"] and "Among the selected users" in words(app)


@pytest.mark.parametrize("name", ["few", "all"])
def test_drawer_list_and_address_name_the_same_method(judged, monkeypatch, name):
    ws, evaluation = judged["ws"], judged["runs"][name]
    prompts = evaluation.inputs["prompts"]
    # A link of the page Trade-off names the evaluation.
    app = see(judged, monkeypatch, method=evaluation.id, comparison=judged["comparison"].id)
    assert app.query_params["method"] in (prompts, [prompts])
    label = next(box.value for box in app.selectbox if box.key == "choose-method")
    label = people.labels()[label]
    expected = {"few": "Migration trained on 30 users", "all": "Migration trained on all users"}
    assert label == expected[name] and f"{label}: worse off than with full retraining" in plain(app)
    (table,) = (item.value for item in app.dataframe if "Probability" in item.value)
    user = table["User"][0]
    app.query_params["user"] = user
    app.run()
    assert not app.exception
    shown = drawer(app)
    assert f"{label} against full retraining" in shown
    predicted = {
        key: pipeline.read_predictions(ws, run).set_index(["user_id", "item_id"])["prediction"]
        for key, run in (("method", evaluation), ("other", judged["runs"]["again"]))
    }
    said = re.search(
        r"retraining says (-?\d+\.\d), the migration (-?\d+\.\d)\.", shown.replace("\\", "")
    )
    rows = (predicted[key][user].map("{:.1f}".format) for key in ("method", "other"))
    assert (said[2], said[1]) in list(zip(*rows, strict=True))


def test_a_click_on_a_dot_opens_the_person_every_time(judged, monkeypatch):
    app = see(judged, monkeypatch)
    assert not drawer(app)
    for count, row in enumerate((7, 9, 9)):
        key = "people-behaviour-old" + (f"-{count}" if count else "")
        app.session_state[key] = {"selection": {"points": [{"customdata": row}]}}
        app.run()
        assert app.query_params["user"] in (f"00{row}", [f"00{row}"])
        assert f"00{row} gives “Book" in drawer(app).replace("\\", "")
        del app.query_params["user"]
        app.run()
        assert not drawer(app)


def test_a_search_opens_the_only_match_and_lists_several(judged, monkeypatch):
    app = see(judged, monkeypatch)
    app.text_input("find-person").set_value("01").run()
    (actual,) = (item for item in app.button_group if item.key == "found-person")
    assert [option.content for option in actual.proto.options] == [f"01{i}" for i in range(10)]
    app.text_input("find-person").set_value("<b>nobody").run()
    assert "No user id begins with" in words(app) and "<b>n" not in words(app)
    app.text_input("find-person").set_value("017").run()
    assert app.query_params["user"] in ("017", ["017"]) and "017 gives" in drawer(app)


def test_prompts_without_a_migration_have_components_and_a_drawer(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = compared.import_data(ws, tmp_path)
    rng = np.random.default_rng(0)
    line = rng.normal(size=(60, 1, 1)) * rng.normal(size=(1, 1, 8))
    users = np.array([f"{user:03}" for user in range(60)])
    inputs = {"dataset": data.id, "backbone": compared.backbone(ws, "old").id}
    run = ws.begin("prompts", name="own", config={"role": "source"}, inputs=inputs)
    table = PromptTable(users, (line + 0.05 * rng.normal(size=(60, 1, 8))).astype("f4"), None, {})
    pipeline.stored_prompts.save_prompts(ws, run.id, table)
    ws.finish(run.id, seconds=1, device="cpu", summary={"users": 60, "tokens": 1, "width": 8})
    app = open_page("users", ws.root, monkeypatch)
    assert app.query_params["map"] in ("pca", ["pca"]) and len(app.get("plotly_chart")) == 1
    flat = table.vectors.reshape(60, -1)
    values = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2
    share = 100 * values[0] / values.sum()
    assert share > 90 and f"one direction holds {share:.0f} % of their variance." in plain(app)
    assert "No migration yet" in words(open_page("users", ws.root, monkeypatch, map="umap"))
    assert "Evaluate these prompts" in words(
        open_page("users", ws.root, monkeypatch, map="behaviour")
    )
    app = open_page("users", ws.root, monkeypatch, user="007", view="history")
    assert not app.exception and "records that models may learn from" in drawer(app)


def test_addresses_of_earlier_versions_mean_the_same(drawn, judged, monkeypatch):
    ws, run = drawn
    app = open_page("users", ws.root, monkeypatch, migration=run.inputs["migrated"], colour="loss")
    assert "migration" not in app.query_params
    assert app.query_params["method"] in (run.inputs["migrated"], [run.inputs["migrated"]])
    assert app.query_params["map"] in ("pca", ["pca"])
    # The page of one user named evaluations, the comparison, and the part that was shown.
    assert MERGED["user"] == MERGED["person"] == ("users", {"method": "methods"})
    old = {"user": "001", "comparison": judged["comparison"].id, "view": "history"}
    app = see(judged, monkeypatch, **old, methods=judged["runs"]["all"].id)
    assert "records that models may learn from" in drawer(app)
    assert app.query_params["method"] in (
        [judged["runs"]["all"].inputs["prompts"]],
        judged["runs"]["all"].inputs["prompts"],
    )


def test_a_large_view_draws_a_sample_and_selected_users():
    selected = np.arange(0, 50_000, 1000)
    shown = people_maps.drawn_users(50_000, selected)
    assert shown[selected].all()
    assert people_maps.MAX_DRAWN <= shown.sum() <= people_maps.MAX_DRAWN + len(selected)
    assert people_maps.drawn_users(600, selected[:0]).all()
    layers = map_figures.value_layers(np.arange(50_000.0), None)
    kept = map_figures.sampled(layers, shown)
    assert np.flatnonzero(shown).tolist() == np.concatenate([part.rows for part in kept]).tolist()
    assert all((part.values == part.rows).all() for part in kept if part.values is not None)
