"""The process of one job: its command, heartbeat, progress and log."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from puma_engine.errors import Cancelled, PumaError, StoreError
from puma_engine.jobs import dispatch, processes
from puma_engine.jobs.queue import Job, finish_attempt
from puma_engine.jobs.queue import job as get_job
from puma_engine.jobs.time_left import TimeLeft, as_dict
from puma_engine.store import Run, Workspace
from puma_engine.store.records import now, to_json

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 2.0
LOG_SECONDS = 10.0
MAX_POINTS = 200


def main(arguments: Sequence[str] | None = None, commands: dispatch.Commands | None = None) -> int:
    """Run one job to its end. commands: what may be run (default: the pipeline's)."""
    root, job_id, attempt = arguments if arguments is not None else sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("puma_engine").setLevel(logging.INFO)
    ws = Workspace.open(root)
    return execute(ws, job_id, int(attempt), commands)


def execute(
    ws: Workspace, job_id: str, attempt: int, commands: dispatch.Commands | None = None
) -> int:
    """Run a claimed job in this process and write how it ended; return an exit code."""
    with ws.transaction() as db:
        cursor = db.execute(
            "UPDATE jobs SET pid = ?, process = ?, heartbeat = ?"
            " WHERE id = ? AND attempt = ? AND status = 'running'",
            [os.getpid(), processes.identity(os.getpid()), now(), job_id, attempt],
        )
    if cursor.rowcount != 1:
        log(f"The attempt {attempt} at job {job_id} is not wanted any more.")
        return 0
    job = get_job(ws, job_id)
    log(f"Job {job.id}, attempt {attempt}: {job.title} ({job.command} on {job.device})")
    with Heartbeat(ws, job.id, attempt) as heartbeat:
        status, error, run_id = _outcome(ws, job, heartbeat, commands)
    log(f"{status}: {error}" if error else f"{status}")
    finish_attempt(ws, job.id, attempt, status, error, run_id)
    return 0 if status == "finished" else 1


def _outcome(
    ws: Workspace, job: Job, heartbeat: Heartbeat, commands: dispatch.Commands | None
) -> tuple[str, str | None, str | None]:
    """Run the command; return status, error and the id of the run that came out."""
    try:
        result = dispatch.run_command(
            ws,
            job.command,
            commands=commands,
            progress=heartbeat.report,
            should_cancel=heartbeat.stop.is_set,
            **job.args,
        )
    except (Cancelled, KeyboardInterrupt) as error:
        # Stopped from outside, as by a shutdown: a worker queues it again.
        return "cancelled" if heartbeat.cancelled else "interrupted", str(error) or None, None
    except PumaError as error:
        return "failed", str(error), None
    except BaseException as error:  # the user sees whatever ended it
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}", None
    last = result[-1] if isinstance(result, list | tuple) and result else result
    return "finished", None, last.id if isinstance(last, Run) else None


class LossTrace:
    """Steps and losses of each stage of a job, at most MAX_POINTS a stage, evenly spaced."""

    def __init__(self) -> None:
        self.stages: dict[str, list[tuple[int, float]]] = {}
        self._every: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def add(self, report: Mapping[str, Any]) -> None:
        """Add the loss of a report, unless it has none or lies between two points."""
        stage, loss = str(report.get("stage", "")), report.get("loss")
        if loss is None:
            return
        points = self.stages.setdefault(stage, [])
        count = self._count[stage] = self._count.get(stage, -1) + 1
        every = self._every.setdefault(stage, 1)
        if count % every:
            return
        points.append((int(report.get("step") or 0), float(loss)))
        if len(points) > MAX_POINTS:
            self.stages[stage] = points[::2]
            self._every[stage] = 2 * every


class Heartbeat:
    """A thread that writes a job's heartbeat and progress, and reads whether it was cancelled."""

    def __init__(self, ws: Workspace, job_id: str, attempt: int) -> None:
        self.ws, self.job_id, self.attempt = ws, job_id, attempt
        self.cancelled = False
        self.stop = threading.Event()
        self._ended = threading.Event()
        self._trace = LossTrace()
        self._left = TimeLeft()
        self._latest: Any = None
        self._written: Any = None
        self._last_beat = 0.0
        self._logged: tuple[str, float] = ("", 0.0)
        self._thread = threading.Thread(target=self._beat_until_end, daemon=True)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def report(self, progress: Any) -> None:
        """Take a report of the command; the thread writes the latest and the losses so far."""
        report = as_dict(progress)
        self._trace.add(report)
        self._left.add(report)
        self._latest = progress

    def _signalled(self, _number: int, _frame: Any) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        self.stop.set()

    def _beat_until_end(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(POLL_SECONDS)
            try:
                self._beat(last)
            except StoreError as error:
                # A busy database is no reason to stop working; the next beat tries again.
                log(f"The heartbeat could not be written: {error}")
        self.ws.close()

    def _beat(self, last: bool) -> None:
        row = self.ws.query(
            "SELECT cancel_asked FROM jobs WHERE id = ? AND attempt = ? AND status = 'running'",
            [self.job_id, self.attempt],
        )
        if not row or row[0]["cancel_asked"]:
            self.cancelled = True
            self.stop.set()
        progress = self._latest
        fresh = progress is not self._written
        if not (fresh or last or time.monotonic() - self._last_beat >= HEARTBEAT_SECONDS):
            return
        with self.ws.transaction() as db:
            db.execute(
                "UPDATE jobs SET heartbeat = ? WHERE id = ? AND attempt = ?",
                [now(), self.job_id, self.attempt],
            )
            if progress is not None:
                data = as_dict(progress) | {"trace": dict(self._trace.stages)}
                # It changes with time, without a report too.
                data["left"] = self._left.seconds()
                db.execute(
                    "INSERT OR REPLACE INTO job_progress VALUES (?, ?, ?)",
                    [self.job_id, now(), to_json(data, "progress")],
                )
                if fresh:
                    self._log(data)
        self._written, self._last_beat = progress, time.monotonic()

    def _log(self, data: dict[str, Any]) -> None:
        stage, time_now = str(data.get("stage", "")), time.monotonic()
        if stage == self._logged[0] and time_now - self._logged[1] < LOG_SECONDS:
            return
        self._logged = (stage, time_now)
        words = [stage]
        if data.get("total"):
            words.append(f"step {data.get('step', 0)}/{data['total']}")
        if data.get("loss") is not None:
            words.append(f"loss {data['loss']:.4g}")
        if data["left"] is not None:
            low, high = data["left"]
            words.append(f"{low:.0f} to {high:.0f} s left")
        log(" ".join(words))


def log(text: str) -> None:
    """Write a line to the job's log."""
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}", flush=True)
