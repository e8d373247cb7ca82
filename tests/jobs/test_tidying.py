"""What `puma gc` removes, and what it leaves."""

import os
import time

import numpy as np
import pytest
from command_line import puma

from puma_engine import jobs
from puma_engine.jobs import tidying
from puma_engine.store import Workspace


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "workspace", create=True)


def write(path, *, hours=2.0):
    """Write a file that was last changed so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x" * 10)
    changed = time.time() - hours * 3600
    for item in (path, path.parent):
        os.utime(item, (changed, changed))
    return path


def ended(ws, title, *, days, upload=None, status="cancelled"):
    """A job that ended so many days ago, with its log and perhaps an upload."""
    arguments = (
        {"path": str(write(ws.root / "uploads" / upload / "table" / "t.csv"))} if upload else {}
    )
    job = jobs.enqueue(ws, "import_dataset", arguments, title=title)
    with ws.transaction() as db:
        time_then = time.strftime(
            "%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - days * 86400)
        )
        db.execute(
            "UPDATE jobs SET status = ?, finished = ? WHERE id = ?", [status, time_then, job.id]
        )
    write(ws.root / "logs" / f"{job.id}.log")
    return job


def test_old_jobs_and_leftovers_are_removed_and_everything_else_stays(ws):
    old = ended(ws, "Old", days=100, upload="aa")
    recent = ended(ws, "Recent", days=10, upload="bb", status="failed")
    done = ended(ws, "Done", days=10, upload="cc", status="finished")
    waiting = jobs.enqueue(ws, "demo", {}, title="Waits")
    run = ws.begin("dataset", name="done", config={}, inputs={})
    ws.put_tensors(run.id, "v", {"x": np.ones(3)})
    ws.finish(run.id, seconds=1, device="cpu")
    unfinished = ws.begin("dataset", name="half", config={"n": 1}, inputs={})
    ws.fail(unfinished.id, "stopped", interrupted=True)
    busy = ws.begin("dataset", name="busy", config={"n": 2}, inputs={})
    expected_files = [
        write(ws.work(unfinished.id) / "checkpoint.json"),
        write(ws.work(busy.id) / "checkpoint.json"),
        write(ws.root / "uploads" / "dd" / "table" / "new.csv", hours=0),
        write(ws.folder(busy.id) / "new.parquet"),
        write(ws.root / "studies" / "table2.json"),
    ]
    gone = [
        write(ws.work(run.id) / "checkpoint.json").parent,
        write(ws.work("f" * 16) / "checkpoint.json").parent,
        write(ws.root / "locks" / f"{'e' * 16}.lock"),
        write(ws.folder(run.id) / "v.00000000.safetensors"),
        write(ws.root / "studies" / ".table2.json.ab.tmp"),
        write(ws.root / "logs" / "0000aaaa.log"),
        ws.root / "logs" / f"{old.id}.log",
        ws.root / "uploads" / "aa",
        ws.root / "uploads" / "cc",
    ]
    os.utime(ws.root / "uploads" / "dd", None)
    for upload in ("aa", "bb", "cc"):
        os.utime(ws.root / "uploads" / upload, (0, 0))
    paths = {leftover.path for leftover in tidying.leftovers(ws)}
    assert paths == set(gone)
    assert len(puma(ws, "gc", "--dry-run")["removed"]) == len(gone) and gone[0].exists()
    assert {leftover.path for leftover in tidying.tidy(ws)} == set(gone)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in expected_files)
    assert {job.id for job in jobs.jobs(ws)} == {recent.id, done.id, waiting.id}
    assert (ws.root / "uploads" / "bb").is_dir()
    assert len(ws.get_tensors(run.id, "v")[0]["x"]) == 3 and ws.verify() == []
    assert tidying.tidy(ws) == []


def test_hashes_of_files_that_are_gone_are_forgotten_and_pages_given_back(ws, tmp_path):
    file = write(tmp_path / "model.safetensors")
    ws.file_hash(file)
    with ws.transaction() as db:
        db.execute("INSERT INTO audit (time, action, detail) VALUES ('now', 'x', ?)", ["y" * 10**6])
    with ws.transaction() as db:
        db.execute("DELETE FROM audit")
    tidying.tidy(ws)
    assert len(ws.query("SELECT * FROM file_hashes")) == 1
    assert ws.path.stat().st_size < 10**6
    file.unlink()
    tidying.tidy(ws)
    assert ws.query("SELECT * FROM file_hashes") == []
