"""Jobs in real processes: progress, cancel, crashes, retries, one job a device."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import job_commands
import pytest

from puma_engine import jobs
from puma_engine.errors import JobError, NotFoundError
from puma_engine.jobs import processes, queue, working
from puma_engine.store import Workspace

SCRIPT = str(Path(job_commands.__file__).resolve())


@pytest.fixture
def ws(tmp_path, monkeypatch):
    """A workspace; whatever still runs for it at the end is killed."""
    monkeypatch.setattr(working, "POLL_SECONDS", 0.1)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    yield ws
    for row in [
        *ws.query("SELECT pid, process FROM workers"),
        *ws.query("SELECT pid, process FROM jobs WHERE pid IS NOT NULL"),
    ]:
        if row["pid"] != os.getpid():
            processes.kill(row["pid"], row["process"])


def work(ws, devices=("cpu",)):
    """Serve the queue in this process until it is empty."""
    jobs.worker(ws, devices=devices, once=True, runner=job_commands.runner)


def start_worker(ws, idle="60", *devices):
    command = [sys.executable, SCRIPT, "worker", str(ws.root), idle, *devices]
    return jobs.ensure_worker(ws, command=command)


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("It did not happen in time.")


def status_of(ws, job):
    return jobs.job(ws, job.id).status


def reached(ws, job, step):
    found = jobs.job(ws, job.id)
    return found if found.progress.get("step", -1) >= step else None


def test_detached_worker_runs_a_job_to_its_run(ws):
    job = jobs.enqueue(ws, "count", {"steps": 12, "seconds": 0.1}, title="Count")
    assert (job.status, job.attempt, job.progress) == ("queued", 0, {})
    assert start_worker(ws, "60", "cpu") and not start_worker(ws, "60", "cpu")
    running = wait_for(lambda: reached(ws, job, 2))
    assert running.status == "running" and running.device == "cpu"
    assert running.progress["total"] == 12 and running.progress["stage"] == "counting"
    # The job has a process, session and heartbeat of its own.
    (worker,) = jobs.workers(ws)
    assert running.pid not in (os.getpid(), worker["pid"])
    assert os.getsid(running.pid) == running.pid
    assert worker["devices"] == ["cpu"]
    assert processes.age(running.heartbeat) < 10
    wait_for(lambda: status_of(ws, job) == "finished")
    done = jobs.job(ws, job.id[:5])
    assert ws.run(done.run_id).summary == {"steps": 12, "resumed_at": 0}
    assert done.progress["step"] == 12 and done.pid is None and done.error is None
    assert done.created <= done.started <= done.finished
    log = jobs.read_log(ws, job.id)
    assert "Count" in log and "goes on from step 0" in log and "counting step" in log
    assert jobs.read_log(ws, job.id, lines=1).endswith("finished")


def test_cancel_in_flight_then_retry_goes_on(ws):
    job = jobs.enqueue(ws, "count", {"steps": 15, "seconds": 0.1}, title="Long")
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    wait_for(lambda: reached(ws, job, 2))
    asked = jobs.cancel(ws, job.id)
    assert asked.status == "running" and asked.cancel_asked
    thread.join()
    stopped = jobs.job(ws, job.id)
    assert stopped.status == "cancelled" and "Stopped at step" in stopped.error
    assert ws.runs()[0].status == "failed"
    with pytest.raises(JobError, match="cancelled"):
        jobs.cancel(ws, job.id)
    again = jobs.retry(ws, job.id)
    assert (again.status, again.error, again.cancel_asked) == ("queued", None, None)
    work(ws)
    done = jobs.job(ws, job.id)
    assert done.status == "finished" and done.attempt == 2
    assert ws.run(done.run_id).summary["resumed_at"] >= 2


def test_killed_job_is_marked_queued_again_and_finishes(ws):
    job = jobs.enqueue(ws, "count", {"steps": 10, "seconds": 0.1}, title="Victim")
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    victim = wait_for(lambda: reached(ws, job, 3))
    os.kill(victim.pid, signal.SIGKILL)
    thread.join()
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt, done.error) == ("finished", 2, None)
    assert ws.run(done.run_id).summary["resumed_at"] >= 3


def test_dead_process_is_noticed_without_a_worker(ws):
    job = jobs.enqueue(ws, "count", {"steps": 100, "seconds": 0.1}, title="Orphan")
    claimed = queue.claim(ws, "cpu")
    child = processes.start_detached(job_commands.runner(ws, claimed), Path(claimed.log))
    running = wait_for(lambda: reached(ws, job, 1))
    assert running.pid == child.pid and ws.runs(status="running")
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: status_of(ws, job) == "interrupted")
    assert ws.query("SELECT status FROM jobs")[0]["status"] == "running"
    assert [run.status for run in ws.runs()] == ["interrupted"]
    assert queue.mark_interrupted(ws, {child.pid: -9}) == [job.id]
    assert "signal 9" in jobs.job(ws, job.id).error
    assert jobs.cancel(ws, job.id).status == "cancelled"


def test_killed_worker_leaves_its_job_and_the_next_goes_on(ws):
    long = jobs.enqueue(ws, "count", {"steps": 25, "seconds": 0.1, "name": "a"}, title="A")
    after = jobs.enqueue(ws, "count", {"name": "b"}, title="B")
    assert start_worker(ws, "60", "cpu")
    before = wait_for(lambda: reached(ws, long, 2))
    (first,) = jobs.workers(ws)
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: not jobs.workers(ws))
    assert start_worker(ws, "60", "cpu")
    wait_for(lambda: status_of(ws, after) == "finished")
    done = jobs.job(ws, long.id)
    assert (done.status, done.attempt) == ("finished", 1)
    assert jobs.job(ws, after.id).started >= done.finished
    assert before.pid and ws.run(done.run_id).summary["resumed_at"] == 0


def test_job_of_a_worker_that_died_before_starting_it(ws):
    job = jobs.enqueue(ws, "count", {}, title="Claimed")
    assert queue.claim(ws, "cpu").id == job.id
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET process = ?", [f"{processes.place()}#0"])
    work(ws)
    assert (status_of(ws, job), jobs.job(ws, job.id).attempt) == ("finished", 2)


def test_late_process_of_an_old_attempt_does_nothing(ws):
    job = jobs.enqueue(ws, "count", {}, title="Twice")
    old = queue.claim(ws, "cpu")
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET attempt = 2")
    late = processes.start_detached(job_commands.runner(ws, old), Path(old.log))
    assert late.wait(20) == 0
    assert not ws.runs() and "not wanted" in jobs.read_log(ws, job.id)
    assert not queue.settle(ws, job.id, 1, "failed", error="late", run_id=None)


def test_one_job_a_device_and_each_sees_only_its_own(ws, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert jobs.find_devices() == ["cuda:0", "cuda:1"]
    log = tmp_path / "log"
    for name in "abcd":
        args = {"name": name, "steps": 2, "seconds": 0.1, "log": log}
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
        own = Workspace.open(ws.root)
        found = (queue.claim(own, f"cuda:{worker}{number:02}") for number in range(30))
        return [job.id for job in found if job is not None]

    with ThreadPoolExecutor(4) as pool:
        claimed = [job for found in pool.map(claim_all, range(4)) for job in found]
    assert len(claimed) == len(set(claimed)) == 30
    assert queue.claim(ws, "cpu") is None


def test_busy_device_claims_nothing(ws):
    jobs.enqueue(ws, "count", {}, title="First")
    second = jobs.enqueue(ws, "count", {}, title="Second")
    assert queue.claim(ws, "cpu").title == "First"
    assert queue.claim(ws, "cpu") is None
    assert queue.claim(ws, "cuda:0").id == second.id


def test_failed_job_keeps_its_message_and_can_be_retried(ws, tmp_path):
    job = jobs.enqueue(ws, "fail_once", {"marker": tmp_path / "marker"}, title="Flaky")
    work(ws)
    failed = jobs.job(ws, job.id)
    assert failed.status == "failed"
    assert failed.error == "The table has no column 'outcome'; name it."
    assert "Traceback" in jobs.read_log(ws, job.id)
    assert jobs.retry(ws, job.id).error is None
    work(ws)
    assert status_of(ws, job) == "finished"
    with pytest.raises(JobError, match="finished"):
        jobs.retry(ws, job.id)


def test_job_that_kills_its_process_every_time_fails_at_last(ws):
    job = jobs.enqueue(ws, "crash", {}, title="Crash")
    work(ws)
    failed = jobs.job(ws, job.id)
    assert (failed.status, failed.attempt) == ("failed", queue.MOST_CRASHES)
    assert "signal 9" in failed.error and "3. time" in failed.error


def test_job_that_does_not_listen_is_killed(ws, monkeypatch):
    monkeypatch.setattr(working, "CANCEL_SECONDS", 0.5)
    job = jobs.enqueue(ws, "count", {"steps": 1, "seconds": 60}, title="Deaf")
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    wait_for(lambda: reached(ws, job, 0))
    jobs.cancel(ws, job.id)
    thread.join(20)
    assert status_of(ws, job) == "cancelled"


def test_stopped_from_outside_is_no_cancel(ws):
    job = jobs.enqueue(ws, "count", {"steps": 10, "seconds": 0.1}, title="Shutdown")
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    os.kill(wait_for(lambda: reached(ws, job, 2)).pid, signal.SIGTERM)
    thread.join()
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt) == ("finished", 2)
    assert ws.query("SELECT crashes FROM jobs")[0]["crashes"] == 0


def test_idle_worker_ends_by_itself(ws):
    assert start_worker(ws, "0.2", "cpu")
    wait_for(lambda: not jobs.workers(ws))
    assert not ws.query("SELECT * FROM workers")


def test_unknown_command_says_which_there_are(ws):
    job = jobs.enqueue(ws, "os_system", {}, title="No")
    work(ws)
    assert jobs.job(ws, job.id).error.startswith("There is no command 'os_system'; there are count")


def test_bad_requests_say_why(ws, tmp_path, monkeypatch):
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
        jobs.ensure_worker(ws, devices=["cuda:0; rm"])
    job = jobs.enqueue(ws, "count", {"path": Path("a.csv"), "steps": 1}, title="Good")
    assert job.args == {"path": str(tmp_path / "a.csv"), "steps": 1}


def test_process_elsewhere_is_judged_by_its_heartbeat():
    elsewhere = "another-boot/pid:[1]#5"
    assert processes.is_alive(1, elsewhere, queue.now())
    assert not processes.is_alive(1, elsewhere, "2020-01-01T00:00:00+00:00")
    assert processes.is_alive(os.getpid(), processes.stamp(os.getpid()), None)
    assert not processes.is_alive(os.getpid(), f"{processes.place()}#1", queue.now())
