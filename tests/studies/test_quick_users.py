"""A quick trial on a pre-trained model takes as many users as its time allows."""

import json
import logging
import re
from pathlib import Path

import original_files as of
import pytest
from small_runs import write_ratings

from puma_engine import studies
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed
from puma_engine.store import Workspace
from puma_engine.studies import Cell, Options, get_study, quick_users
from puma_engine.studies.quick_users import quick_options, rows_read_by, seconds_per_user
from puma_engine.zoo import ZOO

ROOT = Path(__file__).parents[2]
MODEL = "smollm2"
QUICK = Options(quick=True, target=MODEL, **get_study("table2").quick)
GOODBOOKS_USERS = 10_206
COUNTS = DataCounts(train=1500, validation=200, test=400, fitted_items=1500, items=1900)


def short(epochs):
    return {"training": {"epochs": epochs}}


CELLS = [
    Cell("data", "import_dataset"),
    Cell("source", "fit_prompts", {"backbone": "llama-small"}, {"dataset": "data"}),
    Cell("a", "fit_prompts", {"backbone": MODEL} | short(4), {"dataset": "data"}),
    Cell("b", "fit_prompts", {"backbone": MODEL} | short(2), {"dataset": "data"}),
    Cell("best", "best", {}, {"candidates": ["a", "b"]}),
    Cell("again", "fit_prompts", {"backbone": MODEL}, {"dataset": "data"}, settings_from="best"),
    Cell("random", "fit_prompts", {"backbone": MODEL, "role": "random"} | short(3)),
    Cell("users", "select", {"share": 0.25}, {"prompts": "source"}),
    Cell(
        "few", "migrate", {"target": MODEL} | short(8), {"sources": "source", "selection": "users"}
    ),
    Cell("refined", "refine", short(1), {"start": "few"}),
    Cell("score of few", "evaluate", {}, {"subject": "few"}),
    Cell("score of refined", "evaluate", {}, {"subject": "refined"}),
    Cell("score of source", "evaluate", {}, {"subject": "source"}),
    Cell("score of mean", "evaluate", {"subject": "item_mean"}, {"dataset": "data"}),
]


def test_work_counts_each_epoch_by_the_share_of_its_users():
    work = rows_read_by(CELLS, MODEL, 60, "rating")
    assert work["train"] == 4 + 2 + 4 + 0.25 * 8 + 1
    # Others than the few users decide on early stopping; random prompts train the head alone.
    assert work["validation"] == 4 + 2 + 4 + 2 * 3 + 0.75 * 8 + 1
    assert work["test"] == 2
    assert rows_read_by(CELLS, "llama-small", 60, "rating")["test"] == 1


def test_twice_the_speed_takes_half_the_time_and_items_are_read_once():
    slow, fast = ModelSpeed(10, 100, 300), ModelSpeed(20, 200, 600)
    seconds = seconds_per_user(CELLS, MODEL, slow, COUNTS, 60, "rating")
    assert seconds == 2 * seconds_per_user(CELLS, MODEL, fast, COUNTS, 60, "rating")
    work = rows_read_by(CELLS, MODEL, 60, "rating")
    rows = work["validation"] * 200 + work["test"] * 400
    expected = 1900 / 10 + work["train"] * 1500 / 100 + rows / 300
    assert seconds == pytest.approx(expected / 60)


@pytest.fixture
def measured(monkeypatch):
    """The model is not loaded; its speed is given."""

    def use(speed):
        monkeypatch.setattr(quick_users, "measure_model", lambda *_args, **_options: speed)

    return use


def test_users_follow_from_the_speed_and_are_said(tmp_path, measured, caplog):
    ws = Workspace.open(tmp_path, create=True)
    users = []
    for speed in (20, 100, 1000, 1_000_000):
        measured(ModelSpeed(speed, speed, speed))
        with caplog.at_level(logging.INFO, logger="puma_engine"):
            options = quick_options(ws, get_study("table2"), QUICK, device="cpu")
        users.append(options.users)
        assert options.datasets == ("goodbooks",)
        said = re.search(
            r"takes (\d+) users of goodbooks, which need at most (\d+) min at .*, less if trainings stop early",
            caplog.messages[-1],
        )
        assert int(said[1]) == options.users
        # As many as fit, unless there are no more: five users more would take longer.
        fits = quick_users.FEWEST < options.users < GOODBOOKS_USERS
        assert not fits or 40 * (1 - 5 / options.users) - 1 < int(said[2]) <= 40
    assert users == sorted(users) and len(set(users)) == 4
    # Quick's own number is for models of the zoo.
    assert users[0] >= quick_users.FEWEST and users[2] > QUICK.users
    assert users[-1] == GOODBOOKS_USERS
    assert quick_options(ws, get_study("table2"), QUICK, minutes=1e-3).users == quick_users.FEWEST


def test_a_table_of_few_users_is_taken_whole(tmp_path, measured):
    table = write_ratings(tmp_path / "ratings.csv", users=23)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    options = Options(quick=True, target=MODEL, datasets=(f"rating={table}",), users=110)
    measured(ModelSpeed(1e9, 1e9, 1e9))
    assert quick_options(ws, get_study("table2"), options, device="cpu").users == 23


def test_original_files_are_not_stored_whole(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(quick_users, "MEASURED_USERS", 5)
    folder = tmp_path / "ml"
    of.write_movielens(folder, records=of.movielens_csv(users=31))
    ws = Workspace.open(tmp_path / "workspace", create=True)
    options = Options(quick=True, target=MODEL, datasets=(f"movielens={folder}",), users=110)
    measured(ModelSpeed(1e9, 1e9, 1e9))
    assert quick_options(ws, get_study("table2"), options, device="cpu").users == 31
    (imported,) = ws.runs(kind="dataset")
    assert imported.summary["users"] == 5


def test_a_trial_goes_on_with_the_users_of_the_one_before(tmp_path, measured):
    ws = Workspace.open(tmp_path, create=True)
    measured(ModelSpeed(1e9, 1e9, 1e9))
    options = {"source": QUICK.source, "target": MODEL, "order": None, "quick": True}
    options |= {"users": 35, "datasets": ["goodbooks"]}
    report = json.loads((ROOT / "docs" / "results" / "goodbooks" / "table2.json").read_text())
    studies.save_report(ws, report | {"options": options})
    assert quick_options(ws, get_study("table2"), QUICK).users == 35
    other = Options(quick=True, source="qwen2-small", target=MODEL, users=150)
    assert quick_options(ws, get_study("table2"), other, device="cpu").users == GOODBOOKS_USERS


def test_models_of_the_zoo_keep_the_study_as_it_is(tmp_path):
    ws = Workspace.open(tmp_path, create=True)
    options = Options(quick=True, users=150)
    assert {options.source, options.target} <= set(ZOO)
    assert quick_options(ws, get_study("table2"), options) is options
    assert ws.runs() == []
