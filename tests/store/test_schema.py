"""The schema: versions, failing migrations, concurrent writers."""

import json
import sqlite3

import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations
from store_processes import ROOT, in_process, start_process

from puma_engine.errors import StoreError
from puma_engine.store import Workspace, database
from puma_engine.store.schema import MIGRATIONS

WRITE = """
for number in range(15):
    run = ws.begin('dataset', name=NAME, config={'n': number, 'by': NAME}, inputs={})
    ws.put_metrics(run.id, [{'split': 'test', 'metric': 'rmse', 'value': number}] * 20)
    ws.finish(run.id, seconds=1, device='cpu', summary={'n': number})
print('done')
"""


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "workspace", create=True)


def steps_of(db):
    return [step.name for step in MIGRATIONS.applied(db)]


def test_every_connection_enforces_wal_foreign_keys_and_types(ws):
    assert ws.db.journal_mode == "wal"
    assert ws.query("PRAGMA foreign_keys") == [{"foreign_keys": 1}]
    with pytest.raises(StoreError, match="FOREIGN KEY"), ws.transaction() as db:
        db.execute("INSERT INTO run_inputs VALUES ('a', 'b', 'c')")
    with pytest.raises(StoreError, match="cannot store TEXT"), ws.transaction() as db:
        db.execute("INSERT INTO user_metrics (run_id, user_id, n) VALUES ('a', 'b', 'many')")


def test_a_failed_transaction_changes_nothing(ws):
    with pytest.raises(ZeroDivisionError), ws.transaction():
        ws.begin("dataset", name="x", config={}, inputs={})
        raise ZeroDivisionError
    assert ws.runs() == []


def test_newer_workspace_is_refused_untouched(ws):
    with ws.transaction() as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('puma', '9999_future', '2099')"
        )
    with pytest.raises(StoreError, match="newer version.*9999_future"):
        Workspace.open(ws.root)
    with pytest.raises(StoreError, match="newer version"):
        Workspace.open(ws.root, create=True)


def test_failing_step_leaves_neither_tables_nor_record(tmp_path):
    path = tmp_path / "puma.db"
    broken = Migrations("puma")

    @broken(name="0001_good")
    def _good(db):
        db["good"].create({"id": int}, pk="id")

    @broken(name="0002_bad")
    def _bad(db):
        db["bad"].create({"id": int}, pk="id")
        db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StoreError, match="nowhere"):
        database.WorkspaceDatabase(tmp_path).update_schema(broken)
    assert Database(path).table_names() == []


def test_older_workspace_is_migrated_with_its_rows(tmp_path):
    root = tmp_path / "workspace"
    root.mkdir()
    path = root / "puma.db"
    db = database.connect(path)
    MIGRATIONS.apply(db, stop_before="0003_metrics")
    db.execute(
        "INSERT INTO runs (id, kind, name, status, config, versions, created, started)"
        " VALUES ('0123456789abcdef', 'dataset', 'old', 'finished', '{}', '{}', '2026', '2026')"
    )
    db.close()
    ws = Workspace.open(root)
    assert [run.name for run in ws.runs()] == ["old"]
    assert steps_of(ws.db)[-1] == steps_of(Workspace.open(tmp_path / "new", create=True).db)[-1]
    assert ws.metrics().empty


def test_files_that_are_no_workspace_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with sqlite3.connect(tmp_path / "a" / "puma.db") as other:
        other.execute("CREATE TABLE customers (id)")
    with pytest.raises(StoreError, match="something else"):
        Workspace.open(tmp_path / "a", create=True)
    assert Database(tmp_path / "a" / "puma.db").table_names() == ["customers"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "puma.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="not a working database"):
        Workspace.open(tmp_path / "b")


def test_several_processes_create_and_write_one_workspace(tmp_path):
    root = tmp_path / "workspace"
    writers = [start_process(f"NAME = 'p{i}'\n{WRITE}", root) for i in range(3)]
    for writer in writers:
        out, err = writer.communicate(timeout=240)
        assert out == "done\n", err
    ws = Workspace.open(root)
    assert len(ws.runs(status="finished")) == 45 and len(ws.metrics()) == 900
    assert len(set(steps_of(ws.db))) == len(steps_of(ws.db)) and ws.verify() == []


def test_one_process_at_a_time_works_on_a_run(ws):
    begin = "run = ws.begin('dataset', name='x', config={}, inputs={})\n"
    other = start_process(begin + "print(run.id, flush=True)\nsys.stdin.readline()", ws.root)
    run_id = other.stdout.readline().strip()
    assert ws.run(run_id).status == "running"
    assert ws.runs(status="running") and not ws.runs(status="interrupted")
    with pytest.raises(StoreError, match="Another process works"):
        ws.begin("dataset", name="x", config={}, inputs={})
    with pytest.raises(StoreError, match="being computed"):
        ws.delete(run_id)
    other.kill()
    other.communicate()
    assert ws.run(run_id).status == "interrupted"
    assert ws.runs(status="interrupted") and not ws.runs(status="running")
    again = ws.begin("dataset", name="x", config={}, inputs={})
    assert (again.id, again.status) == (run_id, "running")
    ws.finish(run_id, seconds=1, device="cpu")
    assert json.loads(in_process(begin + "print(json.dumps(run.status))", ws.root)) == "finished"


def test_documentation_lists_every_table_and_column(ws):
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    for table in ws.db.table_names():
        if not table.startswith(("_", "sqlite_")):
            columns = set(ws.db.table(table).columns_dict)
            (line,) = (line for line in text.splitlines() if line.startswith(f"| `{table}` "))
            assert columns == set(line.split("|")[3].strip().split(", "))
