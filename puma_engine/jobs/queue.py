"""The queue: jobs are added, claimed, cancelled, tried again, and rescued from dead processes."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puma_engine.errors import JobError, NotFoundError
from puma_engine.jobs import processes
from puma_engine.jobs.job_record import JOB_STATUSES, Job, arguments_to_json, job_of
from puma_engine.store import Workspace
from puma_engine.store.records import now

# So many dead processes are one too many: the job itself is likely to kill them.
MOST_CRASHES = 3
_SELECT = (
    "SELECT jobs.*, (SELECT data FROM job_progress WHERE job_id = jobs.id) AS progress FROM jobs"
)
_COMMAND = re.compile(r"[a-z][a-z0-9_]{0,63}")
SHORTEST_PREFIX = 4


def enqueue(ws: Workspace, command: str, args: Mapping[str, Any], *, title: str) -> Job:
    """Add a command to the queue. Raises JobError for arguments that JSON cannot hold."""
    if not _COMMAND.fullmatch(command):
        raise JobError(f"{command!r} is no name of a command; it is like 'fit_prompts'.")
    if not title.strip() or not title.isprintable():
        raise JobError("A job needs a title of printable characters.")
    job_id = secrets.token_hex(4)
    values = [job_id, command, arguments_to_json(args), title, now()]
    with ws.transaction() as db:
        db.execute(
            "INSERT INTO jobs (id, command, args, title, status, attempt, crashes, created)"
            " VALUES (?, ?, ?, ?, 'queued', 0, 0, ?)",
            values,
        )
    return job(ws, job_id)


def jobs(ws: Workspace, status: str | None = None, limit: int | None = None) -> list[Job]:
    """Return jobs, the newest first."""
    if status is not None and status not in JOB_STATUSES:
        raise JobError(f"{status!r} is no status of jobs; it is one of {', '.join(JOB_STATUSES)}.")
    found = (_job(ws, row) for row in ws.query(f"{_SELECT} ORDER BY created DESC, rowid DESC"))
    return [one for one in found if status in (None, one.status)][:limit]


def job(ws: Workspace, job_id: str) -> Job:
    """Return a job by its id or the beginning of it. Raises NotFoundError or JobError."""
    found = ws.query(f"{_SELECT} WHERE id = ?", [job_id])
    if not found and len(job_id) >= SHORTEST_PREFIX:
        found = ws.query(f"{_SELECT} WHERE substr(id, 1, ?) = ?", [len(job_id), job_id])
    if not found:
        raise NotFoundError(f"There is no job {job_id!r}; `puma jobs list` shows what there is.")
    if len(found) > 1:
        raise JobError(f"{len(found)} jobs begin with {job_id!r}; give more of the id.")
    return _job(ws, found[0])


def _job(ws: Workspace, row: Mapping[str, Any]) -> Job:
    # Nobody may have noticed yet that a process died.
    gone = row["status"] == "running" and not _lives(row)
    return job_of(row, "interrupted" if gone else row["status"], log_path(ws, row["id"]))


def _lives(row: Mapping[str, Any]) -> bool:
    return processes.is_alive(row["pid"], row["process"], row["heartbeat"])


def log_path(ws: Workspace, job_id: str) -> Path:
    """Return where the processes of a job write; job_id is one that the queue gave."""
    return ws.root / "logs" / f"{job_id}.log"


def read_log(ws: Workspace, job_id: str, lines: int = 50, most_bytes: int = 1 << 18) -> str:
    """Return the last lines of a job's log, reading no more than so many bytes."""
    path = Path(job(ws, job_id).log)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"The log {path} cannot be read ({error.strerror})."
    return "\n".join(text.splitlines()[-lines:])


def cancel(ws: Workspace, job_id: str) -> Job:
    """Cancel a waiting job at once; ask a running one to stop at its next checkpoint."""
    with ws.transaction() as db:
        found = job(ws, job_id)
        if found.status == "running":
            db.execute(
                "UPDATE jobs SET cancel_asked = coalesce(cancel_asked, ?) WHERE id = ?",
                [now(), found.id],
            )
        elif found.status in ("queued", "interrupted"):
            db.execute(
                "UPDATE jobs SET status = 'cancelled', finished = ?, pid = NULL WHERE id = ?",
                [now(), found.id],
            )
        else:
            raise JobError(
                f"The job {found.id} is {found.status}; only a job that waits or runs can be "
                "cancelled."
            )
    return job(ws, found.id)


def retry(ws: Workspace, job_id: str) -> Job:
    """Queue a job again that failed, was cancelled or interrupted; it resumes where it can."""
    with ws.transaction() as db:
        found = job(ws, job_id)
        if found.status not in ("failed", "cancelled", "interrupted"):
            raise JobError(
                f"The job {found.id} is {found.status}; only one that failed, was cancelled or "
                "interrupted can be tried again."
            )
        db.execute(
            "UPDATE jobs SET status = 'queued', crashes = 0, error = NULL, finished = NULL,"
            " cancel_asked = NULL, pid = NULL, process = NULL, device = NULL WHERE id = ?",
            [found.id],
        )
        db.execute("DELETE FROM job_progress WHERE job_id = ?", [found.id])
    return job(ws, found.id)


def claim(ws: Workspace, device: str) -> Job | None:
    """Take the oldest waiting job for a device that no running job uses; None if there is none.

    The job belongs to the calling process until its own process takes it over.
    """
    pid = os.getpid()
    time = now()
    with ws.transaction():
        found = ws.query(
            "UPDATE jobs SET status = 'running', device = ?, pid = ?, process = ?, started = ?,"
            " heartbeat = ?, finished = NULL, attempt = attempt + 1 WHERE id = (SELECT id FROM jobs"
            " WHERE status = 'queued' ORDER BY created, rowid LIMIT 1) AND status = 'queued'"
            " AND NOT EXISTS (SELECT 1 FROM jobs WHERE status = 'running' AND device = ?)"
            " RETURNING id",
            [device, pid, processes.stamp(pid), time, time, device],
        )
    return job(ws, found[0]["id"]) if found else None


def settle(
    ws: Workspace,
    job_id: str,
    attempt: int,
    status: str,
    *,
    error: str | None,
    run_id: str | None,
) -> bool:
    """Write how an attempt at a job ended; False if the job has gone on without it."""
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
        if code is None and (row["pid"] in known or _lives(row)):
            continue
        error = _how_it_ended(code)
        with ws.transaction() as db:
            cursor = db.execute(
                "UPDATE jobs SET status = 'interrupted', crashes = crashes + 1, error = ?,"
                " finished = ?, pid = NULL WHERE id = ? AND attempt = ? AND pid = ?"
                " AND status = 'running'",
                [error, now(), row["id"], row["attempt"], row["pid"]],
            )
        marked += [row["id"]] * cursor.rowcount
    return marked


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "The job's process is gone."
    if code == -9:
        return "The job's process was killed (signal 9), maybe for want of memory."
    return f"The job's process ended with {f'signal {-code}' if code < 0 else f'code {code}'}."


def requeue(ws: Workspace) -> None:
    """Queue interrupted jobs again, unless they were cancelled or kill every process."""
    with ws.transaction() as db:
        db.execute(
            "UPDATE jobs SET status = 'cancelled'"
            " WHERE status = 'interrupted' AND cancel_asked IS NOT NULL"
        )
        db.execute(
            "UPDATE jobs SET status = 'failed', error = error || ' That came ' || crashes ||"
            " ' times; read the log, then try it again.'"
            " WHERE status = 'interrupted' AND crashes >= ?",
            [MOST_CRASHES],
        )
        db.execute(
            "UPDATE jobs SET status = 'queued', device = NULL, process = NULL, finished = NULL"
            " WHERE status = 'interrupted'"
        )
