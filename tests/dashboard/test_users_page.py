"""The Users page in every state: selections on maps, and previews of strategies."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import add_job, open_page

from dashboard.components import map_figures, map_selection
from dashboard.components.map_selection import MapSelection
from dashboard.components.selection_preview import summary
from puma_engine import jobs, pipeline
from puma_engine.prompts.table import PromptTable
from puma_engine.selection.strategies import coverage
from puma_engine.store import Workspace

N = 60
IDS = np.array([f"<b>{number:02}</b>" for number in range(N)])
SQUARE = ((0, 0), (500, 0), (500, 500), (0, 500))


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
    pick, _ = map_selection.event(box, "migrated")
    assert pick.on == "migrated" and set(pick.area) == {(1000, 0), (0, 0), (0, 500), (1000, 500)}
    points = [{"customdata": [7]}, {"customdata": 3}, {"customdata": {"0": 7, "1": 90}}, {"x": 1}]
    assert map_selection.event({"points": points}, "source") == (None, [7, 3])


def test_both_maps_share_one_scale():
    frame = pd.DataFrame(
        {"source_x": [0.0, 1], "source_y": [0.0, 1], "migrated_x": [0.0, 4], "migrated_y": [0, 2.0]}
    )
    points = map_selection.grid(frame)
    assert points["migrated"].tolist() == [[0, 7500], [30_000, 22_500]]
    assert points["source"].tolist() == [[0, 7500], [7500, 15_000]]
    assert points["source"].dtype == np.int16


def test_a_selection_is_by_id_by_outline_or_by_cluster():
    frame = pd.DataFrame({"user_id": ["a", "b", "c"], "cluster": [0, 1, 1]})
    points = {"source": np.array([[0, 0], [9, 9], [29_000, 0]]) + 1}
    selected = [
        map_selection.selected_rows(pick, frame, points).tolist()
        for pick in (
            MapSelection(users=("c", "z")),
            MapSelection(area=SQUARE),
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
    assert "on 1 of 3 users (33.3%)" in summary(cells)
    assert "1 of 2 clusters; 1 of 2 groups have no selected user" in summary(cells)


def keep(ws, kind, role, data, vectors, **more):
    inputs = {"dataset": data.id} | more.pop("inputs", {})
    run = ws.begin(kind, name=f"{role} <i>x</i>", config={"role": role}, inputs=inputs)
    pipeline.stored_prompts.save_prompts(ws, run.id, PromptTable(IDS, vectors, None, {}))
    summary = {"users": N, "tokens": 1, "width": vectors.shape[2]}
    return ws.finish(run.id, seconds=1, device="cpu", cost={"users_trained": N}, summary=summary)


def score(ws, prompts, data, shift):
    run = ws.begin(
        "evaluation",
        name="eval",
        config={"method": "x", "split": "test"},
        inputs={"prompts": prompts.id, "dataset": data.id},
    )
    values = np.linspace(0.5, 1.5, N) + shift
    ws.put_user_metrics(run.id, pd.DataFrame({"user_id": IDS[::-1], "n": 3, "rmse": values}))
    return ws.finish(run.id, seconds=1, device="cpu", summary={"split": "test"})


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


def press(app, label):
    (button,) = (button for button in app.button if button.label == label)
    return button.click().run()


def test_without_a_workspace_or_a_migration_the_page_says_how_to_begin(tmp_path, monkeypatch):
    assert "No workspace yet" in words(open_page("users", tmp_path / "none", monkeypatch))
    Workspace.open(tmp_path / "empty", create=True)
    assert "No migration yet" in words(open_page("users", tmp_path / "empty", monkeypatch))


def test_a_map_is_queued_with_one_click_watched_and_tried_again(world, monkeypatch):
    ws, source, moved = world
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    app = open_page("users", ws.root, monkeypatch, migration=moved.id)
    assert "No map of these prompts yet" in words(app)
    app = press(app, "Make the map")
    (job,) = jobs.jobs(ws)
    assert (job.command, job.args) == ("project", {"source": source.id, "migrated": moved.id})
    assert "A job makes the map" in words(app)
    other = add_job(ws, "project", title="Draw another map")
    shown = words(open_page("users", ws.root, monkeypatch, migration=moved.id))
    assert "Make the map of migrated" in shown and "Draw another map" not in shown
    with ws.transaction() as db:
        db.execute("DELETE FROM jobs WHERE id = ?", [other])
        db.execute(
            "UPDATE jobs SET status = 'failed', error = '**no** room' WHERE id = ?", [job.id]
        )
    app = open_page("users", ws.root, monkeypatch, migration=moved.id)
    assert "could not be made" in words(app) and "**no** room" in app.text[0].value
    press(app, "Try again")
    assert jobs.jobs(ws)[0].status == "queued"
    jobs.cancel(ws, job.id)


def test_the_map_shows_trust_and_the_users_who_trained(drawn, monkeypatch):
    ws, _run = drawn
    app = open_page("users", ws.root, monkeypatch)
    shown = words(app)
    assert "All 60 users are drawn" in shown and "60 of 60 users (100.0%)" in shown
    assert [metric.label for metric in app.metric][:2] == [
        "Trust in the source map",
        "Trust in the migrated map",
    ]
    assert len(app.get("plotly_chart")) == 3


@pytest.mark.parametrize("colour", ["cluster", "chosen", "variance", "loss", "gain"])
def test_the_map_is_drawn_in_every_colour_mode(drawn, monkeypatch, colour):
    app = open_page("users", drawn[0].root, monkeypatch, colour=colour)
    assert not app.info and words(app) and app.query_params["colour"] in (colour, [colour])


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"PAR1")])
def test_a_damaged_map_says_so_and_is_drawn_again(drawn, tmp_path, monkeypatch, harm):
    shutil.copytree(drawn[0].root, tmp_path / "ws")
    ws, run = Workspace.open(tmp_path / "ws"), drawn[1]
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    harm(next(ws.folder(run.id).glob("map.*")))
    app = open_page("users", ws.root, monkeypatch)
    assert "This map is damaged" in words(app) and "map." in app.text[0].value
    assert "A job makes the map" in words(press(app, "Make it again"))
    (job,) = jobs.jobs(ws, status="queued")
    assert job.args == run.inputs
    jobs.cancel(ws, job.id)
    pipeline.project(ws, run.inputs["source"], run.inputs["migrated"], method="pca")
    assert "All 60 users are drawn" in words(open_page("users", ws.root, monkeypatch))


def test_the_preview_of_a_strategy_equals_its_selection(drawn, monkeypatch):
    ws, _run = drawn
    for strategy in ("kmeans-variance", "kmeans", "variance", "facility", "kmeans-activity"):
        app = open_page("users", ws.root, monkeypatch, strategy=strategy, budget="12", cluster="1")
        assert "12 of 60 users (20.0%)" in words(app)
        run = pipeline.select(ws, "source <i>x</i>", strategy=strategy, budget=12)
        chosen = set(pipeline.selected_users(ws, run))
        table = app.dataframe[0].value
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
    table = app.dataframe[0].value.set_index("User")
    # Metrics were stored in the opposite order of the prompts.
    assert table.loc[IDS[0], "Source, rmse"] == pytest.approx(1.5)
    assert table.loc[IDS[59], "Migrated, rmse"] == pytest.approx(0.6)
    assert table["Gain over retraining"].tolist() == pytest.approx([0.2, 0.2])
    area = ["-9,-9", "1009,-9", "1009,1009", "-9,1009"]
    assert "60 of 60 users selected" in words(
        open_page("users", ws.root, monkeypatch, area=area, on="migrated")
    )
    frame = ws.get_table(run.id, "map")
    app = open_page("users", ws.root, monkeypatch, cluster="1")
    assert len(app.dataframe[0].value) == (frame["cluster"] == 0).sum()
    app = press(app, "Clear")
    assert "cluster" not in app.query_params and not app.dataframe


def test_a_lasso_on_one_map_is_written_into_the_address(drawn, monkeypatch):
    app = open_page("users", drawn[0].root, monkeypatch)
    lasso = {"x": [-9, 30_100, 30_100, -9], "y": [-9, -9, 30_100, 30_100]}
    selection = {"points": [], "lasso": [lasso], "box": []}
    app.session_state["map-migrated"] = {"selection": selection}
    app.run()
    assert "60 of 60 users selected" in words(app)
    assert app.query_params["on"] in ("migrated", ["migrated"])
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


def test_the_page_loads_without_torch_or_umap():
    code = (
        "import sys, dashboard.views.users;"
        "print({'torch', 'umap', 'sklearn', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
