"""Processes: started apart from their parent, told from others that reuse their number."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from puma_engine.errors import StoreError

# A process of another machine, container or boot is gone when it was silent so long.
SILENT_SECONDS = 60.0
_STARTED: list[subprocess.Popen[bytes]] = []


@functools.cache
def place() -> str:
    """Return what a process number is unique in: this boot and this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def stamp(pid: int) -> str | None:
    """Return the identity of a living process here: its place and start; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _without_proc(pid)
    except ProcessLookupError:
        return None
    # The name in parentheses may contain anything; the fields follow its last parenthesis.
    fields = text.rpartition(")")[2].split()
    state, start = fields[0], fields[19]
    return None if state in "ZX" else f"{place()}#{start}"


def stamp_of(pid: int) -> str:
    """Return the identity of a process; for one that has ended, one that no process has."""
    return stamp(pid) or f"{place()}#ended"


def _without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return f"{place()}#"


def is_alive(pid: int | None, process: str | None, heartbeat: str | None) -> bool:
    """Return whether a recorded process lives; by its last sign of life if it is elsewhere."""
    if pid is None or process is None:
        return False
    if process.rpartition("#")[0] == place():
        return stamp(pid) == process
    return age(heartbeat) < SILENT_SECONDS


def age(time: str | None) -> float:
    """Return the seconds since a time in ISO 8601; infinite for none."""
    if time is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def start_detached(
    command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own that writes to a log file.

    Raises StoreError if the log cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = log.open("ab")
    except OSError as error:
        raise StoreError(
            f"The log {log} cannot be written ({error.strerror}), so nothing was started; check who "
            "owns the folder."
        ) from error
    # The package may not be installed, only be importable from where this process started.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with out:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment | dict(extra or {}),
        )
    # Kept and asked now and then, so that an ended child does not stay a zombie.
    _STARTED[:] = [one for one in _STARTED if one.poll() is None] + [process]
    return process


def kill(pid: int, process: str) -> None:
    """End a process and its group at once, if it is still the recorded one."""
    if stamp(pid) == process:
        os.killpg(pid, signal.SIGKILL)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package, output unbuffered."""
    return [sys.executable, "-u", "-m", module, *arguments]
