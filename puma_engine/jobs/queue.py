"""The queue: jobs are added, claimed, cancelled, retried, and requeued when their process died."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_engine.backbone.packages import PACKAGED
from puma_engine.errors import JobError, NotFoundError
from puma_engine.files import parse_json
from puma_engine.jobs import processes
from puma_engine.store import Run, Workspace
from puma_engine.store.records import now
from puma_engine.zoo import ZOO

JOB_STATUSES = ("queued", "running", "finished", "failed", "cancelled", "interrupted")
# Dead processes after which a job fails, since the job is the likely cause.
MAX_CRASHES = 3
MIN_PREFIX = 4
_SELECT = (
    "SELECT jobs.*, (SELECT data FROM job_progress WHERE job_id = jobs.id) AS progress FROM jobs"
)
DAMAGED = (
    "The arguments of the job {id} in the database are damaged, so it cannot be run; queue it again "
    "from its command or page."
)
# A cancelled job that has not stopped after this time is killed; its last checkpoint stays.
CANCEL_SECONDS = 60.0
KILLED_AFTER_CANCEL = (
    "It did not stop within a minute of being cancelled, so its process was killed."
)
ENDED_AFTER_CANCEL = (
    "Its process ended after it was cancelled, without saving what it had last done."
)
# Arguments that name models, perhaps by their paths.
MODEL_ARGUMENTS = {"spec", "backbone", "target", "targets", "fit_on"}
_COMMAND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Job:
    """One command in the queue. Times are ISO 8601 in UTC.

    status: one of JOB_STATUSES; interrupted means that its process is gone, and a worker
    queues it again. progress: the last report of the command, and under "trace" the steps and
    losses of each stage so far. run_id: the run that came out. attempt: how often it was
    started. cancel_asked: when somebody asked a running job to stop.
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


def enqueue(ws: Workspace, command: str, args: Mapping[str, Any], *, title: str) -> Job:
    """Add a command to the queue. Raises JobError for arguments that JSON cannot hold."""
    if not _COMMAND.fullmatch(command):
        raise JobError(f"{command!r} is not a name of a command; it is like 'fit_prompts'.")
    if not title.strip() or not title.isprintable():
        raise JobError("A job needs a title of printable characters.")
    job_id = secrets.token_hex(4)
    arguments = {str(name): _plain(name, value) for name, value in args.items()}
    for name in MODEL_ARGUMENTS & arguments.keys():
        arguments[name] = _without_relative_models(ws, arguments[name], runs=name != "spec")
    with ws.transaction() as db:
        db.execute(
            "INSERT INTO jobs (id, command, args, title, status, attempt, crashes, created)"
            " VALUES (?, ?, ?, ?, 'queued', 0, 0, ?)",
            [job_id, command, json.dumps(arguments), title, now()],
        )
    return job(ws, job_id)


def _plain(name: str, value: Any) -> Any:
    """Return an argument as JSON: runs become ids, paths absolute, settings dictionaries."""
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
        f"The argument {name!r} is a {type(value).__name__}, which a job cannot store; give text, "
        "numbers, lists or dictionaries."
    )


def _without_relative_models(ws: Workspace, value: Any, *, runs: bool) -> Any:
    """Return models with absolute paths, since a worker may run in another folder.

    runs: whether a value may also be a run, which goes before a path.
    """
    if isinstance(value, list):
        return [_without_relative_models(ws, item, runs=runs) for item in value]
    known = not isinstance(value, str) or not value or value in ZOO or value in PACKAGED
    if known or (runs and ws.matches(value)):
        return value
    try:
        path = Path(value).expanduser()
        return str(path.absolute()) if path.exists() else value
    except (OSError, RuntimeError):  # no path can have such a name; the job reports the error
        return value


def jobs(ws: Workspace, status: str | None = None, limit: int | None = None) -> list[Job]:
    """Return jobs, the newest first. Raises JobError for an unknown status."""
    if status is not None and status not in JOB_STATUSES:
        raise JobError(
            f"{status!r} is not a status of jobs; it is one of {', '.join(JOB_STATUSES)}."
        )
    rows = ws.query(f"{_SELECT} ORDER BY created DESC, rowid DESC")
    return [item for row in rows if status in (None, (item := _job(ws, row)).status)][:limit]


def job(ws: Workspace, job_id: str) -> Job:
    """Return a job by its id or the beginning of it. Raises NotFoundError or JobError."""
    rows = ws.query(f"{_SELECT} WHERE id = ?", [job_id])
    if not rows and len(job_id) >= MIN_PREFIX:
        rows = ws.query(f"{_SELECT} WHERE substr(id, 1, ?) = ?", [len(job_id), job_id])
    if not rows:
        raise NotFoundError(f"There is no job {job_id!r}; `puma jobs list` shows what there is.")
    if len(rows) > 1:
        raise JobError(f"{len(rows)} jobs begin with {job_id!r}; give more of the id.")
    return _job(ws, rows[0])


def _job(ws: Workspace, row: Mapping[str, Any]) -> Job:
    values: dict[str, Any] = {name: row.get(name) for name in Job.__dataclass_fields__}
    values["args"] = _json_object(row["args"])
    values["progress"] = _json_object(row["progress"]) or {}
    if values["args"] is None:
        values |= {"args": {}, "error": DAMAGED.format(id=row["id"])}
        if row["status"] in ("queued", "running", "interrupted"):
            return Job(**values | {"status": "failed"})
    values["log"] = str(ws.root / "logs" / f"{row['id']}.log")
    # A worker may not have noticed yet that a process died.
    if row["status"] == "running" and not _is_alive(row):
        values["status"] = "interrupted"
    return Job(**values)


def _json_object(text: str | None) -> dict[str, Any] | None:
    """Return the object that a cell holds; None for one that is damaged or empty."""
    try:
        value = parse_json(text or "null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_alive(row: Mapping[str, Any]) -> bool:
    return processes.is_alive(row["pid"], row["process"], row["heartbeat"])


def read_log(
    ws: Workspace,
    job_id: str,
    lines: int = 50,
    max_bytes: int = 1 << 18,
    most_bytes: int | None = None,
) -> str:
    """Return the last lines of a job's log, from its last `max_bytes` bytes.

    most_bytes: deprecated name of max_bytes. Raises NotFoundError, JobError.
    """
    max_bytes = max_bytes if most_bytes is None else most_bytes
    path = Path(job(ws, job_id).log)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"The log {path} cannot be read ({error.strerror})."
    return "\n".join(text.splitlines()[-lines:])


def cancel(ws: Workspace, job_id: str) -> Job:
    """Cancel a waiting job; ask a running one to stop. Raises JobError if it has ended."""
    with ws.transaction() as db:
        item = job(ws, job_id)
        if item.status == "running":
            db.execute(
                "UPDATE jobs SET cancel_asked = coalesce(cancel_asked, ?) WHERE id = ?",
                [now(), item.id],
            )
        elif item.status in ("queued", "interrupted"):
            # The error of an earlier attempt is not that of the job.
            db.execute(
                "UPDATE jobs SET status = 'cancelled', finished = ?, pid = NULL, error = NULL"
                " WHERE id = ?",
                [now(), item.id],
            )
        else:
            raise JobError(
                f"The job {item.id} is {item.status}; only a job that waits or runs can be cancelled."
            )
    return job(ws, item.id)


def retry(ws: Workspace, job_id: str) -> Job:
    """Queue a job again that did not finish; it resumes where it can. Raises JobError."""
    with ws.transaction() as db:
        item = job(ws, job_id)
        if item.status not in ("failed", "cancelled", "interrupted"):
            raise JobError(
                f"The job {item.id} is {item.status}; only one that failed, was cancelled or "
                "interrupted can be tried again."
            )
        db.execute(
            "UPDATE jobs SET status = 'queued', crashes = 0, error = NULL, finished = NULL,"
            " cancel_asked = NULL, pid = NULL, process = NULL, device = NULL WHERE id = ?",
            [item.id],
        )
        db.execute("DELETE FROM job_progress WHERE job_id = ?", [item.id])
    return job(ws, item.id)


def claim(ws: Workspace, device: str) -> Job | None:
    """Take the oldest waiting job for a device; None if none waits or the device is in use.

    The job belongs to the calling process until its own process takes it over.
    """
    pid, time = os.getpid(), now()
    with ws.transaction():
        rows = ws.query(
            "UPDATE jobs SET status = 'running', device = ?, pid = ?, process = ?, started = ?,"
            " heartbeat = ?, finished = NULL, attempt = attempt + 1 WHERE id = (SELECT id FROM jobs"
            " WHERE status = 'queued' ORDER BY created, rowid LIMIT 1) AND status = 'queued'"
            " AND NOT EXISTS (SELECT 1 FROM jobs WHERE status = 'running' AND device = ?)"
            " RETURNING id",
            [device, pid, processes.identity(pid), time, time, device],
        )
    if not rows:
        return None
    claimed = job(ws, rows[0]["id"])
    if claimed.status != "running":
        finish_attempt(ws, claimed.id, claimed.attempt, "failed", claimed.error, None)
        return None
    return claimed


def finish_attempt(
    ws: Workspace, job_id: str, attempt: int, status: str, error: str | None, run_id: str | None
) -> bool:
    """Write how an attempt at a job ended; False if that attempt is no longer the current one."""
    with ws.transaction() as db:
        cursor = db.execute(
            "UPDATE jobs SET status = ?, error = ?, run_id = coalesce(?, run_id), finished = ?,"
            " heartbeat = ?, pid = NULL WHERE id = ? AND attempt = ? AND status = 'running'",
            [status, error, run_id, now(), now(), job_id, attempt],
        )
        return cursor.rowcount == 1


def mark_interrupted(ws: Workspace, codes: Mapping[int, int | None] | None = None) -> list[str]:
    """Mark running jobs whose process is gone; return their ids.

    codes: exit codes of the caller's own children, None for those that have not ended. A
    child that was killed looks dead a little before the system has cleared up after it.
    """
    known = codes or {}
    marked = []
    for row in ws.query("SELECT * FROM jobs WHERE status = 'running'"):
        code = known.get(row["pid"])
        if code is None and (row["pid"] in known or _is_alive(row)):
            continue
        if row["cancel_asked"] is not None:
            waited = processes.age(row["cancel_asked"]) >= CANCEL_SECONDS
            error = KILLED_AFTER_CANCEL if waited else ENDED_AFTER_CANCEL
        elif code is None:
            error = "The job's process is gone."
        elif code == -9:
            error = "The job's process was killed (signal 9), maybe for want of memory."
        else:
            ending = f"signal {-code}" if code < 0 else f"code {code}"
            error = f"The job's process ended with {ending}."
        with ws.transaction() as db:
            cursor = db.execute(
                "UPDATE jobs SET status = 'interrupted', crashes = crashes + 1, error = ?,"
                " finished = ?, pid = NULL WHERE id = ? AND attempt = ? AND pid = ?"
                " AND status = 'running'",
                [error, now(), row["id"], row["attempt"], row["pid"]],
            )
        marked += [row["id"]] * cursor.rowcount
    return marked


def requeue(ws: Workspace) -> None:
    """Queue interrupted jobs again; those that were cancelled or crashed too often end."""
    with ws.transaction() as db:
        db.execute(
            "UPDATE jobs SET status = 'cancelled'"
            " WHERE status = 'interrupted' AND cancel_asked IS NOT NULL"
        )
        db.execute(
            "UPDATE jobs SET status = 'failed', error = error || ' That came ' || crashes ||"
            " ' times; read the log, then try it again.'"
            " WHERE status = 'interrupted' AND crashes >= ?",
            [MAX_CRASHES],
        )
        db.execute(
            "UPDATE jobs SET status = 'queued', device = NULL, process = NULL, finished = NULL"
            " WHERE status = 'interrupted'"
        )
