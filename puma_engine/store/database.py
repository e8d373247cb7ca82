"""A workspace's folder and database: paths, connections, transactions, schema, plain errors."""

import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from puma_engine.errors import StoreError
from puma_engine.files import make_folder
from puma_engine.store import locks
from puma_engine.store.records import checked_run_id
from puma_engine.store.schema import MIGRATIONS

DATABASE = "puma.db"
BUSY_SECONDS = 30.0
# SQLite reports "disk I/O error" if its log cannot grow: below this, a full disk is the reason.
MIN_FREE_BYTES = 1 << 20


def connect(path: Path, mode: str = "rwc") -> Database:
    """Open a connection for the calling thread, with foreign keys on and a busy timeout.

    mode: rwc; ro to read a database that others may write; immutable to read one that nobody
    writes, which needs no files beside it.
    """
    uri = f"file:{quote(str(path))}?" + ("immutable=1" if mode == "immutable" else f"mode={mode}")
    with plain_errors(path):
        connection = sqlite3.connect(uri, timeout=BUSY_SECONDS, uri=True)
        # One damaged value must not end a query.
        connection.text_factory = lambda text: text.decode("utf-8", errors="replace")
        try:
            db = Database(connection, execute_plugins=False)
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
    return db


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Context manager: turn errors of SQLite into StoreError with one sentence."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text, free_bytes = str(error), 0
        with suppress(OSError):
            free_bytes = shutil.disk_usage(path.parent).free
        if "not a database" in text or "malformed" in text:
            text = f"The file {path} is not a working database ({text}); restore it from a backup."
        elif "locked" in text:
            text = f"The database {path} stayed locked for {BUSY_SECONDS:.0f} seconds; try again."
        elif "full" in text or ("disk I/O" in text and free_bytes < MIN_FREE_BYTES):
            text = f"The disk that holds {path} is full; free some space and try again."
        elif "readonly" in text or "unable to open" in text:
            text = f"The database {path} cannot be opened for writing; check who owns the folder."
        else:
            text = f"The database {path} refused: {text}."
        raise StoreError(text) from error


class WorkspaceDatabase:
    """The part of a workspace that manages its folder and its database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / DATABASE
        # Whether the folder is only open for viewing.
        self.read_only = False
        self._database, self._mode = self.path, "rwc"
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._local = threading.local()

    @property
    def db(self) -> Database:
        """The connection of the calling thread, foreign keys on."""
        # A forked child must not use its parent's connection.
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.db = connect(self._database, self._mode)
            self._local.pid = os.getpid()
        return self._local.db

    def check_writable(self) -> None:
        """Raise StoreError if the workspace is only open for viewing."""
        if self.read_only:
            raise StoreError(
                f"The workspace {self.root} may only be viewed by the user who runs this: its folder or "
                "its database cannot be written. Change its owner or its rights, or work in a copy."
            )

    def open_for_viewing(self) -> None:
        """Open a database whose folder cannot be written. Raises StoreError if it cannot be read.

        A temporary copy is opened if a write-ahead log cannot be read in place, or if the schema is
        of an earlier version.
        """
        wal = self.path.with_name(self.path.name + "-wal")
        self._mode = "ro"
        try:
            self._check_schema(MIGRATIONS)
        except StoreError:
            self.close()
            self._mode = "immutable"
            if wal.is_file() and wal.stat().st_size:
                self._mode = "rwc"
                self._database = self._temporary()
                for file in (self.path, wal):
                    shutil.copyfile(file, self._database.with_name(file.name))
            self._check_schema(MIGRATIONS)
        if MIGRATIONS.pending(self.db):
            before, self._database = self.db, self._temporary()
            with plain_errors(self.path), sqlite3.connect(self._database) as copy:
                before.conn.backup(copy)
            copy.close()
            self.close()
            self._mode = "rwc"
            with self.transaction() as db:
                MIGRATIONS.apply(db)
        self.read_only = True

    def _temporary(self) -> Path:
        self._copy = tempfile.TemporaryDirectory(prefix="puma-view-")
        return Path(self._copy.name) / DATABASE

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Context manager: a transaction that holds the write lock from the start.

        Nested use joins the outer transaction. A plain BEGIN would read first and could then fail
        to get the write lock; BEGIN IMMEDIATE waits for it. If the transaction fails, the database
        is unchanged and the functions given to `on_rollback` are called. Raises StoreError.
        """
        self.check_writable()
        db = self.db
        with plain_errors(self.path):
            if db.conn.in_transaction:
                yield db
                return
            db.conn.execute("BEGIN IMMEDIATE")
            self._local.undo = []
            try:
                yield db
                db.conn.execute("COMMIT")
            except BaseException:
                db.rollback()
                for undo in reversed(self._local.undo):
                    undo()
                raise

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Call `undo`, which must not raise, if the transaction of this thread fails."""
        self._local.undo.append(undo)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries. Raises StoreError."""
        with plain_errors(self.path):
            cursor = self.db.conn.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def compact(self) -> None:
        """Return free pages of the database to the disk; deleted rows are overwritten."""
        self.check_writable()
        with plain_errors(self.path):
            self.db.conn.execute("PRAGMA secure_delete = ON")
            self.db.conn.execute("VACUUM")
            self.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection of the calling thread; it opens again when needed."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.db.close()
            self._local.pid = None

    def update_schema(self, migrations: Migrations = MIGRATIONS) -> None:
        """Apply the missing schema steps in one transaction with the record of each.

        Raises StoreError if the database was made by a newer version or another program.
        """
        with plain_errors(self.path):
            self._check_schema(migrations)
            if not migrations.pending(self.db):
                return
            with locks.waiting_lock(self.path.with_suffix(".lock")):
                self.db.enable_wal()
                with self.transaction() as db:
                    # Checked again in the transaction, since another process may have been first.
                    self._check_schema(migrations)
                    migrations.apply(db)

    def _check_schema(self, migrations: Migrations) -> None:
        known = [step.name for step in migrations.pending(Database(memory=True))]
        applied = [step.name for step in migrations.applied(self.db)]
        unknown = sorted(set(applied) - set(known))
        if unknown:
            raise StoreError(
                f"The workspace {self.root} was used by a newer version (it has the schema step "
                f"{unknown[-1]!r}, this version ends at {known[-1]!r}); update this program."
            )
        if not applied and self.db.table_names():
            raise StoreError(
                f"The file {self.path} is a database of something else; choose another folder."
            )

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run's artifacts; it does not exist before the first one."""
        return self.root / "runs" / checked_run_id(run_id)

    def work(self, run_id: str) -> Path:
        """Return the folder of a run's checkpoints; make it if it is missing."""
        folder = self.root / "work" / checked_run_id(run_id)
        make_folder(folder)
        return folder

    def lock(self, run_id: str) -> Path:
        """Return the file that is locked while a process works on a run."""
        return self.root / "locks" / f"{checked_run_id(run_id)}.lock"
