"""What a job is, and how its arguments become JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_engine.errors import JobError
from puma_engine.store import Run

JOB_STATUSES = ("queued", "running", "finished", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Job:
    """One command in the queue. Times are ISO 8601 in UTC.

    status: queued, running, finished, failed, cancelled, or interrupted (its process is
    gone; a worker queues it again). progress: the last report of the command, and under
    "trace" the steps and losses of each stage so far. run_id: the
    run that came out. attempt: how often it was started. cancel_asked: when somebody
    asked a running job to stop.
    """

    id: str
    command: str
    args: dict[str, Any]
    title: str
    status: str
    progress: dict[str, Any]
    pid: int | None
    device: str | None
    log: str
    run_id: str | None
    error: str | None
    created: str
    started: str | None
    finished: str | None
    heartbeat: str | None
    attempt: int
    cancel_asked: str | None


def job_of(row: Mapping[str, Any], status: str, log: Path) -> Job:
    """Return the job of a database row."""
    names = [name for name in Job.__dataclass_fields__ if name in row]
    values = {name: row[name] for name in names} | {"status": status, "log": str(log)}
    values["args"] = json.loads(row["args"])
    values["progress"] = json.loads(row["progress"] or "{}")
    return Job(**values)


def arguments_to_json(args: Mapping[str, Any]) -> str:
    """Return a command's arguments as JSON; runs become ids, paths absolute, settings plain."""
    return json.dumps({str(name): _plain(name, value) for name, value in args.items()})


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if isinstance(value, Run):
        return value.id
    if hasattr(value, "to_dict"):
        return _plain(name, value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    raise JobError(
        f"The argument {name!r} is a {type(value).__name__}, which a job cannot keep; give text, "
        "numbers, lists or dictionaries."
    )
