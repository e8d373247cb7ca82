"""Jobs in real processes: progress, cancel, retries, one job a device."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from job_helpers import paused_job, reached, start_worker, status_of, work, workspace
from waiting import wait_for

from puma_engine import jobs
from puma_engine.errors import JobError, NotFoundError
from puma_engine.jobs import queue
from puma_engine.store import Workspace


@pytest.fixture
def ws(tmp_path, monkeypatch):
    yield from workspace(tmp_path, monkeypatch)


def test_detached_worker_runs_a_job_to_its_run(ws):
    job, release = paused_job(ws, "Count", 2, steps=12)
    assert (job.status, job.attempt, job.progress) == ("queued", 0, {})
    assert start_worker(ws, "60", "cpu") and not start_worker(ws, "60", "cpu")
    running = wait_for(lambda: reached(ws, job, 2))
    assert running.status == "running" and running.device == "cpu"
    assert running.progress["total"] == 12 and running.progress["stage"] == "counting"
    # The job has its own process, session and heartbeat.
    (worker,) = jobs.workers(ws)
    assert running.pid not in (os.getpid(), worker["pid"])
    assert os.getsid(running.pid) == running.pid
    assert worker["devices"] == ["cpu"]
    assert running.heartbeat >= running.started
    release.touch()
    wait_for(lambda: status_of(ws, job) == "finished")
    done = jobs.job(ws, job.id[:5])
    assert ws.run(done.run_id).summary == {"steps": 12, "resumed_at": 0}
    assert done.progress["step"] == 12 and done.pid is None and done.error is None
    assert done.created <= done.started <= done.finished
    log = jobs.read_log(ws, job.id)
    assert "Count" in log and "goes on from step 0" in log and "counting step" in log
    assert jobs.read_log(ws, job.id, lines=1).endswith("finished")


def test_retry_after_a_cancel_resumes_the_job(ws):
    job, release = paused_job(ws, "Long", 2, steps=15)
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    wait_for(lambda: reached(ws, job, 2))
    cancelled = jobs.cancel(ws, job.id)
    assert cancelled.status == "running" and cancelled.cancel_asked
    thread.join()
    cancelled_job = jobs.job(ws, job.id)
    assert cancelled_job.status == "cancelled" and "Stopped at step" in cancelled_job.error
    assert ws.runs()[0].status == "failed"
    with pytest.raises(JobError, match="cancelled"):
        jobs.cancel(ws, job.id)
    again = jobs.retry(ws, job.id)
    assert (again.status, again.error, again.cancel_asked) == ("queued", None, None)
    release.touch()
    work(ws)
    done = jobs.job(ws, job.id)
    assert done.status == "finished" and done.attempt == 2
    assert ws.run(done.run_id).summary["resumed_at"] == 2


def test_each_device_runs_one_job_that_sees_only_that_device(ws, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert jobs.find_devices() == ["cuda:0", "cuda:1"]
    log = tmp_path / "log"
    for name in "abcd":
        args = {"name": name, "steps": 2, "log": log}
        jobs.enqueue(ws, "count", args, title=name)
    work(ws, ("cuda:0", "cuda:1"))
    open_on = {}
    for line in log.read_text().splitlines():
        what, name, device = line.split()
        if what == "begin":
            assert device not in open_on
            open_on[device] = name
        else:
            assert open_on.pop(device) == name
    assert {line.split()[2] for line in log.read_text().splitlines()} == {"5", "7"}
    assert {job.status for job in jobs.jobs(ws)} == {"finished"}


def test_two_workers_never_claim_the_same_job(ws):
    for number in range(30):
        jobs.enqueue(ws, "count", {"name": str(number)}, title="One of many")

    def claim_all(worker):
        workspace = Workspace.open(ws.root)
        claims = (queue.claim(workspace, f"cuda:{worker}{number:02}") for number in range(30))
        return [job.id for job in claims if job is not None]

    with ThreadPoolExecutor(4) as pool:
        claimed = [job_id for job_ids in pool.map(claim_all, range(4)) for job_id in job_ids]
    assert len(claimed) == len(set(claimed)) == 30
    assert queue.claim(ws, "cpu") is None


def test_busy_device_claims_no_job(ws):
    jobs.enqueue(ws, "count", {}, title="First")
    second = jobs.enqueue(ws, "count", {}, title="Second")
    assert queue.claim(ws, "cpu").title == "First"
    assert queue.claim(ws, "cpu") is None
    assert queue.claim(ws, "cuda:0").id == second.id


def test_failed_job_has_its_error_and_can_be_retried(ws, tmp_path):
    job = jobs.enqueue(ws, "fail_once", {"marker": tmp_path / "marker"}, title="Flaky")
    work(ws)
    failed = jobs.job(ws, job.id)
    assert failed.status == "failed"
    assert failed.error == "The table has no column 'outcome'; name it."
    log = jobs.read_log(ws, job.id)
    assert log.endswith(f" failed: {failed.error}") and "Traceback" not in log
    assert jobs.retry(ws, job.id).error is None
    work(ws)
    assert status_of(ws, job) == "finished"
    with pytest.raises(JobError, match="finished"):
        jobs.retry(ws, job.id)


def test_the_log_of_an_unexpected_error_has_its_traceback(ws, tmp_path):
    job = jobs.enqueue(ws, "count", {"pause_at": 0, "release": 5}, title="Broken")
    work(ws)
    assert jobs.job(ws, job.id).error.startswith("TypeError: ")
    log = jobs.read_log(ws, job.id)
    assert "Traceback" in log and log.splitlines()[-1].endswith(jobs.job(ws, job.id).error)


def test_idle_worker_exits(ws):
    assert start_worker(ws, "0.2", "cpu")
    wait_for(lambda: not jobs.workers(ws))
    assert not ws.query("SELECT * FROM workers")


def test_unknown_command_lists_the_known_commands(ws):
    job = jobs.enqueue(ws, "os_system", {}, title="No")
    work(ws)
    assert jobs.job(ws, job.id).error.startswith("There is no command 'os_system'; there are count")


def test_bad_job_requests_are_refused_with_the_reason(ws, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("os.system", "module:function", "../x", ""):
        with pytest.raises(JobError, match="command"):
            jobs.enqueue(ws, command, {}, title="Bad")
    with pytest.raises(JobError, match="'frame' is a set"):
        jobs.enqueue(ws, "count", {"frame": {1, 2}}, title="Bad")
    with pytest.raises(JobError, match="title"):
        jobs.enqueue(ws, "count", {}, title=" ")
    with pytest.raises(NotFoundError, match=r"\.\./\.\./x"):
        jobs.read_log(ws, "../../x")
    with pytest.raises(JobError, match="different devices"):
        jobs.worker(ws, devices=["cpu", "cpu"])
    with pytest.raises(JobError, match="different devices"):
        jobs.worker(ws, devices=["cuda:0; rm"])
    job = jobs.enqueue(ws, "count", {"path": Path("a.csv"), "steps": 1}, title="Good")
    assert job.args == {"path": str(tmp_path / "a.csv"), "steps": 1}


def test_default_process_runs_a_stage_of_the_pipeline(ws, tmp_path):
    rows = [
        f"u{user},i{item},Book {item},{1 + (user + item) % 5}"
        for user in range(3)
        for item in range(8)
    ]
    table = tmp_path / "ratings.csv"
    table.write_text("\n".join(["user_id,item_id,text,outcome", *rows]))
    args = {"source": "table", "path": table, "task": "rating", "name": "mine"}
    job = jobs.enqueue(ws, "import_dataset", args, title="Import")
    jobs.worker(ws, devices=["cpu"], once=True)
    done = jobs.job(ws, job.id)
    assert done.status == "finished", jobs.read_log(ws, job.id)
    assert ws.run("mine").id == done.run_id and ws.run("mine").summary["users"] == 3


def test_a_job_holds_models_by_absolute_paths(ws, tmp_path, monkeypatch):
    (tmp_path / "models" / "own").mkdir(parents=True)
    (tmp_path / "models" / "llama-small").mkdir()
    (tmp_path / "models" / "known").mkdir()
    run = ws.begin("backbone", name="known", config={"spec": "elsewhere"}, inputs={})
    monkeypatch.chdir(tmp_path / "models")
    targets = ["own", "llama-small", "owner/name", "known", run.id]
    args = jobs.enqueue(ws, "run_plan", {"targets": targets, "name": "own"}, title="Plan").args
    absolute = str(tmp_path / "models" / "own")
    # Names of zoo models, hub models and runs of the workspace stay as they are.
    assert args == {"targets": [absolute, *targets[1:]], "name": "own"}
    added = jobs.enqueue(ws, "add_backbone", {"spec": Path("known")}, title="Add").args
    assert added == {"spec": str(tmp_path / "models" / "known")}
    assert jobs.enqueue(ws, "add_backbone", {"spec": "known"}, title="Add").args == added
    for spec in ("x" * 300, "~nobody-of-this-name/model"):
        assert jobs.enqueue(ws, "add_backbone", {"spec": spec}, title="Add").args == {"spec": spec}
