"""Backups of a workspace in use, restoring them, and deleting runs with all their descendants."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store import Workspace
from puma_engine.store.backups import backup, restore


@pytest.fixture
def ws(tmp_path):
    """Two finished runs, one that is being worked on, and a report of a study."""
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = finished(ws, "dataset")
    finished(ws, "prompts", {"dataset": data.id})
    running = ws.begin("dataset", name="running", config={"n": 2}, inputs={})
    ws.put_tensors(running.id, "v", {"x": np.ones(3)})
    (ws.work(running.id) / "checkpoint").write_text("half")
    (ws.root / "studies").mkdir()
    (ws.root / "studies" / "table2.json").write_text("{}")
    return ws


def finished(ws, kind, inputs=None, **config):
    run = ws.begin(kind, name=kind, config=config, inputs=inputs or {})
    ws.put_tensors(run.id, "v", {"x": np.arange(6.0)})
    return ws.finish(run.id, seconds=1, device="cpu", summary={"users": 2})


def test_a_backup_of_a_workspace_in_use_is_complete_and_can_be_restored(ws, tmp_path):
    before = ws.runs(status="finished")
    copied = backup(ws, tmp_path / "copy")
    assert (copied.runs, copied.problems) == (2, [])
    assert not (copied.folder / "work").exists()
    later = finished(ws, "dataset", later=True)
    put_back = restore(copied.folder, tmp_path / "elsewhere" / "workspace")
    restored = Workspace.open(put_back.folder)
    assert restored.runs(status="finished") == before and restored.scrub() == []
    assert [run.name for run in restored.runs(status="interrupted")] == ["running"]
    assert (restored.root / "studies" / "table2.json").read_text() == "{}"
    with pytest.raises(NotFoundError):
        restored.run(later.id)
    for copy in (lambda: backup(ws, copied.folder), lambda: restore(copied.folder, ws.root)):
        with pytest.raises(StoreError, match="already something"):
            copy()
    with pytest.raises(NotFoundError, match="no workspace"):
        restore(tmp_path, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_backup_names_what_was_damaged_before(ws, tmp_path):
    file = next(ws.folder(ws.run("prompts").id).glob("v.*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    arguments = ["-w", str(ws.root), "backup", str(tmp_path / "copy")]
    result = CliRunner().invoke(app, arguments)
    assert (
        result.exit_code == 1 and "has 1 problems" in result.stderr and file.name in result.stderr
    )


def test_a_run_is_deleted_with_what_was_made_from_it(ws):
    data, prompts = ws.run("dataset"), ws.run("prompts")
    scores = finished(ws, "evaluation", {"prompts": prompts.id, "dataset": data.id})
    other = finished(ws, "dataset", other=1)
    assert [run.id for run in ws.descendants(data.id)] == [prompts.id, scores.id]
    arguments = ["-w", str(ws.root), "runs", "delete", data.id, "--cascade"]
    result = CliRunner().invoke(app, arguments, input="n\n")
    assert result.exit_code == 1 and scores.id in result.output and "these 3 runs" in result.output
    assert ws.run(scores.id) == scores
    done = CliRunner().invoke(app, [*arguments, "--yes", "--json"])
    assert json.loads(done.stdout)["deleted"] == [data.id, prompts.id, scores.id]
    assert {run.id for run in ws.runs(status="finished")} == {other.id} and ws.verify() == []


def test_nothing_is_deleted_while_one_of_them_is_worked_on(ws):
    data = ws.run("dataset")
    ws.begin("evaluation", name="busy", config={}, inputs={"prompts": ws.run("prompts").id})
    with pytest.raises(StoreError, match="'busy' is being computed"):
        ws.delete_all(data.id)
    assert len(ws.descendants(data.id)) == 2
