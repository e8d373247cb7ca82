"""Reads of the page Overview, and starting the worked example."""

from typing import Any

from dashboard import engine
from puma_engine import jobs as engine_jobs
from puma_engine.defaults import DEMO_USERS
from puma_engine.jobs import Job
from puma_engine.store import Run

__all__ = ["DEMO_USERS", "newer_evaluations", "prompt_rows", "start_demo"]


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


def prompt_rows(prompts: list[Run], names: dict[str, str]) -> list[dict[str, Any]]:
    """Return one row per prompt table: name, kind, users, backbone, data set and cost."""
    return [
        {
            "name": run.name,
            "kind": run.config.get("role", "migrated"),
            "users": run.summary.get("users"),
            "trained on": run.cost.get("users_trained"),
            "backbone": names.get(run.inputs.get("backbone", ""), ""),
            "data set": names.get(run.inputs.get("dataset", ""), ""),
            "seconds": run.cost.get("fitting_seconds", run.seconds),
            "created": run.created,
        }
        for run in prompts
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
