"""Checks and previews of a table: the check predicts the result of the import."""

import json
from pathlib import Path

import pandas as pd
import pytest
from rating_tables import changed, frame, save
from typer.testing import CliRunner

from puma_engine.cli.application import app
from puma_engine.datasets import (
    check_table,
    item_profiles,
    preview_table,
    read_table,
    statistics,
    user_profiles,
)
from puma_engine.datasets.importers.column_guess import guess_columns
from puma_engine.errors import DataError
from puma_engine.pipeline import COMMANDS
from puma_engine.pipeline.importing_data import dataset_facts, profiles_of
from puma_engine.store import Workspace

BROKEN = {
    "whole": frame(),
    "bad rating": changed("outcome", "9"),
    "blank user": changed("user_id", " "),
    "no title": frame().assign(text=lambda made: made["text"].where(made["item_id"] != "0003")),
    "bad time": changed("time", "soon"),
    "repeated": pd.concat([frame(), frame().head(4)]),
    "stray history": frame().assign(history="0001 9999"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_check_reports_problems_exactly_where_an_import_fails(name, tmp_path):
    path = save(BROKEN[name], tmp_path / "a.csv")
    result = check_table(path, task="rating")
    assert result.rows == len(BROKEN[name]) and result.refusal is None
    if result.problems:
        with pytest.raises(DataError) as refused:
            read_table(path, name="a", task="rating")
        for problem in result.problems:
            assert f"{problem.rows} {problem.reason}" in str(refused.value)
            assert problem.example in str(refused.value)
    else:
        assert name == "whole"
    imported = read_table(path, name="a", task="rating", drop_invalid=True)
    assert result.statistics == statistics(imported) and result.report == imported.report


def test_a_check_says_why_no_row_is_usable(tmp_path):
    result = check_table(save(frame(), tmp_path / "a.csv"), task="rating", min_rows=99)
    assert "No row" in result.refusal and result.statistics is None


@pytest.mark.parametrize(("share", "is_accepted"), [(0.0, False), (0.001, False), (0.5, True)])
def test_a_check_refuses_more_bad_rows_than_its_share_as_the_import_does(
    tmp_path, share, is_accepted
):
    path = save(BROKEN["bad rating"], tmp_path / "a.csv")
    result = check_table(path, task="rating", max_bad_share=share)
    command = ["data", "check", str(path), "--task", "rating", "--max-bad-share", str(share)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(result.to_dict()))
    if is_accepted:
        imported = read_table(path, name="a", task="rating", max_bad_share=share)
        assert done.exit_code == 0 and result.refusal is None and result.problems
        assert result.statistics == statistics(imported) and result.report == imported.report
        return
    with pytest.raises(DataError) as refused:
        read_table(path, name="a", task="rating", max_bad_share=share)
    assert done.exit_code == 1 and result.refusal == str(refused.value)


def test_a_check_counts_rows_of_another_length(tmp_path):
    path = save(frame(), tmp_path / "a.csv")
    path.write_text(path.read_text() + "1,2\n")
    result = check_table(path, task="rating")
    assert [(problem.rows, problem.reason) for problem in result.problems] == [
        (1, "without the header's number of fields")
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_preview_shows_the_first_rows_and_guesses_the_columns(ending, tmp_path):
    names = {"user_id": "reviewerID", "item_id": "asin", "text": "Title", "outcome": "stars"}
    table = frame().rename(columns=names)
    preview = preview_table(save(table, tmp_path / f"a.{ending}"))
    assert preview.guess == {**names, "time": "time"}
    assert preview.frame["asin"].tolist() == table["asin"].head(50).tolist()


@pytest.mark.parametrize(
    ("names", "guess"),
    [
        (
            ("user", "rating", "score", "name"),
            {"user_id": "user", "outcome": "rating", "text": "name"},
        ),
        (
            ("user_id:token", "rating:float", "score:float"),
            {"user_id": "user_id:token", "outcome": "rating:float"},
        ),
    ],
)
def test_no_field_is_guessed_twice(names, guess):
    assert guess_columns(names) == guess


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b""), ("a.csv", b"\xff\xfe\x00"), ("a.parquet", b"PAR1"), ("a.exe", b"x")],
)
def test_a_file_that_is_no_table_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError):
        preview_table(path)


def test_the_command_prints_the_check_and_sets_its_exit_code(tmp_path):
    path = save(BROKEN["bad rating"], tmp_path / "a.csv")
    arguments = ["data", "check", str(path), "--task", "rating"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["rows"] == 1
    assert CliRunner().invoke(app, [*arguments, "--drop-invalid"]).exit_code == 0
    assert CliRunner().invoke(app, arguments[:-2]).exit_code == 1


def test_an_import_stores_profiles_that_count_every_record(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    path = save(frame(), tmp_path / "a.csv")
    run = COMMANDS["import_dataset"](ws, "table", path=path, task="rating")
    ds = read_table(path, name="a", task="rating")
    facts = dataset_facts(ws, run)
    assert facts == statistics(ds) | {"name": "a"}
    for what, column in (("user", "user_id"), ("item", "item_id")):
        rows = profiles_of(ws, run, what).set_index(column)
        by = ds.interactions.groupby(column)["outcome"]
        assert rows["records"].to_dict() == by.size().to_dict()
        assert (rows["mean"] - by.mean()).abs().max() < 1e-6
    users = user_profiles(ds).set_index("user_id")
    spread = ds.interactions.groupby("user_id")["outcome"].var(ddof=0)
    assert (users["variance"] - spread).abs().max() < 1e-6
    titles = item_profiles(ds).set_index("item_id")["text"]
    assert titles.to_dict() == ds.items.set_index("item_id")["text"].to_dict()


def test_profiles_of_an_older_import_are_computed_from_its_rows(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    path = Path(save(frame(), tmp_path / "a.csv"))
    ds = read_table(path, name="a", task="rating")
    run = ws.begin("dataset", name="old", config={"source": "table"}, inputs={})
    ws.put_table(run.id, "interactions", ds.interactions)
    ws.put_table(run.id, "items", ds.items)
    summary = {"dataset": "a", "task": "rating", "report": {}}
    run = ws.finish(run.id, seconds=1.0, device="cpu", summary=summary)
    pd.testing.assert_frame_equal(profiles_of(ws, run, "user"), user_profiles(ds))
    assert dataset_facts(ws, run) == statistics(ds)
