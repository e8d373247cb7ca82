"""Damaged rows are noticed, and a lost database is rebuilt from the records of runs."""

import json
import shutil
import sqlite3

import numpy as np
import pandas as pd
import pytest
from store_edits import edited
from store_processes import in_process
from typer.testing import CliRunner

from puma_engine import jobs
from puma_engine.cli import app
from puma_engine.errors import NotFoundError, StoreError
from puma_engine.jobs.tidying import leftovers
from puma_engine.pipeline.erasing import erase_user
from puma_engine.store import Workspace
from puma_engine.store.rebuilding import rebuild

USERS = pd.DataFrame({"user_id": ["b", "007"], "n": [2, 1], "rmse": [0.25, 0.5]})


@pytest.fixture
def ws(tmp_path):
    """A data set, a model, prompts, and an evaluation with metrics of users in file and database."""
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = finished(ws, "dataset", {"users": 2, "task": "rating"})
    model = finished(ws, "backbone", {"width": 8, "spec": "zoo"})
    inputs = {"dataset": data, "backbone": model}
    prompts = finished(ws, "prompts", {"tokens": 1}, inputs, role="source")
    scored = ws.begin("evaluation", name="scores", config={}, inputs={"prompts": prompts}, seed=3)
    ws.put_metrics(scored.id, [{"split": "test", "metric": "rmse", "value": 0.1 + 0.2, "n": 3}])
    ws.put_user_metrics(scored.id, USERS)
    ws.put_table(scored.id, "user_metrics", USERS)
    ws.finish(scored.id, seconds=1, device="cpu", summary={"metrics": {"rmse": 0.3}})
    return ws


def finished(ws, kind, summary, inputs=None, **config):
    run = ws.begin(kind, name=kind, config=config, inputs=inputs or {})
    ws.put_tensors(run.id, "v", {"x": np.arange(6.0)})
    return ws.finish(run.id, seconds=2.5, device="cpu", cost={"é": 1}, summary=summary).id


def content(ws):
    """All stored rows of a workspace about its runs, the newest first."""
    tables = ["runs", "run_inputs", "artifacts", "user_metrics", "datasets", "prompt_tables"]
    rows = {name: sorted(map(str, ws.query(f"SELECT * FROM {name}"))) for name in tables}
    return ws.runs(), rows, str(ws.metrics().to_dict("records"))


@pytest.mark.parametrize("loss", ["deleted", "emptied", "overwritten", "a page lost"])
def test_a_lost_database_is_made_again_from_the_records(ws, loss):
    ws.rename(ws.run("scores").id, "renamed")
    ws.note(ws.run("renamed").id, "a note")
    before = content(ws)
    ws.query("PRAGMA wal_checkpoint(TRUNCATE)")
    ws.close()
    if loss == "deleted":
        ws.path.unlink()
    elif loss == "a page lost":
        damaged = bytearray(ws.path.read_bytes())
        damaged[8192:12288] = bytes(4096)
        ws.path.write_bytes(damaged)
    else:
        ws.path.write_bytes(b"" if loss == "emptied" else b"not a database" * 1000)
    if loss in ("deleted", "emptied"):
        for create in (False, True):
            with pytest.raises(
                StoreError, match="there are runs beside it; `puma doctor --rebuild`"
            ):
                Workspace.open(ws.root, create=create)
    result = rebuild(ws.root)
    assert len(result.restored) == 4 and result.problems == []
    assert (result.set_aside is None) == (loss == "deleted")
    rebuilt = Workspace.open(ws.root)
    assert content(rebuilt) == before and rebuilt.scrub() == []
    assert rebuild(ws.root).restored == []


def test_folders_without_a_database_are_never_said_to_be_removable(ws):
    ws.delete(ws.run("scores").id)
    shutil.copytree(ws.folder(ws.run("prompts").id), ws.root / "runs" / ("f" * 16))
    (ws.root / "runs" / ("e" * 16)).mkdir()
    first, second = ws.verify()
    assert (
        "look at them before you remove anything" in first and "`puma doctor --rebuild`" in second
    )
    # The record of the copy has the id of another run.
    assert len(rebuild(ws.root).problems) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("config", "{"),
        ("summary", '{"users": 3, "task": "rating"}'),
        ("seconds", 2.25),
        ("cost", "[" * 100_000),
        ("versions", b"\xff\xfe"),
        ("status", "failed"),
    ],
)
def test_a_damaged_row_is_named_restored_and_leaves_lists_readable(ws, column, value):
    run = ws.run("dataset")
    with ws.transaction() as db:
        expression = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
        db.execute(f"UPDATE runs SET {column} = {expression} WHERE id = ?", [value, run.id])
    assert len(ws.runs()) == 4
    (damaged,) = ws.runs(status="damaged")
    assert damaged.id == run.id and "puma doctor --rebuild" in damaged.error
    assert ws.runs(kind="dataset", status="finished") == []
    (problem,) = ws.verify()
    assert run.id in problem
    if column != "status":
        with pytest.raises(StoreError, match="is damaged"):
            ws.begin("dataset", name="dataset", config={}, inputs={})
    listed = CliRunner().invoke(app, ["-w", str(ws.root), "runs", "list", "--json"])
    assert listed.exit_code == 0 and len(json.loads(listed.stdout)) == 4
    assert rebuild(ws.root).restored == [run.id]
    assert ws.run(run.id) == run and ws.verify() == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metrics SET value = 0.25",
        "DELETE FROM metrics",
        "UPDATE artifacts SET sha256 = 'x' WHERE name = 'user_metrics'",
    ],
)
def test_damaged_rows_of_results_are_refused_and_restored(ws, damage):
    before, run = content(ws), ws.run("scores")
    with ws.transaction() as db:
        db.execute(damage)
    code = (
        f"print(len(ws.metrics()))\n"
        f"for read in (lambda: ws.metrics('{run.id}'), lambda: ws.get_table('{run.id}', 'user_metrics')):\n"
        "    try:\n"
        "        print(read())\n"
        "    except StoreError as error:\n"
        "        print('refused', error)"
    )
    errors = in_process(code, ws.root).splitlines()
    assert errors[0] == "0" and [line.split()[0] for line in errors[1:]] == ["refused"] * 2
    assert any(run.id in problem for problem in ws.verify())
    assert rebuild(ws.root).restored == [run.id] and content(ws) == before


def test_scrub_compares_metrics_of_users_with_their_file_and_writes_lost_records(ws):
    run = ws.run("scores")
    ws.record_path(run.id).unlink()
    assert ws.scrub() == [] and ws.record_path(run.id).is_file()
    with ws.transaction() as db:
        db.execute("UPDATE user_metrics SET rmse = 0.26 WHERE user_id = 'b'")
    assert ws.verify() == []
    (problem,) = ws.scrub()
    assert "metrics of users" in problem and run.id in problem
    ws.record_path(run.id).write_text(ws.record_path(run.id).read_text().replace("0.3", "0.4"))
    assert "was changed since it was written" in ws.scrub()[0]


def test_a_workspace_of_an_earlier_version_gets_checksums_and_records(ws):
    with ws.transaction() as db:
        db.execute("UPDATE runs SET checksum = NULL, results_checksum = NULL")
    for record in (ws.root / "runs").glob("*/run.json"):
        record.unlink()
    reopened = Workspace.open(ws.root)
    assert len(list((ws.root / "runs").glob("*/run.json"))) == 4
    assert (
        not reopened.query("SELECT 1 FROM runs WHERE checksum IS NULL") and reopened.scrub() == []
    )


def test_a_damaged_job_stops_neither_lists_nor_workers(ws):
    bad = jobs.enqueue(ws, "no_such_command", {"x": 1}, title="Bad")
    good = jobs.enqueue(ws, "no_such_command", {"x": 1}, title="Good")
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET args = '{\"x\"' WHERE id = ?", [bad.id])
        db.execute("INSERT INTO job_progress VALUES (?, 'now', '[')", [good.id])
    assert [job.status for job in jobs.jobs(ws)] == ["queued", "failed"]
    jobs.worker(ws, devices=["cpu"], once=True)
    assert "arguments of the job" in jobs.job(ws, bad.id).error
    assert "There is no command" in jobs.job(ws, good.id).error
    assert ws.query("SELECT status FROM jobs WHERE id = ?", [bad.id]) == [{"status": "failed"}]


@pytest.mark.parametrize("act", ["finish", "rewrite"])
def test_a_transaction_that_fails_at_its_end_leaves_the_record_as_the_rows_are(ws, act):
    run = ws.run("scores")
    if act == "finish":
        run = ws.begin("dataset", name="late", config={"late": 1}, inputs={})
    before = content(ws)
    record = ws.record_path(run.id)
    text = record.read_bytes() if record.is_file() else None
    with pytest.raises(StoreError, match="FOREIGN KEY"), ws.transaction() as db:
        # SQLite checks a deferred foreign key at COMMIT, which then fails.
        db.execute("PRAGMA defer_foreign_keys = ON")
        db.execute("INSERT INTO run_inputs VALUES ('nobody', 'x', 'nobody')")
        if act == "finish":
            ws.finish(run.id, seconds=1, device="cpu")
        else:
            ws.rewrite_summary(run.id, {"metrics": {"rmse": 9}})
        assert record.read_bytes() != text
    assert (record.read_bytes() if record.is_file() else None) == text
    assert content(ws)[1] == before[1] and ws.scrub() == []


def test_a_run_that_cannot_be_sealed_does_not_stop_other_records(ws, caplog):
    scores, model = ws.run("scores"), ws.run("backbone")
    with edited(ws):
        pass
    folder, moved_folder = ws.folder(model.id), ws.root / "kept"
    for run in ws.runs():
        ws.record_path(run.id).unlink()
    folder.rename(moved_folder)
    folder.write_text("a file where a folder should be")
    for _ in range(2):
        ws = Workspace.open(ws.root)
        assert f"The run {model.id} has no record yet" in caplog.text
        caplog.clear()
        missing = ws.query("SELECT id FROM runs WHERE checksum IS NULL")
        assert missing == [{"id": model.id}] and ws.record_path(scores.id).is_file()
    assert any("has no record" in problem for problem in ws.scrub())
    folder.unlink()
    moved_folder.rename(folder)
    ws = Workspace.open(ws.root)
    assert not caplog.text and ws.scrub() == [] and ws.record_path(model.id).is_file()


def test_a_folder_with_nothing_to_rebuild_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no runs with a record"):
        rebuild(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_program_is_refused(ws):
    ws.close()
    with sqlite3.connect(ws.path) as other:
        other.execute("DROP TABLE _sqlite_migrations")
    other.close()
    with pytest.raises(StoreError, match="of something else"):
        rebuild(ws.root)


def test_damage_is_repaired_before_files_or_users_are_removed(ws):
    scored = ws.run("scores")
    files = set(ws.folder(scored.id).iterdir())
    with ws.transaction() as db:
        db.execute("DELETE FROM artifacts WHERE run_id = ?", [scored.id])
    assert not [item for item in leftovers(ws) if scored.id in str(item.path)]
    with pytest.raises(StoreError, match="doctor --rebuild"):
        erase_user(ws, "007")
    assert set(ws.folder(scored.id).iterdir()) == files
    ws.close()
    assert rebuild(ws.root).restored == [scored.id]


def test_a_database_in_use_is_not_set_aside(ws):
    ws.close()
    other = sqlite3.connect(ws.path, isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="cannot be read now"):
            rebuild(ws.root)
    finally:
        other.close()
    assert rebuild(ws.root).set_aside is None
