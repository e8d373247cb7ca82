"""Retry of a job whose process and whose worker were killed, with a real fit."""

import os
import signal

import pytest
from dashboard_pages import open_page, press, texts
from job_helpers import start_worker, status_of, workspace
from small_runs import QUICK, write_ratings
from tiny import tiny_backbone_folder
from waiting import wait_for

from puma_engine import jobs, pipeline


@pytest.fixture
def ws(tmp_path, monkeypatch):
    yield from workspace(tmp_path, monkeypatch)


def test_a_retry_after_killed_processes_resumes_from_the_step_that_the_page_shows(
    ws, tmp_path, monkeypatch
):
    table = write_ratings(tmp_path / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=table, task="rating")
    model = pipeline.add_backbone(ws, tiny_backbone_folder(tmp_path / "models", "llama"))
    settings = {"dataset": data.id, "backbone": model.id}
    settings["training"] = QUICK | {"epochs": 3, "patience": 0}
    steps = -(-data.summary["splits"]["train"] // QUICK["batch_size"])
    release = tmp_path / "go"
    args = settings | {"pause_after": steps + 1, "release": release}
    job = jobs.enqueue(ws, "paused_fit", args, title="A fit")
    start_worker(ws, "60", "cpu")
    wait_for(lambda: jobs.job(ws, job.id).progress.get("saved_step") == steps)
    (worker,) = jobs.workers(ws)
    for pid in (worker["pid"], jobs.job(ws, job.id).pid):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: status_of(ws, job) == "interrupted" and not jobs.workers(ws))
    release.touch()
    with monkeypatch.context() as patched:
        # The page starts a worker that does not know the command of this test.
        patched.setattr(jobs, "ensure_worker", lambda ws: False)
        app = open_page("jobs", ws.root, patched, job=job.id)
        assert f"Resume goes on from step {steps} of {3 * steps} (epoch 2)" in texts(app)
        press(app, "Resume")
    assert status_of(ws, job) == "queued"
    start_worker(ws, "60", "cpu")
    wait_for(lambda: status_of(ws, job) not in ("queued", "running", "interrupted"))
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt, done.error) == ("finished", 2, None)
    run = ws.run(done.run_id)
    # An uninterrupted fit is the same run with the same history.
    assert run == pipeline.fit_prompts(ws, **settings)
    assert [row["epoch"] for row in run.summary["history"]] == [0, 1, 2]
