"""The drawer of one person in every state, on tiny real models, with markup in titles and ids."""

import json
import shutil
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from units import numbers_without_unit, old_words
from whatif_processes import kill

from dashboard import engine
from dashboard.components import person_story, user_predictions
from dashboard.components.formatting import short
from dashboard.engine import user_details
from puma_engine import pipeline
from puma_engine.errors import DataError
from puma_engine.pipeline.neighbours import Space, neighbours
from puma_engine.store import Workspace

HOSTILE = "<script>alert(1)</script> **bold** $x$ [a](javascript:alert(1)) \u202etfel"
LONG = "Very long title " * 60
NOBODY = "<b>*u*</b> & 7"


def write_table(folder):
    """Ratings of twelve users; two have odd names, and one of these has no test rows."""
    frame = pd.read_csv(write_ratings(folder / "ratings.csv", users=12), dtype=str)
    frame["user_id"] = frame["user_id"].replace({"003": NOBODY, "004": "few"})
    frame["text"] = frame["text"].replace(
        {"Book 3 by Author 3": HOSTILE, "Book 5 by Author 1": LONG}
    )
    few = frame["user_id"] == "few"
    frame = pd.concat([frame[~few], frame[few].head(3)])
    frame.to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(ws, "table", path=write_table(folder), task="rating")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data, small, training=QUICK)
    moved = pipeline.migrate(
        ws, source, large, strategy="random", budget=4, training=QUICK, adapter=SMALL
    )
    again = pipeline.fit_prompts(ws, data, large, role="retrained", training=QUICK)
    evaluations = [
        pipeline.evaluate(ws, run, dataset=data)
        for run in (source, moved, again, "user_item_bias", "item_mean")
    ]
    both = pipeline.compare(ws, evaluations)
    yield {"ws": ws, "data": data, "source": source, "moved": moved, "comparison": both} | {
        "evaluations": evaluations,
        "again": again,
    }
    kill(ws)


@pytest.fixture
def show(world, monkeypatch):
    def opened(**query):
        return open_person(world["ws"].root, monkeypatch, **query)

    return opened


class Drawer:
    """The drawer of a page under test: what it shows alone, and the page itself."""

    def __init__(self, app):
        self.app = app

    def __getattr__(self, name):
        return getattr(self.app._tree[2], name)

    @property
    def query_params(self):
        return self.app.query_params

    @property
    def heading(self):
        """The title; None if it is closed."""
        blocks = list(self.app._tree[2].children.values())
        return blocks[0].proto.dialog.title if blocks else None


def open_person(root, monkeypatch, **query):
    app = open_page("users", root, monkeypatch, **query)
    assert not app.exception, app.exception
    return Drawer(app)


def texts(app):
    """All text of a page or a drawer that is rendered as markdown."""
    kinds = ("markdown", "caption", "title", "header", "info", "warning", "error", "success")
    lines = [element.value for kind in kinds for element in getattr(app, kind)]
    return "\n".join([*lines, *(item.label for item in [*app.metric, *app.expander])])


def charts(app):
    return " ".join(element.proto.spec for element in app.get("plotly_chart"))


def test_held_out_items_with_every_prediction_and_the_truth(world, show):
    app = show(user="001", comparison=world["comparison"].id)
    assert not numbers_without_unit(app) and not old_words(app)
    scores, items = (frame.value for frame in app.dataframe)
    methods = scores["Method"].tolist()
    assert methods[0] == "Old model" and methods[-1] == "User + item bias" and len(methods) == 4
    spec = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert spec["layout"]["xaxis"]["range"] == [0.8, 5.2]  # the whole scale, for everybody
    # Titles stand above their rows, and no axis takes room from the marks.
    named = {note["y"]: note["text"] for note in spec["layout"]["annotations"]}
    assert [named[row] for row in range(len(items))] == [
        escape(short(item, user_predictions.MAX_TITLE), quote=False) for item in items["Item"]
    ]
    assert spec["layout"]["yaxis"]["visible"] is False
    titles = pipeline.load_dataset(world["ws"], world["data"]).items.set_index("item_id")["text"]
    expected = pipeline.read_predictions(world["ws"], world["evaluations"][1])
    expected = expected[expected["user_id"] == "001"]
    shown = items.set_index("Item")[methods[1]].to_dict()
    assert shown == pytest.approx(
        {titles[row.item_id]: row.prediction for row in expected.itertuples()}
    )
    for row in scores.itertuples():
        miss = items[row.Method] - items["Actual"]
        assert scores["RMSE (stars, lower is better)"][row.Index] == pytest.approx(
            np.sqrt((miss**2).mean()), rel=1e-5
        )
        low, high = map(float, scores["95 % interval"][row.Index].split(" to "))
        assert low <= np.sqrt((miss**2).mean()) + 1e-3 and low < high
    assert scores["Held-out rows"].eq(len(items)).all()
    assert sum(int(text.split()[0]) for text in scores["Nearest"]) == len(items)
    assert "&lt;" not in texts(app) and f"{len(items)} held-out rows" in texts(app)


@pytest.mark.parametrize("view", ["items", "history", "neighbours", "lineage"])
def test_titles_and_ids_are_shown_as_text(show, view):
    app = show(user=NOBODY, view=view)
    read = texts(app)
    assert "<script" not in read and "**bold**" not in read and "<b>" not in read
    assert "<script" not in charts(app) and "\\u003cscript" not in charts(app)
    assert app.heading.replace("\\", "") == f"User {NOBODY}"


def test_history_shows_the_rows_outside_the_test_split(world, show):
    app = show(user=NOBODY, view="history")
    rows = pipeline.load_dataset(world["ws"], world["data"]).interactions
    history = rows[(rows["user_id"] == NOBODY) & (rows["split"] != "test")]
    table = app.dataframe[0].value
    assert len(table) == len(history) and sorted(table["Outcome"]) == sorted(history["outcome"])
    hostile = show(user="001", view="history").dataframe[0].value["Item"].tolist()
    all_titles = {*hostile, *table["Item"]}
    assert any(title.startswith("<script>alert(1)</script> **bold**") for title in all_titles)


def test_an_unknown_user_or_comparison_is_reported(show):
    for query in ({"user": "../../etc"}, {"comparison": "0" * 16}, {"user": "9" * 500}):
        app = show(**query)
        assert "unknown value" in app.app.warning[0].value and app.heading is None


def test_a_link_may_name_the_data_set(world, show):
    app = show(user="005", dataset=world["data"].id)
    assert app.heading == "User 005" and not app.app.warning
    assert f"{'Migration trained on 4 users'} against full retraining" in texts(app)


def test_a_user_without_held_out_rows_has_only_a_history(show):
    app = show(user="few")
    assert "No held-out items" in texts(app)
    assert len(show(user="few", view="history").dataframe[0].value) == 3


def test_methods_are_chosen_in_the_address(world, show):
    item_mean = world["evaluations"][4].id
    app = show(user="001", methods=item_mean)
    assert app.dataframe[0].value["Method"].tolist() == ["Item mean"]
    app.multiselect("choose-methods").set_value([]).run()
    assert "at least one method" in app.info[0].value and not app.exception


def test_neighbours_equal_those_computed_from_the_tables(world, show):
    app = show(user="001", view="neighbours")
    table = app.dataframe[0].value
    ws = world["ws"]
    for run, place, cosine in (
        (world["source"], "first rank", "first"),
        (world["moved"], "second rank", "second"),
    ):
        vectors = pipeline.load_prompts(ws, run)
        centred = vectors.vectors.reshape(12, -1) - vectors.vectors.reshape(12, -1).mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        index = vectors.user_ids.tolist().index("001")
        close = dict(zip(vectors.user_ids.tolist(), unit @ unit[index], strict=True))
        order = sorted((user for user in close if user != "001"), key=lambda user: -close[user])
        for row in table.to_dict("records"):
            assert row[place] == order.index(row["User"]) + 1
            assert row[cosine] == pytest.approx(close[row["User"]], abs=1e-4)
    here = f"comparison={world['comparison'].id}&method={world['moved'].id}&user="
    assert table["Open"][0].startswith(f"people?{here}")


def test_neighbours_join_by_id_whatever_the_order(tmp_path, monkeypatch):
    """The second table has other users in another order, and is read in small blocks."""
    monkeypatch.setattr("puma_engine.pipeline.stored_prompts.BLOCK", 7)
    ws = Workspace.open(tmp_path / "ws", create=True)
    rng = np.random.default_rng(0)
    ids = [f"u{i}" for i in range(40)]
    vectors = dict(zip(ids, rng.normal(size=(40, 1, 6)).astype("f4"), strict=True))
    spaces = []
    for name, users in (("a", ids), ("b", rng.permutation(ids)[:35].tolist())):
        run = ws.begin("prompts", name=name, config={"role": "source", "t": name}, inputs={})
        ws.put_tensors(
            run.id, "prompts", {"vectors": np.stack([vectors[u] for u in users])}, ids=users
        )
        ws.finish(run.id, seconds=1.0, device="cpu")
        spaces.append(Space(pipeline.PromptTableReader(ws, run.id)))
    lost = sorted(set(ids) - set(spaces[1].rows.user_ids.to_pylist()))
    user = next(user_id for user_id in ids if user_id not in lost)
    frame = neighbours(*spaces, user, limit=39).set_index("user_id")
    assert len(frame) == 39 and frame.loc[lost, "second_cosine"].isna().all()
    assert sorted(frame["first_place"]) == list(range(1, 40))
    assert sorted(frame["second_place"].dropna()) == list(range(1, 35))
    half = neighbours(*spaces, lost[0])
    assert half["second_place"].isna().all() and len(half) == 10
    with pytest.raises(DataError, match="no prompt in either"):
        neighbours(*spaces, "nobody")


def test_lineage_shows_every_step_and_its_training_users(world, show):
    app = show(user="001", view="lineage", run=world["moved"].id)
    steps = [item.label.replace("\\", "") for item in app.expander]
    names = [run.name for run in world["ws"].lineage(world["moved"].id)]
    assert len(steps) == len(names) == 6
    place = {name: next(i for i, step in enumerate(steps) if name in step) for name in names}
    for run in world["ws"].lineage(world["moved"].id):
        for used in run.inputs.values():
            assert place[world["ws"].run(used).name] < place[run.name]
    chosen = pipeline.selected_users(world["ws"], world["moved"].inputs["selection"])
    word = "is among those" if "001" in chosen else "was not trained on"
    assert word in texts(app)
    values = dict(app.dataframe[-1].value.itertuples(index=False))
    assert values["training.epochs"] == str(QUICK["epochs"]) and values["id"] == world["moved"].id


def test_a_what_if_request_is_answered_by_the_warm_process(world, show):
    ws, title = world["ws"], "Dune by Frank Herbert"
    app = show(user="001", view="what-if")
    app.text_input("what-if-title").set_value(title)
    app.button("FormSubmitter:what-if-Ask").click().run()
    assert not app.exception and not app.error
    assert app.query_params["title"] in (title, [title])
    shown = {item.label.replace("\\", ""): item.value for item in app.metric}
    for run, label in (
        (world["source"], "Old model"),
        (world["moved"], "Migration trained on 4 users"),
        (world["again"], "Full retraining"),
    ):
        expected = pipeline.predict_title(ws, run, "001", title).value
        assert shown[label] == f"{expected:.2f} ★"
    assert len(app.get("plotly_chart")) == 1


def test_a_missing_model_does_not_stop_the_other_predictions(world, tmp_path, monkeypatch):
    sockets = shutil.ignore_patterns("whatif")
    ws = Workspace.open(shutil.copytree(world["ws"].root, tmp_path / "ws", ignore=sockets))
    old = Path(ws.run(world["source"].inputs["backbone"]).config["spec"])
    away = old.rename(old.with_name("away"))
    try:
        asked = {"view": "what-if", "user": "001", "title": "Dune by Frank Herbert"}
        app = open_person(ws.root, monkeypatch, **asked)
        assert [error.value for error in app.error] == ["No prediction from Old model."]
        assert any(str(old) in text.value for text in app.text)
        assert len(app.metric) == 4 + 2 and len(app.get("plotly_chart")) == 1
    finally:
        away.rename(old)
        kill(ws)


def test_a_bad_what_if_request_is_reported(show):
    app = show(user="001", view="what-if", title="Dune\x07")
    assert "No prediction for this title" in app.error[0].value
    assert any("control character U+0007" in text.value for text in app.text)


def test_a_data_set_without_a_comparison_says_how_to_make_one(tmp_path, world, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(tmp_path / "r.csv", users=6), task="rating"
    )
    folder = tiny_backbone_folder(tmp_path / "models")
    pipeline.fit_prompts(ws, data, folder, training=QUICK, name="<i>mine</i>")
    app = open_person(ws.root, monkeypatch, user="001")
    assert "Nothing is evaluated yet" in texts(app)
    app = open_person(ws.root, monkeypatch, user="001", view="neighbours")
    assert "Only one prompt table" in texts(app)
    pipeline.evaluate(ws, "<i>mine</i>")
    app = open_person(ws.root, monkeypatch, user="001")
    assert app.dataframe[0].value["Method"].tolist() == ["Old model"]


def test_damage_is_shown_as_an_error(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(tmp_path / "r.csv", users=6), task="rating"
    )
    run = pipeline.fit_prompts(ws, data, tiny_backbone_folder(tmp_path / "m"), training=QUICK)
    file = next(ws.folder(run.id).glob("prompts*"))
    file.write_bytes(file.read_bytes()[:-8])
    app = open_page("users", ws.root, monkeypatch)
    assert not app.exception and "cannot be shown" in app.error[0].value
    assert any("was changed" in text.value for text in app.text)


def test_a_damaged_source_leaves_the_other_parts_of_the_page(world, tmp_path, monkeypatch):
    sockets = shutil.ignore_patterns("whatif")
    ws = Workspace.open(shutil.copytree(world["ws"].root, tmp_path / "ws", ignore=sockets))
    file = next(ws.folder(world["source"].id).glob("prompts*"))
    file.write_bytes(file.read_bytes()[:-8])
    app = open_person(ws.root, monkeypatch, user="001")
    assert not app.error
    assert "Old model" in app.dataframe[0].value["Method"].tolist()
    app = open_person(ws.root, monkeypatch, user="001", view="neighbours")
    assert [error.value for error in app.error] == ["This part cannot be shown."]
    assert app.heading == "User 001"


def test_clicks_are_shown_as_probabilities(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": user, "item_id": f"i{item}", "outcome": int(rng.integers(2))}
        | {"text": f"Story {item}", "time": 1_600_000_000 + item}
        for user in "abc"
        for item in range(12)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "clicks.csv", index=False)
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = pipeline.import_dataset(ws, "table", path=tmp_path / "clicks.csv", task="click")
    run = pipeline.fit_prompts(ws, data, tiny_backbone_folder(tmp_path / "m"), training=QUICK)
    pipeline.evaluate(ws, run)
    app = open_person(ws.root, monkeypatch, user="b")
    assert "clicked" in app.metric[2].value
    assert {"LOG"} & {name[:3].upper() for name in app.dataframe[0].value}
    axis = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]["xaxis"]
    assert axis["range"] == [-0.04, 1.04] and axis["ticktext"][-1] == "100 %"
    app = open_person(ws.root, monkeypatch, user="b", view="history")
    assert "When" in app.dataframe[0].value


def test_the_sentence_names_the_record_that_changed_most_in_the_users_direction():
    joined = pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "outcome": [5.0, 3.0, 1.0],
            "one": [4.2, 3.5, 1.0],  # worse on all records together
            "two": [4.7, 3.0, 1.3],
        }
    )
    titles = {"a": "Nora\x07 Roberts", "b": "B", "c": "C"}
    ends = {"method": ("one", "migrated"), "other": ("two", "retrained"), "other_name": ""}
    assert person_story.sentence("007", joined, titles, "rating", **ends) == (
        "007 gives “Nora Roberts” five stars; retraining says 4.7, the migration 4.2."
    )
    swapped = ends | {"method": ("two", "refined"), "other": ("one", "source")}
    assert person_story.sentence("007", joined.iloc[1:], titles, "rating", **swapped) == (
        "007 gives “B” three stars; the old model says 3.5, refining 3.0."
    )
    clicks = joined.assign(outcome=[1.0, 0, 0], one=[0.31, 0.2, 0.5], two=[0.62, 0.2, 0.4])
    assert person_story.sentence("u", clicks, {"a": "News"}, "click", **ends) == (
        "u clicked “News”; retraining gives a click 62 %, the migration 31 %."
    )
    unknown = joined.assign(two=np.nan)
    assert person_story.sentence("u", unknown, titles, "rating", **ends) == ""


def test_is_right_compares_rounded_ratings_and_likelier_answers():
    right = user_predictions.is_right("rating", np.array([4.0, 4, 3]), np.array([3.5, 4.5, 3.2]))
    assert right.tolist() == [True, False, True]
    assert user_predictions.is_right("click", np.array([1, 0]), np.array([0.5, 0.6])).tolist() == [
        True,
        False,
    ]


def test_predictions_are_joined_by_item(world, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(world["ws"].root))
    keys = tuple(run.id for run in world["evaluations"])
    joined = user_details.predictions(engine.root(), keys, "001").set_index("item_id")
    for run in world["evaluations"]:
        rows = pipeline.read_predictions(world["ws"], run)
        rows = rows[rows["user_id"] == "001"].sample(frac=1, random_state=1).set_index("item_id")
        assert joined[run.id].to_dict() == rows["prediction"].to_dict()
        assert joined["outcome"].to_dict() == rows["outcome"].to_dict()
