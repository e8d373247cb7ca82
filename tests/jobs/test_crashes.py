"""The queue when processes of jobs and workers die."""

import os
import signal
import threading
from pathlib import Path

import job_commands
import pytest
from job_helpers import paused_job, reached, start_worker, status_of, work, workspace
from waiting import wait_for

from puma_engine import jobs
from puma_engine.jobs import processes, queue


@pytest.fixture
def ws(tmp_path, monkeypatch):
    yield from workspace(tmp_path, monkeypatch)


def test_killed_job_is_requeued_and_finishes(ws):
    job, release = paused_job(ws, "Victim", 3, steps=10)
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    victim = wait_for(lambda: reached(ws, job, 3))
    os.kill(victim.pid, signal.SIGKILL)
    release.touch()
    thread.join()
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt, done.error) == ("finished", 2, None)
    assert ws.run(done.run_id).summary["resumed_at"] == 3


def test_dead_process_is_detected_without_a_worker(ws):
    job, _ = paused_job(ws, "Orphan", 1, steps=3)
    claimed = queue.claim(ws, "cpu")
    child = processes.start_detached(job_commands.job_command(ws, claimed), Path(claimed.log))
    running = wait_for(lambda: reached(ws, job, 1))
    assert running.pid == child.pid and ws.runs(status="running")
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: status_of(ws, job) == "interrupted")
    assert ws.query("SELECT status FROM jobs")[0]["status"] == "running"
    # The system releases the lock of a killed process a moment later.
    wait_for(lambda: [run.status for run in ws.runs()] == ["interrupted"])
    assert queue.mark_interrupted(ws, {child.pid: -9}) == [job.id]
    assert "signal 9" in jobs.job(ws, job.id).error
    cancelled = jobs.cancel(ws, job.id)
    # The error of an earlier attempt is not the error of the job.
    assert (cancelled.status, cancelled.error) == ("cancelled", None)


def test_a_process_that_ends_after_a_cancel_is_not_called_killed_for_memory(ws):
    job, _ = paused_job(ws, "Ended", 1, steps=3)
    claimed = queue.claim(ws, "cpu")
    child = processes.start_detached(job_commands.job_command(ws, claimed), Path(claimed.log))
    wait_for(lambda: reached(ws, job, 1))
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET cancel_asked = ?", [queue.now()])
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    queue.mark_interrupted(ws, {child.pid: -9})
    queue.requeue(ws)
    ended = jobs.job(ws, job.id)
    assert ended.status == "cancelled" and "memory" not in str(ended.error)


def test_job_of_a_killed_worker_is_continued_by_the_next(ws):
    long, release = paused_job(ws, "A", 2, steps=3, name="a")
    after = jobs.enqueue(ws, "count", {"name": "b"}, title="B")
    assert start_worker(ws, "60", "cpu")
    before = wait_for(lambda: reached(ws, long, 2))
    (first,) = jobs.workers(ws)
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: not jobs.workers(ws))
    assert start_worker(ws, "60", "cpu")
    release.touch()
    wait_for(lambda: status_of(ws, after) == "finished")
    done = jobs.job(ws, long.id)
    assert (done.status, done.attempt) == ("finished", 1)
    assert jobs.job(ws, after.id).started >= done.finished
    assert before.pid and ws.run(done.run_id).summary["resumed_at"] == 0


def test_job_claimed_by_a_dead_worker_is_run_by_the_next(ws):
    job = jobs.enqueue(ws, "count", {}, title="Claimed")
    assert queue.claim(ws, "cpu").id == job.id
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET process = ?", [f"{processes.pid_namespace()}#0"])
    work(ws)
    assert (status_of(ws, job), jobs.job(ws, job.id).attempt) == ("finished", 2)


def test_late_process_of_an_old_attempt_is_ignored(ws):
    job = jobs.enqueue(ws, "count", {}, title="Twice")
    old = queue.claim(ws, "cpu")
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET attempt = 2")
    process = processes.start_detached(job_commands.job_command(ws, old), Path(old.log))
    assert process.wait(120) == 0
    assert not ws.runs() and "not wanted" in jobs.read_log(ws, job.id)
    assert not queue.finish_attempt(ws, job.id, 1, "failed", error="late", run_id=None)


def test_job_that_kills_its_process_every_time_fails_at_last(ws):
    job = jobs.enqueue(ws, "crash", {}, title="Crash")
    work(ws)
    failed = jobs.job(ws, job.id)
    assert (failed.status, failed.attempt) == ("failed", queue.MAX_CRASHES)
    assert "signal 9" in failed.error and "That came 3 times; read the log" in failed.error


def test_a_job_whose_log_cannot_be_written_fails_and_says_so(ws):
    (ws.root / "logs").write_text("in the way")
    job = jobs.enqueue(ws, "crash", {}, title="Silent")
    work(ws)
    failed = jobs.job(ws, job.id)
    assert failed.status == "failed"
    assert "cannot be started" in failed.error and "cannot be written" in failed.error


def test_job_that_ignores_a_cancel_is_killed(ws, monkeypatch):
    monkeypatch.setattr(queue, "CANCEL_SECONDS", 0.5)
    job = jobs.enqueue(ws, "count", {"steps": 1, "seconds": 600}, title="Busy")
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    wait_for(lambda: reached(ws, job, 0))
    jobs.cancel(ws, job.id)
    thread.join(120)
    assert status_of(ws, job) == "cancelled"
    assert jobs.job(ws, job.id).error.startswith(
        "It did not stop within a minute of being cancelled"
    )


def test_sigterm_from_outside_requeues_instead_of_cancelling(ws):
    job, release = paused_job(ws, "Shutdown", 2, steps=10)
    thread = threading.Thread(target=work, args=(ws,))
    thread.start()
    os.kill(wait_for(lambda: reached(ws, job, 2)).pid, signal.SIGTERM)
    wait_for(lambda: jobs.job(ws, job.id).attempt == 2)
    release.touch()
    thread.join()
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt) == ("finished", 2)
    assert ws.query("SELECT crashes FROM jobs")[0]["crashes"] == 0


def test_process_of_another_machine_is_alive_while_its_heartbeat_is_recent():
    elsewhere = "another-boot/pid:[1]#5"
    assert processes.is_alive(1, elsewhere, queue.now())
    assert not processes.is_alive(1, elsewhere, "2020-01-01T00:00:00+00:00")
    assert processes.is_alive(os.getpid(), processes.identity(os.getpid()), None)
    assert not processes.is_alive(os.getpid(), f"{processes.pid_namespace()}#1", queue.now())
