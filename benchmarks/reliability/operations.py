"""Watch, count or kill at the operations of this process that change the disk.

Python looks these functions up in their modules at every call, also in pathlib and shutil, so they
can be replaced by wrappers. Of SQLite only COMMIT is seen, not its single writes.
"""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FUNCTIONS = ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
COMMIT = "commit"
# An operation is reported before and after it is done.
BEFORE, AFTER = "before", "after"

Watch = Callable[[str, str, tuple[Any, ...]], None]


def watch_operations(watch: Watch) -> None:
    """Call watch(name, BEFORE or AFTER, arguments) around every operation of this process."""
    for name in FUNCTIONS:
        setattr(os, name, _reporting(name, getattr(os, name), watch))
    sqlite3.connect = _connect_with(_watched_connection(watch))


def _reporting(name: str, function: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        watch(name, BEFORE, arguments)
        result = function(*arguments, **options)
        watch(name, AFTER, arguments)
        return result

    return call


def _watched_connection(watch: Watch) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        """A connection that reports each COMMIT."""

        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            ends = sql.lstrip()[:6].upper() == "COMMIT"
            return self._reported(super().execute, sql, *rest, ends=ends)

        def commit(self) -> None:
            self._reported(super().commit, ends=self.in_transaction)

        def __exit__(self, *error: Any) -> Any:
            return self._reported(super().__exit__, *error, ends=self.in_transaction)

        def _reported(self, work: Callable[..., Any], *arguments: Any, ends: bool) -> Any:
            if ends:
                watch(COMMIT, BEFORE, (self,))
            result = work(*arguments)
            if ends:
                watch(COMMIT, AFTER, (self,))
            return result

    return Connection


def _connect_with(kind: type[sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **{"factory": kind, **options})

    return connected


class OperationCounter:
    """Counts the moments before and after operations, and kills the process at one of them.

    kill_at: the number of the moment, from 1, at which the process is killed; 0: never.
    """

    def __init__(self, kill_at: int = 0) -> None:
        self.kill_at, self.count = kill_at, 0
        self._guard = threading.Lock()

    def __call__(self, name: str, moment: str, arguments: tuple[Any, ...]) -> None:
        with self._guard:
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path: Path) -> None:
        """Write the number of moments to a file."""
        path.write_text(str(self.count), encoding="ascii")
