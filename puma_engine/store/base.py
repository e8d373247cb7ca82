"""A workspace's folder and database: where things are, and one connection a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store import database, locks
from puma_engine.store.records import checked_run_id

DATABASE = "puma.db"
VARIABLE = "PUMA_WORKSPACE"
DEFAULT = "workspace"


class Base:
    """The part of a workspace that knows its folder and its database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / DATABASE
        self._local = threading.local()

    @property
    def db(self) -> Database:
        """The connection of the calling thread, foreign keys on."""
        # A forked child must not use its parent's connection.
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.db = database.connect(self.path)
            self._local.pid = os.getpid()
        return self._local.db

    def transaction(self) -> AbstractContextManager[Database]:
        """Do several writes as one; nested use joins the outer transaction."""
        return database.transaction(self.db, self.path)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries."""
        return database.rows(self.db, self.path, sql, parameters)

    def close(self) -> None:
        """Close the connection of the calling thread; it opens again when needed."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.db.close()
            self._local.pid = None

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run's artifacts; it exists once there is one."""
        return self.root / "runs" / checked_run_id(run_id)

    def work(self, run_id: str) -> Path:
        """Return the folder of a run's checkpoints, made if it is missing."""
        folder = self.root / "work" / checked_run_id(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self, run_id: str) -> Path:
        """Return the file that is locked while a process works on a run."""
        return self.root / "locks" / f"{checked_run_id(run_id)}.lock"

    def status(self, row: dict[str, Any]) -> str:
        """Return what became of a run: one that nobody works on any more is interrupted."""
        if row["status"] == "running" and not locks.is_held(self.lock(row["id"])):
            return "interrupted"
        return str(row["status"])


def locate(path: Path | str | None) -> Path:
    """Return the folder of a workspace: the given one, PUMA_WORKSPACE, or ./workspace."""
    return Path(path or os.environ.get(VARIABLE) or DEFAULT).expanduser().resolve()


def has_database(root: Path) -> bool:
    """Say whether a folder holds a workspace's database; raises StoreError if it may not be read."""
    file = root / DATABASE
    try:
        size = file.stat().st_size if file.is_file() else None
        emptied = size == 0 and any((root / "runs").glob("*"))
    except PermissionError as error:
        raise StoreError(
            f"The workspace {root} may not be read by the user who runs this; change its owner or "
            "its rights."
        ) from error
    if emptied:
        # SQLite would take it for a new one, and everything in the folder for nobody's.
        raise StoreError(
            f"The database {file} is empty but there are runs beside it; restore it from a backup."
        )
    return size is not None


def prepare(path: Path | str | None, create: bool) -> Path:
    """Return the root of a workspace with an up-to-date database, made if asked to."""
    root = locate(path)
    file = root / DATABASE
    if not has_database(root) and not create:
        raise NotFoundError(
            f"There is no workspace at {root}; make one with `puma data import`, or name another "
            f"with --workspace or {VARIABLE}."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The workspace {root} cannot be made ({error.strerror}); choose a folder that can "
            "be written."
        ) from error
    db = database.connect(file)
    try:
        database.bring_up_to_date(db, file)
    finally:
        db.close()
    return root
