"""The worker: starts a process for each waiting job, one a device, and looks after them."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from puma_engine.errors import JobError, StoreError
from puma_engine.jobs import dispatch, processes, queue
from puma_engine.jobs.cluster_nodes import state_of, write_state
from puma_engine.jobs.queue import Job
from puma_engine.store import Workspace
from puma_engine.store.records import now

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
IDLE_SECONDS = 600.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Jobs whose runs a cluster computes take a slot of the worker, and no device here.
ON_CLUSTER = "cluster"
CLUSTER_JOBS = 4
_DEVICE = re.compile(rf"cpu|cuda:[0-9]{{1,3}}|{ON_CLUSTER}:[0-9]{{1,3}}")
_log = logging.getLogger("puma_engine.jobs")

Runner = Callable[[Workspace, Job], Sequence[str]]


def find_devices() -> list[str]:
    """Return the devices of this machine without loading torch: its NVIDIA GPUs, else the CPU."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        count = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    else:
        count = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    return [f"cuda:{number}" for number in range(count)] or ["cpu"]


def cluster_slots(count: int) -> list[str]:
    """Return one device name for each job that may run on a cluster at the same time."""
    return [f"{ON_CLUSTER}:{number}" for number in range(count)]


def served_devices() -> list[str]:
    """Return what a worker serves: CLUSTER_JOBS slots where PUMA_ON names a cluster, else devices."""
    return cluster_slots(CLUSTER_JOBS) if dispatch.cluster_address(None) else find_devices()


def run_command(ws: Workspace, job: Job) -> list[str]:
    """Return the command line that runs a job."""
    return processes.python("puma_engine.jobs.runner", str(ws.root), job.id, str(job.attempt))


def worker(
    ws: Workspace,
    *,
    devices: Sequence[str] | None = None,
    once: bool = False,
    idle_seconds: float | None = None,
    runner: Runner = run_command,
) -> None:
    """Run queued jobs, one a device, each in a detached process, until stopped.

    devices: such as "cpu" or "cuda:0" (default: all). once: return when nothing waits or
    runs; idle_seconds: return after so long without work. Jobs outlive a worker that ends,
    and the next worker goes on with them. Raises JobError for unknown or repeated devices.
    """
    devices = _checked_devices(devices or served_devices())
    max_idle = 0.0 if once else idle_seconds
    pid, process = os.getpid(), processes.identity_or_ended(os.getpid())
    state = _Worker(ws, devices, runner)
    _register(ws, pid, process, devices)
    if (address := dispatch.cluster_address(None)) is not None:
        # Other processes, such as the dashboard, have no other way to know it.
        write_state(ws, state_of(ws, address))
    _log.info("Worker %d serves %s", pid, ", ".join(devices))
    try:
        last_beat = last_work = time.monotonic()
        while True:
            if state.step():
                last_work = time.monotonic()
            if max_idle is not None and time.monotonic() - last_work >= max_idle:
                # In one transaction: a process that adds a job after this finds no worker and starts one.
                with ws.transaction():
                    if not _is_work_left(ws):
                        _unregister(ws, pid, process)
                        return
            if time.monotonic() - last_beat >= HEARTBEAT_SECONDS:
                _register(ws, pid, process, devices)
                last_beat = time.monotonic()
            time.sleep(POLL_SECONDS)
    finally:
        _unregister(ws, pid, process)


def _checked_devices(devices: Sequence[str]) -> list[str]:
    named = ["cuda:0" if device == "cuda" else device for device in devices]
    wrong = [device for device in named if not _DEVICE.fullmatch(device)]
    if wrong or len(set(named)) != len(named):
        raise JobError(
            f"A worker serves different devices such as cpu, cuda:0 or cuda:1, not "
            f"{', '.join(map(repr, devices))}."
        )
    return named


class _Worker:
    """A worker and the processes that it started."""

    def __init__(self, ws: Workspace, devices: list[str], runner: Runner) -> None:
        self.ws, self.devices, self.runner = ws, devices, runner
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def step(self) -> bool:
        """Check running jobs and start waiting ones; return whether there are any."""
        codes = {pid: child.poll() for pid, child in self.children.items()}
        for job_id in queue.mark_interrupted(self.ws, codes):
            _log.warning("Job %s was interrupted", job_id)
        self.children = {pid: child for pid, child in self.children.items() if codes[pid] is None}
        queue.requeue(self.ws)
        for row in self.ws.query(
            "SELECT * FROM jobs WHERE status = 'running' AND cancel_asked IS NOT NULL"
        ):
            if processes.age(row["cancel_asked"]) > queue.CANCEL_SECONDS:
                _log.warning("Job %s did not stop when asked and is killed", row["id"])
                processes.kill(row["pid"], row["process"])
        for device in self.devices:
            job = queue.claim(self.ws, device)
            if job is not None:
                self._start(job, device)
        return _is_work_left(self.ws)

    def _start(self, job: Job, device: str) -> None:
        # A job sees its own device only.
        environment = {}
        visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
        number = device.partition(":")[2]
        if number and int(number) < len(visible):
            number = visible[int(number)]
        if not device.startswith(ON_CLUSTER):
            environment[VISIBLE] = number
        try:
            child = processes.start_detached(self.runner(self.ws, job), Path(job.log), environment)
        except (OSError, StoreError) as error:
            text = f"The job's process cannot be started: {error}"
            queue.finish_attempt(self.ws, job.id, job.attempt, "failed", text, None)
            return
        self.children[child.pid] = child
        # The job's own process may have written this already, or may have ended.
        with self.ws.transaction() as db:
            db.execute(
                "UPDATE jobs SET pid = ?, process = ? WHERE id = ? AND attempt = ?"
                " AND status = 'running'",
                [child.pid, processes.identity_or_ended(child.pid), job.id, job.attempt],
            )
        _log.info("Job %s runs on %s as process %d: %s", job.id, device, child.pid, job.title)


def _is_work_left(ws: Workspace) -> bool:
    return bool(ws.query("SELECT 1 FROM jobs WHERE status IN ('queued', 'running', 'interrupted')"))


def _register(ws: Workspace, pid: int, process: str, devices: Sequence[str]) -> None:
    with ws.transaction() as db:
        db.execute(
            "INSERT INTO workers VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (pid, process) DO UPDATE SET heartbeat = excluded.heartbeat,"
            " devices = excluded.devices",
            [pid, process, ",".join(devices), now(), now()],
        )


def _unregister(ws: Workspace, pid: int, process: str) -> None:
    with ws.transaction() as db:
        db.execute("DELETE FROM workers WHERE pid = ? AND process = ?", [pid, process])


def workers(ws: Workspace) -> list[dict[str, Any]]:
    """Return the living workers of a workspace: pid, devices, started, heartbeat."""
    return [
        {name: row[name] for name in ("pid", "started", "heartbeat")}
        | {"devices": [device for device in row["devices"].split(",") if device]}
        for row in ws.query("SELECT * FROM workers ORDER BY started")
        if processes.is_alive(row["pid"], row["process"], row["heartbeat"])
    ]


def ensure_worker(ws: Workspace, *, command: Sequence[str] | None = None) -> bool:
    """Start a detached worker if none lives; return whether one was started.

    It serves all devices, and ends after IDLE_SECONDS without work. command: another command line
    that runs a worker on this workspace. Raises StoreError if its log cannot be written.
    """
    line = command or processes.python(
        "puma_engine.jobs.worker_loop", str(ws.root), str(IDLE_SECONDS)
    )
    # Held while starting, so that two callers do not start two.
    with ws.transaction() as db:
        if workers(ws):
            return False
        db.execute("DELETE FROM workers")
        child = processes.start_detached(line, ws.root / "logs" / "worker.log")
        _register(ws, child.pid, processes.identity_or_ended(child.pid), [])
    return True


def main(arguments: Sequence[str] | None = None, runner: Runner = run_command) -> int:
    """Run a worker; arguments: workspace, idle seconds, and devices (default: all)."""
    root, idle, *devices = arguments if arguments is not None else sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    ws = Workspace.open(root)
    worker(ws, devices=devices or None, idle_seconds=float(idle), runner=runner)
    return 0
