"""Locks on files: the system releases them when their process ends, however it ends.

filelock has no shared lock, so two readers that look whether a run is worked on would take each
other for its worker; and it would still need this table of the locks that a process holds.
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
# `is_held` takes a lock for an instant, which `acquire` waits for.
_WAIT_SECONDS = 1.0


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock, waiting for it as long as needed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder itself, so that no file stays; yield whether it was free."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _try_lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def acquire(path: Path) -> bool:
    """Take a lock, or keep it, until `release` or this process ends; False if another has it."""
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
    """Give a lock back; nothing happens if this process does not hold it."""
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
