"""Unreadable workspaces and lost databases raise a StoreError, never a bare OSError."""

import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from puma_engine import jobs
from puma_engine.errors import StoreError
from puma_engine.store import Workspace

NOBODY = 65534


@pytest.fixture
def ws():
    """A workspace with one table, in a folder that every user may enter (those of pytest are private)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    workspace = Workspace.open(folder / "ws", create=True)
    run = workspace.begin("dataset", name="run", config={}, inputs={})
    workspace.put_table(run.id, "t", pd.DataFrame({"a": [1]}))
    workspace.finish(run.id, seconds=1, device="cpu")
    workspace.close()
    if os.geteuid() == 0:
        for path in [workspace.root, *workspace.root.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    yield workspace
    for path in workspace.root.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def as_unprivileged_user(function):
    """What the StoreError of a call says, to a user who is not root."""
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


@pytest.mark.parametrize("part", ["runs", "runs/*", "runs/*/t.*"])
def test_an_unreadable_file_is_reported(ws, part):
    (run,) = ws.runs()
    for path in ws.root.glob(part):
        path.chmod(0)
    message = as_unprivileged_user(lambda: Workspace.open(ws.root).get_table(run.id, "t"))
    assert "may not be read by the user who runs this; change its owner" in message
    message = as_unprivileged_user(lambda: raise_first(Workspace.open(ws.root).verify()))
    assert "may not be read by the user who runs this" in message


def raise_first(problems):
    raise StoreError(problems[0])


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
        with pytest.raises(StoreError, match="is empty but there are runs beside it; restore it"):
            Workspace.open(ws.root, create=create)
    shutil.rmtree(ws.root / "runs")
    assert Workspace.open(ws.root).runs() == []
