"""Run commands in processes forked from this one, which has loaded the libraries.

A process that forks must not have started threads, so this one only imports libraries, forks and
waits. The process that forked a worker also forks the worker's jobs.
"""

import ctypes
import json
import os
import re
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

HANG_SECONDS = 20
# Limit of processor seconds; wall-clock time would end commands on a busy machine.
WALL_SECONDS = 40 * HANG_SECONDS
WAIT_SECONDS = 0.002
TRACEBACK_CODE = 70
PR_SET_PDEATHSIG = 1
_MODULE = re.compile(r"from ([\w.]+) import main")

Prepare = Callable[[str], Callable[[], None]]


@dataclass
class CommandResult:
    """The result of a command: its exit code, or minus the signal that ended it, and its output.

    seconds: wall-clock time. cpu_seconds: processor time, jobs included. hung: whether it exceeded
    its limit of processor time or never ended. killed: whether SIGKILL ended it otherwise.
    """

    code: int
    out: str
    error: str
    seconds: float
    cpu_seconds: float
    timed_out: bool = False

    @property
    def traceback(self) -> bool:
        return self.code == TRACEBACK_CODE or "Traceback (most recent call last)" in self.error

    @property
    def hung(self) -> bool:
        return self.timed_out or self.code == -signal.SIGXCPU

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.timed_out

    def problems(self) -> dict[str, list[str]]:
        """Return problems of the result, as sentences by kind; a kill is none."""
        if self.hung:
            return {"hang": [f"It used {self.cpu_seconds:.0f} s of the processor."]}
        if self.traceback:
            return {"traceback": [self.error[-2000:]]}
        return {"refused": [self.error[-500:]]} if self.code and not self.killed else {}


def no_preparation(_role: str) -> Callable[[], None]:
    """Do nothing at the start and at the end of a process."""
    return lambda: None


@dataclass
class Command:
    """A command of the command line in a process of its own, with the jobs that it starts.

    folder: for its output. prepare: called in each process with its role, "command" or "job";
    returns a function that is called when the process ends by itself.
    """

    arguments: Sequence[str]
    folder: Path
    prepare: Prepare = no_preparation
    limit: int = HANG_SECONDS
    jobs: dict[int, int | None] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    _line: socket.socket | None = None

    def start(self) -> None:
        """Fork the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("out", "error"):
            (self.folder / name).touch()
        self._line, theirs = socket.socketpair()
        self.began = time.monotonic()
        self.code: int | None = None
        self.timed_out = False
        self.pid = os.fork()
        if self.pid == 0:
            self._line.close()
            self._run_forked("command", self._run, theirs)
        theirs.close()

    def _run_forked(self, role: str, work: Callable[..., int], *arguments: Any) -> None:
        """Do the work in the forked process, then end it."""
        code = TRACEBACK_CODE
        try:
            os.setsid()
            # The commands end with their parent.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            soft = int(_cpu_seconds()) + self.limit
            resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 5))
            at_end = self.prepare(role)
            code = work(*arguments)
            at_end()
        except BaseException:  # the parent counts it
            traceback.print_exc()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def _run(self, line: socket.socket) -> int:
        _redirect(self.folder / "out", self.folder / "error")
        _fork_jobs_through(line)
        from puma_engine.cli import main

        try:
            main(list(self.arguments))
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def _run_job(self, request: dict[str, Any]) -> int:
        _redirect(Path(request["log"]), Path(request["log"]))
        os.environ |= request["environment"]
        *_, code, root, job_id, attempt = request["command"]
        match = _MODULE.search(code)
        assert match is not None
        return int(import_module(match[1]).main([root, job_id, attempt]))

    def serve(self) -> None:
        """Fork the jobs that the command requests, and record which processes ended."""
        assert self._line is not None
        while select.select([self._line], [], [], WAIT_SECONDS)[0]:
            text = self._line.recv(1 << 16)
            if not text:
                time.sleep(WAIT_SECONDS)
                break
            request = json.loads(text)
            if "poll" in request:
                self._reap()
                answer = self.jobs.get(request["poll"])
            else:
                answer = os.fork()
                if answer == 0:
                    self._line.close()
                    self._run_forked(f"job-{len(self.jobs)}", self._run_job, request)
                self.jobs[answer] = None
            with suppress(OSError):
                self._line.send(json.dumps(answer).encode())
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.cpu_seconds += used.ru_utime + used.ru_stime
            code = os.waitstatus_to_exitcode(status)
            if pid == self.pid:
                self.code = code
            else:
                self.jobs[pid] = code

    @property
    def living_jobs(self) -> list[int]:
        return [pid for pid, code in self.jobs.items() if code is None]

    @property
    def kills(self) -> int:
        """Number of its processes that were killed."""
        return [self.code, *self.jobs.values()].count(-signal.SIGKILL)

    def result(self) -> CommandResult:
        """Wait for the command, but not for its jobs, and return its result."""
        while self.code is None:
            self.serve()
            if time.monotonic() - self.began > WALL_SECONDS and not self.timed_out:
                self.timed_out = True
                kill(self.pid)
        assert self._line is not None
        self._line.close()
        out, error = (
            (self.folder / name).read_text("utf-8", errors="replace") for name in ("out", "error")
        )
        seconds = time.monotonic() - self.began
        return CommandResult(self.code, out, error, seconds, self.cpu_seconds, self.timed_out)

    def wait_for_jobs(self) -> None:
        """Wait for jobs that outlive the command."""
        until = time.monotonic() + WALL_SECONDS
        while self.living_jobs and time.monotonic() < until:
            time.sleep(WAIT_SECONDS)
            self._reap()
        kill(*self.living_jobs)


def kill(*pids: int) -> None:
    """Kill processes that may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _redirect(out: Path, error: Path) -> None:
    for stream, path in ((1, out), (2, error)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, stream)
        os.close(handle)


class _Forked:
    """A replacement of subprocess.Popen for a worker: process id, and whether the process has ended."""

    def __init__(self, pid: int, ask: Callable[[dict[str, Any]], Any]) -> None:
        self.pid, self._ask = pid, ask

    def poll(self) -> int | None:
        code: int | None = self._ask({"poll": self.pid})
        return code


def _fork_jobs_through(line: socket.socket) -> None:
    """Make the worker in this process ask its parent to fork jobs, since a new Python would load torch."""
    from puma_engine.jobs import processes, runner, worker_loop

    def ask(request: dict[str, Any]) -> Any:
        line.send(json.dumps(request).encode())
        return json.loads(line.recv(1 << 16))

    def start(command: Sequence[str], log: Path, environment: Any = None) -> Any:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch(mode=0o600)
        request = {"command": list(command), "log": str(log), "environment": environment or {}}
        return _Forked(ask(request), ask)

    processes.start_detached = start  # type: ignore[assignment]
    runner.POLL_SECONDS = worker_loop.POLL_SECONDS = 0.1


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def forked(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` in a forked process and return its value, as JSON types.

    Raises RuntimeError with the traceback where it failed.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(read)
            text = json.dumps({"value": work(*arguments)})
        except BaseException:
            text = json.dumps({"traceback": traceback.format_exc()})
            code = 1
        with os.fdopen(write, "w") as pipe:
            pipe.write(text)
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        raise RuntimeError(f"{work.__name__} ended with {os.waitstatus_to_exitcode(status)}.")
    answer = json.loads(text)
    if "traceback" in answer:
        raise RuntimeError(answer["traceback"])
    return answer["value"]


def in_processes(
    count: int, work: Callable[[int], Iterator[dict[str, Any]]], deadline: float
) -> Iterator[dict[str, Any]]:
    """Run work(number) in `count` forked processes, and yield what they yield, until the deadline.

    deadline: of time.monotonic(); then the processes are killed. A process that fails yields its
    traceback under "broken".
    """
    pipes: dict[int, int] = {}
    pids = []
    for number in range(count):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in (read, *pipes):
                os.close(other)
            os.setpgid(0, 0)
            with os.fdopen(write, "w", buffering=1) as pipe:
                try:
                    for row in work(number):
                        pipe.write(json.dumps(row) + "\n")
                except BaseException:
                    pipe.write(json.dumps({"broken": traceback.format_exc()}) + "\n")
            os._exit(0)
        os.close(write)
        pipes[read] = number
        pids.append(pid)
    rest = dict.fromkeys(pipes, b"")
    try:
        while rest and time.monotonic() < deadline:
            for read in select.select(list(rest), [], [], 0.5)[0]:
                text = os.read(read, 1 << 16)
                if not text:
                    del rest[read]
                    continue
                *lines, rest[read] = (rest[read] + text).split(b"\n")
                for line in lines:
                    yield json.loads(line)
    finally:
        for read in pipes:
            os.close(read)
        kill(*pids)
        for pid in pids:
            os.waitpid(pid, 0)
