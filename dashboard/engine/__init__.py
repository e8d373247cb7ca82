"""Reads of the workspace, and jobs. Only this package of the dashboard imports puma_engine."""

from dataclasses import replace
from typing import Any

import streamlit as st

from dashboard.engine.file_names import without_folders
from puma_engine import jobs as engine_jobs
from puma_engine.defaults import DEFAULT_STRATEGIES, DEMO_USERS
from puma_engine.errors import NotFoundError, PumaError, StoreError
from puma_engine.evaluation.formatting import capitalised, mid_sentence, shortened
from puma_engine.evaluation.formatting import format_duration as duration
from puma_engine.evaluation.metrics import METRICS
from puma_engine.jobs import Job
from puma_engine.pipeline.demo import demo_seconds
from puma_engine.pipeline.publishing import check_models
from puma_engine.report.decision_texts import percent
from puma_engine.report.glossary import TERMS, device, heading
from puma_engine.report.theme import DECISIONS, KINDS, NEUTRAL, rank
from puma_engine.selection.strategies import STRATEGIES
from puma_engine.store import Run, Workspace
from puma_engine.store.workspace import has_database, locate, may_be_written

__all__ = [
    "DECISIONS",
    "DEFAULT_STRATEGIES",
    "DEMO_USERS",
    "KINDS",
    "METRICS",
    "NEUTRAL",
    "STRATEGIES",
    "TERMS",
    "Job",
    "NotFoundError",
    "PumaError",
    "Run",
    "StoreError",
    "capitalised",
    "demo_seconds",
    "device",
    "duration",
    "heading",
    "mid_sentence",
    "percent",
    "rank",
    "shortened",
]


def workspace(*, create: bool = False) -> Workspace:
    """Open the workspace of PUMA_WORKSPACE. Raises StoreError if there is none and not create."""
    root = locate(None)
    if create or not has_database(root):
        _open.clear()
        return Workspace.open(root, create=create)
    return _open(str(root))


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(root: str) -> Workspace:
    return Workspace.open(root)


def has_workspace() -> bool:
    """Say whether a workspace exists. Opening it may still fail."""
    try:
        return has_database(locate(None))
    except StoreError:
        return True


def read_only() -> bool:
    """Say whether a workspace exists that this process may only view."""
    folder = locate(None)
    return folder.is_dir() and not may_be_written(folder) and has_workspace()


def root() -> str:
    """Return the workspace's folder, the first argument of every cached read."""
    return str(locate(None))


def runs(kind: str | None = None, status: str | None = "finished") -> list[Run]:
    """Return runs of a kind, the newest first. status: None for runs in any status."""
    return workspace().runs(kind=kind, status=status)


def run(run_id: str) -> Run:
    """Return a run by its id. Raises NotFoundError."""
    return workspace().run(run_id)


def queue(command: str, args: dict[str, Any], title: str) -> Job:
    """Queue a command of puma_engine.pipeline.COMMANDS, and start a worker if none is running."""
    ws = workspace()
    check_models(ws, command, args)
    job = engine_jobs.enqueue(ws, command, args, title=title)
    engine_jobs.ensure_worker(ws)
    return job


def sources() -> list[Run]:
    """Return finished prompt tables that a migration can start from."""
    finished = [run for kind in ("prompts", "migration") for run in runs(kind)]
    return [run for run in finished if run.config.get("role") not in ("random", "shuffled")]


def start_demo() -> Job:
    """Queue the worked example unless it is queued or running; create the workspace if missing."""
    waiting = engine_jobs.jobs(workspace(create=True))
    active = (job for job in waiting if job.status in ("queued", "running"))
    demo = next((job for job in active if job.command == "demo"), None)
    return demo or queue("demo", {"umap": True}, "Worked example on shipped ratings")


def jobs(limit: int | None = 20) -> list[Job]:
    """Return jobs, the latest first, as pages show them. limit: None for all."""
    return [_shown(job) for job in engine_jobs.jobs(workspace(), limit=limit)]


def job(job_id: str) -> Job:
    """Return a job by its id, as pages show it. Raises NotFoundError."""
    return _shown(engine_jobs.job(workspace(), job_id))


def _shown(job: Job) -> Job:
    """Return a job whose texts name files without the server's folders; its arguments stay."""
    stage = job.progress.get("stage")
    progress = (
        {**job.progress, "stage": without_folders(stage)}
        if isinstance(stage, str)
        else job.progress
    )
    error = job.error and without_folders(job.error)
    return replace(job, title=without_folders(job.title), error=error, progress=progress)


def job_log(job_id: str, lines: int = 15) -> str:
    """Return the last lines of a job's log."""
    return without_folders(engine_jobs.read_log(workspace(), job_id, lines))


def cancel(job_id: str) -> None:
    """Ask a job to stop at its next checkpoint."""
    engine_jobs.cancel(workspace(), job_id)


def has_worker() -> bool:
    """Say whether a worker is running."""
    return bool(engine_jobs.workers(workspace()))


def start_worker() -> None:
    """Start a worker if none is running."""
    engine_jobs.ensure_worker(workspace())


def retry(job_id: str) -> None:
    """Queue a stopped job again, and start a worker if none is running."""
    engine_jobs.retry(workspace(), job_id)
    start_worker()
