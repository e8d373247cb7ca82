"""Reads of the page Overview, and starting the worked example."""

from dashboard import engine
from puma_engine import jobs as engine_jobs
from puma_engine.defaults import DEMO_USERS
from puma_engine.jobs import Job
from puma_engine.store import Run

__all__ = ["DEMO_USERS"]


def newer_evaluations(comparison: Run, evaluations: list[Run]) -> list[Run]:
    """Return evaluations on a comparison's data and split that are newer than the comparison."""
    used = set(comparison.inputs.values())
    first = next((run for run in evaluations if run.id in used), None)
    if first is None:
        return []
    same = (first.inputs.get("dataset"), first.config.get("split"))
    return [
        run
        for run in evaluations
        if run.id not in used
        and run.created > comparison.created
        and (run.inputs.get("dataset"), run.config.get("split")) == same
    ]


def start_demo() -> Job:
    """Queue the worked example unless it is queued or running; create the workspace if missing."""
    ws = engine.workspace(create=True)
    waiting = [
        job
        for job in engine_jobs.jobs(ws)
        if job.command == "demo" and job.status in ("queued", "running")
    ]
    return waiting[0] if waiting else engine.queue("demo", {}, "Worked example on shipped ratings")
