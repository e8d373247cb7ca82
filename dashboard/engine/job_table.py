"""Jobs as table rows, the arguments of a job, and the files of its result."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pandas as pd

from dashboard import engine
from dashboard.engine.file_names import without_folders
from puma_engine.evaluation.formatting import capitalised
from puma_engine.jobs import JOB_STATUSES, Job
from puma_engine.jobs.time_left import share_done
from puma_engine.report import glossary
from puma_engine.report.glossary import command, file_label, run_kind, step_title
from puma_engine.store import Run
from puma_engine.store.records import RUN_ID

__all__ = ["command", "file_label", "run_kind", "share_done", "step_title"]
MAX_SHOWN = 500
MAX_DOWNLOAD = 200 << 20
SECRET_ARGUMENTS = ("path", "items_path")


def find(statuses: list[str], text: str) -> list[Job]:
    """Return jobs with one of some statuses (all if empty) whose title or id matches a text."""
    chosen_statuses = set(statuses) & set(JOB_STATUSES)
    return [
        job
        for job in engine.jobs(None)
        if (not chosen_statuses or job.status in chosen_statuses)
        and (not text or text.lower() in job.title.lower() or job.id.startswith(text))
    ]


def frame(jobs: list[Job]) -> pd.DataFrame:
    """Return one row per job; share is the finished part in percent, NaN if unknown."""
    rows = []
    for job in jobs:
        share = 1.0 if job.status == "finished" else share_done(job.progress)
        rows.append(
            {
                "status": job.status,
                "title": capitalised(job.title),
                "share": None if share is None else 100.0 * share,
                "device": job.device and engine.device(job.device),
                "created": pd.to_datetime(job.created),
                "seconds": seconds(job),
                "id": job.id,
            }
        )
    return pd.DataFrame(rows)


def seconds(job: Job) -> float | None:
    """Return the duration of the last attempt at a job so far."""
    if job.started is None:
        return None
    end = job.finished or job.heartbeat
    if end is None:
        return None
    times = pd.to_datetime([job.started, end])
    return max((times[1] - times[0]).total_seconds(), 0.0)


def arguments(job: Job) -> dict[str, str]:
    """Return the arguments of a job as texts, without paths on the server; runs by name and id.

    Their names are in plain words, with the stored name where two would be alike.
    """
    values = {name: value for name, value in job.args.items() if value not in (None, {}, [])}
    words = {name: glossary.setting(name, job.command) for name in values}
    count = Counter(words.values())
    return {
        words[name]
        if count[words[name]] == 1
        else f"{words[name]} ({name})": "a file on the server"
        if name in SECRET_ARGUMENTS
        else _text(value, name)
        for name, value in values.items()
    }


def _text(value: Any, name: str = "") -> str:
    """Return the value of a setting as text. name: of the setting; a seed is not an amount."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "seed":
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(
            f"{glossary.setting(key).lower()}: {_text(item, key)}"
            for key, item in value.items()
            if item is not None
        )
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, str) and RUN_ID.fullmatch(value):
        with suppress(engine.NotFoundError):
            return f"{engine.run(value).name} ({value})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return without_folders(glossary.setting_value(name, str(value)))


def result(job: Job) -> Run | None:
    """Return the result of a job, None if it has none or it was deleted."""
    if job.run_id is None:
        return None
    try:
        return engine.run(job.run_id)
    except engine.NotFoundError:
        return None


def content(run_id: str, artifact: str) -> bytes:
    """Return the content of a file of a run. Raises StoreError if it is too large to download."""
    ws = engine.workspace()
    row = next((file for file in ws.artifacts(run_id) if file["name"] == artifact), None)
    if row is None:
        raise engine.NotFoundError(f"The run {run_id} has no file {artifact!r}; reload the page.")
    if row["bytes"] > MAX_DOWNLOAD:
        raise engine.StoreError(
            f"The file has {row['bytes']:,} bytes, too many for a browser; copy it from the "
            "workspace's folder."
        )
    return (ws.folder(run_id) / row["file"]).read_bytes()
