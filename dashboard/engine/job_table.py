"""All jobs: rows for a table, one job's facts, and the files that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard import engine
from puma_engine import jobs as engine_jobs
from puma_engine.jobs import JOB_STATUSES, Job
from puma_engine.store import Run

SHOWN = 500
MOST_DOWNLOAD = 200 << 20
SECRET_ARGUMENTS = ("path", "items_path")


def find(statuses: list[str], text: str) -> list[Job]:
    """Return jobs of some statuses (all if none is named) whose title or id has a text."""
    wanted = set(statuses) & set(JOB_STATUSES)
    found = engine_jobs.jobs(engine.workspace())
    return [
        job
        for job in found
        if (not wanted or job.status in wanted)
        and (not text or text.lower() in job.title.lower() or job.id.startswith(text))
    ]


def frame(jobs: list[Job]) -> pd.DataFrame:
    """Return a row a job; share is the part that is done in percent, NaN if unknown."""
    rows = [
        {
            "status": job.status,
            "title": job.title,
            "share": _share(job),
            "device": job.device,
            "created": job.created,
            "seconds": seconds(job),
            "id": job.id,
        }
        for job in jobs
    ]
    made = pd.DataFrame(rows)
    return made.assign(created=pd.to_datetime(made["created"])) if rows else made


def _share(job: Job) -> float | None:
    if job.status == "finished":
        return 100.0
    said = job.progress
    if said.get("overall") is not None:
        return 100.0 * said["overall"]
    return 100.0 * said["step"] / said["total"] if said.get("total") else None


def seconds(job: Job) -> float | None:
    """Return how long the last attempt at a job has taken, or took."""
    if job.started is None:
        return None
    end = job.finished or job.heartbeat
    if end is None:
        return None
    times = pd.to_datetime([job.started, end])
    return max((times[1] - times[0]).total_seconds(), 0.0)


def arguments(job: Job) -> dict[str, str]:
    """Return what a job was asked, as text; places on the server stay there."""
    return {
        name: "an uploaded file" if name in SECRET_ARGUMENTS else _text(value)
        for name, value in job.args.items()
        if value not in (None, {}, [])
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def result(job: Job) -> Run | None:
    """Return the run that came out of a job, if it is still there."""
    if job.run_id is None:
        return None
    try:
        return engine.run(job.run_id)
    except engine.NotFoundError:
        return None


@dataclass(frozen=True)
class Artifact:
    """A file of a run; bytes is its size, rows None where it has none."""

    name: str
    file: str
    format: str
    bytes: int
    rows: int | None


def artifacts(run: Run) -> list[Artifact]:
    """Return the files of a run."""
    names = ("name", "file", "format", "bytes", "rows")
    found = engine.workspace().artifacts(run.id)
    return [Artifact(**{name: row[name] for name in names}) for row in found]


def content(run_id: str, artifact: str) -> bytes:
    """Return a file of a run, for a download. Raises StoreError for one too large for it."""
    ws = engine.workspace()
    row = next((one for one in ws.artifacts(run_id) if one["name"] == artifact), None)
    if row is None:
        raise engine.NotFoundError(f"The run {run_id} has no file {artifact!r}; reload the page.")
    if row["bytes"] > MOST_DOWNLOAD:
        raise engine.StoreError(
            f"The file has {row['bytes']:,} bytes, too many for a browser; copy it from the "
            "workspace's folder."
        )
    return (ws.folder(run_id) / row["file"]).read_bytes()
