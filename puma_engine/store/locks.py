"""Locks on files, which the system releases when their process ends in any way.

The library filelock has no shared locks: two readers that check whether a run is being computed
would take each other for its process. It would also need this table of the locks that a process
holds.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HELD: dict[Path, int] = {}
_GUARD = threading.Lock()
# `is_held` takes a lock for an instant, for which `acquire` waits.
_WAIT_SECONDS = 1.0


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Context manager: wait for a lock and hold it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Context manager: lock a folder itself, which leaves no file behind; yield whether it was free."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _try_lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def acquire(path: Path) -> bool:
    """Take a lock until `release` or the end of this process; return False if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _GUARD:
        if path in _HELD:
            return True
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _WAIT_SECONDS
        while not _try_lock(handle, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(handle)
                return False
            time.sleep(0.02)
        _HELD[path] = handle
        return True


def release(path: Path) -> None:
    """Release a lock, if this process holds it."""
    with _GUARD:
        handle = _HELD.pop(path, None)
        if handle is not None:
            os.close(handle)


def is_held(path: Path) -> bool:
    """Return whether any living process holds the lock."""
    if path in _HELD:
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def is_held_elsewhere(path: Path) -> bool:
    """Return whether another living process holds the lock."""
    return path not in _HELD and is_held(path)


def _try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
