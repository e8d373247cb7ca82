"""The only importer of puma_engine: reads of the workspace, and jobs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from puma_engine import jobs as engine_jobs
from puma_engine.defaults import DEFAULT_STRATEGIES
from puma_engine.errors import NotFoundError, PumaError, StoreError
from puma_engine.evaluation.metrics import METRICS
from puma_engine.jobs import Job
from puma_engine.report.glossary import TERMS, heading
from puma_engine.report.theme import KINDS, NEUTRAL, rank
from puma_engine.selection.strategies import STRATEGIES
from puma_engine.store import Run, Workspace
from puma_engine.store.workspace import has_database, locate

__all__ = [
    "DEFAULT_STRATEGIES",
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
    "heading",
    "rank",
]


def workspace(*, create: bool = False) -> Workspace:
    """Open the workspace that PUMA_WORKSPACE names; raises StoreError when there is none."""
    root = locate(None)
    if create or not has_database(root):
        _open.clear()
        return Workspace.open(root, create=create)
    return _open(str(root))


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(root: str) -> Workspace:
    return Workspace.open(root)


def has_workspace() -> bool:
    """Say whether there is a workspace; opening it may still fail."""
    try:
        return has_database(locate(None))
    except StoreError:
        return True


def root() -> str:
    """Return the workspace's folder: the first key of every cached read."""
    return str(locate(None))


def runs(kind: str | None = None, status: str | None = "finished") -> list[Run]:
    """Return runs, the newest first; finished ones unless told otherwise."""
    return workspace().runs(kind=kind, status=status)


def run(run_id: str) -> Run:
    """Return a run by its id; raises NotFoundError."""
    return workspace().run(run_id)


@st.cache_data(max_entries=100, show_spinner=False)
def table(root: str, run_id: str, name: str) -> pd.DataFrame:
    """Return a table of a finished run; finished runs never change, so it is read once."""
    return Workspace.open(root).get_table(run_id, name)


def queue(command: str, args: dict[str, Any], title: str) -> Job:
    """Queue a command of puma_engine.pipeline.COMMANDS, and see to it that a worker runs."""
    ws = workspace()
    job = engine_jobs.enqueue(ws, command, args, title=title)
    engine_jobs.ensure_worker(ws)
    return job


def sources() -> list[Run]:
    """Finished prompt tables that a migration can start from."""
    ws = workspace()
    found = ws.runs(kind="prompts", status="finished") + ws.runs(
        kind="migration", status="finished"
    )
    return [run for run in found if run.config.get("role") not in ("random", "shuffled")]


def backbones() -> list[Run]:
    """Backbones known in the workspace."""
    return workspace().runs(kind="backbone", status="finished")


def jobs(limit: int | None = 20) -> list[Job]:
    """Latest jobs first."""
    return engine_jobs.jobs(workspace(), limit=limit)


def job(job_id: str) -> Job:
    """Return a job by its id; raises NotFoundError."""
    return engine_jobs.job(workspace(), job_id)


def job_log(job_id: str, lines: int = 15) -> str:
    """Return the last lines of a job's log."""
    return engine_jobs.read_log(workspace(), job_id, lines)


def cancel(job_id: str) -> None:
    """Ask a job to stop."""
    engine_jobs.cancel(workspace(), job_id)


def has_worker() -> bool:
    """Say whether a process lives that works off what is queued."""
    return bool(engine_jobs.workers(workspace()))


def start_worker() -> None:
    """See to it that a worker runs."""
    engine_jobs.ensure_worker(workspace())


def retry(job_id: str) -> None:
    """Queue a stopped job again, and see to it that a worker runs."""
    engine_jobs.retry(workspace(), job_id)
    engine_jobs.ensure_worker(workspace())
