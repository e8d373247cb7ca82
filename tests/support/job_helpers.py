"""Shared helpers of job tests: a workspace that is cleaned up, workers, jobs that wait."""

import sys
from pathlib import Path

import job_commands
from store_processes import kill_all

from puma_engine import jobs
from puma_engine.jobs import worker_loop
from puma_engine.store import Workspace

SCRIPT = str(Path(job_commands.__file__).resolve())


def workspace(tmp_path, monkeypatch):
    """Yield a workspace; kill its remaining processes at the end."""
    monkeypatch.setattr(worker_loop, "POLL_SECONDS", 0.1)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    yield ws
    kill_all(ws)


def work(ws, devices=("cpu",)):
    """Serve the queue in this process until it is empty."""
    jobs.worker(ws, devices=devices, once=True, runner=job_commands.job_command)


def start_worker(ws, idle="60", *devices):
    command = [sys.executable, SCRIPT, "worker", str(ws.root), idle, *devices]
    return jobs.ensure_worker(ws, command=command)


def paused_job(ws, title, pause_at, *, steps, **args):
    """Queue a job that waits before a step; return it and the file that lets it go on."""
    release = ws.root / f"release-{title}"
    args |= {"steps": steps, "pause_at": pause_at, "release": release}
    return jobs.enqueue(ws, "count", args, title=title), release


def status_of(ws, job):
    return jobs.job(ws, job.id).status


def reached(ws, job, step):
    current = jobs.job(ws, job.id)
    return current if current.progress.get("step", -1) >= step else None
