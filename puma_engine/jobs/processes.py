"""Detached processes, and identities that tell them from others that reuse their number."""

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from puma_engine.errors import StoreError

# A process of another machine, container or boot counts as gone after this time without a heartbeat.
SILENT_SECONDS = 60.0
_STARTED: list[subprocess.Popen[bytes]] = []


@functools.cache
def pid_namespace() -> str:
    """Return the scope in which process numbers are unique: this boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def identity(pid: int) -> str | None:
    """Return the identity of a living process here: its namespace and start; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        # Without /proc (macOS) only the process id identifies a process.
        gone = Path("/proc/self/stat").exists() or not psutil.pid_exists(pid)
        return None if gone else f"{pid_namespace()}#"
    # The name in parentheses may contain anything; the fields follow its last parenthesis.
    fields = text.rpartition(")")[2].split()
    state, start = fields[0], fields[19]
    return None if state in "ZX" else f"{pid_namespace()}#{start}"


def identity_or_ended(pid: int) -> str:
    """Return the identity of a process; for one that has ended, one that no process has."""
    return identity(pid) or f"{pid_namespace()}#ended"


def is_alive(pid: int | None, process: str | None, heartbeat: str | None) -> bool:
    """Return whether a recorded process lives; by its last heartbeat if it is on another machine."""
    if pid is None or process is None:
        return False
    if process.rpartition("#")[0] == pid_namespace():
        return identity(pid) == process
    return age(heartbeat) < SILENT_SECONDS


def age(time: str | None) -> float:
    """Return the seconds since a time in ISO 8601; infinite for none."""
    if time is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def start_detached(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in its own session. Raises StoreError if its log cannot be written."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        # Logs name users and files, so only their owner may read them.
        log.touch(mode=0o600)
        out = log.open("ab")
    except OSError as error:
        raise StoreError(
            f"The log {log} cannot be written ({error.strerror}), so nothing was started; check who "
            "owns the folder."
        ) from error
    # The package may not be installed, only be importable from where this process started.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    python_path = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with out:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | python_path | dict(environment or {}),
        )
    # Polled at each start, so that an ended child does not stay a zombie.
    _STARTED[:] = [child for child in _STARTED if child.poll() is None] + [process]
    return process


def kill(pid: int, process: str) -> None:
    """Kill a process and its group, if it is still the recorded one."""
    if identity(pid) == process:
        os.killpg(pid, signal.SIGKILL)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that calls `main` of a module of this package, output unbuffered.

    `python -m` would load a module twice that its package imports.
    """
    code = f"from {module} import main; raise SystemExit(main())"
    return [sys.executable, "-u", "-c", code, *arguments]
