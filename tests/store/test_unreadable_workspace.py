"""Unreadable workspaces and lost databases raise a StoreError, never a bare OSError."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from open_folders import open_folder

from puma_engine import jobs
from puma_engine.errors import StoreError
from puma_engine.store import Workspace

NOBODY = 65534


@pytest.fixture
def ws():
    """A workspace with one table, in a folder that every user may enter."""
    with open_folder() as folder:
        workspace = Workspace.open(folder / "ws", create=True)
        run = workspace.begin("dataset", name="run", config={}, inputs={})
        workspace.put_table(run.id, "t", pd.DataFrame({"a": [1]}))
        workspace.finish(run.id, seconds=1, device="cpu")
        workspace.close()
        if os.geteuid() == 0:
            for path in [workspace.root, *workspace.root.rglob("*")]:
                os.chown(path, NOBODY, NOBODY)
        yield workspace


def as_unprivileged_user(function):
    """The message of the StoreError that a call raises for a user who is not root."""
    if os.geteuid() != 0:
        with pytest.raises(StoreError) as caught:
            function()
        return str(caught.value)
    out, into = os.pipe()
    if not os.fork():
        message = "nothing was raised"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            function()
        except StoreError as error:
            message = str(error)
        except BaseException as error:
            message = repr(error)
        os.write(into, message.encode())
        os._exit(0)
    os.close(into)
    os.wait()
    with os.fdopen(out) as file:
        return file.read()


def make_read_only(root):
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("state", ["closed", "log left", "earlier schema", "in use"])
def test_a_workspace_that_cannot_be_written_is_opened_for_viewing(ws, state):
    run, files = ws.runs()[0], {}
    if state == "log left":
        # A killed process leaves the name only in the WAL beside the database.
        copy = ws.root.parent / "killed"
        ws.query("PRAGMA wal_autocheckpoint = 0")
        ws.rename(run.id, "renamed")
        shutil.copytree(ws.root, copy, copy_function=shutil.copy2)
        (copy / "puma.db-shm").unlink()
        ws.close()
        shutil.rmtree(ws.root)
        copy.rename(ws.root)
        assert (ws.root / "puma.db-wal").stat().st_size
    elif state == "earlier schema":
        with ws.transaction() as db:
            db.execute("DELETE FROM _sqlite_migrations WHERE name = '0008_checksums'")
            for column in ("checksum", "results_checksum"):
                db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
            db.execute("DROP TABLE audit")
    if state != "in use":
        ws.close()
    else:
        ws.runs()
    if os.geteuid() == 0:
        for path in [ws.root, *ws.root.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    make_read_only(ws.root)
    files = sorted(ws.root.rglob("*"))

    def view():
        viewed = Workspace.open(ws.root)
        refused = []
        for change in (
            lambda: viewed.rename(run.id, "other"),
            lambda: viewed.begin("dataset", name="x", config={"new": 1}, inputs={}),
            lambda: viewed.delete(run.id),
            lambda: jobs.enqueue(viewed, "demo", {}, title="x"),
        ):
            try:
                change()
            except StoreError as error:
                refused.append("may only be viewed" in str(error))
        again = viewed.begin("dataset", name="run", config={}, inputs={})
        result = [viewed.read_only, viewed.run(run.id).name, len(viewed.get_table(run.id, "t"))]
        result += [refused, again.id == run.id]
        result += [viewed.verify(), jobs.jobs(viewed), jobs.workers(viewed)]
        raise StoreError(str(result))  # its message is what comes back

    name = "renamed" if state == "log left" else "run"
    expected = [True, name, 1, [True] * 4, True, [], [], []]
    assert as_unprivileged_user(view) == str(expected)
    assert sorted(ws.root.rglob("*")) == files


@pytest.mark.parametrize("part", ["runs", "runs/*", "runs/*/t.*"])
def test_an_unreadable_file_is_reported(ws, part):
    (run,) = ws.runs()
    for path in ws.root.glob(part):
        path.chmod(0)
    message = as_unprivileged_user(lambda: Workspace.open(ws.root).get_table(run.id, "t"))
    assert "may not be read by the user who runs this; change its owner" in message

    def raise_problem():
        raise StoreError(Workspace.open(ws.root).verify()[0])

    assert "may not be read by the user who runs this" in as_unprivileged_user(raise_problem)


def test_an_unreadable_folder_is_reported(ws):
    ws.root.chmod(0)
    message = as_unprivileged_user(lambda: Workspace.open(ws.root))
    ws.root.chmod(0o700)
    assert message.startswith(f"The workspace {ws.root} may not be read")


def test_an_unreadable_log_is_reported(ws):
    job = jobs.enqueue(ws, "migrate", {}, title="A job")
    assert jobs.read_log(ws, job.id) == ""
    Path(job.log).mkdir(parents=True)
    assert "cannot be read" in jobs.read_log(ws, job.id)


def test_an_emptied_database_is_not_treated_as_new(ws):
    ws.path.write_bytes(b"")
    for create in (False, True):
        with pytest.raises(
            StoreError, match="is empty, but there are runs beside it; `puma doctor"
        ):
            Workspace.open(ws.root, create=create)
    shutil.rmtree(ws.root / "runs")
    assert Workspace.open(ws.root).runs() == []
